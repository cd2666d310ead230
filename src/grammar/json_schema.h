#pragma once

#include <string>

#include "base/json_fwd.h"
#include "grammar/language.h"

namespace sala {

/// The JSON texts that a schema allows, as a language over `rules`, to which it adds its own.
///
/// There are: type, enum, const, properties, required, additionalProperties, propertyNames (without
/// anyOf), unevaluatedProperties (beside what it looks at), items, prefixItems, minItems, maxItems,
/// minLength, maxLength, pattern, format (date, time, date-time, uuid, ipv4, email; others say
/// nothing), minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, oneOf, allOf, nullable
/// and $ref within the schema, also to itself. What describes and does not restrict is passed over;
/// what restricts and is not in this list is refused. Throws Error that names the place in the
/// schema, what is there, and what could be.
///
/// All that comes is an instance of the schema, but for oneOf, which is anyOf, and nullable, as
/// OpenAPI has it. Not all instances come. Where an object has `properties` it has no others,
/// unless additionalProperties or unevaluatedProperties asks for them. They come in the schema's
/// order, those not required may be left out. A schema without `type` that restricts objects,
/// arrays, texts or numbers allows those alone. Between tokens there may be a space, or a line feed
/// with up to 20 blanks. Numbers have up to 18 digits in front of the point and 17 behind it, those
/// of a range no exponent, integers no point. A character of a text with a pattern or format, and
/// of a name, is written as it is or by its one usual escape; so are values of enum, without
/// exponent where the schema has none. Of formats: years from 1, no leap seconds, T and Z as
/// capitals, e-mail addresses of letters, digits and ._+-.
Language json_language(const OrderedJson& schema, Rules& rules);
/// The same for a part of a larger schema, `root`, in which its $refs lie.
Language json_language(const OrderedJson& schema, const OrderedJson& root, Rules& rules);

/// Any JSON object.
OrderedJson any_object_schema();

}  // namespace sala
