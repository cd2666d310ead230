#pragma once

#include "model/config.h"
#include "ops.h"

namespace sala::halo {

/// Which blocks of keys every query reads.
struct BlockChoice {
  Tensor chosen;      ///< bool [B, kv heads, T, blocks]; undefined: all of them
  int64_t block = 0;  ///< tokens in a block
};

/// Causal softmax attention of q [B, T, H, d] over k, v [B, T, G, d]; query head h reads key head
/// h / (H / G). Scores are q.k / sqrt(d). Memory is linear in T: probabilities are computed again
/// in the backward, a tile of queries at a time.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const BlockChoice& blocks,
                 torch::ScalarType type);

/// InfLLM-V2's choice of blocks (arXiv 2509.24663), as the engine's block_select computes it: fine
/// keys (means over kernel_size keys) scored with the normaliser of the coarse ones (4 times as
/// long), summed over the heads of a group, pooled to blocks by their maximum; the first and the
/// local blocks always, the lowest index among equals. Nothing in it is differentiated.
BlockChoice choose_blocks(const Tensor& q, const Tensor& k, const SparseConfig& sparse);

}  // namespace sala::halo
