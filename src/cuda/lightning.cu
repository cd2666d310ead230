#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/mma.h"
#include "cuda/rows_device.h"
#include "cuda/sequences_device.h"

// Lightning attention. Where a step has few tokens of a sequence, a block for each sequence, head
// and slice of value columns walks them in order, its slice of the state in shared memory. Of
// longer runs a first kernel folds the cells, one after the other, and puts down the state that
// each begins with; a second one then has a block for each cell and head. At last a block a token
// does norm and gate, and puts the keys and values of open cells into memory, which the other
// blocks may have had to read until then.
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
constexpr int kTile = 32;               // keys, and queries of a block for a cell
constexpr int kFew = kWarps / 2;        // queries of a block for few tokens
constexpr int kRows = kTile / kWarps;   // queries of a warp of a block for a cell
constexpr int kChannels = 32;           // of the state, in one stage of a block for a cell
constexpr int kStages = 3;              // tiles in flight while cells are folded
constexpr int64_t kMostCells = 32;      // whose states are put down at once: for 32 heads of 128
                                        // 64 MB, which second-level caches hold or nearly so
/// Blocks for few tokens that a multiprocessor shall hold: the shared memory of sm_120 has room for
/// two, and on sm_100 the registers of more would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kFewBlocks = 2;
#else
constexpr int kFewBlocks = 4;
#endif
constexpr int kMostHead = 128;
constexpr int kMostCell = 256;
constexpr int kRow = kMostHead + 4;  // so that fours of eight rows lie in different banks

/// Rows of up to kMostHead channels.
using Row = float[kRow];

struct KeyTile {
  alignas(16) Row keys[kTile];
  alignas(16) float values[kTile][kColumns];
};

/// Of a block for few tokens: a slice of the state and a tile of tokens.
struct FewShared {
  alignas(16) float state[kMostHead][kColumns];
  alignas(16) Row q[kFew];
  KeyTile tile;
  float weights[kFew][kTile];
  float powers[kMostCell + 1];
};

/// Of a block for a cell: two stages of the state, a tile of keys, of values later.
struct CellShared {
  alignas(16) float state[2][kChannels][kMostHead];
  alignas(16) Row q[kTile];
  alignas(16) Row tile[kTile];
  alignas(16) float weights[kTile][kTile];
  float powers[kMostCell + kTile];  // up to cell; rows behind the last look further
};

struct FoldShared {
  KeyTile tiles[kStages];
  float powers[kMostCell + 1];
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
  bool aligned;  ///< rows and slots, but of keys, begin at multiples of 16 bytes
  /// What the cells from first_cell on begin with, see CellRange: [cells][heads][d][d], both a
  /// multiple of four.
  float* cells;
  int64_t first_cell, end_cell;
};

/// What a block works on.
struct Place {
  __device__ Place(const Mix& mix, int32_t b, int slices)
      : begin(mix.step.starts[b]), end(mix.step.starts[b + 1]) {
    h = static_cast<int>(blockIdx.x) / slices;
    g = h / (mix.heads / mix.kv_heads);
    slice = static_cast<int>(blockIdx.x) % slices;
    slot = mix.step.slots[b];
    offset = begin < end ? mix.step.positions[begin] % mix.cell : 0;
  }
  int h, g, slice;
  int64_t slot;
  int32_t begin, end;  ///< the sequence's tokens of the step
  int offset;          ///< of the first in its cell
};

__device__ inline int warp_of() { return static_cast<int>(threadIdx.x) / kWarpThreads; }
__device__ inline int lane_of() { return static_cast<int>(threadIdx.x) % kWarpThreads; }
__device__ inline int whole_fours(int d) { return (d + 3) / 4 * 4; }
__device__ inline int slices_of(int d) { return (d + kColumns - 1) / kColumns; }
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

/// Outputs of tokens [token, token + count) of the step, which lie in one cell from `offset` on.
/// The first ones of a block come while its state does, and make the powers meanwhile. Four warps
/// take a token each and multiply the state, while the other four multiply the keys. At the end the
/// last tile of keys and values is still there.
__device__ inline void mix_tokens(const Mix& mix, const Place& at, FewShared& s, int64_t token,
                                  int count, int offset) {
  copy_rows(s.q, count, mix.d, mix.aligned,
            [&](int r) { return mix.q + (token + r) * mix.q_stride + at.h * mix.d; });
  const int row = warp_of() % kFew;
  const bool sums_here = row < count && warp_of() < kFew;
  const bool weights_here = row < count && warp_of() >= kFew;
  float sum = 0;
  for (int first = 0; first < offset + count; first += kTile) {
    if (first > 0) __syncthreads();  // the tile is read
    Keys(at, token - offset, first, least(offset + count - first, kTile)).copy(mix, at, s.tile);
    commit_copies();
    if (first == 0 && token == at.begin) make_powers(mix, at.h, mix.cell, s.powers);
    wait_copies<0>();
    __syncthreads();  // tiles are there
    if (first == 0 && sums_here) {
#pragma unroll 2
      for (int c = 0; c < whole_fours(mix.d); c += 4) {
        const float4 x = *reinterpret_cast<const float4*>(&s.q[row][c]);
        const float s0 = s.state[c][lane_of()], s1 = s.state[c + 1][lane_of()];
        const float s2 = s.state[c + 2][lane_of()], s3 = s.state[c + 3][lane_of()];
        sum = fmaf(x.w, s3, fmaf(x.z, s2, fmaf(x.y, s1, fmaf(x.x, s0, sum))));
      }
      sum *= s.powers[offset + row + 1];
    }
    const int ahead = offset + row - first;
    if (weights_here) weigh<1>(s.q + row, s.tile.keys, s.powers, mix.d, ahead, s.weights + row);
    __syncthreads();  // weights are there
    if (sums_here) {
      const int seen = ahead + 1 < kTile ? ahead + 1 : kTile;
#pragma unroll 4
      for (int j = 0; j < seen; ++j)
        sum = fmaf(s.weights[row][j], s.tile.values[j][lane_of()], sum);
    }
  }
  const int column = at.slice * kColumns + lane_of();
  if (sums_here && column < mix.d)
    mix.o[(token + row) * mix.o_stride + at.h * mix.d + column] = sum * mix.scale;
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

/// Folds a full cell into the state in shared memory. Its last tile is there.
__device__ inline void fold(const Mix& mix, const Place& at, FewShared& s, int64_t cell_begin) {
#pragma unroll 1
  for (int first = 0; first < mix.cell; first += kTile) {
    const int count = least(mix.cell - first, kTile);
    if (mix.cell > kTile) {
      __syncthreads();  // the tile before is read
      Keys(at, cell_begin, first, count).copy(mix, at, s.tile);
      commit_copies();
      wait_copies<0>();
      __syncthreads();  // the tile is there
    }
    Folded state;
    state.for_each(mix.d, [&](int c, float4& x) {
      x = {s.state[c][lane_of()], s.state[c + 1][lane_of()], s.state[c + 2][lane_of()],
           s.state[c + 3][lane_of()]};
    });
    if (first == 0) state.decay(s.powers[mix.cell]);
#pragma unroll 1
    for (int j = 0; j < count; ++j) state.add(s.tile, j, s.powers[mix.cell - 1 - first - j], mix.d);
    state.for_each(mix.d, [&](int c, const float4& x) {
      s.state[c][lane_of()] = x.x;
      s.state[c + 1][lane_of()] = x.y;
      s.state[c + 2][lane_of()] = x.z;
      s.state[c + 3][lane_of()] = x.w;
    });
  }
}

/// The place of the state of channel 0 and the slice's first column.
__device__ inline float* state_of(const Mix& mix, const Place& at) {
  return mix.state + at.slot * mix.state_stride + static_cast<int64_t>(at.h) * mix.d * mix.d;
}

/// A block is sequence blockIdx.y and one head's slice of 32 value columns; lanes are columns, but
/// of scores keys. All that the first tokens need is copied at once. Shared memory holds the slice
/// of the state throughout.
__global__ void __launch_bounds__(kThreads, kFewBlocks) mix_few(Mix mix) {
  auto& s = shared<FewShared>();
  const Place at(mix, static_cast<int32_t>(blockIdx.y), slices_of(mix.d));
  if (at.begin == at.end) return;  // the whole block
  float* state = state_of(mix, at);
  copy_columns(s.state, mix.d, at.slice, mix.d, mix.aligned,
               [&](int c) { return state + c * mix.d; });
  for (int c = mix.d + warp_of(); c < whole_fours(mix.d); c += kWarps) s.state[c][lane_of()] = 0;

  bool folded = false;
  int offset = at.offset;
  for (int64_t token = at.begin; token < at.end;) {
    const int count = least(at.end - token, least(mix.cell - offset, kFew));
    mix_tokens(mix, at, s, token, count, offset);
    token += count;
    offset += count;
    if (offset == mix.cell) {
      fold(mix, at, s, token - mix.cell);
      folded = true;
      offset = 0;
    }
    __syncthreads();  // all is read
  }
  const int column = at.slice * kColumns + lane_of();
  if (!folded || column >= mix.d) return;
  for (int c = warp_of(); c < mix.d; c += kWarps) state[c * mix.d + column] = s.state[c][lane_of()];
}

/// The cells that sequence b has tokens of in the step, numbered over all sequences: from `first`
/// on, with gaps between sequences.
struct CellRange {
  __device__ static int64_t first_of(const Mix& mix, int32_t b) {
    return mix.step.starts[b] / mix.cell + 2 * int64_t{b};
  }
  __device__ CellRange(const Mix& mix, const Place& at, int32_t b)
      : first(first_of(mix, b)), begin(at.begin - at.offset), cell(mix.cell) {}
  /// Token 0 of cell n, which may be before the step.
  __device__ int64_t token(int64_t n) const { return begin + (n - first) * cell; }

  int64_t first, begin;
  int cell;
};

/// Where the state is put down that cell n begins with for head h.
__device__ inline float* cell_state(const Mix& mix, int64_t n, int h) {
  return mix.cells +
         ((n - mix.first_cell) * mix.heads + h) * whole_fours(mix.d) * whole_fours(mix.d);
}

/// A block is sequence blockIdx.y and one head's slice of 32 value columns: folds the sequence's
/// full cells among those of [first_cell, end_cell) and puts down what each begins with, those that
/// stay open too. The next tiles are copied meanwhile.
__global__ void __launch_bounds__(kThreads, 1) fold_cells(Mix mix) {
  auto& s = shared<FoldShared>();
  const auto b = static_cast<int32_t>(blockIdx.y);
  const Place at(mix, b, slices_of(mix.d));
  if (at.begin == at.end) return;  // the whole block
  const CellRange range(mix, at, b);
  const int64_t first = range.first < mix.first_cell ? mix.first_cell : range.first;
  const int64_t touched = range.first + (at.end - range.begin + mix.cell - 1) / mix.cell;
  const int64_t full = range.first + (at.end - range.begin) / mix.cell;
  const int64_t end = touched < mix.end_cell ? touched : mix.end_cell;
  const int64_t folded = full < end ? full : end;
  if (first >= end) return;  // the whole block
  const int tiles = (mix.cell + kTile - 1) / kTile;
  const int64_t count = first < folded ? (folded - first) * tiles : 0;
  int64_t next_cell = first;
  int next_tile = 0;
  const auto copy_next = [&](int stage) {
    if (next_cell < folded) {
      const int from = next_tile * kTile;
      Keys(at, range.token(next_cell), from, least(mix.cell - from, kTile))
          .copy(mix, at, s.tiles[stage]);
      if (++next_tile == tiles) {
        next_tile = 0;
        ++next_cell;
      }
    }
    commit_copies();
  };
  for (int stage = 0; stage < kStages - 1; ++stage) copy_next(stage);

  float* memory = state_of(mix, at);
  const int column = at.slice * kColumns + lane_of();
  Folded state;
  state.for_each(mix.d, [&](int c, float4& x) {
    if (column >= mix.d) return;
    float* from = memory + c * mix.d + column;
    x.x = from[0];
    if (c + 1 < mix.d) x.y = from[mix.d];
    if (c + 2 < mix.d) x.z = from[2 * mix.d];
    if (c + 3 < mix.d) x.w = from[3 * mix.d];
  });
  const auto put_down = [&](int64_t cell) {
    const int pitch = whole_fours(mix.d);
    if (column >= pitch) return;
    float* to = cell_state(mix, cell, at.h) + column;
    state.for_each(mix.d, [&](int c, const float4& x) {
      to[c * pitch] = x.x;
      to[(c + 1) * pitch] = x.y;
      to[(c + 2) * pitch] = x.z;
      to[(c + 3) * pitch] = x.w;
    });
  };
  make_powers(mix, at.h, mix.cell, s.powers);
  int stage = 0, tile = 0;
  int64_t cell = first;
  for (int64_t i = 0; i < count; ++i) {
    wait_copies<kStages - 2>();
    __syncthreads();  // this tile is there, the one before is read
    copy_next(stage == 0 ? kStages - 1 : stage - 1);
    if (tile == 0) {
      put_down(cell);
      state.decay(s.powers[mix.cell]);
    }
    const int from = tile * kTile;
    const int tokens = least(mix.cell - from, kTile);
#pragma unroll 2
    for (int j = 0; j < tokens; ++j)
      state.add(s.tiles[stage], j, s.powers[mix.cell - 1 - from - j], mix.d);
    stage = stage == kStages - 1 ? 0 : stage + 1;
    if (++tile == tiles) {
      tile = 0;
      ++cell;
    }
  }
  if (cell < end) put_down(cell);
  if (count == 0 || column >= mix.d) return;
  state.for_each(mix.d, [&](int c, const float4& x) {
    float* to = memory + c * mix.d + column;
    to[0] = x.x;
    if (c + 1 < mix.d) to[mix.d] = x.y;
    if (c + 2 < mix.d) to[2 * mix.d] = x.z;
    if (c + 3 < mix.d) to[3 * mix.d] = x.w;
  });
}

__device__ inline float channel(const float4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}
__device__ inline void add_product(float4& sum, float x, const float4& y) {
  sum = {fmaf(x, y.x, sum.x), fmaf(x, y.y, sum.y), fmaf(x, y.z, sum.z), fmaf(x, y.w, sum.w)};
}

/// sums[r] += the chain over channels c of q[r][first + c] state[c][4 lane .. 4 lane + 3].
__device__ inline void multiply_state(const Row* q, int first, const float (*state)[kMostHead],
                                      int channels, float4 (&sums)[kRows]) {
#pragma unroll 2
  for (int c = 0; c < channels; c += 4) {
    float4 x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r] = *reinterpret_cast<const float4*>(&q[r][first + c]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 y = *reinterpret_cast<const float4*>(&state[c + i][4 * lane_of()]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) add_product(sums[r], channel(x[r], i), y);
    }
  }
}

/// sums[r] += the chain over j of weights[r][j] values[j][4 lane ..], for as many j as row r sees:
/// `ahead` + r + 1.
__device__ inline void add_values(const float (*weights)[kTile], const Row* values, int ahead,
                                  float4 (&sums)[kRows]) {
  const int last = ahead + kRows < kTile ? ahead + kRows : kTile;
  for (int first = 0; first < last; first += 4) {
    float4 x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r] = *reinterpret_cast<const float4*>(&weights[r][first]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 y = *reinterpret_cast<const float4*>(&values[first + i][4 * lane_of()]);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (first + i <= ahead + r) add_product(sums[r], channel(x[r], i), y);
    }
  }
}

/// A block is tile blockIdx.z of the tokens of cell first_cell + blockIdx.y that are of the step,
/// and head blockIdx.x. A warp has four tokens, a lane four columns; of scores a key. The state
/// comes by 32 channels, the next ones while these are multiplied.
__global__ void __launch_bounds__(kThreads, 2) mix_cells(Mix mix) {
  auto& s = shared<CellShared>();
  const int64_t cell = mix.first_cell + blockIdx.y;
  int32_t b = 0;  // the last sequence whose cells begin at or before this one
  for (int32_t high = mix.step.sequences; high - b > 1;) {
    const int32_t middle = (b + high) / 2;
    (CellRange::first_of(mix, middle) <= cell ? b : high) = middle;
  }
  const Place at(mix, b, 1);
  if (at.begin == at.end) return;  // the whole block
  const int64_t cell_begin = CellRange(mix, at, b).token(cell);
  const int64_t token =
      (cell_begin < at.begin ? at.begin : cell_begin) + int64_t{kTile} * blockIdx.z;
  const int64_t end = cell_begin + mix.cell < at.end ? cell_begin + mix.cell : at.end;
  if (token >= end) return;  // the whole block
  const int count = least(end - token, kTile);
  const auto offset = static_cast<int>(token - cell_begin);
  const int row = kRows * warp_of();
  const bool active = row < count;

  const int width = whole_fours(mix.d);
  const float* state = cell_state(mix, cell, at.h);
  const auto copy_state = [&](int first) {
    if (const int c = 4 * lane_of(); c < width)
      for (int i = warp_of(); i < least(width - first, kChannels); i += kWarps)
        copy_async(&s.state[first / kChannels % 2][i][c], state + (first + i) * width + c, true);
    commit_copies();
  };
  Keys keys(at, cell_begin, 0, least(offset + count, kTile));
  const auto copy_values = [&] {
    copy_rows(s.tile, keys.count, mix.d, mix.aligned,
              [&](int j) { return keys.value(mix, at, j); });
    commit_copies();
  };
  copy_rows(s.q, count, mix.d, mix.aligned,
            [&](int r) { return mix.q + (token + r) * mix.q_stride + at.h * mix.d; });
  keys.copy_keys(mix, at, s.tile);
  commit_copies();
  copy_state(0);
  make_powers(mix, at.h, mix.cell, s.powers);
  wait_copies<1>();
  __syncthreads();  // queries and keys are there
  if (active) weigh<kRows>(s.q + row, s.tile, s.powers, mix.d, offset + row, s.weights + row);
  __syncthreads();  // keys are read
  copy_values();

  float4 sums[kRows] = {};
  for (int first = 0; first < width; first += kChannels) {
    if (first + kChannels < width) copy_state(first + kChannels);
    if (first + kChannels >= width)
      wait_copies<0>();
    else if (first == 0)
      wait_copies<2>();
    else
      wait_copies<1>();
    __syncthreads();  // this stage is there
    if (active)
      multiply_state(s.q + row, first, s.state[first / kChannels % 2],
                     least(width - first, kChannels), sums);
    __syncthreads();  // this stage is read
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
    if (row + r < count) {
      const float power = s.powers[offset + row + r + 1];
      sums[r] = {sums[r].x * power, sums[r].y * power, sums[r].z * power, sums[r].w * power};
    }
  // Values of the first tile came with the state.
  for (int first = 0;;) {
    if (active) add_values(s.weights + row, s.tile, offset + row - first, sums);
    first += kTile;
    if (first >= offset + count) break;
    __syncthreads();  // values are read
    keys = Keys(at, cell_begin, first, least(offset + count - first, kTile));
    keys.copy_keys(mix, at, s.tile);
    commit_copies();
    wait_copies<0>();
    __syncthreads();  // the next keys are there
    if (active)
      weigh<kRows>(s.q + row, s.tile, s.powers, mix.d, offset + row - first, s.weights + row);
    __syncthreads();  // they are read
    copy_values();
    wait_copies<0>();
    __syncthreads();  // the next values are there
  }
  if (const int c = 4 * lane_of(); active && c < mix.d)
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      if (row + r < count)
        store_four(mix.o + (token + row + r) * mix.o_stride + at.h * mix.d, c, mix.d, mix.aligned,
                   {sums[r].x * mix.scale, sums[r].y * mix.scale, sums[r].z * mix.scale,
                    sums[r].w * mix.scale});
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
  for (int first = static_cast<int>(threadIdx.x); first < n; first += kAtOnce * kThreads) {
    float k[kAtOnce] = {}, v[kAtOnce] = {};
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (const int x = first + j * kThreads; x < n) {
        k[j] = mix.k[t * mix.k_stride + x];
        v[j] = mix.v[t * mix.v_stride + x];
      }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (const int x = first + j * kThreads; x < n) {
        keys[int64_t{x} * mix.cell] = k[j];
        values[(x / mix.d * mix.cell + i) * mix.d + x % mix.d] = v[j];
      }
  }
}

/// A block is one token: norm and gate over its heads, and its keys and values into memory where
/// its cell stays open. A row of up to 4096 outputs and what they are multiplied by wait in
/// registers.
__global__ void __launch_bounds__(kThreads) finish_token(Mix mix, Finish finish) {
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

void lightning(Device& device, const Sequences& sequences, In q, In k, In v,
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
          .aligned = memory.state.dim[3] % 4 == 0 && rows_aligned(q) && rows_aligned(k) &&
                     rows_aligned(v) && rows_aligned(o) && rows_aligned(memory.state) &&
                     rows_aligned(memory.values),
          .cells = nullptr,
          .first_cell = 0,
          .end_cell = 0};
  SALA_CHECK(mix.d <= kMostHead && mix.cell <= kMostCell,
             "lightning on a GPU has heads of up to {} and cells of up to {}, not {} and {}",
             kMostHead, kMostCell, mix.d, mix.cell);
  const int64_t slices = (mix.d + kColumns - 1) / kColumns;
  if (sequences.tokens() <= kFew * sequences.count()) {
    launch(device, {.x = mix.heads * slices, .y = sequences.count()}, kThreads, sizeof(FewShared),
           mix_few, mix);
  } else {
    const int64_t cells = sequences.tokens() / mix.cell + 2 * sequences.count();
    const int64_t width = (mix.d + 3) / 4 * 4;
    const int64_t size = mix.heads * width * width * int64_t{sizeof(float)};
    mix.cells =
        reinterpret_cast<float*>(self(device).scratch(0, std::min(cells, kMostCells) * size));
    for (; mix.first_cell < cells; mix.first_cell = mix.end_cell) {
      mix.end_cell = std::min(cells, mix.first_cell + kMostCells);
      launch(device, {.x = mix.heads * slices, .y = sequences.count()}, kThreads,
             sizeof(FoldShared), fold_cells, mix);
      launch(
          device,
          {.x = mix.heads, .y = mix.end_cell - mix.first_cell, .z = (mix.cell + kTile - 1) / kTile},
          kThreads, sizeof(CellShared), mix_cells, mix);
    }
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
