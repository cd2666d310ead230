#pragma once

#include <cstdint>
#include <span>

#include "engine/open.h"

namespace sala {

/// A uniform number in [0, 1) that is a function of (seed, index) alone: the same on every machine
/// and in any batch (SplitMix64, Steele et al. 2014).
double uniform(uint64_t seed, uint64_t index);

/// The next token from its logits [vocab]: the largest (the lowest id among equals) at temperature
/// 0, else drawn with `uniform(params.seed, index)` from softmax(logits / temperature) cut to the
/// top_p most likely. `index` is the number of tokens that the reply already has.
int sample(std::span<const float> logits, const SamplingParams& params, uint64_t index);

}  // namespace sala
