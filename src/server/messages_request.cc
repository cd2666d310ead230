// The body of Anthropic's POST /v1/messages, as a chat.
#include "server/request_fields.h"
#include "server/transcript.h"

namespace sala {
namespace {

/// A line that Claude Code puts into its system text and that differs in every request, so that no
/// prompt would be known. It is for a biller, not for the model.
constexpr std::string_view kBilling = "x-anthropic-billing-header:";

std::string without_billing(const std::string& text) {
  std::string kept;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    const std::string_view line = std::string_view(text).substr(at, end - at);
    if (!line.starts_with(kBilling)) kept += line;
    at = end;
  }
  return kept;
}

void append(std::string& text, const std::string& block) {
  if (!text.empty() && !block.empty()) text += "\n";
  text += block;
}

std::string system_of(const OrderedJson& system) {
  if (system.is_string()) return without_billing(system.get<std::string>());
  if (!system.is_array())
    refuse("system", "system is " + shown(system) + "; expected a text or an array of texts");
  std::string text;
  for (const OrderedJson& block : system)
    append(text, without_billing(content_text("system", OrderedJson::array({block}))));
  return text;
}

void add_result(const std::string& where, const OrderedJson& block, Transcript& transcript) {
  const Fields fields(block, where);
  const OrderedJson* content = fields.find("content");
  std::string text =
      content == nullptr ? std::string() : content_text(where + ".content", *content, "\n");
  bool wrong = false;
  fields.boolean("is_error", wrong);
  if (wrong) text = text.empty() ? "error" : "error: " + text;
  transcript.result(fields.text("tool_use_id"), text);
}

void add_message(const std::string& where, const OrderedJson& message, Transcript& transcript) {
  if (!message.is_object()) refuse(where, where + " is " + shown(message) + "; expected an object");
  const Fields fields(message, where);
  const std::string role = fields.text("role");
  if (role != "user" && role != "assistant" && role != "system")
    refuse(where + ".role", where + ".role is " + shown(role) + "; expected user or assistant");
  const OrderedJson* content = fields.find("content");
  if (content == nullptr || (!content->is_string() && !content->is_array()))
    refuse(where + ".content", where + ".content is " +
                                   (content == nullptr ? "missing" : shown(*content)) +
                                   "; expected a text or an array of blocks");
  const OrderedJson blocks =
      content->is_array() ? *content : OrderedJson::array({{{"type", "text"}, {"text", *content}}});
  std::string text, thought;
  bool results = false;
  std::vector<const OrderedJson*> calls;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const OrderedJson& block = blocks[i];
    const std::string here = fmt::format("{}.content[{}]", where, i), type = type_of(block);
    if (role == "assistant" && type == "thinking") {
      append(thought, Fields(block, here).text("thinking"));
    } else if (role == "assistant" && type == "tool_use") {
      calls.push_back(&block);
    } else if (role == "user" && type == "tool_result") {
      if (!text.empty()) transcript.add(role, std::exchange(text, {}));
      add_result(here, block, transcript);
      results = true;
    } else if (role != "assistant" || type != "redacted_thinking") {  // which nobody can read
      append(text, content_text(here, OrderedJson::array({block})));
    }
  }
  if (role != "assistant") {
    if (!text.empty() || !results) transcript.add(role, text);
    return;
  }
  if (!thought.empty()) transcript.think(thought);
  if (!text.empty() || calls.empty()) transcript.say(text);
  for (const OrderedJson* call : calls) {
    const Fields one(*call, where + ".content");
    const OrderedJson* input = one.object("input");
    transcript.call(one.text("id"), one.text("name"), input == nullptr ? "{}" : input->dump());
  }
}

void read_tools(const Fields& fields, ChatCompletion& c) {
  read_functions(
      fields, "input_schema",
      [](std::string_view type) { return type.empty() || type == "custom"; }, c);
  read_tool_choice(fields, c);
  if (const OrderedJson* choice = fields.object("tool_choice"))
    Fields(*choice, "tool_choice").boolean("disable_parallel_tool_use", c.one_call);
}

}  // namespace

ChatCompletion parse_messages(const std::string& body, const SamplingParams& defaults) {
  const OrderedJson json = parse_body(body);
  ChatCompletion c;
  read_common(json, defaults, c);
  require_one(c);
  const Fields fields(json);
  if (const OrderedJson* stops = fields.array("stop_sequences"))
    c.reply.stop_strings = stops_of("stop_sequences", *stops);
  Transcript transcript;
  if (const OrderedJson* system = fields.find("system")) {
    const std::string text = system_of(*system);
    if (!text.empty()) transcript.add("system", text);
  }
  const OrderedJson& messages = fields.filled_array("messages", "an array of at least one message");
  for (size_t i = 0; i < messages.size(); ++i)
    add_message(fmt::format("messages[{}]", i), messages[i], transcript);
  read_messages(transcript.messages(), c);
  read_tools(fields, c);
  if (const OrderedJson* thinking = fields.object("thinking")) {
    const std::string type = type_of(*thinking);
    if (type != "enabled" && type != "disabled" && type != "adaptive")
      refuse("thinking", "thinking is " + shown(*thinking) +
                             "; expected the type enabled, adaptive or disabled");
    set_thinking(c, type != "disabled");
    int64_t most = -1;
    Fields(*thinking, "thinking").number("budget_tokens", 0, 1 << 30, most);
    if (most >= 0) c.reply.thought_limit = most;
  }
  if (const OrderedJson* format = fields.find("output_format"))
    set_form(c.form, form_of_format("output_format", *format));
  if (const OrderedJson* config = fields.object("output_config"))
    if (const OrderedJson* format = Fields(*config).find("format"))
      set_form(c.form, form_of_format("output_config.format", *format));
  return c;
}

}  // namespace sala
