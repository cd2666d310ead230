#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "text/json_fields.h"

namespace sala {

/// Throws Error: the schema at `path` has `what`.
[[noreturn]] void refuse_schema(const std::string& path, const std::string& what);
/// A JSON value as text, compact, each character by its one usual escape or as it is.
std::string dumped(const OrderedJson& json);
/// `json`, the value of `key`, which must be an array that is not empty.
const OrderedJson& filled_array(const OrderedJson& json, const std::string& path,
                                const std::string& key);

/// What a schema, an object, restricts: a schema without what only describes, in which const is an
/// enum of one. Throws Error for restrictions that are not here.
OrderedJson restrictions(const OrderedJson& schema, const std::string& path);

/// Follows $refs within one schema, and makes one schema of several.
class SchemaMerger {
 public:
  /// `root`: where $refs lead to. It must outlive this.
  explicit SchemaMerger(const OrderedJson& root) : root_(root) {}

  /// The part of the root that `ref` names, such as "#/$defs/name". Throws Error at `path`.
  const OrderedJson& resolved(const OrderedJson& ref, const std::string& path);
  /// A schema that allows what all of `parts` allow: false, or restrictions without $ref and allOf.
  /// Schemas within it may be {"allOf": [...]} of those within the parts.
  OrderedJson merged(std::vector<const OrderedJson*> parts, const std::string& path);

 private:
  const OrderedJson& root_;
  int steps_ = 0;
  int inner_ids_ = -1;  ///< whether the schema has a $id below its root; -1: not looked for
};

}  // namespace sala
