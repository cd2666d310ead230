#pragma once

#include <optional>
#include <string>

#include "grammar/grammar.h"

namespace sala {

/// A decimal number, written out.
struct Decimal {
  bool negative = false;
  std::string whole = "0";  ///< digits in front of the point, no zero in front of others
  std::string part;         ///< digits behind it, no zero behind others
  bool zero() const { return whole == "0" && part.empty(); }
};
Decimal decimal_of(double value);
/// Of digits with a sign, as integers of any size are written.
Decimal decimal_of(const std::string& integer);

/// An end of a range of numbers.
struct NumberBound {
  Decimal at;
  bool itself = true;  ///< belongs to the range
};

/// The numbers of a range as JSON writes them, whole ones only if `whole` says so: at most 18
/// digits in front of the point and 17 behind it; with an exponent only where there are no bounds.
Language numbers(const std::optional<NumberBound>& least, const std::optional<NumberBound>& most,
                 bool whole);

}  // namespace sala
