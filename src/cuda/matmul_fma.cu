#include "cuda/matmul_kernels.h"
#include "cuda/weights_device.h"

// Products in f32: chains of fused multiply-adds, any weight decoded in registers. The way of f32
// activations, and of rounded ones beside weights that tensor cores would not multiply exactly.

namespace sala::cuda {
namespace {

constexpr int kDecodeThreads = kSegments * kWarpThreads;
constexpr int kDecodeTile = 8;  // rows of activations
constexpr int kEight = 8;       // columns of a step

struct DecodeShared {
  float sums[kSegments][2][kDecodeTile][kPanel];  // of the parts of a pair
};

/// A block makes 32 outputs of up to kTile rows of activations: a warp sums one segment of the
/// columns, a lane one output row; then a thread adds the segments of one output. Reads the panel
/// once and the rows once a block.
template <WeightType kType, int kParts, int kTile>
__global__ void __launch_bounds__(kDecodeThreads) fma_decode(Product p) {
  wait_for_earlier();
  auto& s = shared<DecodeShared>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int64_t tiles = (p.tokens + kTile - 1) / kTile;
  const int64_t unit = blockIdx.x / tiles;
  const int64_t t0 = blockIdx.x % tiles * kTile;
  const std::byte* panel = p.panels + unit * kParts * p.panel_bytes;
  const float* x = reinterpret_cast<const float*>(p.x) + t0 * p.x_stride;

  float sum[kParts][kTile] = {};
  const int64_t begin = warp * p.segment;
  const int64_t end = begin + p.segment < p.cols ? begin + p.segment : p.cols;
#pragma unroll 2
  for (int64_t k = begin; k < end; k += kEight) {
    float w[kParts][kEight];
    for (int part = 0; part < kParts; ++part)
      eight_columns<kType>(panel + part * p.panel_bytes, p.cols, k, lane, w[part]);
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
      const auto* from = reinterpret_cast<const Floats4*>(x + r * p.x_stride + k);
      const Floats4 a = from[0], b = from[1];
#pragma unroll
      for (int i = 0; i < kEight; ++i)
        for (int part = 0; part < kParts; ++part)
          sum[part][r] = fmaf(i < 4 ? a.at[i % 4] : b.at[i % 4], w[part][i], sum[part][r]);
    }
  }
  for (int part = 0; part < kParts; ++part)
    for (int r = 0; r < kTile; ++r) s.sums[warp][part][r][lane] = sum[part][r];
  __syncthreads();

  const int64_t t = t0 + warp;
  const int64_t n = unit * kPanel + lane;
  if (warp >= kTile || t >= p.tokens || n >= p.rows) return;
  float total[kParts] = {};
  for (int segment = 0; segment < kSegments; ++segment)
    for (int part = 0; part < kParts; ++part) total[part] += s.sums[segment][part][warp][lane];
  p.y[t * p.y_stride + n] = kParts == 2 ? swiglu(total[0], total[kParts - 1]) : total[0];
}

constexpr int kTileThreads = 256;
constexpr int kTileRows = 64;     // of activations
constexpr int kTilePanels = 2;    // of outputs
constexpr int kTileColumns = 32;  // of a step
constexpr int kPitch = kTileRows + 4;

struct TileShared {
  float w[kTileColumns][kTilePanels * kPanel];
  float x[kTileColumns][kPitch];
};

/// A block makes the outputs of two panels for 64 rows of activations, in steps of 32 columns
/// that pass through shared memory as f32: a warp decodes 8 columns of one panel, a thread copies 8
/// columns of one row; then a thread has 2 outputs of each panel for 4 rows.
template <WeightType kType>
__global__ void __launch_bounds__(kTileThreads) fma_tile(Product p) {
  wait_for_earlier();
  auto& s = shared<TileShared>();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpThreads, warp = thread / kWarpThreads;
  const int column = thread % 16, row = thread / 16;
  const int64_t tiles = (p.tokens + kTileRows - 1) / kTileRows;
  const int64_t first_panel = blockIdx.x / tiles * kTilePanels;
  const int64_t t0 = blockIdx.x % tiles * kTileRows;
  const float* x = reinterpret_cast<const float*>(p.x);

  float total[kTilePanels][2][4] = {}, sum[kTilePanels][2][4] = {};
  for (int64_t k = 0; k < p.cols; k += kTileColumns) {
    {
      const int64_t panel = first_panel + warp / 4;
      float w[kEight] = {};
      if (panel < p.panel_count)
        eight_columns<kType>(p.panels + panel * p.panel_bytes, p.cols, k + warp % 4 * kEight, lane,
                             w);
      for (int i = 0; i < kEight; ++i) s.w[warp % 4 * kEight + i][warp / 4 * kPanel + lane] = w[i];
      const int64_t t = t0 + thread / 4;
      const int first = thread % 4 * kEight;
      for (int i = 0; i < kEight; ++i)
        s.x[first + i][thread / 4] = t < p.tokens ? x[t * p.x_stride + k + first + i] : 0.0f;
    }
    __syncthreads();
#pragma unroll 8
    for (int i = 0; i < kTileColumns; ++i) {
      const Floats4 a = *reinterpret_cast<const Floats4*>(&s.x[i][4 * row]);
      for (int panel = 0; panel < kTilePanels; ++panel)
        for (int n = 0; n < 2; ++n) {
          const float w = s.w[i][panel * kPanel + 2 * column + n];
          for (int r = 0; r < 4; ++r) sum[panel][n][r] = fmaf(a.at[r], w, sum[panel][n][r]);
        }
    }
    if ((k + kTileColumns) % p.segment == 0 || k + kTileColumns >= p.cols)
      for (int panel = 0; panel < kTilePanels; ++panel)
        for (int n = 0; n < 2; ++n)
          for (int r = 0; r < 4; ++r) {
            total[panel][n][r] += sum[panel][n][r];
            sum[panel][n][r] = 0;
          }
    __syncthreads();
  }
  for (int r = 0; r < 4; ++r) {
    const int64_t t = t0 + 4 * row + r;
    if (t >= p.tokens) continue;
    float* y = p.y + t * p.y_stride;
    for (int n = 0; n < 2; ++n)
      if (p.paired) {
        const int64_t out = first_panel / 2 * kPanel + 2 * column + n;
        if (out < p.rows) y[out] = swiglu(total[0][n][r], total[1][n][r]);
      } else {
        for (int panel = 0; panel < kTilePanels; ++panel) {
          const int64_t out = (first_panel + panel) * kPanel + 2 * column + n;
          if (out < p.rows) y[out] = total[panel][n][r];
        }
      }
  }
}

template <WeightType kType>
void few_rows(Device& device, const Product& p) {
  const int64_t units = p.panel_count / (p.paired ? 2 : 1);
  const auto run = [&](int64_t tile, auto kernel) {
    launch(device, {.x = units * ((p.tokens + tile - 1) / tile)}, kDecodeThreads,
           sizeof(DecodeShared), kernel, p);
  };
  if (p.tokens == 1)
    p.paired ? run(1, fma_decode<kType, 2, 1>) : run(1, fma_decode<kType, 1, 1>);
  else
    p.paired ? run(kDecodeTile, fma_decode<kType, 2, kDecodeTile>)
             : run(kDecodeTile, fma_decode<kType, 1, kDecodeTile>);
}

}  // namespace

void matmul_fma(Device& device, WeightType type, const Product& p) {
  for_type(type, [&]<WeightType kType>() {
    if (p.tokens <= kBatchRows) return few_rows<kType>(device, p);
    const int64_t blocks =
        (p.panel_count + kTilePanels - 1) / kTilePanels * ((p.tokens + kTileRows - 1) / kTileRows);
    launch(device, {.x = blocks}, kTileThreads, sizeof(TileShared), fma_tile<kType>, p);
  });
}

}  // namespace sala::cuda
