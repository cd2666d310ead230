#include "cuda/kernels.h"
#include "cuda/rows_device.h"
#include "cuda/sequences_device.h"

// Lightning attention. First a block for each sequence, head and slice of value columns walks the
// tokens of the step cell by cell, its slice of the state in shared memory; then a block a token
// does norm and gate, and puts the keys and values of open cells into memory, which the first
// kernel's other blocks may have had to read until then.
//
// Every output is one chain of fused multiply-adds, whatever the step, in the order of the CPU's:
//   s = chain over c of q[c] S[c][v];          s *= lambda^(i+1)
//   p_j = (chain over c of q[c] k_j[c]) * lambda^(i-j);   s = chain over j <= i of p_j v_j[v],
//   begun at s;   o = s * scale
// and of a full cell, S[c][v] = chain over j of k_j[c] (lambda^(cell-1-j) v_j[v]), begun at
// lambda^cell S[c][v].

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kColumns = kWarpThreads;  // of a slice: a lane each
constexpr int kTile = 32;               // tokens, of queries and of keys
constexpr int kWarpRows = kTile / kWarps;
constexpr int kMostHead = 128;
constexpr int kMostCell = 256;
constexpr int kRow = kMostHead + 4;  // so that fours of eight rows lie in different banks

/// A slice of the state, a tile of tokens, and the weights of values between two tiles.
struct Shared {
  alignas(16) float state[kMostHead][kColumns];
  alignas(16) float q[kTile][kRow];
  alignas(16) float keys[kTile][kRow];
  float values[kTile][kColumns];
  float weights[kTile][kTile];
  float powers[kMostCell + kWarpRows];  // up to cell; rows behind the last look further
};

/// Pointers to rows of the step advance by strides in elements.
struct Mix {
  StepTokens step;
  const float* q;
  const float* k;
  const float* v;
  float* o;
  int64_t q_stride, k_stride, v_stride, o_stride;
  float* state;                                      ///< [slots][heads][d][d]
  float* keys;                                       ///< [slots][kv_heads][d][cell]
  float* values;                                     ///< [slots][kv_heads][cell][d]
  int64_t state_stride, keys_stride, values_stride;  ///< of slots
  const float* slopes;
  float scale;
  int heads, kv_heads, d, cell;
};

/// What a block works on.
struct Place {
  int h, g, slice;
  int64_t slot;
  int32_t begin;  ///< the sequence's first token of the step
};

__device__ inline int warp_of() { return static_cast<int>(threadIdx.x) / kWarpThreads; }
__device__ inline int lane_of() { return static_cast<int>(threadIdx.x) % kWarpThreads; }
__device__ inline int fours(int d) { return (d + 3) / 4; }

/// Rows [0, count) of a tile of `d` channels, zero up to a multiple of four.
__device__ inline void load_rows(float (*to)[kRow], const float* from, int64_t stride, int count,
                                 int d) {
  for (int r = warp_of(); r < count; r += kWarps)
#pragma unroll 4
    for (int c = lane_of(); c < 4 * fours(d); c += kWarpThreads)
      to[r][c] = c < d ? from[r * stride + c] : 0.0f;
}

/// Keys and values [first, first + count) of the cell whose token 0 would be token `cell_begin` of
/// the step: those before the step from memory, the others from k and v.
__device__ inline void load_keys(const Mix& mix, const Place& at, Shared& s, int64_t cell_begin,
                                 int first, int count) {
  const int64_t before = at.begin - cell_begin - first;
  const int old = before < 0 ? 0 : before > count ? count : static_cast<int>(before);
  const float* keys =
      mix.keys + at.slot * mix.keys_stride + static_cast<int64_t>(at.g) * mix.d * mix.cell + first;
  const float* values = mix.values + at.slot * mix.values_stride +
                        (static_cast<int64_t>(at.g) * mix.cell + first) * mix.d;
  const int column = at.slice * kColumns + lane_of();
  for (int c = warp_of(); c < 4 * fours(mix.d); c += kWarps)
    if (const int j = lane_of(); j < old) s.keys[j][c] = c < mix.d ? keys[c * mix.cell + j] : 0.0f;
  const int64_t token = cell_begin + first + old;
  load_rows(s.keys + old, mix.k + token * mix.k_stride + at.g * mix.d, mix.k_stride, count - old,
            mix.d);
  for (int j = warp_of(); j < count; j += kWarps) {
    const float* row =
        j < old ? values + j * mix.d : mix.v + (token + j - old) * mix.v_stride + at.g * mix.d;
    s.values[j][lane_of()] = column < mix.d ? row[column] : 0.0f;
  }
}

/// sums[r] = the chain over c of q[row + r][c] state[c][lane].
template <int kRows>
__device__ inline void multiply_state(const Shared& s, int row, int d, float (&sums)[kRows]) {
#pragma unroll 2
  for (int c = 0; c < 4 * fours(d); c += 4) {
    const float s0 = s.state[c][lane_of()], s1 = s.state[c + 1][lane_of()];
    const float s2 = s.state[c + 2][lane_of()], s3 = s.state[c + 3][lane_of()];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 q = *reinterpret_cast<const float4*>(&s.q[row + r][c]);
      sums[r] = fmaf(q.w, s3, fmaf(q.z, s2, fmaf(q.y, s1, fmaf(q.x, s0, sums[r]))));
    }
  }
}

/// weights[row + r][lane] = lambda^(i - j) times the chain over c of q[row + r][c] keys[lane][c],
/// where token j of the cell is not after token i; `ahead` is i - j of row 0 and lane 0.
template <int kRows>
__device__ inline void multiply_keys(Shared& s, int row, int d, int ahead) {
  float sums[kRows] = {};
#pragma unroll 2
  for (int c = 0; c < 4 * fours(d); c += 4) {
    const float4 k = *reinterpret_cast<const float4*>(&s.keys[lane_of()][c]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 q = *reinterpret_cast<const float4*>(&s.q[row + r][c]);
      sums[r] = fmaf(q.w, k.w, fmaf(q.z, k.z, fmaf(q.y, k.y, fmaf(q.x, k.x, sums[r]))));
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    if (const int n = ahead + row + r - lane_of(); n >= 0)
      s.weights[row + r][lane_of()] = sums[r] * s.powers[n];
}

/// sums[r] += the chain over j of weights[row + r][j] values[j][lane], for as many j as row r sees.
template <int kRows>
__device__ inline void add_values(const Shared& s, int row, int ahead, float (&sums)[kRows]) {
  // All rows see what the first sees, and each one more than that before it.
  const int seen = ahead + row + 1;
  const int all = seen < 0 ? 0 : seen < kTile ? seen : kTile;
#pragma unroll 4
  for (int j = 0; j < all; ++j) {
    const float value = s.values[j][lane_of()];
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r] = fmaf(s.weights[row + r][j], value, sums[r]);
  }
#pragma unroll
  for (int r = 1; r < kRows; ++r)
    for (int j = all; j <= ahead + row + r && j < kTile; ++j)
      sums[r] = fmaf(s.weights[row + r][j], s.values[j][lane_of()], sums[r]);
}

/// Outputs of tokens [token, token + count) of the step, which lie in one cell from `offset` on. A
/// warp takes kRows of them; where it takes one, four warps multiply the state while the others
/// multiply the keys. At the end the last tile of keys and values is still there.
template <int kRows>
__device__ inline void mix_tile(const Mix& mix, const Place& at, Shared& s, int64_t token,
                                int count, int offset) {
  constexpr int kHalf = kWarps / 2;
  const int row = kRows == 1 ? warp_of() % kHalf : kRows * warp_of();
  const bool active = row < count;
  const bool sums_here = active && (kRows > 1 || warp_of() < kHalf);
  const bool weights_here = active && (kRows > 1 || warp_of() >= kHalf);
  load_rows(s.q, mix.q + token * mix.q_stride + at.h * mix.d, mix.q_stride, count, mix.d);
  float sums[kRows] = {};
  for (int first = 0; first < offset + count; first += kTile) {
    const int left = offset + count - first;
    load_keys(mix, at, s, token - offset, first, left < kTile ? left : kTile);
    __syncthreads();
    if (first == 0 && sums_here) {
      multiply_state<kRows>(s, row, mix.d, sums);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (row + r < count) sums[r] *= s.powers[offset + row + r + 1];
    }
    if (weights_here) multiply_keys<kRows>(s, row, mix.d, offset - first);
    __syncthreads();
    if (sums_here) add_values<kRows>(s, row, offset - first, sums);
    if (left > kTile) __syncthreads();
  }
  const int column = at.slice * kColumns + lane_of();
  if (!sums_here || column >= mix.d) return;
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    if (row + r < count)
      mix.o[(token + row + r) * mix.o_stride + at.h * mix.d + column] = sums[r] * mix.scale;
}

/// Folds a full cell into the state. A thread has the channels c of its column with c / 4 % kWarps
/// the warp's number. Its last tile is in shared memory.
__device__ inline void fold(const Mix& mix, const Place& at, Shared& s, int64_t cell_begin) {
  constexpr int kFours = kMostHead / 4 / kWarps;
  float4 sums[kFours] = {};
  const float decay = s.powers[mix.cell];
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    const int c = 4 * (warp_of() + n * kWarps);
    if (c >= mix.d) continue;
    sums[n] = {decay * s.state[c][lane_of()], decay * s.state[c + 1][lane_of()],
               decay * s.state[c + 2][lane_of()], decay * s.state[c + 3][lane_of()]};
  }
  for (int first = 0; first < mix.cell; first += kTile) {
    const int count = mix.cell - first < kTile ? mix.cell - first : kTile;
    if (mix.cell > kTile) {
      __syncthreads();
      load_keys(mix, at, s, cell_begin, first, count);
      __syncthreads();
    }
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
      const float value = s.powers[mix.cell - 1 - first - j] * s.values[j][lane_of()];
#pragma unroll
      for (int n = 0; n < kFours; ++n) {
        const int c = 4 * (warp_of() + n * kWarps);
        if (c >= mix.d) continue;
        const float4 k = *reinterpret_cast<const float4*>(&s.keys[j][c]);
        sums[n] = {fmaf(k.x, value, sums[n].x), fmaf(k.y, value, sums[n].y),
                   fmaf(k.z, value, sums[n].z), fmaf(k.w, value, sums[n].w)};
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    const int c = 4 * (warp_of() + n * kWarps);
    if (c >= mix.d) continue;
    s.state[c][lane_of()] = sums[n].x;
    s.state[c + 1][lane_of()] = sums[n].y;
    s.state[c + 2][lane_of()] = sums[n].z;
    s.state[c + 3][lane_of()] = sums[n].w;
  }
}

/// A block is sequence blockIdx.y and one head's slice of 32 value columns; lanes are columns, but
/// of scores keys. Shared memory holds the slice of the state throughout.
__global__ void __launch_bounds__(kThreads, 2) mix_cells(Mix mix) {
  Shared& s = shared<Shared>();
  const int slices = (mix.d + kColumns - 1) / kColumns;
  const auto b = static_cast<int32_t>(blockIdx.y);
  const int32_t begin = mix.step.starts[b], end = mix.step.starts[b + 1];
  if (begin == end) return;  // the whole block
  const int h = static_cast<int>(blockIdx.x) / slices;
  const Place at{.h = h,
                 .g = h / (mix.heads / mix.kv_heads),
                 .slice = static_cast<int>(blockIdx.x) % slices,
                 .slot = mix.step.slots[b],
                 .begin = begin};
  const int column = at.slice * kColumns + lane_of();
  float* state =
      mix.state + at.slot * mix.state_stride + static_cast<int64_t>(h) * mix.d * mix.d + column;
  for (int c = warp_of(); c < 4 * fours(mix.d); c += kWarps)
    s.state[c][lane_of()] = c < mix.d && column < mix.d ? state[c * mix.d] : 0.0f;
  for (int n = static_cast<int>(threadIdx.x); n <= mix.cell; n += kThreads)
    s.powers[n] = static_cast<float>(exp(-static_cast<double>(mix.slopes[h]) * n));

  bool folded = false;
  int offset = mix.step.positions[begin] % mix.cell;
  for (int64_t token = begin; token < end;) {
    const int in_cell = mix.cell - offset < kTile ? mix.cell - offset : kTile;
    const int count = end - token < in_cell ? static_cast<int>(end - token) : in_cell;
    if (count <= kWarps / 2) {
      mix_tile<1>(mix, at, s, token, count, offset);
    } else {
      mix_tile<kWarpRows>(mix, at, s, token, count, offset);
    }
    token += count;
    offset += count;
    if (offset == mix.cell) {
      fold(mix, at, s, token - mix.cell);
      folded = true;
      offset = 0;
    }
    __syncthreads();
  }
  if (!folded || column >= mix.d) return;
  for (int c = warp_of(); c < mix.d; c += kWarps) state[c * mix.d] = s.state[c][lane_of()];
}

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

/// Elements [i, i + 4) times the norm's weight and the gate's sigmoid.
__device__ inline float4 finish_four(const Finish& finish, int64_t t, int64_t i, int64_t n,
                                     float inverse, float4 v) {
  if (finish.norm != nullptr) {
    const float4 w = load_four(finish.norm, i, n, finish.aligned);
    v = {v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w};
  }
  if (finish.gate != nullptr) {
    const float4 x = load_four(finish.gate + t * finish.gate_stride, i, n, finish.aligned);
    v = {v.x / (1 + expf(-x.x)), v.y / (1 + expf(-x.y)), v.z / (1 + expf(-x.z)),
         v.w / (1 + expf(-x.w))};
  }
  return v;
}

/// A block is one token: norm and gate over its heads, and its keys and values into memory where
/// its cell stays open.
__global__ void __launch_bounds__(kThreads) finish_token(Mix mix, Finish finish) {
  const int64_t t = blockIdx.x;
  const int32_t b = mix.step.sequence_of(t);
  const int32_t position = mix.step.positions[t];
  const int32_t end = position + mix.step.starts[b + 1] - static_cast<int32_t>(t);
  if (position / mix.cell == end / mix.cell) {
    const int64_t slot = mix.step.slots[b];
    const int i = position % mix.cell;
    for (int x = static_cast<int>(threadIdx.x); x < mix.kv_heads * mix.d; x += kThreads) {
      const int64_t g = x / mix.d, c = x % mix.d;
      mix.keys[slot * mix.keys_stride + int64_t{x} * mix.cell + i] = mix.k[t * mix.k_stride + x];
      mix.values[slot * mix.values_stride + (g * mix.cell + i) * mix.d + c] =
          mix.v[t * mix.v_stride + x];
    }
  }
  if (finish.norm == nullptr && finish.gate == nullptr) return;
  float* o = mix.o + t * mix.o_stride;
  const int64_t n = int64_t{mix.heads} * mix.d;
  float inverse = 1;
  if (finish.norm != nullptr) {
    float sum = 0;
    for (int64_t i = 4 * static_cast<int64_t>(threadIdx.x); i < n; i += int64_t{4} * kThreads)
      sum = add_squares(load_four(o, i, n, finish.aligned), sum);
    inverse = inverse_rms(block_sum(sum, shared<FinishShared>().partial), n, finish.eps);
  }
  for (int64_t i = 4 * static_cast<int64_t>(threadIdx.x); i < n; i += int64_t{4} * kThreads)
    store_four(o, i, n, finish.aligned,
               finish_four(finish, t, i, n, inverse, load_four(o, i, n, finish.aligned)));
}

}  // namespace

void lightning(Device& device, const Sequences& sequences, In q, In k, In v,
               const LightningMemory& memory, const LightningForm& form, In gate, Out o) {
  const Mix mix{.step = step_tokens(sequences),
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
                .cell = memory.cell};
  SALA_CHECK(mix.d <= kMostHead && mix.cell <= kMostCell,
             "lightning on a GPU has heads of up to {} and cells of up to {}, not {} and {}",
             kMostHead, kMostCell, mix.d, mix.cell);
  const int64_t slices = (mix.d + kColumns - 1) / kColumns;
  launch(device, {.x = mix.heads * slices, .y = sequences.count()}, kThreads, sizeof(Shared),
         mix_cells, mix);
  const Finish finish{.norm = form.norm.empty() ? nullptr : form.norm.as<float>(),
                      .gate = gate.empty() ? nullptr : gate.as<float>(),
                      .gate_stride = gate.stride[0],
                      .eps = form.eps,
                      .aligned = rows_aligned(o) && rows_aligned(gate) && rows_aligned(form.norm)};
  launch(device, {.x = sequences.tokens()}, kThreads, sizeof(FinishShared), finish_token, mix,
         finish);
}

}  // namespace sala::cuda
