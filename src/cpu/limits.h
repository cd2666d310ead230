#pragma once

#include <cstdint>
#include <vector>

#include "base/parallel.h"
#include "ops/limits.h"
#include "tensor/tensor.h"

namespace sala::cpu {

/// Measures limits of all threads of a pool together, each in about 20 ms, the best of a few rounds
/// by the clock on the wall. A machine that others use too, or whose cores are moved about, has
/// other limits a minute later: measure beside what is compared with them.
class LimitProbe {
 public:
  /// Reads from `bytes` of memory of its own: more than all caches hold. `pool` must outlive it.
  explicit LimitProbe(ThreadPool& pool, int64_t bytes = int64_t{256} << 20);

  double read();
  double f32();
  double bf16();
  double int8();
  Limits all() { return {.read = read(), .f32 = f32(), .bf16 = bf16(), .int8 = int8()}; }

 private:
  template <class Work>
  double best_rate(const Work& work);

  ThreadPool& pool_;
  int64_t floats_;  ///< of a thread
  Tensor data_;
  std::vector<float> sinks_;  ///< where loops leave their sums, so that they are not left out
};

}  // namespace sala::cpu
