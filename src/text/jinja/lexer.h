#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sala::jinja {

/// One token of a template. `text` is the name, operator, number as written, or the value of a
/// string.
struct Token {
  enum class Kind {
    kData,  ///< text between tags
    kBlockBegin,
    kBlockEnd,
    kVariableBegin,
    kVariableEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text{};
  int line = 1;
};

/// Cuts a template into tokens as jinja2 does with trim_blocks and lstrip_blocks: comments and raw
/// blocks are gone, white space around tags is trimmed, the last token is kEnd. Throws Error naming
/// the line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace sala::jinja
