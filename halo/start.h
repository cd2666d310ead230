#pragma once

#include "checkpoint.h"

namespace sala::halo {

/// Weights that a teacher begins with: matrices of variance 1 / columns; what is added to the
/// residual stream is smaller by the root of the number of additions.
Weights random_start(const ModelConfig& config, uint64_t seed, torch::Device device);

/// Weights that find again from the first step, for models too small and texts too short to grow
/// the circuit by themselves (induction heads: Olsson et al. 2022). The first layer brings what
/// stands 1, 2 and 3 places back, the second what stands 4 to 7 back, and the third looks for the
/// places behind the same seven tokens and predicts what came there. Everything else begins as in
/// `random_start`, but adds nothing to the residual stream. Needs three layers, three heads, RoPE
/// with pairs slow enough for the trained context, lm_head of its own, and heads of 4/9 of the
/// residual stream's width; throws Error naming what it lacks.
Weights induction_start(const ModelConfig& config, uint64_t seed, torch::Device device);

}  // namespace sala::halo
