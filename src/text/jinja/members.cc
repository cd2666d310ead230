#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/objects.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

constexpr std::array<std::string_view, 11> kDictMethods = {
    "clear", "copy",    "fromkeys",   "get",    "items", "keys",
    "pop",   "popitem", "setdefault", "update", "values"};
constexpr std::array<std::string_view, 11> kListMethods = {"append", "clear",   "copy",   "count",
                                                           "extend", "index",   "insert", "pop",
                                                           "remove", "reverse", "sort"};
constexpr std::array<std::string_view, 5> kDictChanges = {"clear", "pop", "popitem", "setdefault",
                                                          "update"};
constexpr std::array<std::string_view, 8> kListChanges = {"append", "clear", "pop",    "reverse",
                                                          "insert", "sort",  "extend", "remove"};

template <size_t N>
bool among(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

bool is_tuple(const Value& value) {
  return value.is_list() && value.as_list().kind == List::Kind::kTuple;
}

/// A method taken as a value: {{ text.upper }} or {% set f = text.upper %}.
class BoundMethod : public Object {
 public:
  BoundMethod(Value object, std::string name)
      : object_(std::move(object)), name_(std::move(name)) {}
  bool member(std::string_view /*name*/, Value& /*out*/) const override { return false; }
  bool callable() const override { return true; }
  std::string type_name() const override { return "builtin_function_or_method"; }
  Value call(Interpreter& interpreter, Arguments arguments) override {
    return call_method(interpreter, object_, name_, arguments);
  }

 private:
  Value object_;
  std::string name_;
};

/// The undefined that the sandbox gives for what would change a value or reach inside Python.
Value unsafe(const Value& object, std::string_view name) {
  return Value::undefined(fmt::format("access to attribute {} of {} object is unsafe.",
                                      repr_of_text(name), repr_of_text(type_name(object))));
}

bool changes(const Value& object, std::string_view name) {
  if (object.is_dict()) return among(kDictChanges, name);
  return object.is_list() && object.as_list().kind == List::Kind::kList &&
         among(kListChanges, name);
}

Value missing(const Value& object, const Value& key) {
  if (key.is_text())
    return Value::undefined(fmt::format("{} has no attribute {}", repr_of_text(describe(object)),
                                        repr_of_text(key.text())));
  return Value::undefined(fmt::format("{} has no element {}", describe(object), to_repr(key)));
}

/// What Python's getattr finds.
bool own_member(const Value& object, std::string_view name, Value& out) {
  if (object.is_object()) return object.object().member(name, out);
  if (!has_method(object, name)) return false;
  if (changes(object, name)) {
    out = unsafe(object, name);
  } else {
    out = Value(std::shared_ptr<Object>(std::make_shared<BoundMethod>(object, std::string(name))));
  }
  return true;
}

/// What Python's object[key] finds.
bool own_item(const Value& object, const Value& key, Value& out) {
  if (object.is_dict()) {
    const Value* found = object.as_dict().find(key);
    if (found != nullptr) out = *found;
    return found != nullptr;
  }
  if (!key.is_integer()) return false;
  const bool indexable = object.is_list() && object.as_list().kind != List::Kind::kIterator;
  if (!indexable && !object.is_text()) return false;
  int64_t index = key.as_integer();
  const auto size = static_cast<int64_t>(length(object));
  if (index < 0) index += size;
  if (index < 0 || index >= size) return false;
  if (object.is_list()) {
    out = object.items()[static_cast<size_t>(index)];
    return true;
  }
  size_t at = 0;
  for (; index > 0; --index) at += static_cast<size_t>(decode_valid_utf8(object.text(), at).length);
  out = Value(
      object.text().substr(at, static_cast<size_t>(decode_valid_utf8(object.text(), at).length)));
  return true;
}

}  // namespace

bool has_method(const Value& object, std::string_view name) {
  if (object.is_text()) return has_text_method(name);
  if (object.is_dict()) return among(kDictMethods, name);
  if (!object.is_list()) return object.is_integer() && name == "bit_length";
  if (is_tuple(object)) return name == "count" || name == "index";
  return object.as_list().kind == List::Kind::kList && among(kListMethods, name);
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail("{}", object.undefined_message());
  if (object.is_text()) charge(object.text().size() / 64);
  Value out;
  if (own_item(object, key, out)) return out;
  if (key.is_text()) {
    if (own_member(object, key.text(), out)) return out;
    if (key.text().starts_with("__")) return unsafe(object, key.text());
  }
  return missing(object, key);
}

Value Interpreter::member(const Value& object, const std::string& name) {
  if (object.is_undefined()) fail("{}", object.undefined_message());
  Value out;
  if (own_member(object, name, out)) return out;
  if (own_item(object, Value(name), out)) return out;
  return missing(object, Value(name));
}

Value Interpreter::attribute(Value object, const Value& path) {
  if (!path.is_text()) return item(object, path);
  std::string_view rest = path.text();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string part(rest.substr(0, dot));
    const bool index = !part.empty() && part.size() < 10 &&
                       std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
    object = item(object, index ? Value(static_cast<int64_t>(std::stol(part))) : Value(part));
    if (dot == std::string_view::npos) return object;
    rest.remove_prefix(dot + 1);
  }
}

namespace {

Value call_dict_method(const Value& object, const std::string& name, const Arguments& arguments) {
  const Dict& dict = object.as_dict();
  std::vector<Value> items;
  if (name == "get") {
    const Bound bound("get", arguments, {"key", "default"}, 1);
    const Value* found = dict.find(bound.value(0));
    return found != nullptr ? *found : bound.value_or(1, Value());
  }
  const Bound none(name, arguments, {});
  if (name == "copy") return object;
  for (const auto& [key, value] : dict.entries) {
    if (name == "keys") items.push_back(key);
    if (name == "values") items.push_back(value);
    if (name == "items") items.push_back(Value::tuple({key, value}));
  }
  if (name == "keys" || name == "values" || name == "items")
    return Value::list(std::move(items), List::Kind::kView, "dict_" + name);
  fail("the dict method '{}' is not supported", name);
}

Value call_list_method(const Value& object, const std::string& name, const Arguments& arguments) {
  const auto& items = object.items();
  if (name == "copy") return object;
  const Bound bound(name, arguments, {"value", "start", "stop"}, 1);
  if (name == "count")
    return static_cast<int64_t>(std::ranges::count_if(
        items, [&](const Value& item) { return equal(item, bound.value(0)); }));
  const auto size = static_cast<int64_t>(items.size());
  const auto clamp = [&](int64_t at) {
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  const int64_t stop = clamp(bound.integer(2, size));
  for (int64_t i = clamp(bound.integer(1, 0)); i < stop; ++i)
    if (equal(items[static_cast<size_t>(i)], bound.value(0))) return i;
  fail("{} is not in list", to_repr(bound.value(0)));
}

}  // namespace

Value call_method(Interpreter& interpreter, const Value& object, const std::string& name,
                  const Arguments& arguments) {
  if (changes(object, name)) fail("{}", unsafe(object, name).undefined_message());
  if (object.is_text()) return call_text_method(interpreter, object, name, arguments);
  interpreter.charge(length(object));
  if (object.is_dict()) return call_dict_method(object, name, arguments);
  return call_list_method(object, name, arguments);
}

Bound::Bound(std::string_view function, const Arguments& arguments,
             std::initializer_list<std::string_view> names, size_t required)
    : function_(function), names_(names), values_(names.size()) {
  if (arguments.positional.size() > names_.size())
    fail("{}() takes at most {} arguments ({} given)", function_, names_.size(),
         arguments.positional.size());
  std::ranges::copy(arguments.positional, values_.begin());
  for (const auto& [name, value] : arguments.keywords) {
    const auto found = std::ranges::find(names_, name);
    if (found == names_.end())
      fail("{}() got an unexpected keyword argument '{}'", function_, name);
    auto& slot = values_[static_cast<size_t>(found - names_.begin())];
    if (slot) fail("{}() got multiple values for argument '{}'", function_, name);
    slot = value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!values_[i]) fail("{}() missing a required argument: '{}'", function_, names_[i]);
}

int64_t Bound::integer(size_t index, int64_t otherwise) const {
  if (!has(index) || value(index).is_none()) return otherwise;
  if (value(index).is_undefined()) fail("{}", value(index).undefined_message());
  if (!value(index).is_integer())
    fail("{}(): '{}' is a {}, expected an integer", function_, names_[index],
         type_name(value(index)));
  return value(index).as_integer();
}

std::string Bound::text(size_t index, std::string_view otherwise) const {
  return has(index) ? to_text(value(index)) : std::string(otherwise);
}

}  // namespace sala::jinja
