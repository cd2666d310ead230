#pragma once

#include <string>

#include "base/json_fwd.h"

namespace sala {

/// The member `key` of `object`, or null when it is absent. Throws Error when `object` is not an
/// object.
const Json& field(const Json& object, const char* key, const std::string& where);

/// A string member. Throws Error naming `where` and `key` when it is absent or of another type.
std::string string_field(const Json& object, const char* key, const std::string& where);

/// A member that has a default.
bool bool_field(const Json& object, const char* key, bool fallback, const std::string& where);
int int_field(const Json& object, const char* key, int fallback, const std::string& where);

/// An array member; an absent or null one gives an empty array.
const Json& array_field(const Json& object, const char* key, const std::string& where);

/// A value for a message: its first bytes.
std::string shown(const OrderedJson& json);

}  // namespace sala
