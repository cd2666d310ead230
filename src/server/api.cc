#include "server/api.h"

#include "server/request_fields.h"
#include "text/template_messages.h"

namespace sala {
namespace {

/// The calls of an assistant's message: functions with a name and arguments.
void check_calls(const std::string& where, const OrderedJson& calls) {
  if (!calls.is_array())
    refuse(where, where + " is " + shown(calls) + "; expected an array of calls");
  for (const OrderedJson& call : calls) {
    const OrderedJson* function = call.is_object() ? Fields(call).find("function") : nullptr;
    if (function == nullptr || !function->is_object() || !function->contains("name") ||
        !(*function)["name"].is_string())
      refuse(where, where + " has " + shown(call) +
                        R"(; expected {"type": "function", "function": {"name", "arguments"}})");
  }
}

/// A tool that is a function has a name, and its schema is an object where it has one.
void check_tool(const std::string& where, const OrderedJson& tool) {
  const OrderedJson* function = Fields(tool, where).object("function");
  if (function == nullptr)
    refuse(where + ".function", where + ".function is missing; expected an object");
  function_of(Fields(*function, where + ".function"), "parameters");
}

}  // namespace

void read_messages(const OrderedJson& messages, ChatCompletion& c) {
  c.messages = messages;
  for (size_t i = 0; i < c.messages.size(); ++i) {
    OrderedJson& message = c.messages[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string())
      refuse("messages",
             fmt::format("messages[{}] is {}; expected an object with a role and a content", i,
                         shown(message)));
    if (message["role"] == "developer") message["role"] = "system";
    OrderedJson& content = message["content"];
    content = content_text(fmt::format("messages[{}].content", i), content);
    if (const auto calls = message.find("tool_calls"); calls != message.end()) {
      if (calls->is_null())
        message.erase(calls);
      else
        check_calls(fmt::format("messages[{}].tool_calls", i), *calls);
    }
  }
  c.messages = template_messages(std::move(c.messages));
}

OrderedJson parse_body(const std::string& body) {
  try {
    OrderedJson json = parse_ordered_json(body, "the body");
    if (!json.is_object()) refuse("", "the body is not a JSON object");
    return json;
  } catch (const ApiError&) {
    throw;
  } catch (const Error& e) {
    throw ApiError(400, e.what(), {}, "invalid_json");
  }
}

ChatCompletion parse_chat(const std::string& body, const SamplingParams& defaults) {
  const OrderedJson json = parse_body(body);
  ChatCompletion c;
  read_common(json, defaults, c);
  const Fields fields(json);
  fields.boolean("logprobs", c.logprobs);
  int64_t top = 0;
  fields.number("top_logprobs", 0, kMostLogprobs, top);
  if (top > 0 && !c.logprobs) refuse("top_logprobs", "top_logprobs wants logprobs to be true");
  if (c.logprobs) c.reply.logprobs = top;
  bool echo = false;
  fields.boolean("echo", echo);
  if (echo) refuse("echo", "echo is for /v1/completions; a chat answers with its reply only");
  read_messages(fields.filled_array("messages", "an array of at least one message"), c);
  if (const OrderedJson* prediction = fields.find("prediction")) {
    if (type_of(*prediction) != "content" || !prediction->contains("content"))
      refuse("prediction", "prediction is " + shown(*prediction) +
                               R"(; expected {"type": "content", "content": TEXT})");
    c.expected = content_text("prediction.content", (*prediction)["content"]);
  }
  if (const OrderedJson* tools = fields.array("tools"))
    for (size_t i = 0; i < tools->size(); ++i)
      if (const OrderedJson& tool = (*tools)[i]; type_of(tool) == "function") {
        check_tool(fmt::format("tools[{}]", i), tool);
        c.tools.push_back(tool);  // the template knows functions only
      }
  read_tool_choice(fields, c);
  if (const OrderedJson* variables = fields.object("chat_template_kwargs"))
    c.variables = *variables;
  std::string effort;
  fields.text("reasoning_effort", effort);
  if (effort == "none") set_thinking(c, false);
  return c;
}

TextCompletion parse_text(const std::string& body, const SamplingParams& defaults) {
  const OrderedJson json = parse_body(body);
  TextCompletion c;
  read_common(json, defaults, c);
  const Fields fields(json);
  fields.boolean("echo", c.echo);
  int64_t top = -1;
  fields.number("logprobs", 0, kMostLogprobs, top);
  c.logprobs = top >= 0;
  c.reply.logprobs = top;
  if (!c.limit) c.limit = 16;  // as OpenAI's
  const OrderedJson* prompt = fields.find("prompt");
  if (prompt == nullptr) refuse("prompt", "prompt is missing");
  const auto add = [&](const OrderedJson& one) {
    if (one.is_string())
      c.prompts.push_back({.text = one.get<std::string>(), .tokens = {}});
    else if (one.is_array() && !one.empty())
      c.prompts.push_back({.text = {}, .tokens = ids_of("prompt", one)});
    else
      refuse("prompt",
             "prompt is " + shown(one) + "; expected a text, token ids, or an array of these");
  };
  const bool list = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (list)
    for (const OrderedJson& one : *prompt) add(one);
  else
    add(*prompt);
  if (std::ssize(c.prompts) * c.n > kMostPrompts)
    refuse("prompt", fmt::format("prompt asks for {} completions; at most {}",
                                 std::ssize(c.prompts) * c.n, kMostPrompts));
  return c;
}

}  // namespace sala
