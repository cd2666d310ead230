#pragma once

#include <cctype>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/unicode.h"

namespace sala {

/// What readers of grammars share: a place in a text, and how characters and numbers are read
/// there.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}
  virtual ~Scanner() = default;

 protected:
  static constexpr int kMostRepeats = 10'000, kMostDepth = 100;

  /// Throws Error that says what stands where the scanner is.
  [[noreturn]] virtual void refuse(const std::string& what) const = 0;

  bool over() const { return at_ >= text_.size(); }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool take(char c) {
    const bool is = !over() && text_[at_] == c;
    at_ += is ? 1 : 0;
    return is;
  }

  char32_t character() {
    const Utf8Char c = decode_utf8(text_.substr(at_, 4));
    if (c.length == 0) refuse("bytes that are not UTF-8");
    at_ += static_cast<size_t>(c.length);
    return c.code;
  }

  char32_t hex(int least, int most) {
    char32_t value = 0;
    int n = 0;
    for (; n < most && std::isxdigit(static_cast<unsigned char>(peek())) != 0; ++n, ++at_) {
      const char c = static_cast<char>(peek() | 0x20);
      value = value * 16 + static_cast<char32_t>(c >= 'a' ? c - 'a' + 10 : (c & 0xF));
    }
    if (n < least) refuse("no hexadecimal number");
    return value;
  }

  /// A code point that is a character.
  char32_t checked(char32_t code) const {
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
      refuse(fmt::format("behind U+{:04X}, which is no character", static_cast<uint32_t>(code)));
    return code;
  }

  int number() {
    int value = 0;
    const size_t begin = at_;
    for (; peek() >= '0' && peek() <= '9'; ++at_) {
      value = value * 10 + (peek() - '0');
      if (value > kMostRepeats) refuse(fmt::format("a repetition of more than {}", kMostRepeats));
    }
    if (at_ == begin) refuse("no number");
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace sala
