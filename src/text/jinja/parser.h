#pragma once

#include <string_view>

#include "text/jinja/ast.h"

namespace sala::jinja {

/// Parses a template by the grammar of jinja2 3.1 with loop controls and transformers' {%
/// generation %}. Inheritance, include and import are refused: a chat template is one file. Nesting
/// is bounded. Throws LineError.
Template parse(std::string_view source);

}  // namespace sala::jinja
