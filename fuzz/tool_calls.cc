// Calls of tools in a reply: any bytes in any pieces give the same text and calls, calls are valid
// JSON, and where there is no call every byte comes back. The first byte is the format, the second
// how the rest is cut.
#include "text/tool_calls.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/json.h"

namespace {

void add(sala::ToolCallSplitter::Part& all, sala::ToolCallSplitter::Part more) {
  all.said += more.said;
  for (sala::ToolCall& call : more.calls) all.calls.push_back(std::move(call));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tools = sala::OrderedJson::parse(R"([
      {"type": "function", "function": {"name": "f", "parameters": {"properties": {
        "s": {"type": "string"}, "i": {"type": ["integer", "null"]},
        "o": {"anyOf": [{"type": "object"}]}}}}},
      {"type": "function", "function": {"name": "g"}}])");
  if (size < 2) return 0;
  const auto format = static_cast<sala::ToolFormat>(
      static_cast<uint8_t>(data[0] - '0') % (static_cast<int>(sala::ToolFormat::llama_json) + 1));
  const size_t step = data[1] % 16 + 1;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);

  sala::ToolCallSplitter splitter(format, tools);
  auto whole = splitter.push(text);
  add(whole, splitter.flush());
  sala::ToolCallSplitter::Part cut;
  for (size_t i = 0; i < text.size(); i += step) add(cut, splitter.push(text.substr(i, step)));
  add(cut, splitter.flush());

  if (cut.said != whole.said || cut.calls != whole.calls) std::abort();
  if (whole.calls.empty() && whole.said != text) std::abort();
  for (const sala::ToolCall& call : whole.calls)
    if (call.name.empty() || !sala::OrderedJson::parse(call.arguments).is_object()) std::abort();
  return 0;
}
