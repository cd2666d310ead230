// The bodies of completions: any bytes give an ApiError or requests whose every number is in range
// and whose messages have a role and a text.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/json.h"
#include "server/api.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string body(reinterpret_cast<const char*>(data), size);
  for (const auto parse : {sala::parse_chat, sala::parse_messages, sala::parse_responses}) {
    try {
      const sala::ChatCompletion chat = parse(body, {});
      if (chat.n < 1 || chat.n > sala::kMostChoices || chat.messages.empty()) __builtin_trap();
      for (const auto& message : chat.messages)
        if (!message.at("role").is_string() || !message.at("content").is_string()) __builtin_trap();
    } catch (const sala::ApiError&) {
    }
  }
  try {
    for (const auto& prompt : sala::parse_text(body, {}).prompts)
      for (const int id : prompt.tokens)
        if (id < 0) __builtin_trap();
  } catch (const sala::ApiError&) {
  }
  return 0;
}
