#pragma once

#include <optional>
#include <vector>

#include "checkpoint.h"

namespace sala::halo {

/// Rows of `heads` heads from the rows of `kv_heads` heads [kv_heads * d, in]: head h gets those of
/// head h / (heads / kv_heads), so that grouped heads become heads of their own (HALO, arXiv
/// 2601.22156, eq. 13).
Tensor expand_heads(const Tensor& w, int64_t kv_heads, int64_t heads);

/// Stage 0 of HALO: a student all of whose mixers are Lightning, made from the attention weights of
/// the same layer. Queries, output and, with the heads expanded, keys and values are copies; norms
/// that the teacher lacks are ones; the gate is uniform within 1 / sqrt(hidden). Everything else is
/// the teacher's.
Checkpoint lightning_student(const Checkpoint& teacher, uint64_t seed);

/// What a hybrid's attention layers get.
struct HybridOptions {
  bool nope = true;  ///< HyPE: no RoPE in attention layers
  bool gate = true;  ///< a sigmoid output gate, N(0, 0.02), which begins at a half
  std::optional<SparseConfig> sparse{};
  uint64_t seed = 0;
};

/// The hybrid of stage 2: the teacher's attention in the layers `kept`, the student's Lightning
/// mixers in the others.
Checkpoint hybrid(const Checkpoint& teacher, const Checkpoint& student,
                  const std::vector<int>& kept, const HybridOptions& options);

}  // namespace sala::halo
