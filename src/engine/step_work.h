#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/step.h"
#include "ops/kv_type.h"

namespace sala {

// What a step of `tokens` tokens of one sequence behind `depth` others must do at least: closed
// forms, a multiply-add being two operations.

/// Bytes that it reads of its memory: keys and values that its queries may choose once, the whole
/// index, the states.
double cache_bytes(const ModelConfig& config, KvType kv, SparsePolicy sparse, int64_t depth,
                   int64_t tokens);

/// Operations of its matrix products, `logits` rows of the head among them.
double matmul_operations(const ModelConfig& config, int64_t tokens, int64_t logits);

/// Operations of what mixes tokens: scores and values of attention, where sparse over the chosen
/// blocks and the compressed keys; Lightning inside a cell and with the state.
double mixing_operations(const ModelConfig& config, SparsePolicy sparse, int64_t depth,
                         int64_t tokens);

}  // namespace sala
