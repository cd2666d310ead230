#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "base/error.h"
#include "text/jinja/errors.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

bool is_python_space(char32_t c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (!is_python_space(decode_valid_utf8(text, at).code)) break;
    text = text.substr(0, at);
  }
  return text;
}

/// Line ends become \n; one at the very end is dropped.
std::string normalize_lines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) lex_data();
    push(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool starts(std::string_view what, size_t at) const {
    return source_.compare(at, what.size(), what) == 0;
  }
  bool starts(std::string_view what) const { return starts(what, at_); }

  void push(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    if (to > at_) line_starting_ = source_[to - 1] == '\n';
    at_ = to;
  }

  size_t skip_space(size_t at) const {
    while (at < source_.size()) {
      const Utf8Char c = decode_valid_utf8(source_, at);
      if (!is_python_space(c.code)) break;
      at += static_cast<size_t>(c.length);
    }
    return at;
  }

  /// Where the next tag begins; the end of the source when there is none.
  size_t find_tag(size_t from) const {
    for (size_t at = source_.find('{', from); at != std::string::npos;
         at = source_.find('{', at + 1))
      if (at + 1 < source_.size() &&
          (source_[at + 1] == '%' || source_[at + 1] == '{' || source_[at + 1] == '#'))
        return at;
    return source_.size();
  }

  /// The text before a tag, trimmed as the tag's sign and the environment say.
  std::string_view trim_before(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return strip_right(text);
    if (sign == '+' || is_variable) return text;
    const size_t line = text.rfind('\n') + 1;  // npos + 1 is 0
    if ((line > 0 || line_starting_) && strip_right(text.substr(line)).empty())
      return text.substr(0, line);
    return text;
  }

  /// If `at` is a closing tag with sign and trimming, where it ends; else `at`. A newline after it
  /// goes with it.
  size_t closing(std::string_view tag, size_t at, bool trims_newline) const {
    if (starts("-", at) && starts(tag, at + 1)) return skip_space(at + 1 + tag.size());
    if (starts("+", at) && starts(tag, at + 1) && tag != "}}") return at + 1 + tag.size();
    if (!starts(tag, at)) return at;
    const size_t end = at + tag.size();
    return trims_newline && starts("\n", end) ? end + 1 : end;
  }

  /// If a raw block opens at `at` (on "{%"), where its content begins; else `at`.
  size_t raw_begin(size_t at) const {
    size_t p = at + 2;
    if (starts("-", p) || starts("+", p)) ++p;
    p = skip_space(p);
    if (!starts("raw", p)) return at;
    const size_t end = skip_space(p + 3);
    const size_t close = closing("%}", end, false);
    return close == end || starts("+", end) ? at : close;
  }

  void lex_data() {
    const size_t tag = find_tag(at_);
    const char kind = tag < source_.size() ? source_[tag + 1] : '\0';
    const std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (kind == '\0') {
      push(Token::Kind::kData, std::string(text));
      advance(source_.size());
      return;
    }
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const std::string_view trimmed = trim_before(text, sign, kind == '{');
    if (!trimmed.empty()) push(Token::Kind::kData, std::string(trimmed));
    const bool signed_tag = sign == '-' || sign == '+';
    const size_t raw = kind == '%' ? raw_begin(tag) : tag;
    if (raw != tag) {
      advance(raw);
      lex_raw();
    } else {
      advance(tag + 2 + (signed_tag ? 1 : 0));
      if (kind == '#') {
        lex_comment();
      } else {
        lex_tag(kind == '%');
      }
    }
  }

  void lex_comment() {
    for (size_t p = at_; p < source_.size(); ++p) {
      const size_t end = closing("#}", p, true);
      if (end != p) return advance(end);
    }
    fail_at(line_, "Missing end of comment tag");
  }

  void lex_raw() {
    for (size_t p = at_; (p = source_.find("{%", p)) != std::string::npos; p += 2) {
      size_t q = p + 2;
      const char sign = q < source_.size() ? source_[q] : '\0';
      if (sign == '-' || sign == '+') ++q;
      q = skip_space(q);
      if (!starts("endraw", q)) continue;
      q = skip_space(q + 6);
      const size_t end = closing("%}", q, true);
      if (end == q) continue;
      const std::string_view text = std::string_view(source_).substr(at_, p - at_);
      push(Token::Kind::kData, std::string(trim_before(text, sign, false)));
      return advance(end);
    }
    fail_at(line_, "Missing end of raw directive");
  }

  void lex_tag(bool block) {
    const std::string_view tag = block ? "%}" : "}}";
    push(block ? Token::Kind::kBlockBegin : Token::Kind::kVariableBegin, "");
    std::string open;  // closing brackets that are waited for
    while (true) {
      if (at_ >= source_.size())
        return;  // the parser sees the end and knows what it was waiting for
      const size_t end = open.empty() ? closing(tag, at_, block) : at_;
      if (end != at_) {
        push(block ? Token::Kind::kBlockEnd : Token::Kind::kVariableEnd, "");
        return advance(end);
      }
      if (const size_t p = skip_space(at_); p != at_) {
        advance(p);
      } else {
        lex_token(open);
      }
    }
  }

  void lex_token(std::string& open) {
    const char c = source_[at_];
    if (is_digit(c)) return lex_number();
    if (c == '"' || c == '\'') return lex_string(c);
    size_t p = at_;
    while (p < source_.size()) {
      const Utf8Char next = decode_valid_utf8(source_, p);
      if (!is_word(next.code)) break;
      p += static_cast<size_t>(next.length);
    }
    if (p != at_) {
      push(Token::Kind::kName, source_.substr(at_, p - at_));
      return advance(p);
    }
    lex_operator(open);
  }

  size_t digits(size_t p, bool (*accepts)(char)) const {
    while (p < source_.size() &&
           (accepts(source_[p]) ||
            (source_[p] == '_' && p + 1 < source_.size() && accepts(source_[p + 1]))))
      ++p;
    return p;
  }

  void lex_number() {
    static constexpr std::string_view kPrefixes = "xXoObB";
    size_t p = at_;
    Token::Kind kind = Token::Kind::kInteger;
    if (source_[p] == '0' && p + 1 < source_.size() &&
        kPrefixes.find(source_[p + 1]) != std::string_view::npos) {
      p = digits(p + 2, [](char d) { return std::isxdigit(static_cast<unsigned char>(d)) != 0; });
    } else {
      p = digits(p, is_digit);
      // After a dot ("messages.0.1") a number is an index and has no fraction.
      const bool index = at_ > 0 && source_[at_ - 1] == '.';
      if (!index && p + 1 < source_.size() && source_[p] == '.' && is_digit(source_[p + 1])) {
        kind = Token::Kind::kFloat;
        p = digits(p + 1, is_digit);
      }
      if (!index && p < source_.size() && (source_[p] == 'e' || source_[p] == 'E')) {
        size_t q = p + 1;
        if (q < source_.size() && (source_[q] == '+' || source_[q] == '-')) ++q;
        if (q < source_.size() && is_digit(source_[q])) {
          kind = Token::Kind::kFloat;
          p = digits(q, is_digit);
        }
      }
    }
    std::string text = source_.substr(at_, p - at_);
    std::erase(text, '_');
    push(kind, std::move(text));
    advance(p);
  }

  void lex_string(char quote) {
    size_t p = at_ + 1;
    while (p < source_.size() && source_[p] != quote) p += source_[p] == '\\' ? 2 : 1;
    if (p >= source_.size())
      fail_at(line_, fmt::format("unexpected char {}{}{} at {}", '"', quote, '"', at_));
    push(Token::Kind::kString, unescape(std::string_view(source_).substr(at_ + 1, p - at_ - 1)));
    advance(p + 1);
  }

  /// Python's "unicode-escape".
  std::string unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 >= text.size()) {
        out.push_back(text[i]);
        continue;
      }
      const char c = text[++i];
      static constexpr std::string_view kNames = "abfnrtv\\'\"";
      static constexpr std::string_view kCodes = "\a\b\f\n\r\t\v\\'\"";
      if (const size_t at = kNames.find(c); at != std::string_view::npos) {
        out.push_back(kCodes[at]);
      } else if (c >= '0' && c <= '7') {
        unsigned code = 0;
        size_t end = i;
        while (end < text.size() && end < i + 3 && text[end] >= '0' && text[end] <= '7')
          code = code * 8 + static_cast<unsigned>(text[end++] - '0');
        append_utf8(out, code);
        i = end - 1;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t length = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_utf8(out, hex_escape(text.substr(i + 1, length), length));
        i += length;
      } else if (c != '\n') {
        out.push_back('\\');
        out.push_back(c);
      }
    }
    return out;
  }

  char32_t hex_escape(std::string_view hex, size_t length) const {
    char32_t code = 0;
    for (const char c : hex) {
      if (std::isxdigit(static_cast<unsigned char>(c)) == 0) break;
      code = code * 16 + static_cast<char32_t>(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
      --length;
    }
    if (length != 0)
      fail_at(line_,
              "truncated escape in a string: \\x takes 2, \\u 4 and \\U 8 hexadecimal digits");
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      fail_at(line_, "illegal Unicode character in a string escape");
    return code;
  }

  void lex_operator(std::string& open) {
    static constexpr std::array<std::string_view, 26> kOperators = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (const std::string_view op : kOperators) {
      if (!starts(op)) continue;
      if (op == "{" || op == "(" || op == "[") {
        open.push_back(op == "{" ? '}' : op == "(" ? ')' : ']');
      } else if (op == "}" || op == ")" || op == "]") {
        if (open.empty()) fail_at(line_, fmt::format("unexpected '{}'", op));
        if (open.back() != op[0])
          fail_at(line_, fmt::format("unexpected '{}', expected '{}'", op, open.back()));
        open.pop_back();
      }
      push(Token::Kind::kOperator, std::string(op));
      return advance(at_ + op.size());
    }
    const auto length = static_cast<size_t>(decode_valid_utf8(source_, at_).length);
    fail_at(line_, fmt::format("unexpected char '{}' at {}", source_.substr(at_, length), at_));
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(normalize_lines(source)).run();
}

}  // namespace sala::jinja
