#pragma once

#include <bit>

#include "cuda/platform.h"

namespace sala::cuda {

/// Elements [i, i + 4) of a row of n, zero behind its end; in one access where `aligned` says that
/// the row begins at a multiple of 16 bytes. The values are the same either way.
__device__ inline float4 load_four(const float* row, int64_t i, int64_t n, bool aligned) {
  if (aligned && i + 4 <= n) {
    return *reinterpret_cast<const float4*>(row + i);
  }
  float4 v{row[i], 0, 0, 0};
  if (i + 1 < n) v.y = row[i + 1];
  if (i + 2 < n) v.z = row[i + 2];
  if (i + 3 < n) v.w = row[i + 3];
  return v;
}

__device__ inline void store_four(float* row, int64_t i, int64_t n, bool aligned, float4 v) {
  if (aligned && i + 4 <= n) {
    *reinterpret_cast<float4*>(row + i) = v;
    return;
  }
  row[i] = v.x;
  if (i + 1 < n) row[i + 1] = v.y;
  if (i + 2 < n) row[i + 2] = v.z;
  if (i + 3 < n) row[i + 3] = v.w;
}

/// Numbers as unsigned integers of the same order.
__device__ inline uint32_t rank_of(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}

/// sum + the squares of v.
__device__ inline float add_squares(float4 v, float sum) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

/// The sum over the lanes of a warp, in each of them.
__device__ inline float warp_sum(float x) {
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
  return x;
}

/// The largest over the lanes of a warp, in each of them.
__device__ inline float warp_max(float x) {
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, mask));
  return x;
}

/// The sum over the threads of a block, in each of them; `partial` is shared memory that nobody
/// else uses, one place a warp.
template <int kWarps>
__device__ inline float block_sum(float x, float (&partial)[kWarps]) {
  x = warp_sum(x);
  if (threadIdx.x % kWarpThreads == 0) partial[threadIdx.x / kWarpThreads] = x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += partial[i];
  return sum;
}

/// 1 / sqrt(sum / n + eps).
__device__ inline float inverse_rms(float sum, int64_t n, float eps) {
  return 1.0f / sqrtf(sum / static_cast<float>(n) + eps);
}

/// Whether all rows of a tensor begin at multiples of 16 bytes; an empty one does not matter.
inline bool rows_aligned(const In& x) {
  return x.empty() || (reinterpret_cast<uintptr_t>(x.data) % 16 == 0 &&
                       (x.rank < 2 || x.dim[0] <= 1 || x.stride[0] % 4 == 0));
}

}  // namespace sala::cuda
