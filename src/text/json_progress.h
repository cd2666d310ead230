#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sala {

/// Follows a JSON object or array byte by byte and knows where it ends or breaks. Structure and
/// strings are checked; whether numbers and words such as `true` are spelled right is left to the
/// parser, which sees the whole.
class JsonProgress {
 public:
  enum class Is : uint8_t {
    open,   ///< may still become one
    whole,  ///< ends with this byte
    broken  ///< cannot become one; so is nesting deeper than parse_ordered_json accepts
  };

  Is step(char c);

 private:
  enum class Expects : uint8_t { value, item_or_end, key_or_end, key, colon, comma_or_end };

  Is step_string(char c);
  Is step_structure(char c);
  Is open(char bracket);
  Is close(char bracket);

  std::string brackets_;  // that are open
  Expects expects_ = Expects::value;
  bool in_string_ = false;
  bool in_word_ = false;  // a number, true, false, null
  bool escaped_ = false;
  int hex_ = 0;  // digits of \uXXXX that are still to come
};

/// What stands between the brackets, commas and colons of `json`, a valid object or array, without
/// white space around it: an array's items; an object's keys (as they are written) and values in
/// turn.
std::vector<std::string_view> json_pieces(std::string_view json);

/// `text` without JSON's white space at both ends.
std::string_view trim_json_space(std::string_view text);

constexpr bool is_json_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

}  // namespace sala
