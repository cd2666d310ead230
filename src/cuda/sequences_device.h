#pragma once

#include "cuda/platform.h"
#include "ops/sequences.h"

namespace sala::cuda {

/// The tensors of a step's Sequences as kernels take them.
struct StepTokens {
  const int32_t* positions = nullptr;
  const int32_t* starts = nullptr;
  const int32_t* page_table = nullptr;
  const int32_t* slots = nullptr;
  const int32_t* kept = nullptr;  ///< null: 0 of each sequence
  int64_t table_stride = 0;
  int32_t sequences = 0;

  constexpr int32_t kept_of(int32_t b) const { return kept == nullptr ? 0 : kept[b]; }
  /// The pool page that holds page index `index` of sequence b.
  constexpr int64_t pool_page(int32_t b, int64_t index) const {
    return page_table[b * table_stride + index];
  }
  /// The sequence of token t of the step: the last that begins at or before t.
  constexpr int32_t sequence_of(int64_t t) const {
    int32_t low = 0, high = sequences;  // starts[low] <= t < starts[high]
    while (high - low > 1) {
      const int32_t middle = (low + high) / 2;
      (starts[middle] <= t ? low : high) = middle;
    }
    return low;
  }
};

inline StepTokens step_tokens(const Sequences& s) {
  return {.positions = s.positions.as<int32_t>(),
          .starts = s.starts.as<int32_t>(),
          .page_table = s.page_table.empty() ? nullptr : s.page_table.as<int32_t>(),
          .slots = s.slots.as<int32_t>(),
          .kept = s.kept.empty() ? nullptr : s.kept.as<int32_t>(),
          .table_stride = s.page_table.stride[0],
          .sequences = static_cast<int32_t>(s.count())};
}

}  // namespace sala::cuda
