#include "grammar/json_string.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "grammar/grammar.h"
#include "grammar/pattern.h"
#include "grammar/schema_merge.h"
#include "text/unicode.h"

namespace sala {
namespace {

constexpr int kMostCount = 10'000;

CharSet raw_characters() { return CharSet::all().without({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}); }

/// A character of a set in a JSON string: as it is, or by its one usual escape.
Language json_character(const CharSet& set) {
  std::vector<Language> choices = {one_of(set.common(raw_characters()))};
  const CharSet escaped = set.without(raw_characters());
  for (const CodeRange& range : escaped.ranges())
    for (char32_t code = range.first; code <= range.last; ++code) {
      const std::string text = dumped(to_utf8(code));
      choices.push_back(literal(text.substr(1, text.size() - 2)));
    }
  return either(std::move(choices));
}

/// Any character of a JSON string, with every way to write it.
Language any_json_character() {
  const auto one = [](char32_t first, char32_t last) { return one_of({{first, last}}); };
  const Language hex = one_of({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
  const Language d = one_of({{'D', 'D'}, {'d', 'd'}});
  const Language plain =
      either({sequence({one_of({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}), hex,
                        hex, hex}),
              sequence({d, one('0', '7'), hex, hex})});
  const Language pair = sequence({d, one_of({{'8', '9'}, {'A', 'B'}, {'a', 'b'}}), hex, hex,
                                  literal("\\u"), d, one_of({{'C', 'F'}, {'c', 'f'}}), hex, hex});
  std::vector<CodeRange> letters;
  for (const char c : std::string_view("\"\\/bfnrt"))
    letters.push_back({static_cast<char32_t>(c), static_cast<char32_t>(c)});
  return either(
      {one_of(raw_characters()),
       sequence({literal("\\"), either({one_of(CharSet(letters)),
                                        sequence({literal("u"), either({plain, pair})})})})});
}

/// Formats that are kept, as patterns.
std::optional<std::string> pattern_of_format(const std::string& format) {
// Years from 1 on, the days that there are: what Python's date reads.
#define SALA_LEAP_YEAR "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
#define SALA_YEAR "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
#define SALA_DATE                                                                  \
  "(" SALA_YEAR                                                                    \
  "-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|" \
  "02-(0[1-9]|1[0-9]|2[0-8]))|" SALA_LEAP_YEAR "-02-29)"
#define SALA_TIME \
  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define SALA_BYTE "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define SALA_LABEL "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
  static const std::map<std::string, const char*, std::less<>> kPatterns = {
      {"date", "^" SALA_DATE "$"},
      {"time", "^" SALA_TIME "$"},
      {"date-time", "^" SALA_DATE "T" SALA_TIME "$"},
      {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
      {"ipv4", "^(" SALA_BYTE "\\.){3}" SALA_BYTE "$"},
      {"email", "^[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@" SALA_LABEL "(\\." SALA_LABEL ")+$"}};
#undef SALA_LEAP_YEAR
#undef SALA_YEAR
#undef SALA_DATE
#undef SALA_TIME
#undef SALA_BYTE
#undef SALA_LABEL
  const auto at = kPatterns.find(format);
  return at == kPatterns.end() ? std::nullopt : std::optional<std::string>(at->second);
}

}  // namespace

Language quoted(Language inside) {
  return sequence({literal("\""), std::move(inside), literal("\"")});
}

Language any_json_string() { return quoted(repeated(any_json_character(), 0, kUnbounded)); }

std::optional<int> count_of(const OrderedJson& schema, const char* key, const std::string& path) {
  const auto at = schema.find(key);
  if (at == schema.end()) return {};
  if (!at->is_number_integer() || at->get<double>() < 0 || at->get<double>() > kMostCount)
    refuse_schema(path, fmt::format("\"{}\": {}; expected a whole number from 0 to {}", key,
                                    shown(*at), kMostCount));
  return at->get<int>();
}

TextLimits::TextLimits(const OrderedJson& schema, const std::string& path)
    : least_(count_of(schema, "minLength", path)), most_(count_of(schema, "maxLength", path)) {
  if (least_ && most_ && *most_ < *least_)
    refuse_schema(path, "a maxLength that is smaller than its minLength");
  for (const char* key : {"pattern", "format"}) {
    const auto at = schema.find(key);
    if (at == schema.end()) continue;
    if (!at->is_string())
      refuse_schema(path, fmt::format("\"{}\": {}; expected a text", key, shown(*at)));
    const auto& text = at->get_ref<const std::string&>();
    const std::optional<std::string> known =
        std::string_view(key) == "format" ? pattern_of_format(text) : std::optional(text);
    if (!known) continue;
    try {
      patterns_.push_back(parse_pattern(*known, false, json_character));
    } catch (const Error& e) {
      refuse_schema(path, fmt::format("a pattern that cannot be used: {}", e.what()));
    }
  }
}

bool TextLimits::allow(const std::string& text) const {
  if (automata_.empty())
    for (const Language& one : patterns_) automata_.push_back(determinised(one));
  const auto size = static_cast<int64_t>(count_utf8(text));
  if (size < least_.value_or(0) || (most_ && size > *most_)) return false;
  const std::string written = dumped(text);
  const std::string_view inside = std::string_view(written).substr(1, written.size() - 2);
  return std::ranges::all_of(automata_, [&](const Automaton& one) { return one.accepts(inside); });
}

Language TextLimits::limited(Language character) const {
  return repeated(std::move(character), least_.value_or(0), most_.value_or(kUnbounded));
}

Language TextLimits::language() const {
  return patterns_.empty() ? quoted(limited(any_json_character())) : plain_language();
}

Language TextLimits::plain_language() const {
  std::vector<Language> all = patterns_;
  if (least_ || most_ || all.empty()) all.push_back(limited(json_character(CharSet::all())));
  if (patterns_.empty()) return quoted(all[0]);
  if (all.size() == 1) {
    // One way through it is faster to follow than many; too many states are left as they are.
    try {
      return quoted(language_of(determinised(all[0])));
    } catch (const Error&) {
      return quoted(all[0]);
    }
  }
  Automaton automaton = determinised(all[0]);
  for (size_t i = 1; i < all.size(); ++i)
    automaton = combined(automaton, determinised(all[i]), [](bool a, bool b) { return a && b; });
  return quoted(language_of(std::move(automaton)));
}

}  // namespace sala
