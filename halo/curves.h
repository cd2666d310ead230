#pragma once

#include <filesystem>

namespace sala::halo {

/// Draws the curves of a log.jsonl as an SVG: one chart for each number that training reports (the
/// loss and its like) over the tokens seen.
void write_curves(const std::filesystem::path& log, const std::filesystem::path& svg);

}  // namespace sala::halo
