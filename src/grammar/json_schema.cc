#include "grammar/json_schema.h"

#include <algorithm>
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
#include "grammar/pattern.h"
#include "text/unicode.h"

namespace sala {
namespace {

constexpr int kMostSchemas = 20'000, kMostItems = 10'000, kMostMerges = 64;

/// Keywords that restrict nothing.
bool describes(const std::string& key) {
  static const std::set<std::string, std::less<>> kKeys = {
      "title", "description", "default",          "examples",        "example",  "$schema",
      "$id",   "$comment",    "contentMediaType", "contentEncoding", "readOnly", "writeOnly",
      "$defs", "definitions", "deprecated",       "strict",          "$anchor"};
  return kKeys.contains(key);
}

/// Keywords that restrict, and that are not here.
bool is_missing(const std::string& key, const OrderedJson& value) {
  static const std::set<std::string, std::less<>> kKeys = {"not",
                                                           "if",
                                                           "then",
                                                           "else",
                                                           "dependentRequired",
                                                           "dependencies",
                                                           "contains",
                                                           "minContains",
                                                           "maxContains",
                                                           "dependentSchemas",
                                                           "$dynamicRef",
                                                           "multipleOf",
                                                           "minProperties",
                                                           "uniqueItems",
                                                           "maxProperties",
                                                           "$recursiveRef",
                                                           "patternProperties"};
  if (key == "uniqueItems" && value == false) return false;
  if (key == "minProperties" && value == 0) return false;
  if (key == "patternProperties" && value.empty()) return false;
  return kKeys.contains(key);
}

std::string shown(const OrderedJson& json) {
  std::string text = json.dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

/// A JSON value as text, compact.
std::string dumped(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

CharSet raw_characters() { return CharSet::all().without({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}); }

/// A character of a set in a JSON string: as it is, or by its one usual escape.
Language json_character(const CharSet& set) {
  std::vector<Language> choices = {one_of(set.common(raw_characters()))};
  const CharSet escaped = set.without(raw_characters());
  for (const CodeRange& range : escaped.ranges())
    for (char32_t code = range.first; code <= range.last; ++code) {
      const std::string quoted = dumped(to_utf8(code));
      choices.push_back(literal(quoted.substr(1, quoted.size() - 2)));
    }
  return choices.size() == 1 ? choices[0] : either(std::move(choices));
}

/// Any character of a JSON string, with every way to write it.
Language any_json_character() {
  const auto one = [](char32_t first, char32_t last) { return one_of({{first, last}}); };
  const Language hex = one_of({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
  const Language d = one_of({{'D', 'D'}, {'d', 'd'}});
  const Language plain =
      either({sequence({one_of({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}), hex,
                        hex, hex}),
              sequence({d, one('0', '7'), hex, hex})});
  const Language pair = sequence({d, one_of({{'8', '9'}, {'A', 'B'}, {'a', 'b'}}), hex, hex,
                                  literal("\\u"), d, one_of({{'C', 'F'}, {'c', 'f'}}), hex, hex});
  CharSet letters;
  for (const char c : std::string_view("\"\\/bfnrt"))
    letters.add(CodeRange{static_cast<char32_t>(c), static_cast<char32_t>(c)});
  return either(
      {one_of(raw_characters()),
       sequence({literal("\\"),
                 either({one_of(letters), sequence({literal("u"), either({plain, pair})})})})});
}

const char* pattern_of_format(const std::string& format) {
  static const std::map<std::string, const char*, std::less<>> kPatterns = {
#define SALA_DATE "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
#define SALA_TIME \
  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
      {"date", "^" SALA_DATE "$"},
      {"time", "^" SALA_TIME "$"},
      {"date-time", "^" SALA_DATE "T" SALA_TIME "$"},
#undef SALA_DATE
#undef SALA_TIME
      {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
      {"ipv4", "^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])$"},
      {"email", "^[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)+$"}};
  const auto at = kPatterns.find(format);
  return at == kPatterns.end() ? nullptr : at->second;
}

bool in_both(bool a, bool b) { return a && b; }

class SchemaReader {
 public:
  SchemaReader(const OrderedJson& root, Rules& rules) : root_(root), rules_(rules) {
    blank_ = rules_.add(
        either({literal(""), literal(" "),
                sequence({literal("\n"), repeated(one_of({{'\t', '\t'}, {' ', ' '}}), 0, 20)})}));
  }

  Language read(const OrderedJson& schema) {
    Language all = value(schema, "");
    while (!waiting_.empty()) {
      const auto [pointer, id] = waiting_.back();
      waiting_.pop_back();
      rules_.list[static_cast<size_t>(id)] = value(resolved(pointer, "$ref"), pointer);
    }
    return all;
  }

 private:
  [[noreturn]] static void refuse(const std::string& path, const std::string& what) {
    fail("the schema at {} has {}", path.empty() ? "its root" : path, what);
  }

  Language blank() const { return rule(blank_); }
  Language once(Language language) { return rule(rules_.add(std::move(language))); }

  const OrderedJson& resolved(const std::string& pointer, const std::string& path) const {
    try {
      return root_.at(OrderedJson::json_pointer(pointer));
    } catch (const OrderedJson::exception&) {
      refuse(path,
             fmt::format("a $ref to \"#{}\", which is not in the schema", pointer.substr(0, 200)));
    }
  }

  /// The pointer of a $ref.
  static std::string target(const OrderedJson& ref, const std::string& path) {
    const std::string text = ref.is_string() ? ref.get<std::string>() : "";
    if (!text.starts_with('#') || (text.size() > 1 && text[1] != '/'))
      refuse(path, fmt::format("\"$ref\": {}; expected one within the schema, such as "
                               "\"#/$defs/name\"",
                               shown(ref)));
    return text.substr(1);
  }

  Language reference(const std::string& pointer) {
    const auto [at, fresh] = references_.emplace(pointer, 0);
    if (fresh) {
      at->second = rules_.add(nullptr);
      waiting_.emplace_back(pointer, at->second);
    }
    return rule(at->second);
  }

  /// A schema without what describes only; throws for what is not there.
  static OrderedJson restrictions(const OrderedJson& schema, const std::string& path) {
    OrderedJson out = OrderedJson::object();
    for (const auto& [key, value] : schema.items()) {
      if (is_missing(key, value))
        refuse(path,
               fmt::format("\"{}\": {}, which replies cannot be constrained by here; leave it "
                           "out, and check it afterwards",
                           key, shown(value)));
      if (!describes(key)) out[key] = value;
    }
    return out;
  }

  Language value(const OrderedJson& schema, const std::string& path) {
    if (++schemas_ > kMostSchemas)
      fail("the schema comes to more than {} parts; make it smaller", kMostSchemas);
    if (schema.is_boolean()) return schema.get<bool>() ? anything() : either({});
    if (!schema.is_object())
      refuse(path, fmt::format("{}; expected an object, true or false", shown(schema)));
    OrderedJson rest = restrictions(schema, path);
    if (rest.contains("$ref")) {
      const std::string pointer = target(rest["$ref"], path);
      rest.erase("$ref");
      if (rest.empty()) return reference(pointer);
      return value(merged(resolved(pointer, path), rest, path), path);
    }
    if (rest.contains("allOf")) {
      const OrderedJson all = list(rest["allOf"], path, "allOf");
      rest.erase("allOf");
      for (const OrderedJson& one : all) rest = merged(rest, one, path);
      return value(rest, path);
    }
    for (const char* key : {"anyOf", "oneOf"})
      if (rest.contains(key)) return any_of(rest, key, path);
    std::vector<Language> choices;
    if (rest.value("nullable", false)) choices.push_back(literal("null"));
    const std::vector<std::string> types = types_of(rest, path);
    if (rest.contains("enum") || rest.contains("const"))
      choices.push_back(listed(rest, types, path));
    else if (types.size() == 7 && rest.size() == (rest.contains("type") ? 1 : 0))
      return anything();
    else
      for (const std::string& type : types) choices.push_back(of_type(type, rest, path));
    return choices.size() == 1 ? choices[0] : either(std::move(choices));
  }

  static const OrderedJson& list(const OrderedJson& json, const std::string& path,
                                 const char* key) {
    if (!json.is_array() || json.empty())
      refuse(path, fmt::format("\"{}\": {}; expected an array", key, shown(json)));
    return json;
  }

  Language any_of(OrderedJson& rest, const char* key, const std::string& path) {
    const OrderedJson branches = list(rest[key], path, key);
    rest.erase(key);
    std::vector<Language> choices;
    for (size_t i = 0; i < branches.size(); ++i) {
      const std::string at = fmt::format("{}/{}/{}", path, key, i);
      choices.push_back(value(rest.empty() ? branches[i] : merged(rest, branches[i], at), at));
    }
    return either(std::move(choices));
  }

  static std::vector<std::string> types_of(const OrderedJson& schema, const std::string& path) {
    static const std::vector<std::string> kTypes = {"object",  "array",   "string", "number",
                                                    "integer", "boolean", "null"};
    std::vector<std::string> types;
    if (const auto at = schema.find("type"); at != schema.end()) {
      for (const OrderedJson& one : at->is_array() ? *at : OrderedJson::array({*at})) {
        if (!one.is_string() || std::ranges::find(kTypes, one.get<std::string>()) == kTypes.end())
          refuse(path,
                 fmt::format("\"type\": {}; expected {}", shown(*at), fmt::join(kTypes, ", ")));
        types.push_back(one.get<std::string>());
      }
      return types;
    }
    // What it restricts tells what it is about.
    static const std::vector<std::pair<const char*, std::vector<const char*>>> kAbout = {
        {"object", {"properties", "required", "additionalProperties", "propertyNames"}},
        {"array", {"items", "prefixItems", "minItems", "maxItems"}},
        {"string", {"pattern", "minLength", "maxLength", "format"}},
        {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}}};
    for (const auto& [type, keys] : kAbout)
      if (std::ranges::any_of(keys, [&](const char* key) { return schema.contains(key); }))
        types.emplace_back(type);
    return types.empty() ? kTypes : types;
  }

  static bool is_of(const OrderedJson& json, const std::string& type) {
    if (type == "object") return json.is_object();
    if (type == "array") return json.is_array();
    if (type == "string") return json.is_string();
    if (type == "number") return json.is_number();
    if (type == "integer") return json.is_number_integer();
    if (type == "boolean") return json.is_boolean();
    return json.is_null();
  }

  static Language listed(const OrderedJson& schema, const std::vector<std::string>& types,
                         const std::string& path) {
    OrderedJson values = OrderedJson::array();
    if (schema.contains("enum"))
      values = list(schema["enum"], path, "enum");
    else
      values.push_back(schema["const"]);
    std::vector<Language> choices;
    for (const OrderedJson& one : values) {
      const bool fits =
          std::ranges::any_of(types, [&](const auto& type) { return is_of(one, type); });
      const bool is_const = !schema.contains("const") || schema["const"] == one;
      if ((fits || !schema.contains("type")) && is_const) choices.push_back(literal(dumped(one)));
    }
    return either(std::move(choices));
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

  static std::optional<int> count(const OrderedJson& schema, const char* key,
                                  const std::string& path) {
    if (!schema.contains(key)) return {};
    const OrderedJson& json = schema[key];
    if (!json.is_number_integer() || json.get<double>() < 0 || json.get<double>() > kMostItems)
      refuse(path, fmt::format("\"{}\": {}; expected a whole number from 0 to {}", key, shown(json),
                               kMostItems));
    return json.get<int>();
  }

  static std::optional<Bound> bound(const OrderedJson& schema, const char* key, bool itself,
                                    const std::string& path) {
    if (!schema.contains(key)) return {};
    const OrderedJson& json = schema[key];
    if (!json.is_number())
      refuse(path, fmt::format("\"{}\": {}; expected a number", key, shown(json)));
    return Bound{
        json.is_number_integer() ? decimal_of(json.dump()) : decimal_of(json.get<double>()),
        itself};
  }

  static Language number(const OrderedJson& schema, bool whole, const std::string& path) {
    const auto both = [&](const char* itself, const char* beyond, const char* what) {
      if (schema.contains(itself) && schema.contains(beyond))
        refuse(path, fmt::format("a {} and an exclusive one; leave one out", what));
      const std::optional<Bound> closed = bound(schema, itself, true, path);
      return closed ? closed : bound(schema, beyond, false, path);
    };
    return numbers(both("minimum", "exclusiveMinimum", "minimum"),
                   both("maximum", "exclusiveMaximum", "maximum"), whole);
  }

  /// The inside of a JSON string.
  static Language text(const OrderedJson& schema, const std::string& path) {
    const std::optional<int> least = count(schema, "minLength", path),
                             most = count(schema, "maxLength", path);
    if (least && most && *most < *least)
      refuse(path, "a maxLength that is smaller than its minLength");
    std::vector<Language> all;
    for (const char* key : {"pattern", "format"}) {
      if (!schema.contains(key)) continue;
      if (!schema[key].is_string())
        refuse(path, fmt::format("\"{}\": {}; expected a text", key, shown(schema[key])));
      const std::string text = schema[key].get<std::string>();
      const char* known =
          std::string_view(key) == "format" ? pattern_of_format(text) : text.c_str();
      if (known == nullptr) continue;
      try {
        all.push_back(parse_pattern(known, false, json_character));
      } catch (const Error& e) {
        refuse(path, fmt::format("a pattern that cannot be used: {}", e.what()));
      }
    }
    if (least || most || all.empty())
      all.push_back(repeated(all.empty() ? any_json_character() : json_character(CharSet::all()),
                             least.value_or(0), most.value_or(kUnbounded)));
    if (all.size() == 1) return all[0];
    Automaton automaton = determinised(all[0]);
    for (size_t i = 1; i < all.size(); ++i)
      automaton = combined(automaton, determinised(all[i]), in_both);
    return language_of(std::move(automaton));
  }

  static Language quoted(Language inside) {
    return sequence({literal("\""), std::move(inside), literal("\"")});
  }

  Language string(const OrderedJson& schema, const std::string& path) {
    const bool any = std::ranges::none_of(
        std::initializer_list<const char*>{"pattern", "format", "minLength", "maxLength"},
        [&](const char* key) { return schema.contains(key); });
    if (!any) return quoted(text(schema, path));
    if (any_string_ < 0) any_string_ = rules_.add(quoted(text(schema, path)));
    return rule(any_string_);
  }

  Language comma() const { return sequence({literal(","), blank()}); }

  Language array(const OrderedJson& schema, const std::string& path) {
    const int least = count(schema, "minItems", path).value_or(0);
    const int most = count(schema, "maxItems", path).value_or(kUnbounded);
    if (most != kUnbounded && most < least)
      refuse(path, "a maxItems that is smaller than its minItems");
    std::vector<Language> listed;
    if (schema.contains("prefixItems")) {
      const OrderedJson& prefix = list(schema["prefixItems"], path, "prefixItems");
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
      const Language one = sequence({listed[static_cast<size_t>(i)], blank(), rest});
      rest = i == 0 ? one : sequence({comma(), one});
      if (i >= least) rest = optional(rest);
    }
    return sequence({literal("["), blank(), rest, literal("]")});
  }

  /// A property's name, as any that is not one of `taken`.
  Language other_name(const OrderedJson& schema, const std::vector<std::string>& taken,
                      const std::string& path) {
    const OrderedJson names = schema.value("propertyNames", OrderedJson::object());
    const bool any = !names.is_object() || restrictions(names, path).empty() ||
                     restrictions(names, path) == OrderedJson({{"type", "string"}});
    if (taken.empty() && any) return string(OrderedJson::object(), path);
    Language name = quoted(repeated(json_character(CharSet::all()), 0, kUnbounded));
    if (!any) {
      OrderedJson typed = restrictions(names, path + "/propertyNames");
      typed["type"] = "string";
      name = typed.contains("enum") ? listed(typed, {"string"}, path) : quoted(text(typed, path));
    }
    if (taken.empty()) return name;
    std::vector<Language> known;
    for (const std::string& one : taken) known.push_back(literal(dumped(one)));
    return language_of(combined(determinised(name), determinised(either(std::move(known))),
                                [](bool is_name, bool is_taken) { return is_name && !is_taken; }));
  }

  Language object(const OrderedJson& schema, const std::string& path) {
    const OrderedJson properties = schema.value("properties", OrderedJson::object());
    if (!properties.is_object())
      refuse(path, fmt::format("\"properties\": {}; expected an object", shown(properties)));
    std::set<std::string> required;
    for (const OrderedJson& one : schema.value("required", OrderedJson::array())) {
      if (!one.is_string()) refuse(path, "a \"required\" that is not an array of texts");
      required.insert(one.get<std::string>());
    }
    std::vector<std::string> names;
    std::vector<Language> pairs;
    const auto pair = [&](Language name, const OrderedJson& one, const std::string& at) {
      return once(sequence({std::move(name), literal(":"), blank(), value(one, at), blank()}));
    };
    for (const auto& [name, one] : properties.items()) {
      names.push_back(name);
      pairs.push_back(pair(literal(dumped(name)), one, path + "/properties/" + name));
    }
    const OrderedJson open =
        schema.value("additionalProperties", OrderedJson(!schema.contains("properties")));
    for (const std::string& name : required)  // those without a schema of their own
      if (std::ranges::find(names, name) == names.end()) {
        names.push_back(name);
        pairs.push_back(pair(literal(dumped(name)), open == false ? OrderedJson(true) : open,
                             path + "/additionalProperties"));
      }
    // From the back: what may follow when some property has come, and when none has.
    Language some = literal(""), none = literal("");
    if (open != false) {
      const Language other =
          pair(other_name(schema, names, path), open, path + "/additionalProperties");
      some = repeated(sequence({comma(), other}), 0, kUnbounded);
      none = optional(sequence({other, some}));
    }
    for (size_t i = names.size(); i-- > 0;) {
      const Language behind = once(some);
      const Language next = sequence({comma(), pairs[i], behind}),
                     first = sequence({pairs[i], behind});
      if (required.contains(names[i])) {
        some = next;
        none = first;
      } else {
        some = either({next, behind});
        none = either({first, once(none)});
      }
    }
    return sequence({literal("{"), blank(), none, literal("}")});
  }

  /// A schema that allows what both allow.
  OrderedJson merged(OrderedJson a, OrderedJson b, const std::string& path) {
    if (++merges_ > kMostMerges * kMostItems)
      fail("the schema comes to more than {} parts; make it smaller", kMostMerges * kMostItems);
    for (OrderedJson* one : {&a, &b}) {
      if (*one == true) *one = OrderedJson::object();
      if (*one == false) return false;
      if (!one->is_object())
        refuse(path, fmt::format("{}; expected an object, true or false", shown(*one)));
      *one = restrictions(*one, path);
      for (int depth = 0; one->contains("$ref"); ++depth) {
        if (depth == kMostMerges) refuse(path, "a $ref that leads to itself");
        const OrderedJson other = resolved(target((*one)["$ref"], path), path);
        one->erase("$ref");
        *one = one->empty() ? restrictions(other, path) : merged(other, *one, path);
        if (*one == false) return false;
      }
    }
    for (const auto& [key, value] : b.items()) {
      const auto at = a.find(key);
      if (at == a.end())
        a[key] = value;
      else if (*at != value)
        *at = merged_keyword(key, *at, value, path);
    }
    return a;
  }

  OrderedJson merged_keyword(const std::string& key, const OrderedJson& a, const OrderedJson& b,
                             const std::string& path) {
    if (key == "properties" && a.is_object() && b.is_object()) {
      OrderedJson all = a;
      for (const auto& [name, value] : b.items())
        all[name] = all.contains(name) ? merged(all[name], value, path) : value;
      return all;
    }
    if (key == "required" && a.is_array() && b.is_array()) {
      OrderedJson all = a;
      all.insert(all.end(), b.begin(), b.end());
      return all;
    }
    if (key == "additionalProperties" || key == "items") return merged(a, b, path);
    if ((key == "type" || key == "enum")) {
      OrderedJson both = OrderedJson::array();
      const OrderedJson all = a.is_array() ? a : OrderedJson::array({a}),
                        others = b.is_array() ? b : OrderedJson::array({b});
      for (const OrderedJson& one : all)
        if (std::ranges::find(others, one) != others.end() ||
            (key == "type" && one == "integer" &&
             std::ranges::find(others, "number") != others.end()))
          both.push_back(one);
      if (both.empty() && key == "type" && others == OrderedJson::array({"integer"}) &&
          std::ranges::find(all, "number") != all.end())
        both.push_back("integer");
      return both;
    }
    const bool least =
        key == "minimum" || key == "exclusiveMinimum" || key == "minLength" || key == "minItems";
    const bool most =
        key == "maximum" || key == "exclusiveMaximum" || key == "maxLength" || key == "maxItems";
    if ((least || most) && a.is_number() && b.is_number())
      return (a.get<double>() < b.get<double>()) == least ? b : a;
    if (key == "allOf") {
      OrderedJson all = list(a, path, "allOf");
      all.insert(all.end(), list(b, path, "allOf").begin(), b.end());
      return all;
    }
    if (key == "anyOf" || key == "oneOf") {
      // Both must hold: each pair of branches.
      OrderedJson pairs = OrderedJson::array();
      for (const OrderedJson& x : list(a, path, key.c_str()))
        for (const OrderedJson& y : list(b, path, key.c_str())) pairs.push_back(merged(x, y, path));
      return pairs;
    }
    refuse(path, fmt::format("\"{}\" twice, as {} and {}, which cannot be combined here", key,
                             shown(a), shown(b)));
  }

  const OrderedJson& root_;
  Rules& rules_;
  RuleId blank_ = -1, anything_ = -1, any_string_ = -1;
  std::map<std::string, RuleId> references_;
  std::vector<std::pair<std::string, RuleId>> waiting_;
  int schemas_ = 0, merges_ = 0;
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
