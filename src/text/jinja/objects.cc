#include "text/jinja/objects.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/error.h"

namespace sala::jinja {

/// loop.cycle or loop.changed, bound to its loop.
class LoopMethod : public Object {
 public:
  LoopMethod(std::shared_ptr<Loop> loop, bool cycles) : loop_(std::move(loop)), cycles_(cycles) {}
  bool member(std::string_view /*name*/, Value& /*out*/) const override { return false; }
  bool callable() const override { return true; }
  std::string type_name() const override { return "method"; }
  Value call(Interpreter& /*interpreter*/, Arguments arguments) override {
    auto& values = arguments.positional;
    if (cycles_) {
      if (values.empty()) fail("no items for cycling given");
      return values[loop_->index % values.size()];
    }
    if (loop_->has_last_ && std::ranges::equal(loop_->last_, values, equal)) return false;
    loop_->has_last_ = true;
    if (!loop_->over_) loop_->last_ = std::move(values);
    return true;
  }

 private:
  std::shared_ptr<Loop> loop_;
  bool cycles_;
};

void Loop::finish() {
  over_ = true;
  last_.clear();
  recurse = nullptr;
}

bool Loop::member(std::string_view name, Value& out) const {
  const size_t count = items.size();
  if (name == "index") {
    out = index + 1;
  } else if (name == "index0") {
    out = index;
  } else if (name == "first") {
    out = index == 0;
  } else if (name == "last") {
    out = index + 1 >= count;
  } else if (name == "length") {
    out = count;
  } else if (name == "revindex") {
    out = count - std::min(index, count);
  } else if (name == "revindex0") {
    out = static_cast<int64_t>(count) - static_cast<int64_t>(index) - 1;
  } else if (name == "previtem") {
    out = index > 0 && index <= count ? items[index - 1]
                                      : Value::undefined("there is no previous item");
  } else if (name == "nextitem") {
    out = index + 1 < count ? items[index + 1] : Value::undefined("there is no next item");
  } else if (name == "depth") {
    out = depth + 1;
  } else if (name == "depth0") {
    out = depth;
  } else if (name == "cycle" || name == "changed") {
    const auto self = std::const_pointer_cast<Loop>(shared_from_this());
    out = Value(std::shared_ptr<Object>(std::make_shared<LoopMethod>(self, name == "cycle")));
  } else {
    return false;
  }
  return true;
}

Value Loop::call(Interpreter& /*interpreter*/, Arguments arguments) {
  if (recurse == nullptr)
    fail("The loop must have the 'recursive' marker to be called recursively.");
  if (arguments.positional.size() != 1) fail("a recursive loop takes one argument");
  return recurse(arguments.positional[0]);
}

bool Macro::member(std::string_view name, Value& out) const {
  if (name == "name") {
    out = statement_.text.empty() ? Value() : Value(statement_.text);
  } else if (name == "arguments") {
    std::vector<Value> names;
    for (const Parameter& parameter : statement_.parameters) names.emplace_back(parameter.text);
    out = Value::tuple(std::move(names));
  } else {
    return false;
  }
  return true;
}

Value Macro::call(Interpreter& interpreter, Arguments arguments) {
  const std::string name =
      statement_.kind == Statement::Kind::kCall ? "None" : repr_of_text(statement_.text);
  const auto& parameters = statement_.parameters;
  std::vector<std::optional<Value>> given(parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto keyword = std::ranges::find_if(
        arguments.keywords, [&](const auto& pair) { return pair.first == parameters[i].text; });
    if (i < arguments.positional.size()) {
      given[i] = arguments.positional[i];
    } else if (keyword != arguments.keywords.end()) {
      given[i] = keyword->second;
      arguments.keywords.erase(keyword);
    }
  }
  Value caller = Value::undefined("No caller defined");
  Dict kwargs;
  for (auto& [key, value] : arguments.keywords) {
    if (key == "caller") {
      caller = value;
    } else if (interpreter.uses("kwargs")) {
      kwargs.set(Value(key), value);
    } else {
      fail("macro {} takes no keyword argument {}", name, repr_of_text(key));
    }
  }
  if (arguments.positional.size() > parameters.size() && !interpreter.uses("varargs"))
    fail("macro {} takes not more than {} argument(s)", name, parameters.size());
  std::vector<Value> varargs;
  for (size_t i = parameters.size(); i < arguments.positional.size(); ++i)
    varargs.push_back(arguments.positional[i]);
  const auto scope = std::make_shared<Scope>(around_);
  interpreter.define(*scope, "caller", std::move(caller));
  interpreter.define(*scope, "kwargs", Value::dict(std::move(kwargs)));
  interpreter.define(*scope, "varargs", Value::tuple(std::move(varargs)));
  return interpreter.call_body(statement_, given, scope);
}

bool Namespace::member(std::string_view name, Value& out) const {
  const Value* value = members_.find(name);
  if (value != nullptr) out = *value;
  return value != nullptr;
}

namespace {

/// A range of numbers, as long as jinja2's sandbox allows.
Value range(Interpreter& interpreter, const Arguments& arguments) {
  constexpr int64_t kMaxRange = 100'000;
  const auto& values = arguments.positional;
  if (values.empty() || values.size() > 3)
    fail("range expected 1 to 3 arguments, got {}", values.size());
  for (const Value& value : values)
    if (!value.is_integer())
      fail("'{}' object cannot be interpreted as an integer", type_name(value));
  const int64_t start = values.size() > 1 ? values[0].as_integer() : 0;
  const int64_t stop = values[values.size() > 1 ? 1 : 0].as_integer();
  const int64_t step = values.size() > 2 ? values[2].as_integer() : 1;
  if (step == 0) fail("range() arg 3 must not be zero");
  int64_t span = 0;
  const bool overflows = __builtin_sub_overflow(stop, start, &span);
  const bool empty = !overflows && (step > 0 ? span <= 0 : span >= 0);
  // (span - 1) / step + 1, in the direction of the step.
  const int64_t count = empty       ? 0
                        : overflows ? kMaxRange + 1
                                    : (span - (step > 0 ? 1 : -1)) / step + 1;
  if (count > kMaxRange)
    fail("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange);
  interpreter.charge(static_cast<size_t>(count));
  std::vector<Value> items;
  for (int64_t i = 0; i < count; ++i) items.emplace_back(start + i * step);
  std::string label = fmt::format("range({}, {}", start, stop);
  label += step == 1 ? ")" : fmt::format(", {})", step);
  return Value::list(std::move(items), List::Kind::kView, std::move(label));
}

/// The members of dict(...) and namespace(...): one dict or pairs, and keywords.
Dict make_dict(const Arguments& arguments) {
  Dict dict;
  if (arguments.positional.size() > 1)
    fail("dict expected at most 1 argument, got {}", arguments.positional.size());
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is_dict()) {
      dict.entries = from.as_dict().entries;
    } else {
      for (const Value& pair : iterate(from)) {
        const auto parts = iterate(pair);
        if (parts.size() != 2)
          fail("dictionary update sequence element has length {}; 2 is required", parts.size());
        dict.set(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [key, value] : arguments.keywords) dict.set(Value(key), value);
  return dict;
}

Value make_namespace(Interpreter& interpreter, const Arguments& arguments) {
  interpreter.charge(8);
  const auto space = std::make_shared<Namespace>();
  for (auto& [key, value] : make_dict(arguments).entries) space->set(to_text(key), value);
  interpreter.remember(space);
  return {std::static_pointer_cast<Object>(space)};
}

Value strftime_now(Interpreter& interpreter, const Arguments& arguments) {
  const Bound bound("strftime_now", arguments, {"format"}, 1);
  const std::string format = bound.text(0, "");
  if (format.size() > 1000)
    fail("the format of strftime_now has {} bytes, expected at most 1000", format.size());
  if (format.empty()) return "";
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(format.size() * 64, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return interpreter.made(std::move(out));
}

/// joiner(", "): nothing when called first, then the separator.
class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  bool member(std::string_view /*name*/, Value& /*out*/) const override { return false; }
  bool callable() const override { return true; }
  std::string type_name() const override { return "Joiner"; }
  Value call(Interpreter& /*interpreter*/, Arguments /*arguments*/) override {
    return std::exchange(used_, true) ? separator_ : Value("");
  }

 private:
  Value separator_;
  bool used_ = false;
};

}  // namespace

std::optional<Value> global(const std::string& name) {
  const auto function = [&](Function::Body body) {
    return Value(std::shared_ptr<Object>(std::make_shared<Function>(name, std::move(body))));
  };
  if (name == "range") return function(range);
  if (name == "namespace") return function(make_namespace);
  if (name == "strftime_now") return function(strftime_now);
  if (name == "dict")
    return function(
        [](Interpreter&, const Arguments& arguments) { return Value::dict(make_dict(arguments)); });
  if (name == "raise_exception") {
    return function([](Interpreter&, const Arguments& arguments) -> Value {
      fail("{}", Bound("raise_exception", arguments, {"message"}, 1).text(0, ""));
    });
  }
  if (name == "joiner") {
    return function([](Interpreter&, const Arguments& arguments) {
      const Bound bound("joiner", arguments, {"sep"});
      return Value(std::shared_ptr<Object>(std::make_shared<Joiner>(bound.value_or(0, ", "))));
    });
  }
  return std::nullopt;
}

}  // namespace sala::jinja
