#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace sala {

/// An error as OpenAI's clients read it.
OrderedJson openai_error(int status, const std::string& message, const std::string& param = {},
                         const std::string& code = {});
/// An error as Anthropic's clients read it.
OrderedJson anthropic_error(int status, const std::string& message);
/// An error as the clients of a path read it.
OrderedJson error_of_path(std::string_view path, int status, const std::string& message,
                          const std::string& param = {}, const std::string& code = {});

/// JSON as it goes out: bytes that are not UTF-8 become U+FFFD.
std::string text_of(const OrderedJson& json);

}  // namespace sala
