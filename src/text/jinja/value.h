#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sala::jinja {

class Value;
class Object;

/// A text; `markup` marks one that came from |safe or |escape, which escapes what is added to it.
struct Text {
  std::string text;
  bool markup = false;
};

/// A Python sequence. Views (of a dict, of range) print with their label; iterators have no length.
struct List {
  enum class Kind { kList, kTuple, kIterator, kView };
  std::vector<Value> items;
  Kind kind = Kind::kList;
  std::string label{};  ///< of a view: "dict_keys", or all that is printed of a range
  int depth = 1;
};

/// A Python dict: keys keep the order in which they came.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Value key, Value value);
};

/// What a missing variable or member is: usable where Python's jinja2 lets an undefined be used,
/// else `message` is the error.
struct Undefined {
  std::string message;
};

/// A value of the template language: Python's None, bool, int, float, str, list, tuple, dict, and
/// jinja2's undefined and helper objects. Copying is cheap; contents never change (helper objects
/// excepted). Nesting is bounded.
class Value {
 public:
  enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kText, kList, kDict, kObject };

  Value() : data_(nullptr) {}
  Value(std::nullptr_t) : data_(nullptr) {}
  Value(bool value) : data_(value) {}
  Value(int value) : data_(static_cast<int64_t>(value)) {}
  Value(int64_t value) : data_(value) {}
  Value(size_t value) : data_(static_cast<int64_t>(value)) {}
  Value(double value) : data_(value) {}
  Value(std::string value, bool markup = false);
  Value(std::string_view value) : Value(std::string(value)) {}
  Value(const char* value) : Value(std::string(value)) {}
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}

  /// Throws Error when nested too deeply.
  static Value list(std::vector<Value> items, List::Kind kind = List::Kind::kList,
                    std::string label = {});
  static Value tuple(std::vector<Value> items) {
    return list(std::move(items), List::Kind::kTuple);
  }
  static Value dict(Dict dict);
  static Value undefined(std::string message);

  Kind kind() const;
  bool is_undefined() const { return kind() == Kind::kUndefined; }
  bool is_none() const { return kind() == Kind::kNone; }
  bool is_text() const { return kind() == Kind::kText; }
  bool is_list() const { return kind() == Kind::kList; }
  bool is_dict() const { return kind() == Kind::kDict; }
  bool is_object() const { return kind() == Kind::kObject; }
  bool is_bool() const { return kind() == Kind::kBool; }
  bool is_float() const { return kind() == Kind::kFloat; }
  /// int or bool, as Python counts.
  bool is_integer() const { return kind() == Kind::kInt || kind() == Kind::kBool; }
  bool is_number() const { return is_integer() || is_float(); }

  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_integer() const { return is_bool() ? int64_t{as_bool()} : std::get<int64_t>(data_); }
  double as_double() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(as_integer());
  }
  const std::string& text() const { return std::get<std::shared_ptr<const Text>>(data_)->text; }
  bool is_markup() const {
    return is_text() && std::get<std::shared_ptr<const Text>>(data_)->markup;
  }
  const List& as_list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  const std::vector<Value>& items() const { return as_list().items; }
  const Dict& as_dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Object& object() const { return *std::get<std::shared_ptr<Object>>(data_); }
  const std::shared_ptr<Object>& object_pointer() const {
    return std::get<std::shared_ptr<Object>>(data_);
  }
  const std::string& undefined_message() const {
    return std::get<std::shared_ptr<const Undefined>>(data_)->message;
  }

  /// How deeply lists and dicts are nested; 0 for a plain value.
  int depth() const;
  /// What an `if` makes of it.
  bool truth() const;
  /// The identity that `is sameas` compares.
  bool same_as(const Value& other) const;

 private:
  std::variant<std::nullptr_t, bool, int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Object>,
               std::shared_ptr<const Undefined>>
      data_;
};

/// Positional and keyword arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

class Interpreter;

/// Something with members or that can be called: a macro, `loop`, a namespace, a bound method.
class Object {
 public:
  virtual ~Object() = default;
  /// The member `name`, or nullptr's Value (undefined) when there is none.
  virtual bool member(std::string_view name, Value& out) const = 0;
  virtual bool callable() const { return false; }
  virtual Value call(Interpreter& interpreter, Arguments arguments);
  /// What Python calls its type, for messages.
  virtual std::string type_name() const = 0;
};

/// What str() and repr() give.
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
std::string repr_of_text(std::string_view text);
std::string repr_of_float(double value);

/// Python's name of a value's type ("str", "NoneType"), and jinja2's description of it ("dict
/// object", "None").
std::string type_name(const Value& value);
std::string describe(const Value& value);

bool equal(const Value& left, const Value& right);
/// left < right; throws Error where Python has no order.
bool less(const Value& left, const Value& right, std::string_view operation = "<");
/// `needle in haystack`.
bool contains(const Value& haystack, const Value& needle);

/// The elements that a for loop sees. Throws Error when there are none by nature.
std::vector<Value> iterate(const Value& value);
/// The length; throws Error where Python's len() does.
size_t length(const Value& value);

/// JSON to a value; throws Error when nested more than Value allows.
Value from_json(const nlohmann::ordered_json& json);

/// json.dumps of Python, as transformers lets templates call it.
struct DumpOptions {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool indented = false;
  std::string indent{};
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
std::string dump_json(const Value& value, const DumpOptions& options);

}  // namespace sala::jinja
