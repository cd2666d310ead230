#include "grammar/gbnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "grammar/scanner.h"

namespace sala {
namespace {

bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
}

class GbnfParser : Scanner {
 public:
  GbnfParser(std::string_view text, Rules& rules) : Scanner(text), rules_(rules.list) {}

  Language parse() {
    skip(true);
    while (at_ < text_.size()) {
      const std::string name = this->name();
      skip(false);
      if (!text_.substr(at_).starts_with("::=")) refuse("no ::= behind the rule's name");
      at_ += 3;
      const auto id = static_cast<size_t>(id_of(name));
      if (rules_[id] != nullptr) refuse(fmt::format("a second rule \"{}\"", name));
      skip(true);
      Language choices = this->choices();
      rules_[id] = std::move(choices);
      skip(true);
    }
    for (const auto& [name, id] : ids_)
      if (rules_[static_cast<size_t>(id)] == nullptr)
        fail("the grammar has no rule \"{}\", which another one names", name);
    if (!ids_.contains("root")) fail("the grammar has no rule \"root\", which says what a text is");
    return rule(ids_.at("root"));
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const override {
    const auto line = 1 + std::ranges::count(text_.substr(0, at_), '\n');
    fail("line {} of the grammar has {}", line, what);
  }
  /// Blanks and comments; `lines`: ends of lines too.
  void skip(bool lines) {
    for (;; ++at_) {
      if (peek() == '#')
        while (!over() && peek() != '\n') ++at_;
      const bool blank = peek() == ' ' || peek() == '\t';
      const bool line = lines && (peek() == '\n' || peek() == '\r');
      if (over() || (!blank && !line)) return;
    }
  }

  std::string name() {
    const size_t begin = at_;
    while (!over() && is_name(peek())) ++at_;
    if (at_ == begin) refuse(fmt::format("'{}' where a rule's name is expected", peek()));
    return std::string(text_.substr(begin, at_ - begin));
  }

  RuleId id_of(const std::string& name) {
    const auto [at, fresh] = ids_.emplace(name, static_cast<int>(rules_.size()));
    if (fresh) rules_.emplace_back();
    return at->second;
  }

  Language choices() {
    if (++depth_ > kMostDepth) refuse(fmt::format("more than {} nested groups", kMostDepth));
    std::vector<Language> all;
    do {
      skip(true);
      all.push_back(sequence(items()));
    } while (take('|'));
    --depth_;
    return either(std::move(all));
  }

  /// Whether the line that begins here is another rule.
  bool begins_rule() const {
    size_t at = at_;
    while (at < text_.size() && is_name(text_[at])) ++at;
    if (at == at_) return false;
    while (at < text_.size() && (text_[at] == ' ' || text_[at] == '\t')) ++at;
    return text_.substr(at).starts_with("::=");
  }

  std::vector<Language> items() {
    std::vector<Language> all;
    for (;; skip(true)) {
      Language item;
      if (take('"'))
        item = literal(quoted());
      else if (take('['))
        item = one_of(char_class());
      else if (take('.'))
        item = one_of(CharSet::all());
      else if (take('(')) {
        item = choices();
        if (!take(')')) refuse("a ( without its )");
      } else if (is_name(peek()) && !begins_rule())
        item = rule(id_of(name()));
      else
        return all;
      all.push_back(quantified(std::move(item)));
    }
  }

  Language quantified(Language item) {
    skip(false);
    if (take('*')) return repeated(std::move(item), 0, kUnbounded);
    if (take('+')) return repeated(std::move(item), 1, kUnbounded);
    if (take('?')) return optional(std::move(item));
    if (!take('{')) return item;
    skip(false);
    const int least = peek() == ',' ? 0 : number();
    skip(false);
    int most = least;
    if (take(',')) {
      skip(false);
      most = peek() == '}' ? kUnbounded : number();
    }
    skip(false);
    if (!take('}') || (most != kUnbounded && most < least))
      refuse("a repetition that is not {n,m}");
    return repeated(std::move(item), least, most);
  }

  /// A character of a literal or class.
  char32_t letter() {
    if (over()) refuse("an end within quotes or brackets");
    if (!take('\\')) return character();
    const char c = peek();
    ++at_;
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return hex(2, 2);
      case 'u':
        return checked(hex(4, 4));
      case 'U':
        return checked(hex(8, 8));
      case '"':
      case '\\':
      case '[':
      case ']':
      case '-':
      case '^':
        return static_cast<char32_t>(c);
      default:
        refuse(fmt::format("an unknown escape \\{}", c));
    }
  }

  std::string quoted() {
    std::string bytes;
    while (!take('"')) append_utf8(bytes, letter());
    return bytes;
  }

  CharSet char_class() {
    const bool inverted = take('^');
    std::vector<CodeRange> ranges;
    while (!take(']')) {
      const char32_t first = letter();
      char32_t last = first;
      if (peek() == '-' && peek(1) != ']') {
        take('-');
        last = letter();
      }
      if (first > last) refuse("a range of characters that is none");
      ranges.push_back({first, last});
    }
    const CharSet set(std::move(ranges));
    return inverted ? set.inverted() : set;
  }

  int depth_ = 0;
  std::map<std::string, RuleId> ids_;
  std::vector<Language>& rules_;
};

}  // namespace

Language parse_gbnf(std::string_view text, Rules& rules) { return GbnfParser(text, rules).parse(); }

}  // namespace sala
