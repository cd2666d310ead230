#include <algorithm>

#include "cuda/lightning_device.h"
#include "cuda/rows_device.h"

// Lightning attention of long runs: what goes from cell to cell apart from what is parallel.

namespace sala::cuda::lightning_kernels {
namespace {

constexpr int kRows = kTile / kWarps;  // queries of a warp of a block for a cell
constexpr int kChannels = 32;          // of the state, in one stage of a block for a cell
constexpr int kStages = 3;             // tiles in flight while cells are folded
constexpr int64_t kMostCells = 32;     // whose states are put down at once: for 32 heads of 128
                                       // 64 MB, which second-level caches hold or nearly so

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

/// A block is sequence blockIdx.z and slice blockIdx.x of 32 value columns of head blockIdx.y:
/// folds the sequence's full cells among those of [first_cell, end_cell) and puts down what each
/// begins with, those that stay open too. The next tiles are copied meanwhile.
__global__ void __launch_bounds__(kThreads, 1) fold_cells(Mix mix) {
  wait_for_earlier();
  auto& s = shared<FoldShared>();
  const auto b = static_cast<int32_t>(blockIdx.z);
  const Place at(mix, b, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.x));
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
  wait_for_earlier();
  auto& s = shared<CellShared>();
  const int64_t cell = mix.first_cell + blockIdx.y;
  int32_t b = 0;  // the last sequence whose cells begin at or before this one
  for (int32_t high = mix.step.sequences; high - b > 1;) {
    const int32_t middle = (b + high) / 2;
    (CellRange::first_of(mix, middle) <= cell ? b : high) = middle;
  }
  const Place at(mix, b, static_cast<int>(blockIdx.x), 0);
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

}  // namespace

void mix_runs(Device& device, int64_t sequences, int64_t tokens, Mix mix) {
  const int64_t cells = tokens / mix.cell + 2 * sequences;
  const int64_t width = whole_fours(mix.d);
  const int64_t size = mix.heads * width * width * int64_t{sizeof(float)};
  mix.cells = reinterpret_cast<float*>(self(device).scratch(0, std::min(cells, kMostCells) * size));
  for (; mix.first_cell < cells; mix.first_cell = mix.end_cell) {
    mix.end_cell = std::min(cells, mix.first_cell + kMostCells);
    launch(device, {.x = slices_of(mix.d), .y = mix.heads, .z = sequences}, kThreads,
           sizeof(FoldShared), fold_cells, mix);
    launch(
        device,
        {.x = mix.heads, .y = mix.end_cell - mix.first_cell, .z = (mix.cell + kTile - 1) / kTile},
        kThreads, sizeof(CellShared), mix_cells, mix);
  }
}

}  // namespace sala::cuda::lightning_kernels
