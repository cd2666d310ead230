#pragma once

#include <string>
#include <vector>

#include "engine/benchmark.h"

namespace sala {

/// Tokens per second against depth as an SVG, one line for each length of a prompt and one for
/// generated tokens; each line has its own scale, from 0 to its most.
std::string bench_svg(const std::vector<BenchRow>& rows);

}  // namespace sala
