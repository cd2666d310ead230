#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace sala {

class ChatTemplate;

/// How a model writes its calls of tools.
enum class ToolFormat : uint8_t {
  none,  ///< in no way that is known here
  /// `<tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>` (Hermes, Qwen2.5, Qwen3)
  hermes,
  /// `<function name="f"><param name="p">value</param></function>` (MiniCPM-SALA, MiniCPM5)
  minicpm_xml,
  /// `<tool_call>\n<function=f>\n<parameter=p>\nvalue\n</parameter>\n</function>\n</tool_call>`
  /// (Qwen3-Coder)
  qwen_xml,
  /// `{"name": "f", "parameters": {...}}` as the whole reply (Llama 3.1, Llama 3.2)
  llama_json,
};

/// The format in which `chat` shows a model its own earlier calls. Where it shows none, the one
/// that its introduction of the tools describes.
ToolFormat tool_format_of(const ChatTemplate& chat);

/// A call of a tool.
struct ToolCall {
  std::string name;
  std::string arguments;  ///< a JSON object, as text; the model's own bytes where it wrote JSON

  bool operator==(const ToolCall&) const = default;
};

/// Splits a reply that grows into what it says and the calls that it makes. How the reply is cut
/// into pieces makes no difference to either. One thread at a time.
///
/// A call comes when its end has been seen; a last one may lack its end tag. Text comes as soon as
/// it is certain that it begins no call. What begins like a call and is none (it is malformed, it
/// is cut off, it grows beyond 1 MiB) is text, unchanged; white space between a call and its
/// neighbours belongs to nobody.
class ToolCallSplitter {
 public:
  struct Part {
    std::string said;
    std::vector<ToolCall> calls;
  };

  /// `tools` as OpenAI's requests have them; without any (null), everything is text.
  ToolCallSplitter(ToolFormat format, const OrderedJson& tools);
  ~ToolCallSplitter();
  ToolCallSplitter(ToolCallSplitter&&) noexcept;
  ToolCallSplitter& operator=(ToolCallSplitter&&) noexcept;

  Part push(std::string_view piece);

  /// The reply is over: what was waiting. The next piece begins another reply.
  Part flush();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sala
