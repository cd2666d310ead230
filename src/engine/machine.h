#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/basic.h"
#include "ops/device.h"

namespace sala {

/// Operations a second of matrix products under `--compute auto`, by the type of the weights.
struct MatmulRates {
  double f32 = 0;
  double bf16 = 0;
  double int8 = 0;  ///< 4- and 8-bit weights, as `--compute auto` multiplies them

  double of(WeightType type) const;
};

/// What this machine can do, by short probes of our own (about a second in all).
struct Machine {
  int cores = 0;    ///< that this process may run on
  int threads = 0;  ///< of the probes
  std::string isa;  ///< of the kernels: "baseline", "avx2", "avx512"; of a GPU its name
  bool vnni = false;
  bool bf16 = false;              ///< products of bf16 pairs are faster than f32
  int64_t memory = 0;             ///< bytes, in all
  int64_t available = 0;          ///< bytes that the system can still give
  Limits limits;                  ///< of memory and of arithmetic in registers
  MatmulRates many;               ///< of 128 rows, as in a prompt
  MatmulRates one;                ///< of one row and weights in the caches
  std::vector<std::string> gpus;  ///< that the driver shows
};

/// The most bytes that this process has had in memory, or 0 when the system does not say.
int64_t peak_memory();

/// Runs the probes on `threads` threads, 0: every core.
Machine measure_machine(int threads);
/// The same of a GPU, whose matrix products are taken to reach what its arithmetic allows.
Machine measure_gpu(Device& gpu);

}  // namespace sala
