#include "server/openapi.h"

#include <string>
#include <string_view>

#include "server/api.h"

namespace sala {
namespace {

/// The schemas, in JSON. Bounds that the parser has by name are filled in below.
constexpr std::string_view kSchemas = R"json({
"Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "object",
  "required": ["message", "type", "param", "code"], "properties": {"message": {"type": "string"},
  "type": {"type": "string"}, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}}}},
"Sampling": {"type": "object", "properties": {
  "model": {"type": ["string", "null"], "description": "the served model, or nothing"},
  "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 100},
  "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
  "min_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
  "top_k": {"type": ["integer", "null"], "minimum": -1, "maximum": 1000000000},
  "presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
  "frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
  "repetition_penalty": {"type": ["number", "null"], "minimum": 0.0001, "maximum": 10000},
  "seed": {"type": ["integer", "null"], "minimum": -9223372036854775808, "maximum": 9223372036854775807},
  "logit_bias": {"type": ["object", "null"], "maxProperties": 1024, "propertyNames": {"pattern": "^[0-9]{1,8}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
  "max_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 1073741824},
  "max_completion_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 1073741824},
  "n_predict": {"type": ["integer", "null"], "minimum": -1, "maximum": 1073741824},
  "n": {"type": ["integer", "null"], "minimum": 1, "maximum": "kMostChoices"},
  "stream": {"type": ["boolean", "null"]},
  "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]},
    "continuous_usage_stats": {"type": ["boolean", "null"]}}},
  "ignore_eos": {"type": ["boolean", "null"]},
  "stop_token_ids": {"type": ["array", "null"], "maxItems": "kMostStops", "items": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
  "stop": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 1, "maxLength": 256},
    {"type": "array", "maxItems": "kMostStops", "items": {"type": "string", "minLength": 1, "maxLength": 256}}]},
  "response_format": {"type": ["object", "null"], "required": ["type"], "properties": {"type": {"const": "text"}}},
  "prompt_cache_key": {"type": ["string", "null"], "description": "a session's name"}}},
"ChatRequest": {"allOf": [{"$ref": "#/components/schemas/Sampling"}, {"type": "object", "required": ["messages"],
  "properties": {
  "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role", "content"],
    "properties": {"role": {"type": "string"}, "content": {"$ref": "#/components/schemas/Content"}}}},
  "tools": {"type": ["array", "null"], "items": {"type": "object"}},
  "chat_template_kwargs": {"type": ["object", "null"]},
  "prediction": {"type": ["object", "null"], "required": ["type", "content"], "properties": {"type": {"const": "content"},
    "content": {"$ref": "#/components/schemas/Content"}}},
  "reasoning_effort": {"type": ["string", "null"]},
  "logprobs": {"type": ["boolean", "null"]},
  "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": "kMostLogprobs"}}}]},
"Content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "object", "required": ["type", "text"],
  "properties": {"type": {"enum": ["text", "input_text"]}, "text": {"type": "string"}}}}]},
"CompletionRequest": {"allOf": [{"$ref": "#/components/schemas/Sampling"}, {"type": "object", "required": ["prompt"],
  "properties": {
  "prompt": {"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/Ids"},
    {"type": "array", "minItems": 1, "maxItems": "kMostPrompts", "items": {"type": "string"}},
    {"type": "array", "minItems": 1, "maxItems": "kMostPrompts", "items": {"$ref": "#/components/schemas/Ids"}}]},
  "echo": {"type": ["boolean", "null"]},
  "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": "kMostLogprobs"}}}]},
"Ids": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "description": "below the vocabulary's size"}},
"Usage": {"type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens"], "properties": {
  "prompt_tokens": {"type": "integer"}, "completion_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"},
  "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"},
    "read_again_tokens": {"type": "integer"}}}}},
"Reply": {"type": "object", "required": ["id", "object", "created", "model", "choices", "usage"], "properties": {
  "id": {"type": "string"}, "object": {"enum": ["chat.completion", "text_completion"]}, "created": {"type": "integer"},
  "model": {"type": "string"}, "usage": {"$ref": "#/components/schemas/Usage"}, "timings": {"type": "object"},
  "choices": {"type": "array", "minItems": 1, "items": {"type": "object",
    "required": ["index", "finish_reason", "logprobs"], "properties": {"index": {"type": "integer"},
    "finish_reason": {"enum": ["stop", "length", "abort"]}, "logprobs": {"type": ["object", "null"]},
    "text": {"type": "string"}, "message": {"type": "object", "required": ["role", "content"], "properties": {
      "role": {"const": "assistant"}, "content": {"type": "string"}, "reasoning_content": {"type": "string"}}}}}}}},
"Models": {"type": "object", "required": ["object", "data"], "properties": {"object": {"const": "list"},
  "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}}},
"Model": {"type": "object", "required": ["id", "object", "max_model_len"], "properties": {"id": {"type": "string"},
  "object": {"const": "model"}, "max_model_len": {"type": "integer"}}},
"Status": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
"Version": {"type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}},
"Document": {"type": "object", "required": ["openapi", "paths"]},
"TokenizeRequest": {"type": "object", "anyOf": [{"required": ["prompt"]}, {"required": ["content"]}], "properties": {
  "prompt": {"type": "string"}, "content": {"type": "string"}, "add_special_tokens": {"type": "boolean"}}},
"Tokens": {"type": "object", "required": ["tokens", "count", "max_model_len"], "properties": {
  "tokens": {"type": "array", "items": {"type": "integer"}}, "count": {"type": "integer"}}},
"DetokenizeRequest": {"type": "object", "required": ["tokens"], "properties": {"tokens": {"type": "array",
  "items": {"type": "integer", "minimum": 0}}}},
"Text": {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
"TokenizerInfo": {"type": "object", "required": ["eos_token", "vocab_size"]},
"Session": {"type": "object", "required": ["id", "object", "tokens", "documents", "in_memory", "saved"], "properties": {
  "id": {"type": "string"}, "object": {"const": "session"}, "tokens": {"type": "integer"},
  "documents": {"type": "integer"}, "in_memory": {"type": "boolean"}, "saved": {"type": "boolean"},
  "damage": {"type": "string"}}},
"Sessions": {"type": "object", "required": ["object", "data"], "properties": {"object": {"const": "list"},
  "data": {"type": "array", "items": {"$ref": "#/components/schemas/Session"}}}},
"Deleted": {"type": "object", "required": ["id", "deleted"], "properties": {"id": {"type": "string"}, "deleted": {"const": true}}},
"SessionName": {"type": "object", "properties": {"id": {"$ref": "#/components/schemas/Name"}}},
"Name": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"},
"Ingest": {"type": "object", "anyOf": [{"required": ["text"]}, {"required": ["tokens"]}], "properties": {
  "text": {"type": "string"}, "tokens": {"$ref": "#/components/schemas/Ids"}, "stream": {"type": ["boolean", "null"]}}},
"Fork": {"type": "object", "properties": {"id": {"$ref": "#/components/schemas/Name"},
  "at": {"type": ["integer", "null"], "minimum": 0}}},
"RollBack": {"type": "object", "required": ["tokens"], "properties": {"tokens": {"type": "integer", "minimum": 0}}},
"Stream": {"type": "object", "properties": {"stream": {"type": ["boolean", "null"]}}}
})json";

OrderedJson reference(const std::string& schema) {
  return {{"$ref", "#/components/schemas/" + schema}};
}

OrderedJson content(const char* type, const OrderedJson& schema) {
  return {{type, {{"schema", schema}}}};
}

OrderedJson schemas() {
  std::string text(kSchemas);
  for (const auto& [name, value] :
       std::initializer_list<std::pair<const char*, int>>{{"\"kMostChoices\"", kMostChoices},
                                                          {"\"kMostStops\"", kMostStops},
                                                          {"\"kMostLogprobs\"", kMostLogprobs},
                                                          {"\"kMostPrompts\"", kMostPrompts}})
    for (size_t at = 0; (at = text.find(name)) != std::string::npos;)
      text.replace(at, std::string_view(name).size(), std::to_string(value));
  return parse_ordered_json(text, "the schemas");
}

/// Whether a body of nothing says enough.
bool all_optional(const char* body) {
  const OrderedJson schema = schemas()[body];
  return !schema.contains("required") && !schema.contains("anyOf") && !schema.contains("allOf");
}

OrderedJson operation_json(const Operation& operation) {
  const std::string path = operation.path;
  OrderedJson json = {{"summary", operation.summary}};
  if (path.find("{id}") != std::string::npos)
    json["parameters"] = OrderedJson::array({{{"name", "id"},
                                              {"in", "path"},
                                              {"required", true},
                                              {"schema", {{"type", "string"}, {"minLength", 1}}}}});
  if (*operation.body != 0)
    json["requestBody"] = {{"required", !all_optional(operation.body)},
                           {"content", content("application/json", reference(operation.body))}};
  OrderedJson answer = {
      {"description", "as asked"},
      {"content", *operation.answer == 0
                      ? content("text/plain", {{"type", "string"}})
                      : content("application/json", reference(operation.answer))}};
  if (operation.streams) answer["content"]["text/event-stream"] = OrderedJson::object();
  json["responses"] = {{"200", answer},
                       {"default",
                        {{"description", "what is wrong, as OpenAI's clients read it"},
                         {"content", content("application/json", reference("Error"))}}}};
  return json;
}

}  // namespace

OrderedJson openapi(std::span<const Operation> operations) {
  OrderedJson paths = OrderedJson::object();
  for (const Operation& operation : operations) {
    std::string method = operation.method;
    for (char& c : method) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    paths[operation.path][method] = operation_json(operation);
  }
  return {
      {"openapi", "3.1.0"},
      {"info", {{"title", "sala serve"}, {"version", SALA_VERSION}}},
      {"paths", paths},
      {"components",
       {{"schemas", schemas()},
        {"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}}}},
      {"security", OrderedJson::array({{{"key", OrderedJson::array()}}, OrderedJson::object()})}};
}

}  // namespace sala
