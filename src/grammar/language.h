#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "grammar/automaton.h"

namespace sala {

/// Code points, both ends included.
struct CodeRange {
  char32_t first, last;
};

/// A set of characters (code points without surrogates).
class CharSet {
 public:
  CharSet() = default;
  CharSet(std::initializer_list<CodeRange> ranges) : CharSet(std::vector<CodeRange>(ranges)) {}
  /// In any order; what is no character is left out.
  explicit CharSet(std::vector<CodeRange> ranges);
  /// Every character.
  static CharSet all();

  CharSet inverted() const;
  CharSet without(const CharSet& other) const;
  CharSet common(const CharSet& other) const;
  bool contains(char32_t code) const;
  bool empty() const { return ranges_.empty(); }
  /// Ascending, apart from each other.
  const std::vector<CodeRange>& ranges() const { return ranges_; }

 private:
  std::vector<CodeRange> ranges_;
};

/// A set of texts, as an expression: what regular expressions, JSON schemas and GBNF are read into.
/// Immutable and shared.
struct LanguageNode;
using Language = std::shared_ptr<const LanguageNode>;

/// A rule of a grammar; rules may contain themselves and each other.
using RuleId = int;

/// No bound of a repetition.
inline constexpr int kUnbounded = -1;

struct LanguageNode {
  struct Literal {
    std::string bytes;
  };
  struct Characters {
    CharSet set;
  };
  struct Sequence {
    std::vector<Language> items;
  };
  struct Either {
    std::vector<Language> choices;  ///< none: no text at all
  };
  struct Repeated {
    Language item;
    int least, most;
  };
  struct Rule {
    RuleId id;
  };
  std::variant<Literal, Characters, Sequence, Either, Repeated, Rule, Automaton> is;
};

Language literal(std::string_view bytes);
/// One character of the set, as UTF-8.
Language one_of(CharSet set);
Language sequence(std::vector<Language> items);
Language either(std::vector<Language> choices);
/// `most` may be kUnbounded.
Language repeated(Language item, int least, int most);
Language optional(Language item);
Language rule(RuleId id);
Language language_of(Automaton automaton);
/// Any bytes up to and with the first `end`.
Language until(std::string_view end);

/// The rules of a grammar in the making.
struct Rules {
  std::vector<Language> list;
  RuleId add(Language language) {
    list.push_back(std::move(language));
    return static_cast<RuleId>(list.size()) - 1;
  }
};

/// The byte sequences of UTF-8 for the characters of a range: each a row of byte ranges.
struct ByteRange {
  uint8_t first, last;
};
std::vector<std::vector<ByteRange>> utf8_rows(CodeRange range);

}  // namespace sala
