#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace sala {

/// Refuses what no parser should see: nesting deeper than 256 levels, which can exhaust the stack,
/// and NUL bytes. Throws Error; `name` is where `text` came from.
void check_json_text(std::string_view text, const std::string& name);

/// Parses `text`, which came from `name` (a path, for messages). Bounded by check_json_text. Throws
/// Error with the line and column of the fault.
Json parse_json(std::string_view text, const std::string& name);

/// Reads and parses a whole file.
Json read_json(const std::filesystem::path& path);

/// Reads a whole file as text. Throws Error naming the path.
std::string read_text(const std::filesystem::path& path);

}  // namespace sala
