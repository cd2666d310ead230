#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace sala {

/// Levels of nesting that are accepted.
inline constexpr int kMostJsonDepth = 256;

/// Refuses what no parser should see: nesting deeper than kMostJsonDepth, which can exhaust the
/// stack, and NUL bytes; for `ordered` JSON also objects of so many keys that comparing each with
/// those before it, as OrderedJson does, takes long. Throws Error; `name` is where `text` came
/// from.
void check_json_text(std::string_view text, const std::string& name, bool ordered = false);

/// Parses `text`, which came from `name` (a path, for messages). Bounded by check_json_text. Throws
/// Error with the line and column of the fault.
Json parse_json(std::string_view text, const std::string& name);

/// Reads and parses a whole file.
Json read_json(const std::filesystem::path& path);

/// Reads a whole file as text. Throws Error naming the path.
std::string read_text(const std::filesystem::path& path);

}  // namespace sala
