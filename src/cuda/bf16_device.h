#pragma once

#include "cuda/platform.h"
#include "ops/math.h"

namespace sala::cuda {

/// Two numbers rounded to bf16, `low` in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
#ifdef SALA_CUDA_EMULATION
  return static_cast<uint32_t>(f32_to_bf16(high)) << 16 | f32_to_bf16(low);
#else
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

}  // namespace sala::cuda
