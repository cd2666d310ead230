#include "grammar/schema_merge.h"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace sala {
namespace {

constexpr int kMostSteps = 50'000;
constexpr size_t kMostBranches = 1'000;

/// Keywords that restrict, and that are here.
bool is_known(const std::string& key) {
  static const std::set<std::string, std::less<>> kKeys = {"type",
                                                           "enum",
                                                           "properties",
                                                           "required",
                                                           "items",
                                                           "prefixItems",
                                                           "minItems",
                                                           "maxItems",
                                                           "minLength",
                                                           "maxLength",
                                                           "pattern",
                                                           "format",
                                                           "minimum",
                                                           "maximum",
                                                           "exclusiveMinimum",
                                                           "exclusiveMaximum",
                                                           "anyOf",
                                                           "oneOf",
                                                           "allOf",
                                                           "additionalProperties",
                                                           "$ref",
                                                           "propertyNames",
                                                           "nullable",
                                                           "unevaluatedProperties"};
  return kKeys.contains(key);
}

/// Keywords that restrict, and that are not here.
bool is_missing(const std::string& key, const OrderedJson& value) {
  static const std::set<std::string, std::less<>> kKeys = {"not",
                                                           "if",
                                                           "then",
                                                           "else",
                                                           "contains",
                                                           "minContains",
                                                           "maxContains",
                                                           "dependentSchemas",
                                                           "dependencies",
                                                           "multipleOf",
                                                           "minProperties",
                                                           "dependentRequired",
                                                           "maxProperties",
                                                           "uniqueItems",
                                                           "$dynamicRef",
                                                           "patternProperties",
                                                           "$recursiveRef",
                                                           "divisibleBy",
                                                           "unevaluatedItems",
                                                           "additionalItems",
                                                           "disallow",
                                                           "extends"};
  if (key == "uniqueItems" && value == false) return false;
  if (key == "minProperties" && value == 0) return false;
  if (key == "patternProperties" && value == OrderedJson::object()) return false;
  if ((key == "unevaluatedItems" || key == "additionalItems") && value == true) return false;
  return kKeys.contains(key);
}

/// What both allow.
OrderedJson both(const OrderedJson& a, const OrderedJson& b) {
  if (a == b || b == true) return a;
  if (a == true) return b;
  if (a == false || b == false) return false;
  OrderedJson all = OrderedJson::array();
  for (const OrderedJson* one : {&a, &b}) {
    const bool several =
        one->is_object() && one->size() == 1 && one->contains("allOf") && one->front().is_array();
    for (const OrderedJson& each : several ? one->front() : OrderedJson::array({*one}))
      if (std::ranges::find(all, each) == all.end()) all.push_back(each);
  }
  return {{"allOf", std::move(all)}};
}

/// What `of` says of all its other properties and items, it says of those that only `schema` names.
void apply_to_others(const OrderedJson& of, OrderedJson& schema) {
  const auto named = of.find("properties");
  const auto own = schema.find("properties");
  if (const auto others = of.find("additionalProperties");
      others != of.end() && own != schema.end() && own->is_object())
    for (const auto& [name, value] : own->items())
      if (named == of.end() || !named->contains(name)) value = both(value, *others);
  const auto listed = of.find("prefixItems");
  const auto prefix = schema.find("prefixItems");
  if (const auto others = of.find("items");
      others != of.end() && prefix != schema.end() && prefix->is_array())
    for (size_t i = listed == of.end() ? 0 : listed->size(); i < prefix->size(); ++i)
      (*prefix)[i] = both((*prefix)[i], *others);
}

OrderedJson common_types(const OrderedJson& a, const OrderedJson& b) {
  const auto all = [](const OrderedJson& x) { return x.is_array() ? x : OrderedJson::array({x}); };
  const OrderedJson first = all(a), second = all(b);
  const auto has = [](const OrderedJson& types, const OrderedJson& one) {
    return std::ranges::find(types, one) != types.end() ||
           (one == "integer" && std::ranges::find(types, "number") != types.end());
  };
  OrderedJson common = OrderedJson::array();
  for (const OrderedJson& one : first)
    if (has(second, one)) common.push_back(one);
  for (const OrderedJson& one : second)
    if (has(first, one) && std::ranges::find(common, one) == common.end()) common.push_back(one);
  return common;
}

/// The value of a keyword in a schema that allows what is allowed with `a` and with `b`.
OrderedJson common(const std::string& key, OrderedJson a, const OrderedJson& b,
                   const std::string& path) {
  static const std::set<std::string, std::less<>> kLeast = {"minimum", "exclusiveMinimum",
                                                            "minLength", "minItems"},
                                                  kMost = {"maximum", "exclusiveMaximum",
                                                           "maxLength", "maxItems"};
  if (a == b) return a;
  if (key == "properties" && a.is_object() && b.is_object()) {
    for (const auto& [name, value] : b.items()) {
      const auto at = a.find(name);
      if (at == a.end())
        a[name] = value;
      else
        *at = both(*at, value);
    }
    return a;
  }
  if (key == "prefixItems" && a.is_array() && b.is_array()) {
    for (size_t i = 0; i < b.size(); ++i)
      i < a.size() ? void(a[i] = both(a[i], b[i])) : a.push_back(b[i]);
    return a;
  }
  if (key == "required" && a.is_array() && b.is_array()) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  if (key == "additionalProperties" || key == "items" || key == "propertyNames") return both(a, b);
  if (key == "type") return common_types(a, b);
  if (key == "enum" && a.is_array() && b.is_array()) {
    OrderedJson all = OrderedJson::array();
    std::ranges::copy_if(a, std::back_inserter(all), [&](const OrderedJson& one) {
      return std::ranges::find(b, one) != b.end();
    });
    return all;
  }
  if (a.is_number() && b.is_number() && (kLeast.contains(key) || kMost.contains(key)))
    return (a < b) == kLeast.contains(key) ? b : a;
  if (key == "anyOf" || key == "oneOf") {
    const OrderedJson &first = filled_array(a, path, key), &second = filled_array(b, path, key);
    if (first.size() * second.size() > kMostBranches)
      refuse_schema(path, fmt::format("\"{}\" twice, with {} and {} branches; expected no more "
                                      "than {} pairs of them",
                                      key, first.size(), second.size(), kMostBranches));
    OrderedJson pairs = OrderedJson::array();
    for (const OrderedJson& x : first)
      for (const OrderedJson& y : second) pairs.push_back(both(x, y));
    return pairs;
  }
  refuse_schema(path, fmt::format("\"{}\" twice, as {} and {}, which cannot be combined here", key,
                                  shown(a), shown(b)));
}

/// Whether a schema below this one has a name of its own, from which its $refs count.
bool has_inner_id(const OrderedJson& schema, bool root) {
  if (!root && schema.is_object())
    if (const auto at = schema.find("$id"); at != schema.end() && at->is_string() &&
                                            !at->get_ref<const std::string&>().starts_with('#'))
      return true;
  return schema.is_structured() && std::ranges::any_of(schema, [](const OrderedJson& one) {
           return has_inner_id(one, false);
         });
}

}  // namespace

void refuse_schema(const std::string& path, const std::string& what) {
  fail("the schema at {} has {}", path.empty() ? "its root" : path.substr(0, 300), what);
}

std::string dumped(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

const OrderedJson& filled_array(const OrderedJson& json, const std::string& path,
                                const std::string& key) {
  if (!json.is_array() || json.empty())
    refuse_schema(path, fmt::format("\"{}\": {}; expected an array", key, shown(json)));
  return json;
}

OrderedJson restrictions(const OrderedJson& schema, const std::string& path) {
  if (!schema.is_object())
    refuse_schema(path, fmt::format("{}; expected an object, true or false", shown(schema)));
  OrderedJson out = OrderedJson::object();
  for (const auto& [key, value] : schema.items()) {
    if (is_missing(key, value))
      refuse_schema(path, fmt::format("\"{}\": {}, which replies cannot be constrained by here; "
                                      "leave it out, and check it afterwards",
                                      key, shown(value)));
    if (is_known(key)) out[key] = value;
  }
  if (const auto one = schema.find("const"); one != schema.end())
    out["enum"] = out.contains("enum")
                      ? common("enum", out["enum"], OrderedJson::array({*one}), path)
                      : OrderedJson::array({*one});
  return out;
}

const OrderedJson& SchemaMerger::resolved(const OrderedJson& ref, const std::string& path) {
  const std::string text = ref.is_string() ? ref.get<std::string>() : "";
  if (!text.starts_with('#') || (text.size() > 1 && text[1] != '/'))
    refuse_schema(path, fmt::format("\"$ref\": {}; expected one within the schema, such as "
                                    "\"#/$defs/name\"",
                                    shown(ref)));
  if (inner_ids_ < 0) inner_ids_ = has_inner_id(root_, true) ? 1 : 0;
  if (inner_ids_ > 0)
    refuse_schema(path, fmt::format("\"$ref\": {}, and a part of the schema has a \"$id\", from "
                                    "which $refs count; leave the $id out",
                                    shown(ref)));
  try {
    return root_.at(OrderedJson::json_pointer(text.substr(1)));
  } catch (const OrderedJson::exception&) {
    refuse_schema(path, fmt::format("\"$ref\": {}, which is not in the schema", shown(ref)));
  }
}

OrderedJson SchemaMerger::merged(std::vector<const OrderedJson*> parts, const std::string& path) {
  OrderedJson out = OrderedJson::object();
  std::set<const OrderedJson*> followed;  // what is asked twice is asked once
  std::ranges::reverse(parts);
  for (bool first = true; !parts.empty(); first = false) {
    if (++steps_ > kMostSteps)
      fail("the schema comes to more than {} parts; make it smaller", kMostSteps);
    const OrderedJson& part = *parts.back();
    parts.pop_back();
    if (part == true) continue;
    if (part == false) return false;
    OrderedJson one = restrictions(part, path);
    if (!first && one.contains("unevaluatedProperties") && one["unevaluatedProperties"] != true)
      refuse_schema(path,
                    "\"unevaluatedProperties\" within allOf, anyOf, oneOf or behind a $ref; "
                    "expected it beside them");
    if (one.contains("allOf")) {
      const OrderedJson& all = filled_array(part.at("allOf"), path, "allOf");
      for (size_t i = all.size(); i-- > 0;) parts.push_back(&all[i]);
    }
    if (one.contains("$ref"))
      if (const OrderedJson& other = resolved(one["$ref"], path); followed.insert(&other).second)
        parts.push_back(&other);
    for (const char* key : {"allOf", "$ref", "nullable"}) one.erase(key);
    apply_to_others(one, out);
    apply_to_others(out, one);
    for (const auto& [key, value] : one.items()) {
      const auto at = out.find(key);
      if (at == out.end())
        out[key] = value;
      else
        *at = common(key, std::move(*at), value, path);
    }
  }
  return out;
}

}  // namespace sala
