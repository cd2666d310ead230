#include "text/json_fields.h"

#include "base/error.h"
#include "base/json.h"

namespace sala {

const Json& field(const Json& object, const char* key, const std::string& where) {
  static const Json null;
  if (!object.is_object())
    fail("{}: found a JSON {}, expected an object with '{}'; the file is damaged", where,
         object.type_name(), key);
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

std::string string_field(const Json& object, const char* key, const std::string& where) {
  const Json& value = field(object, key, where);
  if (!value.is_string())
    fail("{}: '{}' is {}, expected a string; the file is damaged", where, key, value.type_name());
  return value.get<std::string>();
}

bool bool_field(const Json& object, const char* key, bool fallback, const std::string& where) {
  const Json& value = field(object, key, where);
  if (value.is_null()) return fallback;
  if (!value.is_boolean())
    fail("{}: '{}' is {}, expected true or false; the file is damaged", where, key,
         value.type_name());
  return value.get<bool>();
}

int int_field(const Json& object, const char* key, int fallback, const std::string& where) {
  const Json& value = field(object, key, where);
  if (value.is_null()) return fallback;
  if (!value.is_number_integer() || value < 0 || value > 0x7FFFFFFF)
    fail("{}: '{}' is {}, expected a whole number from 0 to 2147483647; the file is damaged", where,
         key, value.dump(-1, ' ', true, Json::error_handler_t::replace));
  return value.get<int>();
}

const Json& array_field(const Json& object, const char* key, const std::string& where) {
  static const Json empty = Json::array();
  const Json& value = field(object, key, where);
  if (value.is_null()) return empty;
  if (!value.is_array())
    fail("{}: '{}' is {}, expected an array; the file is damaged", where, key, value.type_name());
  return value;
}

std::string shown(const OrderedJson& json) {
  const std::string text = json.dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

}  // namespace sala
