#pragma once

#include <functional>
#include <string_view>

#include "grammar/language.h"

namespace sala {

/// How a character of a set is written; one_of, or as a JSON text has it.
using WriteCharacter = std::function<Language(const CharSet&)>;

/// The texts that a regular expression matches, in the syntax of ECMA-262 (which JSON Schema and
/// Python's `re` share for what is here): characters and escapes, ., classes, groups, |, ?, *, +,
/// {n,m}, and ^ and $ around all of it. `whole`: it must match all of the text, else it may match
/// anywhere in it. Lazy quantifiers match the same texts as greedy ones. Throws Error that says at
/// which byte something is that is not there: look-around, back references, \b, \p.
Language parse_pattern(std::string_view pattern, bool whole, const WriteCharacter& write = one_of);

}  // namespace sala
