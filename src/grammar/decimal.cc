#include "grammar/decimal.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sala {
namespace {

constexpr int kMostWhole = 18, kMostPart = 17;
constexpr int kMostExponent = 2;  // digits: every such number is a double

Language digit(int first, int last) {
  return one_of({{static_cast<char32_t>('0' + first), static_cast<char32_t>('0' + last)}});
}
Language digits(int least, int most) { return repeated(digit(0, 9), least, most); }

/// The texts of digits that are of one length with `than` and, from its first other digit on,
/// larger or smaller; each with `behind` at its end.
void add_others(const std::string& than, bool larger, bool leading, bool fixed,
                const Language& behind, std::vector<Language>& out) {
  for (size_t i = 0; i < than.size(); ++i) {
    const int here = than[i] - '0';
    const int first = larger ? here + 1 : (leading && i == 0 && than.size() > 1 ? 1 : 0);
    const int last = larger ? 9 : here - 1;
    if (first > last) continue;
    const int rest = static_cast<int>(than.size() - i) - 1;
    out.push_back(sequence({literal(than.substr(0, i)), digit(first, last),
                            fixed ? digits(rest, rest) : digits(0, kMostPart), behind}));
  }
}

/// .digits, or nothing.
Language any_part(bool whole) {
  return whole ? literal("") : optional(sequence({literal("."), digits(1, kMostPart)}));
}
Language some_digit_but_zero() {
  return sequence({repeated(literal("0"), 0, kMostPart), digit(1, 9), digits(0, kMostPart)});
}

/// Numbers without a sign that are no less than a bound without its sign.
Language at_least(const NumberBound& bound, bool whole) {
  const auto& [at, itself] = bound;
  const int length = static_cast<int>(at.whole.size());
  std::vector<Language> all;
  if (length < kMostWhole)
    all.push_back(sequence({digit(1, 9), digits(length, kMostWhole - 1), any_part(whole)}));
  add_others(at.whole, true, true, true, any_part(whole), all);
  std::vector<Language> parts;  // behind the same whole number
  if (at.part.empty() && itself) parts.push_back(any_part(whole));
  if (at.part.empty() && !itself && !whole)
    parts.push_back(sequence({literal("."), some_digit_but_zero()}));
  if (!at.part.empty() && !whole) {
    std::vector<Language> tails;
    add_others(at.part, true, false, false, literal(""), tails);
    tails.push_back(
        sequence({literal(at.part), itself ? digits(0, kMostPart) : some_digit_but_zero()}));
    parts.push_back(sequence({literal("."), either(std::move(tails))}));
  }
  all.push_back(sequence({literal(at.whole), either(std::move(parts))}));
  return either(std::move(all));
}

/// Numbers without a sign that are no more than a bound without its sign.
Language at_most(const NumberBound& bound, bool whole) {
  const auto& [at, itself] = bound;
  const int length = static_cast<int>(at.whole.size());
  std::vector<Language> all;
  if (length > 1) {
    all.push_back(sequence({literal("0"), any_part(whole)}));
    all.push_back(
        sequence({digit(1, 9), digits(0, std::min(length - 2, kMostWhole - 1)), any_part(whole)}));
  }
  if (length > kMostWhole) return either(std::move(all));
  add_others(at.whole, false, true, true, any_part(whole), all);
  const Language zeros = repeated(literal("0"), 0, kMostPart);
  std::vector<Language> parts;
  if (itself || !at.part.empty()) parts.push_back(literal(""));
  if (!whole && at.part.empty() && itself) parts.push_back(sequence({literal(".0"), zeros}));
  if (!whole && !at.part.empty()) {
    std::vector<Language> tails;
    add_others(at.part, false, false, false, literal(""), tails);
    for (size_t i = 1; i < at.part.size(); ++i) tails.push_back(literal(at.part.substr(0, i)));
    if (itself) tails.push_back(sequence({literal(at.part), zeros}));
    parts.push_back(sequence({literal("."), either(std::move(tails))}));
  }
  all.push_back(sequence({literal(at.whole), either(std::move(parts))}));
  return either(std::move(all));
}

/// Numbers without a sign between two bounds without theirs.
Language between(const std::optional<NumberBound>& least, const std::optional<NumberBound>& most,
                 bool whole) {
  if (!least && !most)
    return sequence({either({literal("0"), sequence({digit(1, 9), digits(0, kMostWhole - 1)})}),
                     any_part(whole)});
  if (!most) return at_least(*least, whole);
  if (!least) return at_most(*most, whole);
  return language_of(combined(determinised(at_least(*least, whole)),
                              determinised(at_most(*most, whole)),
                              [](bool a, bool b) { return a && b; }));
}

std::optional<NumberBound> without_sign(std::optional<NumberBound> bound) {
  if (bound) bound->at.negative = false;
  return bound;
}

}  // namespace

Decimal decimal_of(const std::string& integer) {
  Decimal decimal;
  decimal.negative = integer.starts_with('-');
  decimal.whole = integer.substr(decimal.negative ? 1 : 0);
  return decimal;
}

Decimal decimal_of(double value) {
  std::array<char, 400> text{};
  const auto [end, error] =
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  SALA_CHECK(error == std::errc(), "{} does not fit", value);
  const std::string all(text.data(), end);
  const size_t point = all.find('.');
  Decimal decimal = decimal_of(all.substr(0, point));
  if (point != std::string::npos) decimal.part = all.substr(point + 1);
  decimal.part.resize(decimal.part.find_last_not_of('0') + 1);
  decimal.negative &= !decimal.zero();
  return decimal;
}

Language numbers(const std::optional<NumberBound>& least, const std::optional<NumberBound>& most,
                 bool whole) {
  if (!least && !most) {
    const Language exponent =
        optional(sequence({one_of({{'e', 'e'}, {'E', 'E'}}),
                           optional(one_of({{'+', '+'}, {'-', '-'}})), digits(1, kMostExponent)}));
    return sequence(
        {optional(literal("-")), between({}, {}, whole), whole ? literal("") : exponent});
  }
  const bool positive = !most || !most->at.negative, negative = !least || least->at.negative;
  std::vector<Language> all;
  if (positive)
    all.push_back(between(least && !least->at.negative ? least : std::nullopt, most, whole));
  if (negative) {
    const NumberBound above_zero{.at = {}, .itself = false};
    all.push_back(
        sequence({literal("-"), between(most && most->at.negative ? without_sign(most) : above_zero,
                                        without_sign(least), whole)}));
  }
  return either(std::move(all));
}

}  // namespace sala
