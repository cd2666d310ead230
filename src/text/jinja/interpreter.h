#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace sala::jinja {

/// Variables of a block; those of the blocks around it are found through `parent`.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> around = nullptr) : parent(std::move(around)) {}
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<int, Value>> variables{};

  Value* find(int name);
  void set(int name, Value value);
};

/// Calls and expressions within each other, when a template runs.
inline constexpr int kMaxRecursion = 800;

/// Runs one template once. Bounded: work, output and recursion have limits, beyond which Error is
/// thrown.
class Interpreter {
 public:
  Interpreter(const Template& source, const Dict& variables);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// The text that the template prints. Throws LineError.
  std::string run();

  /// Counts work: about one unit an operation or 16 bytes of text made.
  void charge(size_t work);
  /// Counts the making of a text, and gives it.
  Value made(std::string text, bool markup = false);

  Value evaluate(const Expression& expression);
  Value call_filter(const std::string& name, const Value& input, const Arguments& arguments);
  bool call_test(const std::string& name, const Value& input, const Arguments& arguments);

  /// `object[key]` and `object.name` as jinja2's sandbox resolves them.
  Value item(const Value& object, const Value& key);
  Value member(const Value& object, const std::string& name);
  /// The item or member that a filter's attribute="a.b.0" names.
  Value attribute(Value object, const Value& path);

  /// Runs a macro's body in `scope`, after its parameters have their values: those given, else
  /// their defaults.
  Value call_body(const Statement& macro, const std::vector<std::optional<Value>>& given,
                  std::shared_ptr<Scope> scope);

  /// Whether the template mentions a variable, and its setting where it does.
  bool uses(std::string_view name) const;
  void define(Scope& scope, std::string_view name, Value value) const;

  /// Something that must be emptied when the run ends, because it may hold itself.
  void remember(std::shared_ptr<Object> object) { remembered_.push_back(std::move(object)); }

 private:
  enum class Flow { kNext, kBreak, kContinue };

  Flow execute(const Block& block);
  Flow execute(const Statement& statement);
  void execute_if(const Statement& statement, Flow& flow);
  void execute_macro(const Statement& statement);
  void execute_call(const Statement& statement);
  void execute_set_block(const Statement& statement);
  Flow execute_scope(const Statement& statement);
  std::string capture(const Block& body, std::shared_ptr<Scope> scope);
  std::string apply_filters(const Statement& statement, std::string text);
  void execute_for(const Statement& statement, const Value& iterable, int depth);
  std::vector<Value> loop_items(const Statement& statement, const Value& iterable);
  void assign(const Expression& target, const Value& value);
  void print(std::string_view text);

  Value lookup(const Expression& name);
  Value evaluate_unary(const Expression& expression);
  Value evaluate_binary(const Expression& expression);
  Value evaluate_compare(const Expression& expression);
  Value evaluate_call(const Expression& expression);
  Value evaluate_slice(const Value& object, const Expression& slice);
  Value evaluate_dict(const Expression& expression);
  std::vector<Value> evaluate_all(std::span<const ExpressionPtr> expressions);
  Arguments evaluate_arguments(const Expression& call, size_t first);
  Value filter_chain(const Expression& filter, const Value& input);

  const Template& source_;
  std::vector<std::optional<Value>>
      context_;  // by name: what the caller gives, else a global function
  std::shared_ptr<Scope> scope_ = std::make_shared<Scope>();
  int loop_name_ = -1;  // the index of "loop"
  std::string* output_ = nullptr;
  std::vector<std::shared_ptr<Object>> remembered_;
  size_t work_ = 0;
  size_t printed_ = 0;
  int depth_ = 0;
  int line_ = 1;
};

/// A helper of jinja2 that keeps changeable members: {% set ns.name = value %}.
class Namespace : public Object {
 public:
  bool member(std::string_view name, Value& out) const override;
  std::string type_name() const override { return "Namespace"; }
  void set(const std::string& name, Value value) { members_.set(Value(name), std::move(value)); }
  void clear() { members_.entries.clear(); }

 private:
  Dict members_;
};

/// The value of a binary operator.
Value binary_operation(Interpreter& interpreter, const std::string& operation, const Value& left,
                       const Value& right);
/// & < > " ' as HTML writes them.
std::string escape_html(std::string_view text);
/// "..." % values.
std::string format_percent(const std::string& format, const Value& values);

/// The function `name` of every template (range, namespace, ...), if there is one.
std::optional<Value> global(const std::string& name);

/// Whether Python's type of `object` has a method `name`, and the call of one.
bool has_method(const Value& object, std::string_view name);
Value call_method(Interpreter& interpreter, const Value& object, const std::string& name,
                  const Arguments& arguments);
Value call_text_method(Interpreter& interpreter, const Value& object, const std::string& name,
                       const Arguments& arguments);
bool has_text_method(std::string_view name);

/// Calls what can be called. Throws Error for anything else.
Value call(Interpreter& interpreter, const Value& callee, Arguments arguments);

/// Binds a call's arguments to parameters, for functions written here. Throws Error as Python
/// would.
class Bound {
 public:
  /// `required`: how many of `names` must be given.
  Bound(std::string_view function, const Arguments& arguments,
        std::initializer_list<std::string_view> names, size_t required = 0);
  bool has(size_t index) const { return values_[index].has_value(); }
  const Value& value(size_t index) const { return *values_[index]; }
  Value value_or(size_t index, Value otherwise) const {
    return has(index) ? value(index) : otherwise;
  }
  bool truth(size_t index) const { return has(index) && value(index).truth(); }
  int64_t integer(size_t index, int64_t otherwise) const;
  std::string text(size_t index, std::string_view otherwise) const;

 private:
  std::string function_;
  std::vector<std::string_view> names_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace sala::jinja
