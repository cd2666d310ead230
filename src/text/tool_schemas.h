#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace sala {

/// The tools of a request, as a reader of calls needs them: which there are, and of which type
/// their parameters are. What is not there or not understood is a parameter of unknown type.
class ToolSchemas {
 public:
  /// `tools` as OpenAI's requests have them ({"type": "function", "function": {"name",
  /// "parameters"}} each, or the function by itself), or null.
  explicit ToolSchemas(const OrderedJson& tools);

  bool empty() const { return functions_.empty(); }
  bool declares(const std::string& function) const { return functions_.contains(function); }

  /// The JSON of a parameter's value that came as plain text: text where the schema says string;
  /// else the text's own bytes where they are JSON of a type that the schema allows (where there is
  /// no schema: of any type but string); else, where the schema tells a type, what a literal of
  /// Python of that type means; else text.
  std::string json_of(const std::string& function, const std::string& parameter,
                      std::string_view text) const;

 private:
  /// The types of each parameter, as JSON Schema names them; none where it does not say.
  using Parameters = std::map<std::string, std::vector<std::string>>;
  std::map<std::string, Parameters> functions_;
};

/// The types that a schema allows, as JSON Schema names them; none where it does not say.
std::vector<std::string> schema_types(const OrderedJson& schema);

}  // namespace sala
