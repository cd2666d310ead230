#include "cuda/kernels.h"
#include "cuda/rows_device.h"
#include "ops/math.h"

// rope_table and qk_norm_rope. The table is made once a step, a thread an angle, in double: the
// angle reaches 10^7. The heads of queries and keys are turned a warp a head, 8 bytes an element.

namespace sala::cuda {
namespace {

constexpr int kTableThreads = 128;
constexpr int kHeadThreads = 128;
constexpr int kHeld = 2;  // pairs of a lane that stay in registers: heads of up to 128

struct Table {
  const int32_t* positions;
  const float* inverse_frequency;
  float* cos;
  float* sin;
  int64_t cos_stride, sin_stride;
  int64_t tokens, half;
  RopeFactor factor;
};

/// A thread makes one entry of both tables.
__global__ void __launch_bounds__(kTableThreads) rope_entry(Table table) {
  wait_for_earlier();
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * kTableThreads + threadIdx.x;
  if (entry >= table.tokens * table.half) return;
  const int64_t t = entry / table.half, i = entry % table.half;
  const auto position = static_cast<float>(table.positions[t]);
  const float scale = rope_factor(table.factor.scale, table.factor.log_base, position);
  double sine, cosine;
  sincos(static_cast<double>(position * table.inverse_frequency[i]), &sine, &cosine);
  table.cos[t * table.cos_stride + i] = static_cast<float>(cosine) * scale;
  table.sin[t * table.sin_stride + i] = static_cast<float>(sine) * scale;
}

struct Heads {
  float* x;
  int64_t x_stride;
  const float* w;  ///< may be null
  const float* cos;
  const float* sin;  ///< both may be null
  int64_t cos_stride, sin_stride;
  int64_t tokens;
  int heads, d;
  float eps;
};

/// Elements i and i + half of a head; the second is not there in the middle of one of odd size.
struct Pair {
  float a = 0, b = 0;
};

__device__ inline Pair load_pair(const float* x, int i, int d) {
  const int half = (d + 1) / 2;
  return {.a = x[i], .b = i + half < d ? x[i + half] : 0.0f};
}

/// Scales, turns and stores pair i of a head of token t.
__device__ inline void turn(const Heads& heads, int64_t t, float* x, int i, Pair pair,
                            float inverse) {
  const int half = (heads.d + 1) / 2;
  if (heads.w != nullptr) {
    const Pair w = load_pair(heads.w, i, heads.d);
    pair = {pair.a * inverse * w.a, pair.b * inverse * w.b};
  }
  if (heads.cos != nullptr) {
    const float c = heads.cos[t * heads.cos_stride + i], s = heads.sin[t * heads.sin_stride + i];
    pair = {fmaf(-pair.b, s, pair.a * c), fmaf(pair.a, s, pair.b * c)};
  }
  x[i] = pair.a;
  if (i + half < heads.d) x[i + half] = pair.b;
}

/// A warp takes one head of one token, a lane every 32nd pair.
__global__ void __launch_bounds__(kHeadThreads) norm_rope_head(Heads heads) {
  wait_for_earlier();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t head =
      static_cast<int64_t>(blockIdx.x) * (kHeadThreads / kWarpThreads) + threadIdx.x / kWarpThreads;
  if (head >= heads.tokens * heads.heads) return;  // a whole warp
  const int64_t t = head / heads.heads;
  float* x = heads.x + t * heads.x_stride + head % heads.heads * heads.d;
  const int half = (heads.d + 1) / 2;
  Pair held[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (lane + j * kWarpThreads < half) held[j] = load_pair(x, lane + j * kWarpThreads, heads.d);
  float inverse = 1;
  if (heads.w != nullptr) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      sum = fmaf(held[j].b, held[j].b, fmaf(held[j].a, held[j].a, sum));
    for (int i = lane + kHeld * kWarpThreads; i < half; i += kWarpThreads) {
      const Pair pair = load_pair(x, i, heads.d);
      sum = fmaf(pair.b, pair.b, fmaf(pair.a, pair.a, sum));
    }
    inverse = inverse_rms(warp_sum(sum), heads.d, heads.eps);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (lane + j * kWarpThreads < half)
      turn(heads, t, x, lane + j * kWarpThreads, held[j], inverse);
  for (int i = lane + kHeld * kWarpThreads; i < half; i += kWarpThreads)
    turn(heads, t, x, i, load_pair(x, i, heads.d), inverse);
}

}  // namespace

void rope_table(Device& device, In positions, In inverse_frequency, RopeFactor factor, Out cos,
                Out sin) {
  const Table table{.positions = positions.as<int32_t>(),
                    .inverse_frequency = inverse_frequency.as<float>(),
                    .cos = cos.as<float>(),
                    .sin = sin.as<float>(),
                    .cos_stride = cos.stride[0],
                    .sin_stride = sin.stride[0],
                    .tokens = cos.dim[0],
                    .half = cos.dim[1],
                    .factor = factor};
  const int64_t blocks = (table.tokens * table.half + kTableThreads - 1) / kTableThreads;
  launch(device, {.x = blocks}, kTableThreads, 0, rope_entry, table);
}

void qk_norm_rope(Device& device, Out x, int heads, In w, float eps, In cos, In sin) {
  const Heads all{.x = x.as<float>(),
                  .x_stride = x.stride[0],
                  .w = w.empty() ? nullptr : w.as<float>(),
                  .cos = cos.empty() ? nullptr : cos.as<float>(),
                  .sin = sin.empty() ? nullptr : sin.as<float>(),
                  .cos_stride = cos.stride[0],
                  .sin_stride = sin.stride[0],
                  .tokens = x.dim[0],
                  .heads = heads,
                  .d = static_cast<int>(x.dim[1] / heads),
                  .eps = eps};
  constexpr int kWarps = kHeadThreads / kWarpThreads;
  launch(device, {.x = (all.tokens * heads + kWarps - 1) / kWarps}, kHeadThreads, 0, norm_rope_head,
         all);
}

}  // namespace sala::cuda
