#include "grammar/pattern.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "grammar/scanner.h"

namespace sala {
namespace {

CharSet digits() { return {{'0', '9'}}; }
CharSet words() { return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}; }
CharSet spaces() {
  return {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
          {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
}
CharSet line_ends() { return {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}; }

class PatternParser : Scanner {
 public:
  PatternParser(std::string_view text, const WriteCharacter& write)
      : Scanner(text), write_(write) {}

  Language parse(bool whole) {
    std::vector<Language> choices;
    do choices.push_back(outer_branch(whole));
    while (take('|'));
    if (at_ < text_.size()) refuse("a ) without its (");
    return either(std::move(choices));
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const override {
    fail("byte {} of the pattern \"{}\" is {}", at_, text_.substr(0, 200), what);
  }

  /// A branch that may have ^ in front and $ behind.
  Language outer_branch(bool whole) {
    const bool from_start = take('^') || whole;
    std::vector<Language> items = terms();
    const bool to_end = take('$') || whole;
    const Language anything = repeated(write_(CharSet::all()), 0, kUnbounded);
    if (!from_start) items.insert(items.begin(), anything);
    if (!to_end) items.push_back(anything);
    return sequence(std::move(items));
  }

  Language inner_choices() {
    if (++depth_ > kMostDepth) refuse(fmt::format("nested in more than {} groups", kMostDepth));
    std::vector<Language> choices;
    do choices.push_back(sequence(terms()));
    while (take('|'));
    --depth_;
    return either(std::move(choices));
  }

  std::vector<Language> terms() {
    std::vector<Language> items;
    while (!over() && peek() != '|' && peek() != ')') {
      if (peek() == '$' && (at_ + 1 == text_.size() || text_[at_ + 1] == '|') && depth_ == 0) break;
      items.push_back(quantified(atom()));
    }
    return items;
  }

  Language quantified(Language item) {
    if (take('*'))
      item = repeated(std::move(item), 0, kUnbounded);
    else if (take('+'))
      item = repeated(std::move(item), 1, kUnbounded);
    else if (take('?'))
      item = optional(std::move(item));
    else if (peek() == '{' && counts())
      item = counted(std::move(item));
    else
      return item;
    take('?');  // lazy: the same texts
    if (peek() == '+' || peek() == '*') refuse("a quantifier behind a quantifier");
    return item;
  }

  /// Whether {n}, {n,} or {n,m} is next; { may be itself.
  bool counts() const {
    const size_t close = text_.find('}', at_);
    if (close == std::string_view::npos || close == at_ + 1) return false;
    const std::string_view inside = text_.substr(at_ + 1, close - at_ - 1);
    return inside.find_first_not_of("0123456789,") == std::string_view::npos && inside[0] != ',';
  }

  Language counted(Language item) {
    take('{');
    const int least = number();
    int most = least;
    if (take(',')) most = peek() == '}' ? kUnbounded : number();
    if (!take('}') || (most != kUnbounded && most < least)) refuse("no repetition {n,m}");
    return repeated(std::move(item), least, most);
  }

  Language atom() {
    switch (peek()) {
      case '(': {
        ++at_;
        if (take('?')) {
          if (take('<') && peek() != '=' && peek() != '!') {
            while (!over() && !take('>')) ++at_;
          } else if (!take(':')) {
            refuse(
                "a group of a kind that is not supported; there are (...), (?:...), (?<name>...)");
          }
        }
        Language inside = inner_choices();
        if (!take(')')) refuse("the end, and a ) is missing");
        return inside;
      }
      case '[':
        return write_(char_class());
      case '.':
        ++at_;
        return write_(line_ends().inverted());
      case '^':
        refuse("a ^ that is not in front of the pattern");
      case '$':
        refuse("a $ that is not behind the pattern");
      case '*':
      case '+':
      case '?':
        refuse("a quantifier with nothing in front of it");
      case '\\':
        return write_(escape(false));
      default: {
        const char32_t code = character();
        return write_({{code, code}});
      }
    }
  }

  CharSet escape(bool in_class) {
    take('\\');
    if (over()) refuse("the end, behind a \\");
    const char c = text_[at_];
    switch (c) {
      case 'd':
        ++at_;
        return digits();
      case 'D':
        ++at_;
        return digits().inverted();
      case 'w':
        ++at_;
        return words();
      case 'W':
        ++at_;
        return words().inverted();
      case 's':
        ++at_;
        return spaces();
      case 'S':
        ++at_;
        return spaces().inverted();
      default:
        break;
    }
    const auto one = [&](char32_t code) { return CharSet{{code, code}}; };
    static constexpr std::string_view kNames = "tnrfv0", kValues{"\t\n\r\f\v\0", 6};
    if (const size_t i = kNames.find(c); i != std::string_view::npos) {
      ++at_;
      return one(static_cast<unsigned char>(kValues[i]));
    }
    if (c == 'b' && in_class) {
      ++at_;
      return one('\b');
    }
    if (c == 'x') {
      ++at_;
      return one(hex(2, 2));
    }
    if (c == 'u') {
      ++at_;
      if (take('{')) {
        const char32_t code = hex(1, 6);
        if (!take('}')) refuse("no } behind \\u{");
        return one(checked(code));
      }
      char32_t code = hex(4, 4);
      if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_).starts_with("\\u")) {
        at_ += 2;
        const char32_t low = hex(4, 4);
        if (low < 0xDC00 || low > 0xDFFF) refuse("behind half a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      return one(checked(code));
    }
    if (std::isalnum(static_cast<unsigned char>(c)) != 0)
      refuse(fmt::format("\\{}, which is not supported", c));
    return one(character());
  }

  CharSet char_class() {
    take('[');
    const bool inverted = take('^');
    std::vector<CodeRange> ranges;
    while (peek() != ']') {
      if (over()) refuse("the end, and a ] is missing");
      const CharSet low = class_member();
      const bool range = peek() == '-' && peek(1) != ']' && peek(1) != '\0';
      if (!range) {
        ranges.insert(ranges.end(), low.ranges().begin(), low.ranges().end());
        continue;
      }
      take('-');
      const CharSet high = class_member();
      const std::optional<char32_t> first = single(low), last = single(high);
      if (!first || !last || *first > *last) refuse("behind a range of characters that is none");
      ranges.push_back({*first, *last});
    }
    take(']');
    const CharSet set(std::move(ranges));
    return inverted ? set.inverted() : set;
  }

  CharSet class_member() {
    if (peek() == '\\') return escape(true);
    const char32_t code = character();
    return {{code, code}};
  }

  static std::optional<char32_t> single(const CharSet& set) {
    const std::vector<CodeRange>& r = set.ranges();
    return r.size() == 1 && r[0].first == r[0].last ? std::optional(r[0].first) : std::nullopt;
  }

  const WriteCharacter& write_;
  int depth_ = 0;
};

}  // namespace

Language parse_pattern(std::string_view pattern, bool whole, const WriteCharacter& write) {
  return PatternParser(pattern, write).parse(whole);
}

}  // namespace sala
