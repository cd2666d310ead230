#include "cuda/kernels.h"
#include "cuda/lightning_device.h"
#include "cuda/rows_device.h"

// Lightning attention. Where a step has few tokens of a sequence, a block for each sequence, head
// and slice of value columns norms and turns its rows and walks them in order, its slice of the
// state in shared memory (lightning_few.cu). Of longer runs a first kernel folds the cells, one
// after the other, and puts down the state that each begins with; a second one then has a block for
// each cell and head (lightning_cells.cu). At last a block a token does norm and gate, and puts the
// keys and values of open cells into memory, which the other blocks may have had to read until
// then.

namespace sala::cuda {
namespace {

using namespace lightning_kernels;

struct FinishShared {
  float partial[kWarps];
};

struct Finish {
  const float* norm;  ///< may be null
  const float* gate;  ///< may be null
  int64_t gate_stride;
  float eps;
  bool aligned;
};

/// What elements [i, i + 4) of a token's output are multiplied by, as far as it is given.
struct Factors {
  Factors() = default;
  __device__ Factors(const Finish& finish, int64_t t, int64_t i, int64_t n) {
    if (finish.norm != nullptr) weight = load_four(finish.norm, i, n, finish.aligned);
    if (finish.gate != nullptr)
      gate = load_four(finish.gate + t * finish.gate_stride, i, n, finish.aligned);
  }
  /// v times the norm's weight and the gate's sigmoid.
  __device__ float4 times(const Finish& finish, float inverse, float4 v) const {
    if (finish.norm != nullptr)
      v = {v.x * inverse * weight.x, v.y * inverse * weight.y, v.z * inverse * weight.z,
           v.w * inverse * weight.w};
    if (finish.gate != nullptr)
      v = {v.x / (1 + expf(-gate.x)), v.y / (1 + expf(-gate.y)), v.z / (1 + expf(-gate.z)),
           v.w / (1 + expf(-gate.w))};
    return v;
  }

  float4 weight{}, gate{};
};

/// Puts the keys and values of token t into memory where its cell stays open.
__device__ inline void remember(const Mix& mix, int64_t t) {
  const int32_t b = mix.step.sequence_of(t);
  const int32_t position = mix.step.positions[t];
  const int32_t end = position + mix.step.starts[b + 1] - static_cast<int32_t>(t);
  if (position / mix.cell != end / mix.cell) return;
  const int i = position % mix.cell;
  const int64_t slot = mix.step.slots[b];
  float* keys = mix.keys + slot * mix.keys_stride + i;
  float* values = mix.values + slot * mix.values_stride;
  constexpr int kAtOnce = 8;  // loads
  const int n = mix.kv_heads * mix.d;
  // Head and channel of the next element, and the way to the one after it: few divisions.
  int g = static_cast<int>(threadIdx.x) / mix.d, c = static_cast<int>(threadIdx.x) % mix.d;
  const int heads = kThreads / mix.d, channels = kThreads % mix.d;
  for (int first = static_cast<int>(threadIdx.x); first < n; first += kAtOnce * kThreads) {
    float k[kAtOnce] = {}, v[kAtOnce] = {};
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (const int x = first + j * kThreads; x < n) {
        k[j] = mix.k[t * mix.k_stride + x];
        v[j] = mix.v[t * mix.v_stride + x];
      }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (const int x = first + j * kThreads; x < n) {
        keys[x * mix.cell] = k[j];
        values[(g * mix.cell + i) * mix.d + c] = v[j];
      }
      c += channels;
      g += heads + (c >= mix.d ? 1 : 0);
      c -= c >= mix.d ? mix.d : 0;
    }
  }
}

/// A block is one token: norm and gate over its heads, and its keys and values into memory where
/// its cell stays open. A row of up to 4096 outputs and what they are multiplied by wait in
/// registers.
__global__ void __launch_bounds__(kThreads) finish_token(Mix mix, Finish finish) {
  wait_for_earlier();
  const int64_t t = blockIdx.x;
  remember(mix, t);
  if (finish.norm == nullptr && finish.gate == nullptr) return;
  constexpr int kHeld = 4;
  constexpr int64_t kStep = int64_t{4} * kThreads;
  float* o = mix.o + t * mix.o_stride;
  const int64_t n = int64_t{mix.heads} * mix.d;
  const int64_t first = 4 * static_cast<int64_t>(threadIdx.x);
  float4 held[kHeld];
  Factors factors[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (const int64_t i = first + j * kStep; i < n) {
      held[j] = load_four(o, i, n, finish.aligned);
      factors[j] = Factors(finish, t, i, n);
    }
  float inverse = 1;
  if (finish.norm != nullptr) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      if (first + j * kStep < n) sum = add_squares(held[j], sum);
    for (int64_t i = first + kHeld * kStep; i < n; i += kStep)
      sum = add_squares(load_four(o, i, n, finish.aligned), sum);
    inverse = inverse_rms(block_sum(sum, shared<FinishShared>().partial), n, finish.eps);
  }
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (const int64_t i = first + j * kStep; i < n)
      store_four(o, i, n, finish.aligned, factors[j].times(finish, inverse, held[j]));
  for (int64_t i = first + kHeld * kStep; i < n; i += kStep)
    store_four(o, i, n, finish.aligned,
               Factors(finish, t, i, n).times(finish, inverse, load_four(o, i, n, finish.aligned)));
}

}  // namespace

void lightning(Device& device, const Sequences& sequences, Out q, Out k, In v,
               const LightningMemory& memory, const LightningForm& form, In gate, Out o) {
  Mix mix{.step = step_tokens(sequences),
          .q = q.as<float>(),
          .k = k.as<float>(),
          .v = v.as<float>(),
          .o = o.as<float>(),
          .q_stride = q.stride[0],
          .k_stride = k.stride[0],
          .v_stride = v.stride[0],
          .o_stride = o.stride[0],
          .state = memory.state.as<float>(),
          .keys = memory.keys.as<float>(),
          .values = memory.values.as<float>(),
          .state_stride = memory.state.stride[0],
          .keys_stride = memory.keys.stride[0],
          .values_stride = memory.values.stride[0],
          .slopes = form.slopes.as<float>(),
          .scale = form.scale,
          .heads = static_cast<int>(memory.state.dim[1]),
          .kv_heads = static_cast<int>(memory.keys.dim[1]),
          .d = static_cast<int>(memory.state.dim[3]),
          .cell = memory.cell,
          .group = static_cast<int>(memory.state.dim[1] / memory.keys.dim[1]),
          .aligned = memory.state.dim[3] % 4 == 0 && rows_aligned(q) && rows_aligned(k) &&
                     rows_aligned(v) && rows_aligned(o) && rows_aligned(memory.state) &&
                     rows_aligned(memory.values),
          .q_turn = head_turn(form.q_norm, form.eps, form.cos, form.sin),
          .k_turn = head_turn(form.k_norm, form.eps, form.cos, form.sin),
          .turned = nullptr,
          .cells = nullptr,
          .first_cell = 0,
          .end_cell = 0};
  SALA_CHECK(mix.d <= kMostHead && mix.cell <= kMostCell,
             "lightning on a GPU has heads of up to {} and cells of up to {}, not {} and {}",
             kMostHead, kMostCell, mix.d, mix.cell);
  if (sequences.tokens() > kFew * sequences.count()) {
    norm_and_turn_heads(device, q, k, memory, form);
    mix_runs(device, sequences.count(), sequences.tokens(), mix);
  } else if (mix.q_turn.empty() && mix.k_turn.empty()) {
    mix_few_tokens(device, sequences.count(), mix);
  } else {
    mix.turned = reinterpret_cast<float*>(
        self(device).scratch(0, k.dim[0] * k.dim[1] * int64_t{sizeof(float)}));
    mix_few_tokens(device, sequences.count(), mix);
    mix.k = mix.turned;
    mix.k_stride = k.dim[1];
  }
  const Finish finish{.norm = form.norm.empty() ? nullptr : form.norm.as<float>(),
                      .gate = gate.empty() ? nullptr : gate.as<float>(),
                      .gate_stride = gate.stride[0],
                      .eps = form.eps,
                      .aligned = rows_aligned(o) && rows_aligned(gate) && rows_aligned(form.norm)};
  launch(device, {.x = sequences.tokens()}, kThreads, sizeof(FinishShared), finish_token, mix,
         finish);
}

}  // namespace sala::cuda
