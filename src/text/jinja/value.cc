#include "text/jinja/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

constexpr int kMaxDepth = 200;

int checked_depth(int depth) {
  if (depth > kMaxDepth) fail("lists and dicts are nested more than {} deep", kMaxDepth);
  return depth;
}

/// Compares an int with a float without rounding either.
bool number_equal(const Value& left, const Value& right) {
  if (left.is_integer() && right.is_integer()) return left.as_integer() == right.as_integer();
  return left.as_double() == right.as_double();
}

}  // namespace

Value::Value(std::string value, bool markup)
    : data_(std::make_shared<const Text>(Text{std::move(value), markup})) {}

Value Value::list(std::vector<Value> items, List::Kind kind, std::string label) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  Value out;
  out.data_ = std::make_shared<const List>(
      List{std::move(items), kind, std::move(label), checked_depth(depth + 1)});
  return out;
}

Value Value::dict(Dict dict) {
  int depth = 0;
  for (const auto& [key, value] : dict.entries)
    depth = std::max({depth, key.depth(), value.depth()});
  dict.depth = checked_depth(depth + 1);
  Value out;
  out.data_ = std::make_shared<const Dict>(std::move(dict));
  return out;
}

Value Value::undefined(std::string message) {
  Value out;
  out.data_ = std::make_shared<const Undefined>(Undefined{std::move(message)});
  return out;
}

Value::Kind Value::kind() const {
  static constexpr std::array kKinds = {Kind::kNone,  Kind::kBool,   Kind::kInt,
                                        Kind::kFloat, Kind::kText,   Kind::kList,
                                        Kind::kDict,  Kind::kObject, Kind::kUndefined};
  return kKinds[data_.index()];
}

int Value::depth() const {
  if (is_list()) return as_list().depth;
  return is_dict() ? as_dict().depth : 0;
}

bool Value::truth() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return as_bool();
    case Kind::kInt:
      return as_integer() != 0;
    case Kind::kFloat:
      return as_double() != 0;
    case Kind::kText:
      return !text().empty();
    case Kind::kList:
      return as_list().kind == List::Kind::kIterator || !items().empty();
    case Kind::kDict:
      return !as_dict().entries.empty();
    case Kind::kObject:
      return true;
  }
  return false;
}

bool Value::same_as(const Value& other) const {
  if (kind() != other.kind()) return false;
  if (is_none()) return true;
  return data_ == other.data_;
}

Value Object::call(Interpreter& /*interpreter*/, Arguments /*arguments*/) {
  fail("'{}' object is not callable", type_name());
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [each, value] : entries)
    if (equal(each, key)) return &value;
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [each, value] : entries)
    if (each.is_text() && each.text() == key) return &value;
  return nullptr;
}

void Dict::set(Value key, Value value) {
  for (auto& [each, old] : entries) {
    if (!equal(each, key)) continue;
    old = std::move(value);
    return;
  }
  entries.emplace_back(std::move(key), std::move(value));
}

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return "Undefined";
    case Value::Kind::kNone:
      return "NoneType";
    case Value::Kind::kBool:
      return "bool";
    case Value::Kind::kInt:
      return "int";
    case Value::Kind::kFloat:
      return "float";
    case Value::Kind::kText:
      return value.is_markup() ? "Markup" : "str";
    case Value::Kind::kDict:
      return "dict";
    case Value::Kind::kObject:
      return value.object().type_name();
    case Value::Kind::kList:
      break;
  }
  const List& list = value.as_list();
  if (list.kind == List::Kind::kTuple) return "tuple";
  if (list.kind == List::Kind::kIterator) return "generator";
  if (list.kind == List::Kind::kView) return list.label.substr(0, list.label.find('('));
  return "list";
}

std::string describe(const Value& value) {
  if (value.is_none()) return "None";
  return type_name(value) + " object";
}

bool equal(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) return number_equal(left, right);
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Value::Kind::kText:
      return left.text() == right.text();
    case Value::Kind::kList: {
      const List& a = left.as_list();
      const List& b = right.as_list();
      if (&a == &b) return true;
      if (a.kind != b.kind || a.kind == List::Kind::kIterator) return false;
      return std::ranges::equal(a.items, b.items, equal);
    }
    case Value::Kind::kDict: {
      const Dict& a = left.as_dict();
      const Dict& b = right.as_dict();
      return a.entries.size() == b.entries.size() &&
             std::ranges::all_of(a.entries, [&](const auto& entry) {
               const Value* other = b.find(entry.first);
               return other != nullptr && equal(entry.second, *other);
             });
    }
    case Value::Kind::kObject:
      return left.same_as(right);
    default:
      return true;  // undefined, none
  }
}

bool less(const Value& left, const Value& right, std::string_view operation) {
  if (left.is_integer() && right.is_integer()) return left.as_integer() < right.as_integer();
  if (left.is_number() && right.is_number()) return left.as_double() < right.as_double();
  // UTF-8 sorts as code points do.
  if (left.is_text() && right.is_text()) return left.text() < right.text();
  if (left.is_list() && right.is_list() && left.as_list().kind == right.as_list().kind) {
    const auto& a = left.items();
    const auto& b = right.items();
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!equal(a[i], b[i])) return less(a[i], b[i], operation);
    return a.size() < b.size();
  }
  for (const Value* side : {&left, &right})
    if (side->is_undefined()) fail("{}", side->undefined_message());
  fail("'{}' not supported between instances of '{}' and '{}'", operation, type_name(left),
       type_name(right));
}

bool contains(const Value& haystack, const Value& needle) {
  if (haystack.is_text()) {
    if (!needle.is_text())
      fail("'in <string>' requires string as left operand, not {}", type_name(needle));
    return haystack.text().find(needle.text()) != std::string::npos;
  }
  if (haystack.is_dict()) {
    if (needle.is_dict() || (needle.is_list() && needle.as_list().kind == List::Kind::kList))
      fail("unhashable type: '{}'", type_name(needle));
    return haystack.as_dict().find(needle) != nullptr;
  }
  if (haystack.is_undefined()) return false;
  if (!haystack.is_list()) fail("argument of type '{}' is not iterable", type_name(haystack));
  return std::ranges::any_of(haystack.items(),
                             [&](const Value& item) { return equal(item, needle); });
}

std::vector<Value> iterate(const Value& value) {
  std::vector<Value> out;
  if (value.is_list()) return value.items();
  if (value.is_undefined()) return out;
  if (value.is_dict()) {
    for (const auto& [key, _] : value.as_dict().entries) out.push_back(key);
    return out;
  }
  if (!value.is_text()) fail("'{}' object is not iterable", type_name(value));
  const std::string& text = value.text();
  for (size_t at = 0; at < text.size();) {
    const auto n = static_cast<size_t>(decode_valid_utf8(text, at).length);
    out.emplace_back(text.substr(at, n));
    at += n;
  }
  return out;
}

size_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) return count_utf8(value.text());
  if (value.is_dict()) return value.as_dict().entries.size();
  if (!value.is_list() || value.as_list().kind == List::Kind::kIterator)
    fail("object of type '{}' has no len()", type_name(value));
  return value.items().size();
}

namespace {

Value from_json_at(const nlohmann::ordered_json& json, int depth) {
  checked_depth(depth);
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return json.get<bool>();
    case nlohmann::ordered_json::value_t::number_integer:
      return json.get<int64_t>();
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const auto number = json.get<uint64_t>();
      return number > INT64_MAX ? Value(static_cast<double>(number))
                                : Value(static_cast<int64_t>(number));
    }
    case nlohmann::ordered_json::value_t::number_float:
      return json.get<double>();
    case nlohmann::ordered_json::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      return find_invalid_utf8(text) == text.size() ? text
                                                    : repair_utf8(text, Repair::kMaximalSubpart);
    }
    case nlohmann::ordered_json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json_at(item, depth + 1));
      return Value::list(std::move(items));
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items())
        dict.entries.emplace_back(key, from_json_at(item, depth + 1));
      return Value::dict(std::move(dict));
    }
    default:
      return nullptr;
  }
}

}  // namespace

Value from_json(const nlohmann::ordered_json& json) { return from_json_at(json, 0); }

}  // namespace sala::jinja
