#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "text/chat_template.h"
#include "text/tool_calls.h"

namespace sala {
namespace {

constexpr const char* kName = "sala_tool";

OrderedJson probe_tools() {
  return OrderedJson::parse(R"([{"type": "function", "function": {
      "name": "sala_tool", "description": "A tool.", "parameters": {"type": "object",
      "properties": {"place": {"type": "string", "description": "A place."}},
      "required": ["place"]}}}])");
}

OrderedJson probe_arguments() { return {{"place", "sala_place"}}; }

/// A conversation of a question and `answer`.
OrderedJson conversation(OrderedJson answer) {
  answer["role"] = "assistant";
  return OrderedJson::array({{{"role", "user"}, {"content", "sala_question"}}, std::move(answer)});
}

OrderedJson calling(const OrderedJson& arguments) {
  return {{"content", ""},
          {"tool_calls",
           OrderedJson::array({{{"id", "call00001"},  // some templates want nine characters
                                {"type", "function"},
                                {"function", {{"name", kName}, {"arguments", arguments}}}}})}};
}

/// Nothing where the template refuses `messages`.
std::string rendered(const ChatTemplate& chat, const OrderedJson& messages) {
  try {
    return chat.render(messages, probe_tools(), false, nullptr);
  } catch (const Error&) {
    return "";
  }
}

/// What the template writes for an assistant's turn that calls the probe's tool, without what
/// comes before any of its turns.
std::string calling_turn(const ChatTemplate& chat, const OrderedJson& arguments) {
  const std::string says = rendered(chat, conversation({{"content", "Sala."}}));
  const std::string calls = rendered(chat, conversation(calling(arguments)));
  const auto differs = std::ranges::mismatch(says, calls).in2;
  return {differs, calls.end()};
}

bool reads(ToolFormat format, const std::string& turn) {
  ToolCallSplitter splitter(format, probe_tools());
  auto calls = splitter.push(turn).calls;
  for (ToolCall& call : splitter.flush().calls) calls.push_back(std::move(call));
  const auto is_probe = [](const ToolCall& call) {
    return call.name == kName && parse_ordered_json(call.arguments, "a call") == probe_arguments();
  };
  return !calls.empty() && std::ranges::all_of(calls, is_probe);
}

}  // namespace

ToolFormat tool_format_of(const ChatTemplate& chat) {
  using enum ToolFormat;
  // A format is known by the reader that gets the call back out of the template's own words.
  for (const OrderedJson& arguments : {probe_arguments(), OrderedJson(probe_arguments().dump())}) {
    const std::string turn = calling_turn(chat, arguments);
    for (const ToolFormat format : {hermes, minicpm_xml, qwen_xml, llama_json})
      if (reads(format, turn)) return format;
  }
  const std::string introduction =
      rendered(chat, OrderedJson::array({{{"role", "user"}, {"content", "sala_question"}}}));
  const auto shows = [&](std::string_view mark) {
    return introduction.find(mark) != std::string::npos;
  };
  if (shows("<function name=") && shows("<param name=")) return minicpm_xml;
  if (shows("<function=") && shows("<parameter=")) return qwen_xml;
  if (shows("<tool_call>")) return hermes;
  return none;
}

}  // namespace sala
