#include "cuda/matmul_kernels.h"
#include "cuda/matmul_weights.h"
#include "cuda/weight_device.h"

// matmul for few rows of activations: bound by the reading of the weights, which go from global
// memory straight into the registers that tensor cores multiply from, 16 bytes a lane, whole lines
// of 128 bytes a load.

namespace sala::cuda {
namespace {

constexpr int kThreads = kSegments * kWarpThreads;
constexpr int kPitch = kPanel + 4;  // the stores of a warp fall into different banks

template <int kParts, int kTiles>
struct Shared {
  float sums[kSegments][kParts][8 * kTiles][kPitch];
};

/// Where a thread of a decode kernel is: a block makes 32 outputs (of both parts of a pair) of
/// 8 * kTiles rows of activations, warp w its segment w of the columns, lane 4 g + t as in
/// matmul_weights.h.
struct Place {
  __device__ Place(const Product& p, int rows, int parts) {
    lane = static_cast<int>(threadIdx.x) % kWarpThreads;
    warp = static_cast<int>(threadIdx.x) / kWarpThreads;
    const int64_t tiles = (p.tokens + rows - 1) / rows;
    unit = blockIdx.x / tiles;
    first_row = blockIdx.x % tiles * rows;
    panel = p.panels + unit * parts * p.panel_bytes;
    begin = warp * p.segment;
    end = begin + p.segment < p.cols ? begin + p.segment : p.cols;
  }
  int lane, warp;
  int64_t unit, first_row;
  const std::byte* panel;
  int64_t begin, end;  ///< columns
};

/// Adds the segments in order, through shared memory, and writes the outputs.
template <int kParts, int kTiles>
__device__ void finish(const Product& p, const Place& at,
                       const float (&sum)[kParts][kTiles][kRowTiles][4]) {
  auto& s = shared<Shared<kParts, kTiles>>();
  const int g = at.lane / 4, t = at.lane % 4;
  for (int part = 0; part < kParts; ++part)
    for (int tile = 0; tile < kTiles; ++tile)
      for (int i = 0; i < 2; ++i) {
        const auto& c = sum[part][tile];
        *reinterpret_cast<Floats4*>(&s.sums[at.warp][part][8 * tile + 2 * t + i][4 * g]) = {
            {c[0][i], c[0][2 + i], c[1][i], c[1][2 + i]}};
      }
  __syncthreads();
  const int n = at.lane;
  const int64_t out = at.unit * kPanel + n;
  for (int row = at.warp; row < 8 * kTiles; row += kSegments) {
    float total[kParts] = {};
    for (int segment = 0; segment < kSegments; ++segment)
      for (int part = 0; part < kParts; ++part) total[part] += s.sums[segment][part][row][n];
    if (at.first_row + row < p.tokens && out < p.rows)
      p.y[(at.first_row + row) * p.y_stride + out] =
          kParts == 2 ? swiglu(total[0], total[kParts - 1]) : total[0];
  }
}

/// bf16 weights times bf16 activations: 4 KB of weights under way a warp.
template <int kParts, int kTiles>
__global__ void __launch_bounds__(kThreads) bf16_decode(Product p) {
  const Place at(p, 8 * kTiles, kParts);
  const int g = at.lane / 4, t = at.lane % 4;
  constexpr int kHalves = 2 / kParts;  // of 32 columns, in a step
  const int64_t pairs = (p.cols + 1) / 2;
  const std::byte* x = p.x + ((at.first_row + g) * p.x_stride + 8 * t) * 2;

  float sum[kParts][kTiles][kRowTiles][4] = {};
  for (int64_t k = at.begin; k < at.end; k += 32 * kHalves) {
    Words4 w[kParts][kHalves][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int half = 0; half < kHalves; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t pair = k / 2 + 16 * half + 4 * t + i;
          w[part][half][i] =
              pair < pairs ? load_once(at.panel + part * p.panel_bytes + pair * 4 * kPanel + 16 * g)
                           : Words4{};
        }
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const auto b =
            *reinterpret_cast<const Words4*>(x + (8 * tile * p.x_stride + k + 32 * half) * 2);
#pragma unroll
        for (int step = 0; step < 2; ++step)
#pragma unroll
          for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int j = 0; j < kRowTiles; ++j)
              add_bf16(sum[part][tile][j], w[part][half], j, step, b);
      }
  }
  finish<kParts, kTiles>(p, at, sum);
}

/// Codes of weights times codes of activations: up to 4 KB of weights under way a warp.
template <WeightType kType, int kParts, int kTiles>
__global__ void __launch_bounds__(kThreads) int8_decode(Product p) {
  using L = Layout<kType>;
  using S = Steps<kType>;
  const Place at(p, 8 * kTiles, kParts);
  const int g = at.lane / 4, t = at.lane % 4;
  constexpr int kChunkGroups = static_cast<int>(kCodeChunk) / L::kColumns;
  constexpr int kAtOnce = kChunkGroups / kParts > 0 ? kChunkGroups / kParts : 1;
  const std::byte* x = p.x + (at.first_row + g) * p.x_stride;
  const float* scales = p.scales + (at.first_row + 2 * t) * 2;
  const int64_t last = at.end / L::kColumns;

  float chain[kParts][kTiles][kRowTiles][4] = {};
  for (int64_t first = at.begin / L::kColumns; first < last; first += kAtOnce) {
    Words4 raw[kAtOnce][kParts][S::kCount][S::kLoads];
    RawScalings header[kAtOnce][kParts];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        if (first + i >= last) continue;
        const std::byte* panel = at.panel + part * p.panel_bytes;
        const std::byte* group = panel + L::group_place(first + i);
        header[i][part] = raw_scalings<kType>(panel + L::super_place(first + i), group, 4 * g);
#pragma unroll
        for (int step = 0; step < S::kCount; ++step)
#pragma unroll
          for (int l = 0; l < S::kLoads; ++l)
            raw[i][part][step][l] =
                load_once(group + L::kHeader + S::row(step, l, t) * 4 * kPanel + 16 * g);
      }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= last) continue;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const std::byte* codes = x + 8 * tile * p.x_stride + (first + i) * L::kColumns;
        const auto pair = *reinterpret_cast<const PairScales*>(
            scales + ((first + i) * p.padded_tokens + 8 * tile) * 2);
        int32_t sum[kParts][kRowTiles][4] = {};
#pragma unroll
        for (int step = 0; step < S::kCount; ++step) {
          const Words2 b = S::load_activations(codes + S::activations(step, t));
#pragma unroll
          for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int j = 0; j < kRowTiles; ++j) S::add(sum[part][j], raw[i][part][step], j, b);
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j)
            add_group<kType>(chain[part][tile][j], sum[part][j], header[i][part], j, pair);
      }
    }
  }
  finish<kParts, kTiles>(p, at, chain);
}

template <int kParts, int kTiles>
void run(Device& device, const Product& p, void (*kernel)(Product)) {
  const int64_t tiles = (p.tokens + 8 * kTiles - 1) / (8 * kTiles);
  launch(device, {.x = p.panel_count / kParts * tiles}, kThreads, sizeof(Shared<kParts, kTiles>),
         kernel, p);
}

}  // namespace

void matmul_decode_bf16(Device& device, const Product& p) {
  if (p.tokens <= 8)
    p.paired ? run<2, 1>(device, p, bf16_decode<2, 1>) : run<1, 1>(device, p, bf16_decode<1, 1>);
  else
    p.paired ? run<2, 2>(device, p, bf16_decode<2, 2>) : run<1, 2>(device, p, bf16_decode<1, 2>);
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
