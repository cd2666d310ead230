// Chat templates: any bytes give an Error or valid UTF-8, in bounded time, and leave nothing
// behind.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "text/chat_template.h"
#include "text/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const sala::OrderedJson messages = sala::OrderedJson::parse(R"([
      {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße <b>"},
      {"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": {"x": [1, 2.5, true]}}]}])");
  static const sala::OrderedJson tools =
      sala::OrderedJson::parse(R"([{"function": {"name": "f", "items": {}}}])");
  try {
    const sala::ChatTemplate chat({reinterpret_cast<const char*>(data), size}, "fuzz",
                                  {{"bos_token", "<s>"}});
    const std::string text = chat.render(messages, tools, true, nullptr);
    if (sala::find_invalid_utf8(text) != text.size()) std::abort();
  } catch (const sala::Error&) {
  }
  return 0;
}
