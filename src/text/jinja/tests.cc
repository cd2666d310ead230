#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "text/jinja/filters.h"
#include "text/jinja/interpreter.h"

namespace sala::jinja {
namespace {

using Test = std::function<bool(Interpreter&, const Value&, const Arguments&)>;
using TestTable = std::map<std::string, Test, std::less<>>;

/// A test that looks at the value alone.
Test plain(bool (*holds)(const Value&)) {
  return [holds](Interpreter&, const Value& value, const Arguments& arguments) {
    const Bound none("test", arguments, {});
    return holds(value);
  };
}

/// A test against one other value.
Test against(bool (*holds)(const Value&, const Value&)) {
  return [holds](Interpreter&, const Value& value, const Arguments& arguments) {
    return holds(value, Bound("test", arguments, {"other"}, 1).value(0));
  };
}

/// value % other == wanted.
bool remainder_is(Interpreter& interpreter, const Value& value, const Value& other, int wanted) {
  return equal(binary_operation(interpreter, "%", value, other), Value(wanted));
}

bool is_iterable(const Value& value) {
  return value.is_list() || value.is_dict() || value.is_text() || value.is_undefined();
}

bool is_sequence(const Value& value) {
  return value.is_dict() || value.is_text() || value.is_undefined() ||
         (value.is_list() && value.as_list().kind != List::Kind::kIterator &&
          !(value.as_list().kind == List::Kind::kView &&
            value.as_list().label.starts_with("dict_")));
}

bool less_or_equal(const Value& a, const Value& b) { return less(a, b, "<=") || equal(a, b); }

void add_comparisons(TestTable& table) {
  const auto alias = [&](std::initializer_list<const char*> names, const Test& test) {
    for (const char* name : names) table[name] = test;
  };
  alias({"==", "eq", "equalto"}, against(equal));
  alias({"!=", "ne"}, against([](const Value& a, const Value& b) { return !equal(a, b); }));
  alias({"<", "lt", "lessthan"},
        against([](const Value& a, const Value& b) { return less(a, b, "<"); }));
  alias({">", "gt", "greaterthan"},
        against([](const Value& a, const Value& b) { return less(b, a, ">"); }));
  alias({"<=", "le"}, against(less_or_equal));
  alias({">=", "ge"}, against([](const Value& a, const Value& b) { return less_or_equal(b, a); }));
  table["in"] = against([](const Value& a, const Value& b) { return contains(b, a); });
  table["sameas"] = against([](const Value& a, const Value& b) { return a.same_as(b); });
}

void add_kinds(TestTable& table) {
  table["defined"] = plain([](const Value& v) { return !v.is_undefined(); });
  table["undefined"] = plain([](const Value& v) { return v.is_undefined(); });
  table["none"] = plain([](const Value& v) { return v.is_none(); });
  table["boolean"] = plain([](const Value& v) { return v.is_bool(); });
  table["true"] = plain([](const Value& v) { return v.is_bool() && v.as_bool(); });
  table["false"] = plain([](const Value& v) { return v.is_bool() && !v.as_bool(); });
  table["integer"] = plain([](const Value& v) { return v.kind() == Value::Kind::kInt; });
  table["float"] = plain([](const Value& v) { return v.is_float(); });
  table["number"] = plain([](const Value& v) { return v.is_number(); });
  table["string"] = plain([](const Value& v) { return v.is_text(); });
  table["mapping"] = plain([](const Value& v) { return v.is_dict(); });
  table["sequence"] = plain(is_sequence);
  table["iterable"] = plain(is_iterable);
  table["callable"] = plain(
      [](const Value& v) { return v.is_undefined() || (v.is_object() && v.object().callable()); });
  table["escaped"] = plain([](const Value& v) { return v.is_markup(); });
}

TestTable make_tests() {
  TestTable table;
  add_comparisons(table);
  add_kinds(table);
  table["odd"] = [](Interpreter& interpreter, const Value& value, const Arguments&) {
    return remainder_is(interpreter, value, Value(2), 1);
  };
  table["even"] = [](Interpreter& interpreter, const Value& value, const Arguments&) {
    return remainder_is(interpreter, value, Value(2), 0);
  };
  table["divisibleby"] = [](Interpreter& interpreter, const Value& value,
                            const Arguments& arguments) {
    return remainder_is(interpreter, value, Bound("divisibleby", arguments, {"num"}, 1).value(0),
                        0);
  };
  table["upper"] = [](Interpreter& interpreter, const Value& value, const Arguments&) {
    return call_text_method(interpreter, Value(to_text(value)), "isupper", {}).truth();
  };
  table["lower"] = [](Interpreter& interpreter, const Value& value, const Arguments&) {
    return call_text_method(interpreter, Value(to_text(value)), "islower", {}).truth();
  };
  table["filter"] =
      plain([](const Value& v) { return v.is_text() && filters().contains(v.text()); });
  table["test"] = plain([](const Value& v) { return v.is_text() && is_test(v.text()); });
  return table;
}

const TestTable& tests() {
  static const TestTable table = make_tests();
  return table;
}

}  // namespace

bool is_test(std::string_view name) { return tests().contains(name); }

bool Interpreter::call_test(const std::string& name, const Value& input,
                            const Arguments& arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) fail("No test named '{}'.", name);
  charge(1);
  return found->second(*this, input, arguments);
}

}  // namespace sala::jinja
