#include "cuda/kernels.h"
#include "cuda/rope_device.h"
#include "ops/math.h"

// rope_table and qk_norm_rope. The table is made once a step, a thread an angle, in double: the
// angle reaches 10^7. The heads of queries and keys are turned a warp a head, 8 bytes an element.

namespace sala::cuda {
namespace {

constexpr int kTableThreads = 128;
constexpr int kHeadThreads = 128;

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
  HeadTurn turn;
  float* x;
  int64_t x_stride;
  int64_t tokens;
  int heads, d;
};

/// A warp takes one head of one token.
__global__ void __launch_bounds__(kHeadThreads) norm_rope_head(Heads heads) {
  wait_for_earlier();
  const int64_t head =
      static_cast<int64_t>(blockIdx.x) * (kHeadThreads / kWarpThreads) + threadIdx.x / kWarpThreads;
  if (head >= heads.tokens * heads.heads) return;  // a whole warp
  const int64_t t = head / heads.heads;
  turn_head(heads.turn, t, heads.x + t * heads.x_stride + head % heads.heads * heads.d, heads.d);
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
  const Heads all{.turn = head_turn(w, eps, cos, sin),
                  .x = x.as<float>(),
                  .x_stride = x.stride[0],
                  .tokens = x.dim[0],
                  .heads = heads,
                  .d = static_cast<int>(x.dim[1] / heads)};
  constexpr int kWarps = kHeadThreads / kWarpThreads;
  launch(device, {.x = (all.tokens * heads + kWarps - 1) / kWarps}, kHeadThreads, 0, norm_rope_head,
         all);
}

}  // namespace sala::cuda
