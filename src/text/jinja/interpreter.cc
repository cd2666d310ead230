#include "text/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/errors.h"
#include "text/jinja/objects.h"

namespace sala::jinja {
namespace {

constexpr size_t kMaxWork = 10'000'000;
constexpr size_t kMaxText = 64 << 20;

}  // namespace

Value* Scope::find(int name) {
  for (auto& [each, value] : variables)
    if (each == name) return &value;
  return nullptr;
}

void Scope::set(int name, Value value) {
  if (Value* old = find(name); old != nullptr) {
    *old = std::move(value);
  } else {
    variables.emplace_back(name, std::move(value));
  }
}

/// Makes a scope current while it lives, and empties it then: a macro in it may hold the scope
/// itself.
class ScopeGuard {
 public:
  ScopeGuard(std::shared_ptr<Scope>& current, std::shared_ptr<Scope> scope)
      : current_(current), before_(std::exchange(current, std::move(scope))) {}
  ~ScopeGuard() {
    current_->variables.clear();
    current_ = before_;
  }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  std::shared_ptr<Scope>& current_;
  std::shared_ptr<Scope> before_;
};

Interpreter::Interpreter(const Template& source, const Dict& variables)
    : source_(source), context_(source.names.size()) {
  for (size_t i = 0; i < source.names.size(); ++i) {
    if (const Value* value = variables.find(std::string_view(source.names[i])); value != nullptr) {
      context_[i] = *value;
    } else {
      context_[i] = global(source.names[i]);
    }
    if (source.names[i] == "loop") loop_name_ = static_cast<int>(i);
  }
}

Interpreter::~Interpreter() {
  scope_->variables.clear();
  for (const auto& object : remembered_)
    if (auto* space = dynamic_cast<Namespace*>(object.get()); space != nullptr) space->clear();
}

std::string Interpreter::run() {
  std::string out;
  output_ = &out;
  try {
    execute(source_.body);
  } catch (const LineError&) {
    throw;
  } catch (const Error& e) {
    fail_at(line_, e.what());
  }
  return out;
}

void Interpreter::charge(size_t work) {
  work_ += work;
  if (work_ > kMaxWork)
    fail("the template does more work than is allowed; it may loop without end");
}

Value Interpreter::made(std::string text, bool markup) {
  if (text.size() > kMaxText) fail("a text grows beyond {} bytes", kMaxText);
  charge(1 + text.size() / 16);
  return {std::move(text), markup};
}

void Interpreter::print(std::string_view text) {
  printed_ += text.size();
  if (printed_ > kMaxText) fail("the template prints more than {} bytes", kMaxText);
  charge(1 + text.size() / 16);
  output_->append(text);
}

Interpreter::Flow Interpreter::execute(const Block& block) {
  for (const auto& statement : block)
    if (const Flow flow = execute(*statement); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Statement& statement) {
  if (++depth_ > kMaxRecursion) fail("macros and blocks are nested too deeply at run time");
  charge(1);
  line_ = statement.line;
  Flow flow = Flow::kNext;
  switch (statement.kind) {
    case Statement::Kind::kText:
      print(statement.text);
      break;
    case Statement::Kind::kPrint:
      print(to_text(evaluate(*statement.values[0])));
      break;
    case Statement::Kind::kIf:
      execute_if(statement, flow);
      break;
    case Statement::Kind::kFor:
      execute_for(statement, evaluate(*statement.values[0]), 0);
      break;
    case Statement::Kind::kSet:
      assign(*statement.target, evaluate(*statement.values[0]));
      break;
    case Statement::Kind::kSetBlock:
      execute_set_block(statement);
      break;
    case Statement::Kind::kMacro:
      execute_macro(statement);
      break;
    case Statement::Kind::kCall:
      execute_call(statement);
      break;
    case Statement::Kind::kFilter:
      print(
          apply_filters(statement, capture(statement.blocks[0], std::make_shared<Scope>(scope_))));
      break;
    case Statement::Kind::kScope:
      flow = execute_scope(statement);
      break;
    case Statement::Kind::kBreak:
      flow = Flow::kBreak;
      break;
    case Statement::Kind::kContinue:
      flow = Flow::kContinue;
      break;
  }
  --depth_;
  return flow;
}

void Interpreter::execute_if(const Statement& statement, Flow& flow) {
  for (size_t i = 0; i < statement.blocks.size(); ++i) {
    if (i < statement.values.size() && !evaluate(*statement.values[i]).truth()) continue;
    flow = execute(statement.blocks[i]);
    return;
  }
}

std::string Interpreter::capture(const Block& body, std::shared_ptr<Scope> scope) {
  std::string out;
  std::string* const before = std::exchange(output_, &out);
  const ScopeGuard guard(scope_, std::move(scope));
  execute(body);
  output_ = before;
  return out;
}

bool Interpreter::uses(std::string_view name) const {
  return std::ranges::find(source_.names, name) != source_.names.end();
}

void Interpreter::define(Scope& scope, std::string_view name, Value value) const {
  const auto found = std::ranges::find(source_.names, name);
  if (found != source_.names.end())
    scope.set(static_cast<int>(found - source_.names.begin()), std::move(value));
}

Value Interpreter::call_body(const Statement& macro, const std::vector<std::optional<Value>>& given,
                             std::shared_ptr<Scope> scope) {
  const int line = line_;
  std::string out;
  std::string* const before = std::exchange(output_, &out);
  const ScopeGuard guard(scope_, std::move(scope));
  for (size_t i = 0; i < given.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    if (given[i]) {
      scope_->set(parameter.name, *given[i]);
    } else if (parameter.otherwise != nullptr) {
      scope_->set(parameter.name, evaluate(*parameter.otherwise));
    } else {
      scope_->set(parameter.name,
                  Value::undefined(fmt::format("parameter '{}' was not provided", parameter.text)));
    }
  }
  execute(macro.blocks[0]);
  output_ = before;
  line_ = line;
  return made(std::move(out));
}

std::string Interpreter::apply_filters(const Statement& statement, std::string text) {
  return to_text(filter_chain(*statement.values[0], made(std::move(text))));
}

void Interpreter::execute_set_block(const Statement& statement) {
  Value text = made(capture(statement.blocks[0], std::make_shared<Scope>(scope_)));
  if (!statement.values.empty()) text = filter_chain(*statement.values[0], text);
  assign(*statement.target, text);
}

Interpreter::Flow Interpreter::execute_scope(const Statement& statement) {
  std::vector<Value> values;
  for (const auto& [_, value] : statement.assignments) values.push_back(evaluate(*value));
  const ScopeGuard guard(scope_, std::make_shared<Scope>(scope_));
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.assignments[i].first, values[i]);
  return execute(statement.blocks[0]);
}

void Interpreter::execute_macro(const Statement& statement) {
  scope_->set(statement.name,
              Value(std::shared_ptr<Object>(std::make_shared<Macro>(statement, scope_))));
}

void Interpreter::execute_call(const Statement& statement) {
  const Expression& expression = *statement.values[0];
  const Value callee = evaluate(*expression.children[0]);
  Arguments arguments = evaluate_arguments(expression, 1);
  arguments.keywords.emplace_back(
      "caller", Value(std::shared_ptr<Object>(std::make_shared<Macro>(statement, scope_))));
  print(to_text(call(*this, callee, std::move(arguments))));
}

/// The elements of a loop, without those that its condition leaves out.
std::vector<Value> Interpreter::loop_items(const Statement& statement, const Value& iterable) {
  std::vector<Value> items = iterate(iterable);
  charge(items.size());
  if (statement.values.size() < 2) return items;
  std::vector<Value> kept;
  for (Value& each : items) {
    const ScopeGuard guard(scope_, std::make_shared<Scope>(scope_));
    assign(*statement.target, each);
    if (evaluate(*statement.values[1]).truth()) kept.push_back(std::move(each));
  }
  return kept;
}

void Interpreter::execute_for(const Statement& statement, const Value& iterable, int depth) {
  const auto loop = std::make_shared<Loop>(loop_items(statement, iterable), depth);
  const struct Finish {
    Loop& loop;
    ~Finish() { loop.finish(); }
  } finish{*loop};
  if (loop->items.empty() && statement.blocks.size() > 1) {
    const ScopeGuard guard(scope_, std::make_shared<Scope>(scope_));
    execute(statement.blocks[1]);
  }
  if (statement.recursive) {
    loop->recurse = [this, &statement, depth](const Value& inner) {
      std::string out;
      std::string* const before = std::exchange(output_, &out);
      execute_for(statement, inner, depth + 1);
      output_ = before;
      return made(std::move(out));
    };
  }
  for (; loop->index < loop->items.size(); ++loop->index) {
    charge(1);
    const ScopeGuard guard(scope_, std::make_shared<Scope>(scope_));
    if (loop_name_ >= 0) scope_->set(loop_name_, Value(std::static_pointer_cast<Object>(loop)));
    assign(*statement.target, loop->items[loop->index]);
    if (execute(statement.blocks[0]) == Flow::kBreak) break;
  }
}

void Interpreter::assign(const Expression& target, const Value& value) {
  if (target.kind == Expression::Kind::kName) {
    scope_->set(target.name, value);
    return;
  }
  if (target.kind == Expression::Kind::kNamespaceRef) {
    Expression name;
    name.kind = Expression::Kind::kName;
    name.name = target.name;
    const Value space = lookup(name);
    auto* object = space.is_object() ? dynamic_cast<Namespace*>(&space.object()) : nullptr;
    if (object == nullptr) fail("cannot assign attribute on non-namespace object");
    object->set(target.text, value);
    return;
  }
  const std::vector<Value> parts = iterate(value);
  const size_t wanted = target.children.size();
  if (parts.size() < wanted)
    fail("not enough values to unpack (expected {}, got {})", wanted, parts.size());
  if (parts.size() > wanted) fail("too many values to unpack (expected {})", wanted);
  for (size_t i = 0; i < wanted; ++i) assign(*target.children[i], parts[i]);
}

Value Interpreter::lookup(const Expression& name) {
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get())
    if (const Value* value = scope->find(name.name); value != nullptr) return *value;
  const auto index = static_cast<size_t>(name.name);
  if (context_[index]) return *context_[index];
  return Value::undefined(fmt::format("'{}' is undefined", source_.names[index]));
}

}  // namespace sala::jinja
