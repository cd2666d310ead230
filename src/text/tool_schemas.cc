#include "text/tool_schemas.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "text/chat_template.h"
#include "text/json_progress.h"
#include "text/python_literal.h"

namespace sala {
namespace {

const OrderedJson* member(const OrderedJson& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto at = object.find(key);
  return at == object.end() ? nullptr : &*at;
}

std::string type_of(const OrderedJson& value) {
  if (value.is_number_integer()) return "integer";
  return value.type_name();
}

bool has_type(const OrderedJson& value, const std::string& type) {
  if (type == "integer" && value.is_number_float())
    return std::trunc(value.get<double>()) == value.get<double>();
  if (type == "number") return value.is_number();
  return type_of(value) == type;
}

std::optional<OrderedJson> parsed(std::string_view text) {
  try {
    return parse_ordered_json(text, "a tool's argument");
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

std::vector<std::string> schema_types(const OrderedJson& schema) {
  std::vector<std::string> types;
  if (const OrderedJson* type = member(schema, "type")) {
    for (const OrderedJson& each : *type)  // a value that is no list is one item
      if (each.is_string()) types.push_back(each.get<std::string>());
    return types;
  }
  for (const char* key : {"anyOf", "oneOf"})
    if (const OrderedJson* choices = member(schema, key))
      for (const OrderedJson& choice : *choices)
        for (std::string& type : schema_types(choice)) types.push_back(std::move(type));
  if (const OrderedJson* values = member(schema, "enum"))
    for (const OrderedJson& value : *values) types.push_back(type_of(value));
  if (const OrderedJson* value = member(schema, "const")) types.push_back(type_of(*value));
  return types;
}

ToolSchemas::ToolSchemas(const OrderedJson& tools) {
  if (!tools.is_array()) return;
  for (const OrderedJson& tool : tools) {
    const OrderedJson* inner = member(tool, "function");
    const OrderedJson& function = inner ? *inner : tool;
    const OrderedJson* name = member(function, "name");
    if (!name || !name->is_string()) continue;
    Parameters& parameters = functions_[name->get<std::string>()];
    const OrderedJson* schema = member(function, "parameters");
    const OrderedJson* properties = schema ? member(*schema, "properties") : nullptr;
    if (!properties || !properties->is_object()) continue;
    for (const auto& [key, value] : properties->items()) parameters[key] = schema_types(value);
  }
}

std::string ToolSchemas::json_of(const std::string& function, const std::string& parameter,
                                 std::string_view text) const {
  std::vector<std::string> types;
  if (const auto at = functions_.find(function); at != functions_.end())
    if (const auto known = at->second.find(parameter); known != at->second.end())
      types = known->second;
  const auto as_text = [&] { return OrderedJson(text).dump(); };
  if (std::ranges::find(types, "string") != types.end()) return as_text();

  const auto allows = [&](const OrderedJson& value) {
    if (types.empty()) return !value.is_string();
    return std::ranges::any_of(types, [&](const auto& type) { return has_type(value, type); });
  };
  std::string json(trim_json_space(text));
  if (const auto value = parsed(json); value && allows(*value)) return json;
  if (types.empty()) return as_text();
  // Templates that print values as Python does teach models to write them so.
  json = json_of_python(json);
  if (const auto value = parsed(json); value && allows(*value)) return json;
  return as_text();
}

}  // namespace sala
