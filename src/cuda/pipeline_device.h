#pragma once

#include "cuda/mma.h"

namespace sala::cuda {

/// A block walks chunks that pass through kStages stages of shared memory: `copy(stage, chunk)`
/// begins to bring one, `multiply(stage, chunk)` uses it while later ones are under way.
template <int kStages, class Copy, class Multiply>
__device__ inline void pipeline(int chunks, const Copy& copy, const Multiply& multiply) {
  // Of many stages it would be much code that runs once.
#pragma unroll(kStages > 3 ? 1 : kStages)
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < chunks) copy(i, i);
    commit_copies();
  }
  int stage = 0, next = kStages - 1;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the chunk is there for all, and nobody reads the stage that comes next
    if (chunk + kStages - 1 < chunks) copy(next, chunk + kStages - 1);
    commit_copies();
    multiply(stage, chunk);
    next = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
}

}  // namespace sala::cuda
