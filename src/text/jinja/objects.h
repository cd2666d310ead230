#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/interpreter.h"

namespace sala::jinja {

/// `loop` inside a for loop.
class Loop : public Object, public std::enable_shared_from_this<Loop> {
 public:
  Loop(std::vector<Value> all, int level) : items(std::move(all)), depth(level) {}
  bool member(std::string_view name, Value& out) const override;
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments arguments) override;
  std::string type_name() const override { return "LoopContext"; }

  /// Forgets what could hold the loop itself; the loop is over.
  void finish();

  std::vector<Value> items;
  size_t index = 0;
  int depth;
  std::function<Value(const Value&)> recurse;

 private:
  friend class LoopMethod;
  std::vector<Value> last_;
  bool has_last_ = false;
  bool over_ = false;
};

/// A macro, or the caller of a call block: a body with parameters that sees the variables around
/// its definition.
class Macro : public Object {
 public:
  Macro(const Statement& statement, std::shared_ptr<Scope> around)
      : statement_(statement), around_(std::move(around)) {}
  bool member(std::string_view name, Value& out) const override;
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments arguments) override;
  std::string type_name() const override { return "Macro"; }

 private:
  const Statement& statement_;
  std::shared_ptr<Scope> around_;
};

/// A function written in C++.
class Function : public Object {
 public:
  using Body = std::function<Value(Interpreter&, const Arguments&)>;
  Function(std::string name, Body body) : name_(std::move(name)), body_(std::move(body)) {}
  bool member(std::string_view /*name*/, Value& /*out*/) const override { return false; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments arguments) override {
    return body_(interpreter, arguments);
  }
  std::string type_name() const override { return "function"; }

 private:
  std::string name_;
  Body body_;
};

}  // namespace sala::jinja
