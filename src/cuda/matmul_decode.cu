#include "cuda/matmul_kernels.h"
#include "cuda/weights_device.h"

// matmul for few rows of activations: bound by the reading of the weights, which go from global
// memory straight into the registers that tensor cores multiply from, 16 bytes a lane, whole lines
// of 128 bytes a load.

namespace sala::cuda {
namespace {

/// Warps of a block that makes kTiles tiles of 8 rows: one a segment, or half as many with twice
/// the registers.
template <int kTiles>
constexpr int kWarps = kSegments / kTiles;
template <int kTiles>
constexpr int kThreads = kWarps<kTiles> * kWarpThreads;
constexpr int kPitch = kPanel + 4;  // the stores of a warp fall into different banks

template <int kParts, int kTiles>
struct Shared {
  float sums[kSegments][kParts][8 * kTiles][kPitch];
};

/// Where a thread of a decode kernel is: a block makes 32 outputs (of both parts of a pair) of
/// 8 * kTiles rows of activations, a warp its segments of the columns of each part, lane 4 g + t as
/// in weights_device.h.
struct Place {
  __device__ Place(const Product& p, int rows, int parts) {
    lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    warp = static_cast<int>(threadIdx.x) / kWarpThreads;
    const int64_t tiles = (p.tokens + rows - 1) / rows;
    unit = blockIdx.x / tiles;
    first_row = blockIdx.x % tiles * rows;
    panel = p.panels + unit * parts * p.panel_bytes;
  }
  int lane, warp;
  int64_t unit, first_row;
  const std::byte* panel;
};

/// The columns of segment i.
struct Segment {
  __device__ Segment(const Product& p, int i)
      : begin(i * p.segment), end(begin + p.segment < p.cols ? begin + p.segment : p.cols) {}
  int64_t begin, end;
};

template <int kTiles>
using Sums = float[kTiles][kRowTiles][4];

/// Brings the sums of a segment of a part into shared memory.
template <int kParts, int kTiles>
__device__ void keep(const Place& at, int part, int segment, const Sums<kTiles>& sum) {
  auto& s = shared<Shared<kParts, kTiles>>();
  const int g = at.lane / 4, t = at.lane % 4;
  for (int tile = 0; tile < kTiles; ++tile)
    for (int i = 0; i < 2; ++i) {
      const auto& c = sum[tile];
      *reinterpret_cast<Floats4*>(&s.sums[segment][part][8 * tile + 2 * t + i][4 * g]) = {
          {c[0][i], c[0][2 + i], c[1][i], c[1][2 + i]}};
    }
}

/// Adds the segments in order and writes the outputs.
template <int kParts, int kTiles>
__device__ void finish(const Product& p, const Place& at) {
  auto& s = shared<Shared<kParts, kTiles>>();
  __syncthreads();
  const int n = at.lane;
  const int64_t out = at.unit * kPanel + n;
  for (int row = at.warp; row < 8 * kTiles; row += kWarps<kTiles>) {
    float total[kParts] = {};
    for (int segment = 0; segment < kSegments; ++segment)
      for (int part = 0; part < kParts; ++part) total[part] += s.sums[segment][part][row][n];
    if (at.first_row + row < p.tokens && out < p.rows)
      p.y[(at.first_row + row) * p.y_stride + out] =
          kParts == 2 ? swiglu(total[0], total[kParts - 1]) : total[0];
  }
}

/// The whole of a kernel: `sum_segment(p, at, panel, segment, sum)` adds a segment of a part.
template <int kParts, int kTiles, class SumSegment>
__device__ inline void decode(const Product& p, const SumSegment& sum_segment) {
  const Place at(p, 8 * kTiles, kParts);
#pragma unroll 1
  for (int turn = 0; turn < kParts * kTiles; ++turn) {
    const int part = turn / kTiles, i = at.warp + turn % kTiles * kWarps<kTiles>;
    Sums<kTiles> sum = {};
    sum_segment(p, at, at.panel + part * p.panel_bytes, Segment(p, i), sum);
    keep<kParts, kTiles>(at, part, i, sum);
  }
  finish<kParts, kTiles>(p, at);
}

/// Columns [k, k + 8) of a row of activations, which has a multiple of eight, rounded to bf16;
/// zeros past its end and where there is none.
__device__ inline Words4 eight_rounded(const float* row, int64_t k, int64_t cols) {
  if (row == nullptr || k >= cols) return {};
  const auto a = *reinterpret_cast<const Floats4*>(row + k);
  const auto b = *reinterpret_cast<const Floats4*>(row + k + 4);
  return {{pack_bf16(a.at[0], a.at[1]), pack_bf16(a.at[2], a.at[3]), pack_bf16(b.at[0], b.at[1]),
           pack_bf16(b.at[2], b.at[3])}};
}

/// bf16 weights times bf16 activations, or f32 ones rounded on their way: 4 KB of weights under way
/// a warp.
template <int kTiles, bool kRounds>
__device__ void sum_bf16(const Product& p, const Place& at, const std::byte* panel,
                         const Segment& segment, Sums<kTiles>& sum) {
  const int g = at.lane / 4, t = at.lane % 4;
  const int64_t pairs = (p.cols + 1) / 2;
  const std::byte* x = p.x + ((at.first_row + g) * p.x_stride + 8 * t) * (kRounds ? 4 : 2);
  static_assert(!kRounds || kTiles == 1);
  const float* row = at.first_row + g < p.tokens ? reinterpret_cast<const float*>(x) : nullptr;

  for (int64_t k = segment.begin; k < segment.end; k += kValueChunk) {
    Words4 w[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t pair = k / 2 + 16 * half + 4 * t + i;
        w[half][i] = pair < pairs ? load_once(panel + pair * 4 * kPanel + 16 * g) : Words4{};
      }
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const Words4 b =
            kRounds
                ? eight_rounded(row, k + 32 * half, p.cols - 8 * t)
                : *reinterpret_cast<const Words4*>(x + (8 * tile * p.x_stride + k + 32 * half) * 2);
#pragma unroll
        for (int step = 0; step < 2; ++step)
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) add_bf16(sum[tile][j], w[half], j, step, b);
      }
  }
}

template <int kParts, int kTiles, bool kRounds>
__global__ void __launch_bounds__(kThreads<kTiles>, 1) bf16_decode(Product p) {
  wait_for_earlier();
  decode<kParts, kTiles>(p, [](auto&&... all) { sum_bf16<kTiles, kRounds>(all...); });
}

/// Groups whose weights a lane holds in registers: as many as take about 48 of them, 2 to 4 KB a
/// warp.
template <WeightType kType>
__device__ constexpr int groups_at_once() {
  const int registers = Layout<kType>::kCodes / (4 * kWarpThreads) + (two_level(kType) ? 6 : 4);
  int groups = 1;
  while (2 * groups * registers <= 48) groups *= 2;
  return groups;
}

/// Codes of weights times codes of activations.
template <WeightType kType, int kTiles>
__device__ void sum_codes(const Product& p, const Place& at, const std::byte* panel,
                          const Segment& segment, Sums<kTiles>& chain) {
  using L = Layout<kType>;
  using S = Steps<kType>;
  const int g = at.lane / 4, t = at.lane % 4;
  constexpr int kAtOnce = groups_at_once<kType>();
  const std::byte* x = p.x + (at.first_row + g) * p.x_stride;
  const float* scales = p.scales + (at.first_row + 2 * t) * 2;
  const int last = static_cast<int>(segment.end / L::kColumns);

  for (int first = static_cast<int>(segment.begin / L::kColumns); first < last; first += kAtOnce) {
    Words4 raw[kAtOnce][S::kCount][S::kLoads] = {};
    RawScalings header[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= last) continue;
      const std::byte* group = panel + L::group_place(first + i);
      header[i] = raw_scalings<kType>(panel + L::super_place(first + i), group, 4 * g);
#pragma unroll
      for (int step = 0; step < S::kCount; ++step)
#pragma unroll
        for (int l = 0; l < S::kLoads; ++l)
          raw[i][step][l] =
              load_once(group + L::kHeader + S::row(step, l, t) * 4 * kPanel + 16 * g);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= last) continue;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const std::byte* codes = x + 8 * tile * p.x_stride + int64_t{first + i} * L::kColumns;
        const auto pair = *reinterpret_cast<const PairScales*>(
            scales + ((first + i) * p.padded_tokens + 8 * tile) * 2);
        int32_t sum[kRowTiles][4] = {};
#pragma unroll
        for (int step = 0; step < S::kCount; ++step) {
          const Words2 b = S::load_activations(codes + S::activations(step, t));
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) S::add(sum[j], raw[i][step], j, b);
        }
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j)
          add_group<kType>(chain[tile][j], sum[j], header[i], j, pair);
      }
    }
  }
}

template <WeightType kType, int kParts, int kTiles>
__global__ void __launch_bounds__(kThreads<kTiles>, 1) int8_decode(Product p) {
  wait_for_earlier();
  decode<kParts, kTiles>(p, [](auto&&... all) { sum_codes<kType, kTiles>(all...); });
}

template <int kParts, int kTiles>
void run(Device& device, const Product& p, void (*kernel)(Product)) {
  const int64_t tiles = (p.tokens + 8 * kTiles - 1) / (8 * kTiles);
  launch(device, {.x = p.panel_count / kParts * tiles}, kThreads<kTiles>,
         sizeof(Shared<kParts, kTiles>), kernel, p);
}

}  // namespace

void matmul_decode_bf16(Device& device, const Product& p) {
  if (p.rounds)
    p.paired ? run<2, 1>(device, p, bf16_decode<2, 1, true>)
             : run<1, 1>(device, p, bf16_decode<1, 1, true>);
  else if (p.tokens <= 8)
    p.paired ? run<2, 1>(device, p, bf16_decode<2, 1, false>)
             : run<1, 1>(device, p, bf16_decode<1, 1, false>);
  else
    p.paired ? run<2, 2>(device, p, bf16_decode<2, 2, false>)
             : run<1, 2>(device, p, bf16_decode<1, 2, false>);
}

void matmul_decode_int8(Device& device, WeightType type, const Product& p) {
  for_type(type, [&]<WeightType kType>() {
    if constexpr (quantised(kType)) {
      if (p.tokens <= 8)
        p.paired ? run<2, 1>(device, p, int8_decode<kType, 2, 1>)
                 : run<1, 1>(device, p, int8_decode<kType, 1, 1>);
      else
        p.paired ? run<2, 2>(device, p, int8_decode<kType, 2, 2>)
                 : run<1, 2>(device, p, int8_decode<kType, 1, 2>);
    }
  });
}

}  // namespace sala::cuda
