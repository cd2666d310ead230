#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/errors.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/objects.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

/// The call depth and the line while an expression is evaluated.
class Nesting {
 public:
  explicit Nesting(int& depth) : depth_(depth) {
    if (++depth_ > kMaxRecursion) fail("macros and expressions are nested too deeply at run time");
  }
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int& depth_;
};

/// One bound of a slice, as Python clamps it.
int64_t clamp_bound(const Value* bound, int64_t size, int64_t otherwise, int64_t low,
                    int64_t high) {
  if (bound == nullptr || bound->is_none()) return otherwise;
  if (!bound->is_integer())
    fail("slice indices must be integers or None or have an __index__ method");
  int64_t at = bound->as_integer();
  if (at < 0) at = at < -size ? -1 : at + size;
  return std::clamp(at, low, high);
}

/// The indices that start:stop:step selects of `size` elements.
std::vector<size_t> slice_indices(const Value* start, const Value* stop, const Value* step,
                                  size_t count) {
  const auto size = static_cast<int64_t>(count);
  int64_t by = 1;
  if (step != nullptr && !step->is_none()) {
    if (!step->is_integer())
      fail("slice indices must be integers or None or have an __index__ method");
    by = std::clamp<int64_t>(step->as_integer(), -size - 1, size + 1);
  }
  if (by == 0) fail("slice step cannot be zero");
  std::vector<size_t> indices;
  if (by > 0) {
    const int64_t end = clamp_bound(stop, size, size, 0, size);
    for (int64_t i = clamp_bound(start, size, 0, 0, size); i < end; i += by)
      indices.push_back(static_cast<size_t>(i));
  } else {
    const int64_t end = clamp_bound(stop, size, -1, -1, size - 1);
    for (int64_t i = clamp_bound(start, size, size - 1, -1, size - 1); i > end; i += by)
      indices.push_back(static_cast<size_t>(i));
  }
  return indices;
}

}  // namespace

Value Interpreter::evaluate(const Expression& expression) {
  const Nesting nesting(depth_);
  charge(1);
  line_ = expression.line;
  const auto& children = expression.children;
  switch (expression.kind) {
    case Expression::Kind::kConstant:
      return expression.constant;
    case Expression::Kind::kName:
    case Expression::Kind::kNamespaceRef:
      return lookup(expression);
    case Expression::Kind::kTuple:
      return Value::tuple(evaluate_all(children));
    case Expression::Kind::kList:
      return Value::list(evaluate_all(children));
    case Expression::Kind::kDict:
      return evaluate_dict(expression);
    case Expression::Kind::kUnary:
      return evaluate_unary(expression);
    case Expression::Kind::kBinary:
      return evaluate_binary(expression);
    case Expression::Kind::kConcat: {
      std::string text;
      for (const auto& child : children) text += to_text(evaluate(*child));
      return made(std::move(text));
    }
    case Expression::Kind::kCompare:
      return evaluate_compare(expression);
    case Expression::Kind::kConditional:
      if (evaluate(*children[0]).truth()) return evaluate(*children[1]);
      if (children.size() > 2) return evaluate(*children[2]);
      return Value::undefined(
          "the inline if-expression evaluated to false and no else section was defined.");
    case Expression::Kind::kMember:
      return member(evaluate(*children[0]), expression.text);
    case Expression::Kind::kIndex: {
      const Value object = evaluate(*children[0]);
      if (children[1]->kind == Expression::Kind::kSlice)
        return evaluate_slice(object, *children[1]);
      return item(object, evaluate(*children[1]));
    }
    case Expression::Kind::kSlice:
      fail("a slice is no value");
    case Expression::Kind::kCall:
      return evaluate_call(expression);
    case Expression::Kind::kFilter:
      return filter_chain(expression, Value());
    case Expression::Kind::kTest: {
      const Value input = evaluate(*children[0]);
      const Arguments arguments = evaluate_arguments(expression, 1);
      line_ = expression.line;
      return call_test(expression.text, input, arguments);
    }
  }
  return {};
}

std::vector<Value> Interpreter::evaluate_all(std::span<const ExpressionPtr> expressions) {
  std::vector<Value> values;
  values.reserve(expressions.size());
  for (const auto& expression : expressions) values.push_back(evaluate(*expression));
  return values;
}

Value Interpreter::evaluate_dict(const Expression& expression) {
  Dict dict;
  for (size_t i = 0; i < expression.children.size(); i += 2) {
    Value key = evaluate(*expression.children[i]);
    if (key.is_dict() || (key.is_list() && key.as_list().kind == List::Kind::kList))
      fail("unhashable type: '{}'", type_name(key));
    charge(dict.entries.size() / 16);
    dict.set(std::move(key), evaluate(*expression.children[i + 1]));
  }
  return Value::dict(std::move(dict));
}

Value Interpreter::evaluate_unary(const Expression& expression) {
  const Value value = evaluate(*expression.children[0]);
  if (expression.text == "not") return !value.truth();
  if (value.is_undefined()) fail("{}", value.undefined_message());
  if (!value.is_number())
    fail("bad operand type for unary {}: '{}'", expression.text, type_name(value));
  if (expression.text == "+") return value.is_float() ? value : Value(value.as_integer());
  if (value.is_float()) return -value.as_double();
  return binary_operation(*this, "-", Value(0), value);
}

Value Interpreter::evaluate_binary(const Expression& expression) {
  Value left = evaluate(*expression.children[0]);
  if (expression.text == "and") return left.truth() ? evaluate(*expression.children[1]) : left;
  if (expression.text == "or") return left.truth() ? left : evaluate(*expression.children[1]);
  const Value right = evaluate(*expression.children[1]);
  line_ = expression.line;
  return binary_operation(*this, expression.text, left, right);
}

Value Interpreter::evaluate_compare(const Expression& expression) {
  Value left = evaluate(*expression.children[0]);
  for (size_t i = 0; i < expression.texts.size(); ++i) {
    Value right = evaluate(*expression.children[i + 1]);
    const std::string& op = expression.texts[i];
    charge(1 + (left.is_text() ? left.text().size() / 64 : 0) +
           (right.is_text() ? right.text().size() / 64 : 0));
    bool holds = false;
    if (op == "==" || op == "!=") {
      holds = equal(left, right) == (op == "==");
    } else if (op == "in" || op == "not in") {
      if (right.is_list()) charge(right.items().size());
      holds = contains(right, left) == (op == "in");
    } else if (op == "<" || op == ">") {
      holds = op == "<" ? less(left, right, op) : less(right, left, op);
    } else {
      // a <= b is not (b < a) only for what has a total order; NaN has none.
      const Value& low = op == "<=" ? left : right;
      const Value& high = op == "<=" ? right : left;
      holds = less(low, high, op) || equal(low, high);
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Arguments Interpreter::evaluate_arguments(const Expression& call, size_t first) {
  Arguments arguments;
  for (size_t i = first; i < call.children.size(); ++i)
    arguments.positional.push_back(evaluate(*call.children[i]));
  for (const auto& [name, value] : call.keywords)
    arguments.keywords.emplace_back(name, evaluate(*value));
  if (call.star != nullptr)
    for (Value& value : iterate(evaluate(*call.star)))
      arguments.positional.push_back(std::move(value));
  if (call.star_star != nullptr) {
    const Value values = evaluate(*call.star_star);
    if (!values.is_dict()) fail("argument after ** must be a mapping, not {}", type_name(values));
    for (const auto& [key, value] : values.as_dict().entries)
      arguments.keywords.emplace_back(to_text(key), value);
  }
  return arguments;
}

Value Interpreter::evaluate_call(const Expression& expression) {
  const Expression& callee = *expression.children[0];
  if (callee.kind == Expression::Kind::kMember) {
    // object.method(...): no need to make the bound method.
    const Value object = evaluate(*callee.children[0]);
    if (!object.is_object() && has_method(object, callee.text)) {
      const Arguments arguments = evaluate_arguments(expression, 1);
      line_ = expression.line;
      return call_method(*this, object, callee.text, arguments);
    }
    const Value found = member(object, callee.text);
    Arguments arguments = evaluate_arguments(expression, 1);
    line_ = expression.line;
    return call(*this, found, std::move(arguments));
  }
  const Value function = evaluate(callee);
  Arguments arguments = evaluate_arguments(expression, 1);
  line_ = expression.line;
  return call(*this, function, std::move(arguments));
}

Value call(Interpreter& interpreter, const Value& callee, Arguments arguments) {
  if (callee.is_undefined()) fail("{}", callee.undefined_message());
  if (!callee.is_object() || !callee.object().callable())
    fail("'{}' object is not callable", type_name(callee));
  const auto keep = callee.object_pointer();
  return keep->call(interpreter, std::move(arguments));
}

Value Interpreter::evaluate_slice(const Value& object, const Expression& slice) {
  std::vector<Value> bounds;
  for (const auto& part : slice.children)
    bounds.push_back(part == nullptr ? Value() : evaluate(*part));
  line_ = slice.line;
  if (object.is_undefined()) fail("{}", object.undefined_message());
  if (object.is_text()) {
    const std::string& text = object.text();
    std::vector<size_t> starts;
    for (size_t at = 0; at < text.size();
         at += static_cast<size_t>(decode_valid_utf8(text, at).length))
      starts.push_back(at);
    charge(starts.size() / 16);
    std::string out;
    for (const size_t i : slice_indices(&bounds[0], &bounds[1], &bounds[2], starts.size()))
      out += text.substr(starts[i], static_cast<size_t>(decode_valid_utf8(text, starts[i]).length));
    return made(std::move(out));
  }
  if (!object.is_list() || object.as_list().kind == List::Kind::kIterator) {
    if (object.is_dict() || object.is_list() || object.is_none() || object.is_number())
      return Value::undefined(fmt::format("{} has no element slice", describe(object)));
    fail("'{}' object is not subscriptable", type_name(object));
  }
  std::vector<Value> items;
  for (const size_t i : slice_indices(&bounds[0], &bounds[1], &bounds[2], object.items().size()))
    items.push_back(object.items()[i]);
  charge(items.size());
  const bool tuple = object.as_list().kind == List::Kind::kTuple;
  return Value::list(std::move(items), tuple ? List::Kind::kTuple : List::Kind::kList);
}

Value Interpreter::filter_chain(const Expression& filter, const Value& block_text) {
  const auto& input = filter.children[0];
  const Value value = input == nullptr                           ? block_text
                      : input->kind == Expression::Kind::kFilter ? filter_chain(*input, block_text)
                                                                 : evaluate(*input);
  charge(1);
  const Arguments arguments = evaluate_arguments(filter, 1);
  line_ = filter.line;
  return call_filter(filter.text, value, arguments);
}

}  // namespace sala::jinja
