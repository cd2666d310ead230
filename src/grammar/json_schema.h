#pragma once

#include <string>

#include "base/json_fwd.h"
#include "grammar/language.h"

namespace sala {

/// The JSON texts that a schema allows, as a language over `rules`, to which it adds its own.
///
/// Properties come in the order of the schema, those not required may be left out; others only
/// where `additionalProperties` asks for them. Between tokens there may be a space, or a line feed
/// with up to 20 blanks. There are: type, enum, const, properties, required, additionalProperties,
/// propertyNames, items, prefixItems, minItems, maxItems, minLength, maxLength, pattern, format
/// (date, time, date-time, uuid, ipv4, email; others say nothing), minimum, maximum,
/// exclusiveMinimum, exclusiveMaximum, anyOf, oneOf (as anyOf), allOf, nullable and $ref within the
/// schema, also to itself. What describes and does not restrict is passed over; what restricts and
/// is not in this list is refused. Throws Error that names the place in the schema, what is there,
/// and what could be.
Language json_language(const OrderedJson& schema, Rules& rules);
/// The same for a part of a larger schema, `root`, in which its $refs lie.
Language json_language(const OrderedJson& schema, const OrderedJson& root, Rules& rules);

/// Any JSON object.
OrderedJson any_object_schema();

}  // namespace sala
