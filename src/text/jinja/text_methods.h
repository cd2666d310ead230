#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sala::jinja {

// Python's methods of str, on valid UTF-8; positions count characters.

/// Both ends stripped of `characters`; of white space when null.
std::string strip_text(std::string_view text, const std::string* characters, bool left, bool right);
std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         int64_t count);
/// split: at `separator`, or at runs of white space when null; at most `limit` cuts (negative:
/// all).
std::vector<std::string> split_text(std::string_view text, const std::string* separator,
                                    int64_t limit, bool from_right);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
std::string upper_text(std::string_view text);
std::string lower_text(std::string_view text);
/// The first character upper, the rest lower.
std::string capitalize_text(std::string_view text);
std::string title_text(std::string_view text);
std::string swap_case(std::string_view text);
bool has_case(char32_t code);
bool is_upper(char32_t code);
bool is_lower(char32_t code);
/// What Python's str.isspace accepts.
bool is_python_space(char32_t code);

}  // namespace sala::jinja
