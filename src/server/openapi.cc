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
"AnthropicError": {"type": "object", "required": ["type", "error"], "properties": {"type": {"const": "error"},
  "error": {"type": "object", "required": ["type", "message"], "properties": {"type": {"type": "string"},
  "message": {"type": "string"}}}}},
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
  "thinking_token_budget": {"type": ["integer", "null"], "minimum": -1, "maximum": 1073741824},
  "n_predict": {"type": ["integer", "null"], "minimum": -1, "maximum": 1073741824},
  "n": {"type": ["integer", "null"], "minimum": 1, "maximum": "kMostChoices"},
  "stream": {"type": ["boolean", "null"]},
  "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]},
    "continuous_usage_stats": {"type": ["boolean", "null"]}}},
  "ignore_eos": {"type": ["boolean", "null"]},
  "stop_token_ids": {"type": ["array", "null"], "maxItems": "kMostStops", "items": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
  "stop": {"anyOf": [{"type": "null"}, {"type": "string", "minLength": 1, "maxLength": 256},
    {"type": "array", "maxItems": "kMostStops", "items": {"type": "string", "minLength": 1, "maxLength": 256}}]},
  "response_format": {"$ref": "#/components/schemas/Format"},
  "structured_outputs": {"type": ["object", "null"], "maxProperties": 1, "properties": {"json": {"type": "object"}, "regex": {"type": "string"},
    "choice": {"type": "array", "minItems": 1, "maxItems": 10000, "items": {"type": "string"}}, "grammar": {"type": "string"}, "json_object": {"type": "boolean"}}},
  "grammar": {"type": ["string", "null"], "description": "GBNF"},
  "prompt_cache_key": {"type": ["string", "null"], "description": "a session's name"}}},
"Format": {"type": ["object", "null"], "required": ["type"], "properties": {"type": {"enum": ["text", "json_object", "json_schema"]},
  "schema": {"type": "object"}, "json_schema": {"type": "object", "required": ["schema"], "properties": {"schema": {"type": "object"}}}}},
"ChatRequest": {"allOf": [{"$ref": "#/components/schemas/Sampling"}, {"type": "object", "required": ["messages"],
  "properties": {
  "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"],
    "properties": {"role": {"type": "string"}, "content": {"$ref": "#/components/schemas/Content"},
    "tool_calls": {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/ToolCall"}},
    "tool_call_id": {"type": ["string", "null"]}}}},
  "tools": {"type": ["array", "null"], "items": {"type": "object"}},
  "tool_choice": {"anyOf": [{"enum": ["auto", "none", "required", null]}, {"type": "object", "required": ["type", "function"],
    "properties": {"type": {"const": "function"}, "function": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}}]},
  "parallel_tool_calls": {"type": ["boolean", "null"]},
  "chat_template_kwargs": {"type": ["object", "null"]},
  "prediction": {"type": ["object", "null"], "required": ["type", "content"], "properties": {"type": {"const": "content"},
    "content": {"$ref": "#/components/schemas/Content"}}},
  "reasoning_effort": {"type": ["string", "null"]},
  "logprobs": {"type": ["boolean", "null"]},
  "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": "kMostLogprobs"}}}]},
"ToolCall": {"type": "object", "required": ["id", "type", "function"], "properties": {"id": {"type": "string"},
  "type": {"const": "function"}, "function": {"type": "object", "required": ["name", "arguments"], "properties": {
  "name": {"type": "string"}, "arguments": {"type": "string", "description": "JSON"}}}}},
"Content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "object", "required": ["type", "text"],
  "properties": {"type": {"enum": ["text", "input_text", "output_text"]}, "text": {"type": "string"}}}}]},
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
    "finish_reason": {"enum": ["stop", "length", "tool_calls", "abort"]}, "logprobs": {"type": ["object", "null"]},
    "text": {"type": "string"}, "message": {"type": "object", "required": ["role", "content"], "properties": {
      "role": {"const": "assistant"}, "content": {"type": ["string", "null"]}, "reasoning_content": {"type": "string"},
      "tool_calls": {"type": "array", "items": {"$ref": "#/components/schemas/ToolCall"}}}}}}}}},
"ResponsesRequest": {"type": "object", "required": ["input"], "properties": {
  "model": {"type": ["string", "null"]},
  "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/InputItem"}}]},
  "instructions": {"type": ["string", "null"]},
  "tools": {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/ResponsesTool"}},
  "tool_choice": {"anyOf": [{"enum": ["auto", "none", "required", null]}, {"type": "object", "required": ["type", "name"],
    "properties": {"type": {"const": "function"}, "name": {"type": "string"}}}]},
  "parallel_tool_calls": {"type": ["boolean", "null"]},
  "max_output_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 1073741824},
  "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 100},
  "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
  "stream": {"type": ["boolean", "null"]},
  "text": {"type": ["object", "null"], "properties": {"format": {"$ref": "#/components/schemas/Format"}}},
  "reasoning": {"type": ["object", "null"], "properties": {"effort": {"type": ["string", "null"]}}},
  "include": {"type": ["array", "null"], "items": {"type": "string"}},
  "prompt_cache_key": {"type": ["string", "null"], "description": "a session's name"}}},
"InputItem": {"anyOf": [
  {"type": "object", "required": ["role", "content"], "properties": {"type": {"const": "message"},
    "role": {"enum": ["user", "assistant", "system", "developer"]}, "content": {"$ref": "#/components/schemas/Content"}}},
  {"type": "object", "required": ["type", "call_id", "name", "arguments"], "properties": {"type": {"const": "function_call"},
    "call_id": {"type": "string"}, "name": {"type": "string"}, "arguments": {"type": "string"}}},
  {"type": "object", "required": ["type", "call_id", "output"], "properties": {"type": {"const": "function_call_output"},
    "call_id": {"type": "string"}, "output": {"$ref": "#/components/schemas/Content"}}},
  {"type": "object", "required": ["type"], "properties": {"type": {"const": "reasoning"}, "content": {"type": ["array", "null"],
    "items": {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "reasoning_text"}, "text": {"type": "string"}}}},
    "encrypted_content": {"type": ["string", "null"]}}}]},
"ResponsesTool": {"type": "object", "required": ["type", "name"], "properties": {"type": {"type": "string"}, "name": {"type": "string"},
  "description": {"type": ["string", "null"]}, "parameters": {"type": ["object", "null"]}}},
"Response": {"type": "object", "required": ["id", "object", "created_at", "status", "model", "output", "usage"], "properties": {
  "id": {"type": "string"}, "object": {"const": "response"}, "created_at": {"type": "integer"},
  "status": {"enum": ["completed", "incomplete"]}, "model": {"type": "string"},
  "output": {"type": "array", "items": {"type": "object", "required": ["id", "type", "status"], "properties": {
    "id": {"type": "string"}, "type": {"enum": ["reasoning", "message", "function_call"]}, "status": {"enum": ["completed", "incomplete"]}}}},
  "usage": {"type": "object", "required": ["input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"]}}},
"MessagesRequest": {"type": "object", "required": ["messages", "max_tokens"], "properties": {
  "model": {"type": ["string", "null"], "description": "the served model, or any whose name begins with claude"},
  "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role", "content"], "properties": {
    "role": {"enum": ["user", "assistant"]}, "content": {"anyOf": [{"type": "string"}, {"type": "array",
    "items": {"$ref": "#/components/schemas/Block"}}]}}}},
  "system": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"$ref": "#/components/schemas/TextBlock"}}]},
  "max_tokens": {"type": "integer", "minimum": 0, "maximum": 1073741824},
  "stop_sequences": {"type": ["array", "null"], "maxItems": "kMostStops", "items": {"type": "string", "minLength": 1, "maxLength": 256}},
  "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 100},
  "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
  "top_k": {"type": ["integer", "null"], "minimum": -1, "maximum": 1000000000},
  "stream": {"type": ["boolean", "null"]},
  "thinking": {"type": ["object", "null"], "required": ["type"], "properties": {"type": {"enum": ["enabled", "adaptive", "disabled"]},
    "budget_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 1073741824}}},
  "tools": {"type": ["array", "null"], "items": {"type": "object", "required": ["name", "input_schema"], "properties": {
    "name": {"type": "string"}, "description": {"type": ["string", "null"]}, "input_schema": {"type": "object"}}}},
  "tool_choice": {"type": ["object", "null"], "required": ["type"], "properties": {"type": {"enum": ["auto", "none", "any", "tool"]}, "name": {"type": "string"},
    "disable_parallel_tool_use": {"type": ["boolean", "null"]}}}}},
"TextBlock": {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": {"type": "string"}}},
"Block": {"anyOf": [{"$ref": "#/components/schemas/TextBlock"},
  {"type": "object", "required": ["type", "thinking"], "properties": {"type": {"const": "thinking"}, "thinking": {"type": "string"}}},
  {"type": "object", "required": ["type", "id", "name", "input"], "properties": {"type": {"const": "tool_use"}, "id": {"type": "string"},
    "name": {"type": "string"}, "input": {"type": "object"}}},
  {"type": "object", "required": ["type", "tool_use_id"], "properties": {"type": {"const": "tool_result"},
    "tool_use_id": {"type": "string"}, "is_error": {"type": ["boolean", "null"]}, "content": {"anyOf": [{"type": ["string", "null"]},
    {"type": "array", "items": {"$ref": "#/components/schemas/TextBlock"}}]}}}]},
"Message": {"type": "object", "required": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"], "properties": {
  "id": {"type": "string"}, "type": {"const": "message"}, "role": {"const": "assistant"}, "model": {"type": "string"},
  "content": {"type": "array", "items": {"type": "object", "required": ["type"], "properties": {"type": {"enum": ["thinking", "text", "tool_use"]}}}},
  "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn"]},
  "stop_sequence": {"type": ["string", "null"]},
  "usage": {"type": "object", "required": ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"]}}},
"InputTokens": {"type": "object", "required": ["input_tokens"], "properties": {"input_tokens": {"type": "integer"}}},
"Models": {"type": "object", "required": ["object", "data"], "properties": {"object": {"const": "list"},
  "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}}},
"Model": {"type": "object", "required": ["id", "object", "max_model_len"], "properties": {"id": {"type": "string"},
  "object": {"const": "model"}, "max_model_len": {"type": "integer"}}},
"Status": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
"Version": {"type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}},
"Document": {"type": "object", "required": ["openapi", "paths"]},
"TokenizeRequest": {"type": "object", "anyOf": [{"required": ["prompt"]}, {"required": ["content"]},
  {"$ref": "#/components/schemas/ChatRequest"}], "properties": {"add_generation_prompt": {"type": "boolean"},
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
                        {{"description", "what is wrong"},
                         {"content", content("application/json", reference(operation.error))}}}};
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
