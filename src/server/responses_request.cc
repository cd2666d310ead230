// The body of OpenAI's POST /v1/responses, as a chat.
#include "server/request_fields.h"
#include "server/transcript.h"

namespace sala {
namespace {

/// What a reasoning item says of its thought: its text, or what this server gave the client to
/// keep.
std::string thought_of(const std::string& where, const OrderedJson& item) {
  const Fields fields(item, where);
  std::string thought;
  if (const OrderedJson* parts = fields.array("content")) {
    for (const OrderedJson& part : *parts)
      if (type_of(part) == "reasoning_text") thought += Fields(part, where).text("text");
  }
  std::string kept;
  fields.text("encrypted_content", kept);
  if (thought.empty() && kept.starts_with(kKeptThought)) thought = kept.substr(kKeptThought.size());
  return thought;
}

void add_item(const std::string& where, const OrderedJson& item, Transcript& transcript) {
  if (!item.is_object()) refuse(where, where + " is " + shown(item) + "; expected an object");
  const Fields fields(item, where);
  const std::string type = type_of(item);
  const auto content = [&](const char* name) {
    const OrderedJson* field = fields.find(name);
    return field == nullptr ? std::string() : content_text(where + "." + name, *field, "\n");
  };
  if (type.empty() || type == "message") {
    const std::string role = fields.text("role");
    if (role == "assistant")
      transcript.say(content("content"));
    else
      transcript.add(role == "developer" ? "system" : role, content("content"));
  } else if (type == "function_call") {
    transcript.call(fields.text("call_id"), fields.text("name"), fields.text("arguments"));
  } else if (type == "function_call_output") {
    transcript.result(fields.text("call_id"), content("output"));
  } else if (type == "reasoning") {
    const std::string thought = thought_of(where, item);
    if (!thought.empty()) transcript.think(thought);
  } else {
    refuse(where, where + " is of type " + shown(type) +
                      "; expected message, reasoning, function_call or function_call_output");
  }
}

void read_input(const Fields& fields, ChatCompletion& c) {
  Transcript transcript;
  std::string instructions;
  fields.text("instructions", instructions);
  if (!instructions.empty()) transcript.add("system", instructions);
  const OrderedJson* input = fields.find("input");
  if (input != nullptr && input->is_string()) {
    transcript.add("user", input->get<std::string>());
  } else {
    const OrderedJson& items = fields.filled_array("input", "a text, or an array of items");
    for (size_t i = 0; i < items.size(); ++i)
      add_item(fmt::format("input[{}]", i), items[i], transcript);
  }
  if (transcript.messages().empty())
    refuse("input", "input has nothing that a model could read; expected a message");
  read_messages(transcript.messages(), c);
}

/// Refuses what a client must not believe to have got.
void refuse_what_is_not_kept(const Fields& fields) {
  for (const char* name : {"previous_response_id", "conversation", "prompt"})
    if (fields.find(name) != nullptr)
      refuse(name, fmt::format("{} is given; this server keeps no responses: send the whole input "
                               "(what it shares with earlier ones is not read again)",
                               name));
  bool background = false;
  fields.boolean("background", background);
  if (background) refuse("background", "background is true; this server answers while you wait");
  int64_t top = 0;
  fields.number("top_logprobs", 0, kMostLogprobs, top);
  if (top > 0) refuse("top_logprobs", "top_logprobs is for /v1/chat/completions");
}

}  // namespace

ChatCompletion parse_responses(const std::string& body, const SamplingParams& defaults) {
  const OrderedJson json = parse_body(body);
  ChatCompletion c;
  read_common(json, defaults, c);
  require_one(c);
  const Fields fields(json);
  refuse_what_is_not_kept(fields);
  int64_t limit = -1;
  fields.number("max_output_tokens", 0, 1 << 30, limit);
  if (limit >= 0) c.limit = limit;
  read_input(fields, c);
  read_functions(fields, "parameters", [](std::string_view type) { return type == "function"; }, c);
  read_tool_choice(fields, c);
  if (const OrderedJson* text = fields.object("text"))
    if (const OrderedJson* format = Fields(*text).find("format"))
      set_form(c.form, form_of_format("text.format", *format));
  if (const OrderedJson* reasoning = fields.object("reasoning")) {
    std::string effort;
    Fields(*reasoning, "reasoning").text("effort", effort);
    if (effort == "none") set_thinking(c, false);
  }
  if (const OrderedJson* include = fields.array("include"))
    for (const OrderedJson& one : *include)
      if (one == "reasoning.encrypted_content") c.keep_thoughts = true;
  const auto given = [&](const char* name, OrderedJson otherwise) {
    const OrderedJson* field = fields.find(name);
    c.told[name] = field == nullptr ? std::move(otherwise) : *field;
  };
  given("instructions", nullptr);
  given("max_output_tokens", nullptr);
  given("metadata", OrderedJson::object());
  given("parallel_tool_calls", true);
  given("previous_response_id", nullptr);
  given("reasoning", {{"effort", nullptr}, {"summary", nullptr}});
  given("temperature", c.reply.sampling.temperature);
  given("text", {{"format", {{"type", "text"}}}});
  given("tool_choice", "auto");
  given("tools", OrderedJson::array());
  given("top_p", c.reply.sampling.top_p);
  given("truncation", "disabled");
  c.told["store"] = false;
  return c;
}

}  // namespace sala
