// The bodies of completions: any bytes give an ApiError or requests whose every number is in range.
#include <cstddef>
#include <cstdint>
#include <string>

#include "server/api.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string body(reinterpret_cast<const char*>(data), size);
  try {
    const sala::ChatCompletion chat = sala::parse_chat(body, {});
    if (chat.n < 1 || chat.n > sala::kMostChoices || chat.messages.empty()) __builtin_trap();
  } catch (const sala::ApiError&) {
  }
  try {
    for (const auto& prompt : sala::parse_text(body, {}).prompts)
      for (const int id : prompt.tokens)
        if (id < 0) __builtin_trap();
  } catch (const sala::ApiError&) {
  }
  return 0;
}
