#pragma once

#include <nlohmann/json_fwd.hpp>

/// The names alone, for headers: a compiler reads json.hpp for seconds, and few files look into a
/// value.
namespace sala {

using Json = nlohmann::json;
/// JSON whose objects keep the order of their keys, as Python's do: `{{ tool | tojson }}` must
/// print them as they came.
using OrderedJson = nlohmann::ordered_json;

}  // namespace sala
