#pragma once

#include <string_view>

#include "grammar/language.h"

namespace sala {

/// Reads a grammar in GBNF, the notation of llama.cpp, and adds its rules to `rules`: `name ::=
/// alternatives`, with "literals", [classes],
/// ., (groups), |, *, +, ?, {n,m} and # comments; `root` is what a text is. Throws Error that names
/// the line.
Language parse_gbnf(std::string_view text, Rules& rules);

}  // namespace sala
