#pragma once

#include "base/parallel.h"

namespace sala::bench {

/// Peaks of this machine on the threads of a pool, the best of a few short runs: what the kernels
/// are measured against.
struct Peak {
  double gflops = 0;     ///< f32 fused multiply-adds in registers, two operations each
  double gigabytes = 0;  ///< bytes a second read from memory, 10^9
};

Peak measure_peak(ThreadPool& pool);

}  // namespace sala::bench
