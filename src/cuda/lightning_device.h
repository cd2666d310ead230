#pragma once

#include "cuda/mma.h"
#include "cuda/rope_device.h"
#include "cuda/sequences_device.h"

/// What the kernels of Lightning attention share.
///
/// Every output is one chain of fused multiply-adds, whatever the step, in the order of the CPU's:
///   s = chain over c of q[c] S[c][v];          s *= lambda^(i+1)
///   p_j = (chain over c of q[c] k_j[c]) * lambda^(i-j);   s = chain over j <= i of p_j v_j[v],
///   begun at s;   o = s * scale
/// and of a full cell, S[c][v] = chain over j of k_j[c] (lambda^(cell-1-j) v_j[v]), begun at
/// lambda^cell S[c][v].
namespace sala::cuda::lightning_kernels {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / kWarpThreads;
inline constexpr int kColumns = kWarpThreads;  // of a slice: a lane each
inline constexpr int kTile = 32;               // keys, and queries of a block for a cell
inline constexpr int kFew = kWarps / 2;        // queries of a block for few tokens
inline constexpr int kMostHead = 128;
inline constexpr int kMostCell = 256;
inline constexpr int kRow = kMostHead + 4;  // so that fours of eight rows lie in different banks

/// Rows of up to kMostHead channels.
using Row = float[kRow];

struct KeyTile {
  alignas(16) Row keys[kTile];
  alignas(16) float values[kTile][kColumns];
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
  int group;     ///< heads of a kv head
  bool aligned;  ///< rows and slots, but of keys, begin at multiples of 16 bytes
  /// For few tokens: what is done to q and k first, and where the keys then lie: [tokens][kv_heads
  /// * d].
  HeadTurn q_turn, k_turn;
  float* turned;
  /// What the cells from first_cell on begin with, see CellRange: [cells][heads][d][d], both a
  /// multiple of four.
  float* cells;
  int64_t first_cell, end_cell;
};

/// What a block works on.
struct Place {
  __device__ Place(const Mix& mix, int32_t b, int head, int value_slice)
      : h(head),
        g(head / mix.group),
        slice(value_slice),
        slot(mix.step.slots[b]),
        begin(mix.step.starts[b]),
        end(mix.step.starts[b + 1]),
        offset(begin < end ? mix.step.positions[begin] % mix.cell : 0) {}
  int h, g, slice;
  int64_t slot;
  int32_t begin, end;  ///< the sequence's tokens of the step
  int offset;          ///< of the first in its cell
};

__device__ inline int warp_of() { return static_cast<int>(threadIdx.x) / kWarpThreads; }
__device__ inline int lane_of() { return static_cast<int>(threadIdx.x) % kWarpThreads; }
SALA_HD inline int whole_fours(int d) { return (d + 3) / 4 * 4; }
SALA_HD inline int slices_of(int d) { return (d + kColumns - 1) / kColumns; }
__device__ inline int least(int64_t a, int b) { return a < b ? static_cast<int>(a) : b; }

/// lambda^n for n up to `count`.
__device__ inline void make_powers(const Mix& mix, int h, int count, float* powers) {
  for (int n = static_cast<int>(threadIdx.x); n <= count; n += kThreads)
    powers[n] = static_cast<float>(exp(-static_cast<double>(mix.slopes[h]) * n));
}

/// Copies rows [0, count) of `d` channels, row(r) each, zeros up to a multiple of four.
template <class From>
__device__ inline void copy_rows(Row* to, int count, int d, bool aligned, const From& row) {
#pragma unroll 1
  for (int r = warp_of(); r < count; r += kWarps) {
    const float* from = row(r);
    if (aligned) {
      if (const int c = 4 * lane_of(); c < d) copy_async(&to[r][c], from + c, true);
      continue;
    }
#pragma unroll 1
    for (int c = lane_of(); c < whole_fours(d); c += kWarpThreads)
      copy_async_word(&to[r][c], c < d ? from + c : from, c < d);
  }
}

/// Copies the slice's columns of rows [0, count), row(r) each, zeros behind column d.
template <class From>
__device__ inline void copy_columns(float (*to)[kColumns], int count, int slice, int d,
                                    bool aligned, const From& row) {
  if (aligned) {
    constexpr int kPieces = kColumns / 4;
    const int piece = 4 * (static_cast<int>(threadIdx.x) % kPieces);
    const int column = slice * kColumns + piece;
#pragma unroll 1
    for (int r = static_cast<int>(threadIdx.x) / kPieces; r < count; r += kThreads / kPieces)
      copy_async(&to[r][piece], column < d ? row(r) + column : row(r), column < d);
    return;
  }
  const int column = slice * kColumns + lane_of();
#pragma unroll 1
  for (int r = warp_of(); r < count; r += kWarps)
    copy_async_word(&to[r][lane_of()], column < d ? row(r) + column : row(r), column < d);
}

/// Tokens [first, first + count) of the cell whose token 0 would be token `cell_begin` of the step:
/// those before the step are in memory, the others in k and v.
struct Keys {
  __device__ Keys(const Place& at, int64_t cell_begin, int from, int tokens)
      : first(from), count(tokens), token(cell_begin + from) {
    const int64_t before = at.begin - token;
    old = before < 0 ? 0 : least(before, count);
  }
  __device__ void copy_keys(const Mix& mix, const Place& at, Row* to) const {
    const float* keys = mix.keys + at.slot * mix.keys_stride +
                        static_cast<int64_t>(at.g) * mix.d * mix.cell + first;
    if (const int j = lane_of(); j < old)
      for (int c = warp_of(); c < whole_fours(mix.d); c += kWarps)
        copy_async_word(&to[j][c], c < mix.d ? keys + c * mix.cell + j : keys, c < mix.d);
    const float* k = mix.k + (token + old) * mix.k_stride + at.g * mix.d;
    copy_rows(to + old, count - old, mix.d, mix.aligned,
              [&](int r) { return k + r * mix.k_stride; });
  }
  /// The row of values of token j of them.
  __device__ const float* value(const Mix& mix, const Place& at, int j) const {
    return j < old ? mix.values + at.slot * mix.values_stride +
                         (static_cast<int64_t>(at.g) * mix.cell + first + j) * mix.d
                   : mix.v + (token + j) * mix.v_stride + at.g * mix.d;
  }
  /// Copies keys and a slice of values.
  __device__ void copy(const Mix& mix, const Place& at, KeyTile& tile) const {
    copy_keys(mix, at, tile.keys);
    copy_columns(tile.values, count, at.slice, mix.d, mix.aligned,
                 [&](int j) { return value(mix, at, j); });
  }

  int first, count;
  int64_t token;  ///< of the step
  int old;        ///< of them are in memory
};

/// sums[r] = the chain over channels c of q[r][c] key[c].
template <int kCount>
__device__ inline void multiply_key(const Row* q, const Row& key, int d, float (&sums)[kCount]) {
#pragma unroll 2
  for (int c = 0; c < whole_fours(d); c += 4) {
    const float4 k = *reinterpret_cast<const float4*>(&key[c]);
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const float4 x = *reinterpret_cast<const float4*>(&q[r][c]);
      sums[r] = fmaf(x.w, k.w, fmaf(x.z, k.z, fmaf(x.y, k.y, fmaf(x.x, k.x, sums[r]))));
    }
  }
}

/// weights[r][lane] = lambda^(i - j) times the product of row r of q with key j of the tile, the
/// lane, where token j of the cell is not after token i; `ahead` is i - j of row 0 and lane 0.
template <int kCount>
__device__ inline void weigh(const Row* q, const Row* keys, const float* powers, int d, int ahead,
                             float (*weights)[kTile]) {
  float sums[kCount] = {};
  multiply_key(q, keys[lane_of()], d, sums);
#pragma unroll
  for (int r = 0; r < kCount; ++r)
    if (const int n = ahead + r - lane_of(); n >= 0) weights[r][lane_of()] = sums[r] * powers[n];
}

/// The part of a slice of the state that a thread folds: fours of channels of its column, in steps
/// of as many as there are warps.
struct Folded {
  static constexpr int kFours = kMostHead / 4 / kWarps;
  float4 sums[kFours] = {};

  /// Calls use(c, sum) with the first channel of each four.
  template <class F>
  __device__ void for_each(int d, const F& use) {
#pragma unroll
    for (int n = 0; n < kFours; ++n)
      if (const int c = 4 * (warp_of() + n * kWarps); c < d) use(c, sums[n]);
  }
  __device__ void decay(float power) {
#pragma unroll
    for (float4& x : sums) x = {power * x.x, power * x.y, power * x.z, power * x.w};
  }
  /// Adds token j of a tile, whose value has decayed by `power`.
  __device__ void add(const KeyTile& tile, int j, float power, int d) {
    const float value = power * tile.values[j][lane_of()];
    for_each(d, [&](int c, float4& x) {
      const float4 k = *reinterpret_cast<const float4*>(&tile.keys[j][c]);
      x = {fmaf(k.x, value, x.x), fmaf(k.y, value, x.y), fmaf(k.z, value, x.z),
           fmaf(k.w, value, x.w)};
    });
  }
};

/// The place of the state of channel 0 and the slice's first column.
__device__ inline float* state_of(const Mix& mix, const Place& at) {
  return mix.state + at.slot * mix.state_stride + static_cast<int64_t>(at.h) * mix.d * mix.d;
}

/// The launches for at most kFew tokens a sequence on average, and for longer runs.
void mix_few_tokens(Device& device, int64_t sequences, const Mix& mix);
void mix_runs(Device& device, int64_t sequences, int64_t tokens, Mix mix);

}  // namespace sala::cuda::lightning_kernels
