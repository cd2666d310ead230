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

/// How far the index is from pointing at what dense attention reads: the cross-entropy of the mean
/// over a group's heads of their softmax over the fine keys, from the attention (not
/// differentiated) that they pay to the tokens of each window. q [B, T, H, d], k [B, T, G, d];
/// weights [B, T] of the queries. The sum over queries and the mean over groups. Keys are means, so
/// a single token's likeness fades in them, and what this loss teaches are keys that neighbours
/// have in common.
Tensor index_loss(const Tensor& q, const Tensor& k, const SparseConfig& sparse,
                  const Tensor& weights, torch::ScalarType type);

}  // namespace sala::halo
