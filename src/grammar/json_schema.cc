#include "grammar/json_schema.h"

#include <algorithm>
#include <deque>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "grammar/decimal.h"
#include "grammar/grammar.h"
#include "grammar/json_string.h"
#include "grammar/schema_merge.h"

namespace sala {
namespace {

constexpr int kMostSchemas = 20'000;
constexpr size_t kMostMerged = size_t{8} << 20;  // bytes of schemas made of several

bool is_of(const OrderedJson& json, const std::string& type) {
  if (type == "object") return json.is_object();
  if (type == "array") return json.is_array();
  if (type == "string") return json.is_string();
  if (type == "number") return json.is_number();
  if (type == "integer") return json.is_number_integer();
  if (type == "boolean") return json.is_boolean();
  return json.is_null();
}

class SchemaReader {
 public:
  SchemaReader(const OrderedJson& root, Rules& rules) : merger_(root), rules_(rules) {
    blank_ = rules_.add(
        either({literal(""), literal(" "),
                sequence({literal("\n"), repeated(one_of({{'\t', '\t'}, {' ', ' '}}), 0, 20)})}));
  }

  Language read(const OrderedJson& schema) {
    Language all = value(schema, "");
    while (!waiting_.empty()) {
      const Waiting next = std::move(waiting_.back());
      waiting_.pop_back();
      rules_.list[static_cast<size_t>(next.id)] = value(*next.schema, next.path);
    }
    return all;
  }

 private:
  /// A schema that a rule stands for, to be read later: schemas may contain themselves.
  struct Waiting {
    const OrderedJson* schema;
    std::string path;
    RuleId id;
  };

  Language blank() const { return rule(blank_); }
  Language once(Language language) { return rule(rules_.add(std::move(language))); }

  Language reference(const OrderedJson& schema, const std::string& path) {
    const auto [at, fresh] = references_.emplace(&schema, 0);
    if (fresh) {
      at->second = rules_.add(nullptr);
      waiting_.push_back({&schema, path, at->second});
    }
    return rule(at->second);
  }

  /// What all of `parts` allow. What comes to the same schema is the same rule.
  Language merged(const std::vector<const OrderedJson*>& parts, const std::string& path) {
    OrderedJson schema = merger_.merged(parts, path);
    std::string text = dumped(schema);
    if ((merged_bytes_ += text.size()) > kMostMerged)
      fail("the schema comes to more than {} bytes of merged parts; make it smaller", kMostMerged);
    const auto [at, fresh] = merged_.emplace(std::move(text), nullptr);
    if (fresh) at->second = &kept_.emplace_back(std::move(schema));
    return reference(*at->second, path);
  }

  Language value(const OrderedJson& schema, const std::string& path) {
    if (++schemas_ > kMostSchemas)
      fail("the schema comes to more than {} parts; make it smaller", kMostSchemas);
    if (schema.is_boolean()) return schema.get<bool>() ? anything() : either({});
    OrderedJson rest = restrictions(schema, path);
    if (const auto null = rest.find("nullable"); null != rest.end()) {
      if (!null->is_boolean())
        refuse_schema(path, fmt::format("\"nullable\": {}; expected true or false", shown(*null)));
      const bool is = null->get<bool>();
      rest.erase("nullable");
      const Language other = value(rest, path);
      return is ? either({literal("null"), other}) : other;
    }
    if (rest.contains("$ref") && rest.size() == 1)
      return reference(merger_.resolved(rest["$ref"], path),
                       rest["$ref"].get_ref<const std::string&>().substr(1));
    if (rest.contains("$ref") || rest.contains("allOf")) return merged({&schema}, path);
    for (const char* key : {"anyOf", "oneOf"})
      if (rest.contains(key)) return any_of(rest, key, path);
    const std::vector<std::string> types = types_of(rest, path);
    if (rest.contains("enum")) return listed(rest, types, path);
    if (types.size() == kTypes.size() && rest.size() == (rest.contains("type") ? 1 : 0))
      return anything();
    std::vector<Language> choices;
    for (const std::string& type : types) choices.push_back(of_type(type, rest, path));
    return either(std::move(choices));
  }

  Language any_of(OrderedJson& rest, const char* key, const std::string& path) {
    const OrderedJson branches = filled_array(rest[key], path, key);
    rest.erase(key);
    std::vector<Language> choices;
    for (size_t i = 0; i < branches.size(); ++i) {
      const std::string at = fmt::format("{}/{}/{}", path, key, i);
      choices.push_back(rest.empty() ? value(branches[i], at) : merged({&rest, &branches[i]}, at));
    }
    return either(std::move(choices));
  }

  static inline const std::vector<const char*> kObjectKeys = {
      "properties", "required", "additionalProperties", "propertyNames", "unevaluatedProperties"};
  static inline const std::vector<const char*> kArrayKeys = {"items", "prefixItems", "minItems",
                                                             "maxItems"};
  static inline const std::vector<std::string> kTypes = {"object",  "array",   "string", "number",
                                                         "integer", "boolean", "null"};

  static std::vector<std::string> types_of(const OrderedJson& schema, const std::string& path) {
    std::vector<std::string> types;
    if (const auto at = schema.find("type"); at != schema.end()) {
      for (const OrderedJson& one : at->is_array() ? *at : OrderedJson::array({*at})) {
        if (!one.is_string() || std::ranges::find(kTypes, one.get<std::string>()) == kTypes.end())
          refuse_schema(
              path, fmt::format("\"type\": {}; expected {}", shown(*at), fmt::join(kTypes, ", ")));
        types.push_back(one.get<std::string>());
      }
      return types;
    }
    // What it restricts tells what it is about.
    static const std::vector<std::pair<const char*, std::vector<const char*>>> kAbout = {
        {"object", kObjectKeys},
        {"array", kArrayKeys},
        {"string", {"pattern", "minLength", "maxLength", "format"}},
        {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}}};
    for (const auto& [type, keys] : kAbout)
      if (std::ranges::any_of(keys, [&](const char* key) { return schema.contains(key); }))
        types.emplace_back(type);
    return types.empty() ? kTypes : types;
  }

  /// Of the listed values, those of which all else that the schema says is true.
  Language listed(const OrderedJson& schema, const std::vector<std::string>& types,
                  const std::string& path) const {
    if (!schema["enum"].is_array())
      refuse_schema(path, fmt::format("\"enum\": {}; expected an array", shown(schema["enum"])));
    const TextLimits limits(schema, path);
    std::vector<Language> values;
    for (const OrderedJson& one : schema["enum"]) {
      if (schema.contains("type") &&
          std::ranges::none_of(types, [&](const auto& type) { return is_of(one, type); }))
        continue;
      if (one.is_string() && !limits.allow(one.get_ref<const std::string&>())) continue;
      if (one.is_number() && !in_range(one, schema, path)) continue;
      const auto has = [&](const char* key) { return schema.contains(key); };
      if ((one.is_object() && std::ranges::any_of(kObjectKeys, has)) ||
          (one.is_array() && std::ranges::any_of(kArrayKeys, has)))
        refuse_schema(path, fmt::format("{} as one of its values, and restricts what is in it; "
                                        "leave one out",
                                        shown(one)));
      values.push_back(written(one));
    }
    return either(std::move(values));
  }

  /// One value, with blanks between its tokens.
  Language written(const OrderedJson& value) const {
    if (!value.is_structured()) return literal(dumped(value));
    std::vector<Language> parts = {literal(value.is_object() ? "{" : "["), blank()};
    for (const auto& [name, one] : value.items()) {
      if (parts.size() > 2) parts.push_back(comma());
      if (value.is_object())
        parts.insert(parts.end(), {literal(dumped(name)), literal(":"), blank()});
      parts.insert(parts.end(), {written(one), blank()});
    }
    parts.push_back(literal(value.is_object() ? "}" : "]"));
    return sequence(std::move(parts));
  }

  static bool in_range(const OrderedJson& number, const OrderedJson& schema,
                       const std::string& path) {
    const auto is = [&](const char* key, auto compare) {
      if (!schema.contains(key)) return true;
      bound(schema, key, true, path);
      return bool(compare(number, schema[key]));
    };
    return is("minimum", std::greater_equal<>()) && is("maximum", std::less_equal<>()) &&
           is("exclusiveMinimum", std::greater<>()) && is("exclusiveMaximum", std::less<>());
  }

  Language of_type(const std::string& type, const OrderedJson& schema, const std::string& path) {
    if (type == "object") return object(schema, path);
    if (type == "array") return array(schema, path);
    if (type == "string") return string(schema, path);
    if (type == "number" || type == "integer") return number(schema, type == "integer", path);
    if (type == "boolean") return either({literal("true"), literal("false")});
    return literal("null");
  }

  /// Any JSON value.
  Language anything() {
    if (anything_ < 0) {
      anything_ = rules_.add(nullptr);
      const OrderedJson none = OrderedJson::object(), open = any_object_schema();
      std::vector<Language> choices;
      for (const char* type : {"string", "number", "boolean", "null", "array"})
        choices.push_back(of_type(type, none, ""));
      choices.push_back(object(open, ""));
      rules_.list[static_cast<size_t>(anything_)] = either(std::move(choices));
    }
    return rule(anything_);
  }

  static std::optional<NumberBound> bound(const OrderedJson& schema, const char* key, bool itself,
                                          const std::string& path) {
    if (!schema.contains(key)) return {};
    const OrderedJson& json = schema[key];
    if (!json.is_number())
      refuse_schema(path, fmt::format("\"{}\": {}; expected a number", key, shown(json)));
    return NumberBound{
        json.is_number_integer() ? decimal_of(json.dump()) : decimal_of(json.get<double>()),
        itself};
  }

  static Language number(const OrderedJson& schema, bool whole, const std::string& path) {
    // Of a bound that belongs to the range and one that does not, the one that says more.
    const auto tighter = [&](const char* itself, const char* beyond, bool least) {
      const std::optional<NumberBound> closed = bound(schema, itself, true, path),
                                       open = bound(schema, beyond, false, path);
      if (!closed || !open) return closed ? closed : open;
      const bool more = least ? schema[itself] > schema[beyond] : schema[itself] < schema[beyond];
      return more ? closed : open;
    };
    return numbers(tighter("minimum", "exclusiveMinimum", true),
                   tighter("maximum", "exclusiveMaximum", false), whole);
  }

  Language string(const OrderedJson& schema, const std::string& path) {
    const TextLimits limits(schema, path);
    if (!limits.none()) return limits.language();
    if (any_string_ < 0) any_string_ = rules_.add(any_json_string());
    return rule(any_string_);
  }

  Language comma() const { return sequence({literal(","), blank()}); }

  Language array(const OrderedJson& schema, const std::string& path) {
    const int least = count_of(schema, "minItems", path).value_or(0);
    const int most = count_of(schema, "maxItems", path).value_or(kUnbounded);
    if (most != kUnbounded && most < least)
      refuse_schema(path, "a maxItems that is smaller than its minItems");
    std::vector<Language> listed;
    if (schema.contains("prefixItems")) {
      const OrderedJson& prefix = filled_array(schema["prefixItems"], path, "prefixItems");
      for (size_t i = 0; i < prefix.size() && (most == kUnbounded || std::ssize(listed) < most);
           ++i)
        listed.push_back(value(prefix[i], fmt::format("{}/prefixItems/{}", path, i)));
    }
    const Language item =
        once(schema.contains("items") ? value(schema["items"], path + "/items") : anything());
    // From the back: what may follow behind the listed items.
    const int n = static_cast<int>(listed.size()), needed = std::max(0, least - n);
    const int room = most == kUnbounded ? kUnbounded : most - n;
    const auto others = [&](int before) {
      return repeated(sequence({comma(), item, blank()}), std::max(0, needed - before),
                      room == kUnbounded ? kUnbounded : room - before);
    };
    Language rest = n > 0 ? others(0) : literal("");
    if (n == 0 && room != 0) {
      rest = sequence({item, blank(), others(1)});
      if (least == 0) rest = optional(rest);
    }
    for (int i = n - 1; i >= 0; --i) {
      const Language one = once(sequence({listed[static_cast<size_t>(i)], blank(), rest}));
      rest = i == 0 ? one : sequence({comma(), one});
      if (i >= least) rest = optional(rest);
    }
    return sequence({literal("["), blank(), rest, literal("]")});
  }

  /// Names that propertyNames allows, as JSON strings; nothing where it allows all.
  std::optional<Language> allowed_names(const OrderedJson& schema, const std::string& path) {
    if (!schema.contains("propertyNames")) return {};
    const std::string at = path + "/propertyNames";
    const OrderedJson names = merger_.merged({&schema["propertyNames"]}, at);
    if (names == false) return either({});
    for (const char* key : {"anyOf", "oneOf"})
      if (names.contains(key))
        refuse_schema(at, fmt::format("\"{}\"; expected a schema without it", key));
    const std::vector<std::string> types = types_of(names, at);
    if (std::ranges::find(types, "string") == types.end()) return either({});
    if (names.contains("enum")) {
      OrderedJson texts = names;
      texts["type"] = "string";
      return listed(texts, {"string"}, at);
    }
    const TextLimits limits(names, at);
    return limits.none() ? std::nullopt : std::optional(limits.plain_language());
  }

  /// A property's name, as any of `names` that is not one of `taken`.
  Language other_name(const std::optional<Language>& names, const std::vector<std::string>& taken) {
    if (taken.empty()) return names ? *names : string(OrderedJson::object(), "");
    const Language any = TextLimits(OrderedJson::object(), "").plain_language();
    std::vector<Language> known;
    for (const std::string& one : taken) known.push_back(literal(dumped(one)));
    return language_of(combined(determinised(names.value_or(any)),
                                determinised(either(std::move(known))),
                                [](bool is_name, bool is_taken) { return is_name && !is_taken; }));
  }

  Language object(const OrderedJson& schema, const std::string& path) {
    const OrderedJson properties = schema.value("properties", OrderedJson::object()),
                      asked = schema.value("required", OrderedJson::array());
    if (!properties.is_object())
      refuse_schema(path, fmt::format("\"properties\": {}; expected an object", shown(properties)));
    const auto is_text = [](const OrderedJson& one) { return one.is_string(); };
    if (!asked.is_array() || !std::ranges::all_of(asked, is_text))
      refuse_schema(path,
                    fmt::format("\"required\": {}; expected an array of texts", shown(asked)));
    const auto required = asked.get<std::set<std::string>>();
    const std::optional<Language> allowed = allowed_names(schema, path);
    const std::optional<Automaton> is_allowed =
        allowed ? std::optional(determinised(*allowed)) : std::nullopt;
    std::vector<std::string> names;
    std::vector<Language> pairs;
    const auto pair = [&](Language name, const OrderedJson& one, const std::string& at) {
      return once(sequence({std::move(name), literal(":"), blank(), value(one, at), blank()}));
    };
    const auto add = [&](const std::string& name, const OrderedJson& one, const std::string& at) {
      const std::string text = dumped(name);
      names.push_back(name);
      pairs.push_back(!is_allowed || is_allowed->accepts(text) ? pair(literal(text), one, at)
                                                               : either({}));
    };
    for (const auto& [name, one] : properties.items())
      add(name, one, fmt::format("{}/properties/{}", path, name));
    const char* others =
        schema.contains("unevaluatedProperties") ? "unevaluatedProperties" : "additionalProperties";
    if (schema.contains("additionalProperties")) others = "additionalProperties";
    const OrderedJson open = schema.value(others, OrderedJson(!schema.contains("properties")));
    for (const std::string& name : required)  // those without a schema of their own
      if (!properties.contains(name))
        add(name, schema.contains(others) ? open : OrderedJson(true), path + "/" + others);
    // From the back: properties from one on, and what may follow behind the one before it.
    Language here = either({}), behind = literal("");
    if (open != false) {
      const Language other = pair(other_name(allowed, names), open, path + "/" + others);
      behind = repeated(sequence({comma(), other}), 0, kUnbounded);
      here = once(sequence({other, behind}));
    }
    bool needed = false;  // one of them is required
    for (size_t i = names.size(); i-- > 0;) {
      const Language with = sequence({pairs[i], once(behind)});
      here = once(required.contains(names[i]) ? with : either({with, here}));
      needed = needed || required.contains(names[i]);
      behind = sequence({comma(), here});
      if (!needed) behind = optional(behind);
    }
    return sequence({literal("{"), blank(), needed ? here : optional(here), literal("}")});
  }

  SchemaMerger merger_;
  Rules& rules_;
  RuleId blank_ = -1, anything_ = -1, any_string_ = -1;
  std::map<const OrderedJson*, RuleId> references_;
  std::vector<Waiting> waiting_;
  std::deque<OrderedJson> kept_;  ///< merged schemas
  std::map<std::string, const OrderedJson*> merged_;
  int schemas_ = 0;
  size_t merged_bytes_ = 0;
};

}  // namespace

Language json_language(const OrderedJson& schema, const OrderedJson& root, Rules& rules) {
  return SchemaReader(root, rules).read(schema);
}

Language json_language(const OrderedJson& schema, Rules& rules) {
  return json_language(schema, schema, rules);
}

OrderedJson any_object_schema() { return {{"type", "object"}, {"additionalProperties", true}}; }

}  // namespace sala
