#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace sala::jinja {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Block = std::vector<std::unique_ptr<Statement>>;

/// An expression of a template. What `children` are depends on the kind and is said beside it.
struct Expression {
  enum class Kind {
    kConstant,      ///< `constant`
    kName,          ///< `name` (an index into Template::names)
    kNamespaceRef,  ///< assignment target: member `text` of `name`
    kTuple,         ///< items
    kList,          ///< items
    kDict,          ///< key, value, key, value...
    kUnary,         ///< operand; `text` is "-", "+" or "not"
    kBinary,        ///< left, right; `text` is the operator, "and" and "or" included
    kConcat,        ///< parts of a ~ b ~ c
    kCompare,       ///< operands; operators in `texts`: "<" etc., "in", "not in"
    kConditional,   ///< condition, value, other (absent: undefined)
    kMember,        ///< object; `text` is the name after the dot
    kIndex,         ///< object, index
    kSlice,         ///< start, stop, step; each may be null
    kCall,          ///< callee, arguments
    kFilter,        ///< input (null in a filter block), arguments; `text` is the filter
    kTest,          ///< input, arguments; `text` is the test
  };
  Kind kind = Kind::kConstant;
  int line = 1;
  int depth = 1;
  int name = -1;
  std::string text{};
  Value constant{};
  std::vector<std::string> texts{};
  std::vector<ExpressionPtr> children{};
  std::vector<std::pair<std::string, ExpressionPtr>> keywords{};
  ExpressionPtr star{};       ///< *args of a call
  ExpressionPtr star_star{};  ///< **kwargs of a call
};

/// A parameter of a macro.
struct Parameter {
  int name = -1;
  std::string text{};
  ExpressionPtr otherwise{};  ///< its default, or null
};

/// A statement of a template.
struct Statement {
  enum class Kind {
    kText,      ///< `text` as it is
    kPrint,     ///< value
    kIf,        ///< conditions in `values`, a block for each, and perhaps one more
    kFor,       ///< `target` in value, perhaps with a condition; blocks: body, else
    kSet,       ///< `target` = value
    kSetBlock,  ///< `target` = what the block prints, through the filters in values
    kMacro,     ///< `name`, `parameters`, block
    kCall,      ///< call of values[0] with a caller of `parameters` and block
    kFilter,    ///< what the block prints through the filters in values
    kScope,     ///< block with a scope of its own; `parameters` are assigned first (with)
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 1;
  int name = -1;
  bool recursive = false;
  std::string text{};
  ExpressionPtr target{};
  std::vector<ExpressionPtr> values{};
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments{};
  std::vector<Parameter> parameters{};
  std::vector<Block> blocks{};
};

/// A parsed template.
struct Template {
  Block body;
  std::vector<std::string> names;  ///< the variables' names; expressions hold their indices
};

}  // namespace sala::jinja
