#pragma once

#include "cuda/rows_device.h"

/// QK-norm and RoPE of a head by a warp, for kernels of their own and those that begin with them.
namespace sala::cuda {

/// Pointers to rows of tokens advance by strides in elements.
struct HeadTurn {
  const float* norm;  ///< weight [d], may be null
  const float* cos;
  const float* sin;  ///< both may be null
  int64_t cos_stride, sin_stride;
  float eps;

  bool empty() const { return norm == nullptr && cos == nullptr; }
};

inline HeadTurn head_turn(In norm, float eps, In cos, In sin) {
  return {.norm = norm.empty() ? nullptr : norm.as<float>(),
          .cos = cos.empty() ? nullptr : cos.as<float>(),
          .sin = sin.empty() ? nullptr : sin.as<float>(),
          .cos_stride = cos.stride[0],
          .sin_stride = sin.stride[0],
          .eps = eps};
}

/// Elements i and i + half of a head; the second is not there in the middle of one of odd size.
struct HeadPair {
  float a = 0, b = 0;
};

__device__ inline HeadPair load_pair(const float* x, int i, int d) {
  const int half = (d + 1) / 2;
  return {.a = x[i], .b = i + half < d ? x[i + half] : 0.0f};
}

/// Scales, turns and stores pair i of a head of token t.
__device__ inline void turn_pair(const HeadTurn& turn, int64_t t, float* x, int i, int d,
                                 HeadPair pair, float inverse) {
  const int half = (d + 1) / 2;
  if (turn.norm != nullptr) {
    const HeadPair w = load_pair(turn.norm, i, d);
    pair = {pair.a * inverse * w.a, pair.b * inverse * w.b};
  }
  if (turn.cos != nullptr) {
    const float c = turn.cos[t * turn.cos_stride + i], s = turn.sin[t * turn.sin_stride + i];
    pair = {fmaf(-pair.b, s, pair.a * c), fmaf(pair.a, s, pair.b * c)};
  }
  x[i] = pair.a;
  if (i + half < d) x[i + half] = pair.b;
}

/// A warp turns a head x [d] of token t in place, a lane every 32nd pair; heads of up to 128 wait
/// in registers for their norm.
__device__ inline void turn_head(const HeadTurn& turn, int64_t t, float* x, int d) {
  constexpr int kHeld = 2;  // pairs of a lane
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int half = (d + 1) / 2;
  HeadPair held[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (lane + j * kWarpThreads < half) held[j] = load_pair(x, lane + j * kWarpThreads, d);
  float inverse = 1;
  if (turn.norm != nullptr) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      sum = fmaf(held[j].b, held[j].b, fmaf(held[j].a, held[j].a, sum));
    for (int i = lane + kHeld * kWarpThreads; i < half; i += kWarpThreads) {
      const HeadPair pair = load_pair(x, i, d);
      sum = fmaf(pair.b, pair.b, fmaf(pair.a, pair.a, sum));
    }
    inverse = inverse_rms(warp_sum(sum), d, turn.eps);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (lane + j * kWarpThreads < half)
      turn_pair(turn, t, x, lane + j * kWarpThreads, d, held[j], inverse);
  for (int i = lane + kHeld * kWarpThreads; i < half; i += kWarpThreads)
    turn_pair(turn, t, x, i, d, load_pair(x, i, d), inverse);
}

}  // namespace sala::cuda
