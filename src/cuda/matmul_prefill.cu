#include "cuda/matmul_kernels.h"
#include "cuda/pipeline_device.h"
#include "cuda/tiles_device.h"
#include "cuda/weights_device.h"

// matmul for many rows of activations on tensor cores. A block of 8 warps makes the outputs of four
// panels (two of each part of a pair) for 128 rows; columns pass through shared memory in chunks,
// copied asynchronously while earlier ones are multiplied. A warp has two panels and 32 rows, so
// that both parts of a pair meet in one thread.

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPanels = 4, kRows = 128;     // of a block
constexpr int kWarpPanels = 2, kTiles = 4;  // of a warp: tiles of 8 rows
constexpr size_t kMostShared = 99 << 10;

/// Where a thread is.
struct Place {
  explicit __device__ Place(const Product& p) {
    thread = static_cast<int>(threadIdx.x);
    g = thread % kWarpThreads / 4;
    t = thread % 4;
    const int warp = thread / kWarpThreads;
    warp_panel = warp % (kPanels / kWarpPanels) * kWarpPanels;
    warp_row = warp / (kPanels / kWarpPanels) * (8 * kTiles);
    const Tile tile = block_tile<kRows, kPanels>(p);
    first_row = tile.row;
    first_panel = tile.panel;
    busy = first_row + warp_row < p.tokens && first_panel + warp_panel < p.panel_count;
  }
  int thread, g, t;
  int warp_panel, warp_row;  ///< in the block
  int first_row, first_panel;
  bool busy;  ///< whether the warp has outputs
};

using Sums = float[kWarpPanels][kTiles][kRowTiles][4];

__device__ inline void end_segment(Sums& total, Sums& sum) {
#pragma unroll
  for (int panel = 0; panel < kWarpPanels; ++panel)
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int j = 0; j < kRowTiles; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[panel][tile][j][i] += sum[panel][tile][j][i];
          sum[panel][tile][j][i] = 0;
        }
}

/// Writes four outputs of a row.
__device__ inline void write(const Product& p, int64_t row, int64_t n, const float (&value)[4]) {
  float* y = p.y + row * p.y_stride + n;
  if (n + 4 <= p.rows && reinterpret_cast<uintptr_t>(y) % 16 == 0) {
    *reinterpret_cast<Floats4*>(y) = {{value[0], value[1], value[2], value[3]}};
    return;
  }
  for (int i = 0; i < 4; ++i)
    if (n + i < p.rows) y[i] = value[i];
}

__device__ inline void finish(const Product& p, const Place& at, const Sums& total) {
  if (!at.busy) return;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = int64_t{at.first_row} + at.warp_row + 8 * tile + 2 * at.t + i;
      if (row >= p.tokens) continue;
      float value[kWarpPanels][4];
      for (int panel = 0; panel < kWarpPanels; ++panel)
        for (int n = 0; n < 4; ++n) value[panel][n] = total[panel][tile][n / 2][n % 2 * 2 + i];
      const int64_t panel = int64_t{at.first_panel} + at.warp_panel;
      if (p.paired) {
        for (int n = 0; n < 4; ++n) value[0][n] = swiglu(value[0][n], value[1][n]);
        write(p, row, panel / 2 * kPanel + 4 * at.g, value[0]);
      } else {
        write(p, row, panel * kPanel + 4 * at.g, value[0]);
        write(p, row, (panel + 1) * kPanel + 4 * at.g, value[1]);
      }
    }
}

constexpr int kBf16Stages = 3;
constexpr int kPairRows = static_cast<int>(kValueChunk) / 2;

struct Bf16Stage {
  Words4 w[kPanels][kPairRows][kPieces];
  Words4 x[kRows][kPieces];
};
struct Bf16Shared {
  Bf16Stage stages[kBf16Stages];
};
static_assert(sizeof(Bf16Shared) <= kMostShared);

/// The place of piece c of a row of activations.
__device__ constexpr int bf16_piece(int row, int c) { return c ^ row % 2 * 4; }

__device__ inline void copy_bf16(const Product& p, const Place& at, Bf16Stage& stage, int chunk) {
  const int64_t pairs = (p.cols + 1) / 2;
#pragma unroll
  for (int i = at.thread; i < kPanels * kPairRows * kPieces; i += kThreads) {
    const int c = i % kPieces, row = i / kPieces % kPairRows, panel = i / kPieces / kPairRows;
    const int64_t pair = int64_t{chunk} * kPairRows + row;
    const bool valid = at.first_panel + panel < p.panel_count && pair < pairs;
    const int64_t place = (at.first_panel + panel) * p.panel_bytes + pair * 4 * kPanel + 16 * c;
    copy_async(&stage.w[panel][row][pair_piece(row, c)], p.panels + (valid ? place : 0), valid);
  }
#pragma unroll
  for (int i = at.thread; i < kRows * kPieces; i += kThreads) {
    const int c = i % kPieces, row = i / kPieces;
    const bool valid = at.first_row + row < p.padded_tokens;
    const int64_t place = ((at.first_row + row) * p.x_stride + chunk * kValueChunk) * 2 + 16 * c;
    copy_async(&stage.x[row][bf16_piece(row, c)], p.x + (valid ? place : 0), valid);
  }
}

__device__ inline void multiply_bf16(const Place& at, const Bf16Stage& stage, Sums& sum) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Words4 x[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int row = at.warp_row + 8 * tile + at.g;
      x[tile] = stage.x[row][bf16_piece(row, 4 * half + at.t)];
    }
#pragma unroll
    for (int panel = 0; panel < kWarpPanels; ++panel) {
      Words4 w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 16 * half + 4 * at.t + i;
        w[i] = stage.w[at.warp_panel + panel][row][pair_piece(row, at.g)];
      }
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) add_bf16(sum[panel][tile][j], w, j, step, x[tile]);
    }
  }
}

/// bf16 weights times bf16 activations, 64 columns a chunk.
__global__ void __launch_bounds__(kThreads, 1) bf16_prefill(Product p) {
  wait_for_earlier();
  auto& s = shared<Bf16Shared>();
  const Place at(p);
  Sums total = {}, sum = {};
  const int chunks = static_cast<int>((p.cols + kValueChunk - 1) / kValueChunk);
  const int segment = static_cast<int>(p.segment / kValueChunk);
  pipeline<kBf16Stages>(
      chunks, [&](int stage, int chunk) { copy_bf16(p, at, s.stages[stage], chunk); },
      [&](int stage, int chunk) {
        if (!at.busy) return;
        multiply_bf16(at, s.stages[stage], sum);
        if ((chunk + 1) % segment == 0 || chunk + 1 == chunks) end_segment(total, sum);
      });
  finish(p, at, total);
}

/// A chunk of 128 columns of codes: the bytes of each panel with its scales as they lie, but the
/// pieces of a line of codes permuted.
template <WeightType kType>
struct CodeStage {
  using L = Layout<kType>;
  static constexpr int kGroups = static_cast<int>(kCodeChunk) / L::kColumns;
  static constexpr int kPanelPieces = (L::kSuperHeader + kGroups * L::kGroupBytes) / 16;
  Words4 w[kPanels][kPanelPieces];
  Words4 x[kRows][kPieces];
  PairScales scales[kGroups][kRows / 2];
};

template <WeightType kType>
struct CodeShared {
  static constexpr int kStages = 3 * sizeof(CodeStage<kType>) <= kMostShared ? 3 : 2;
  CodeStage<kType> stages[kStages];
  static_assert(kStages * sizeof(CodeStage<kType>) <= kMostShared);
};

/// The place of piece c of a row of activations.
__device__ constexpr int int8_piece(int row, int c) { return c ^ row % 4 * 2; }

template <WeightType kType>
__device__ inline void copy_codes(const Product& p, const Place& at, CodeStage<kType>& stage,
                                  int chunk) {
  using L = Layout<kType>;
  using Stage = CodeStage<kType>;
  constexpr int kSuperPieces = L::kSuperHeader / 16, kGroupPieces = L::kGroupBytes / 16;
  constexpr int kHeaderPieces = L::kHeader / 16;
  const int64_t groups = p.cols / L::kColumns, first = int64_t{chunk} * Stage::kGroups;
#pragma unroll
  for (int i = at.thread; i < kPanels * Stage::kPanelPieces; i += kThreads) {
    const int piece = i % Stage::kPanelPieces, panel = i / Stage::kPanelPieces;
    int64_t place = L::super_place(first) + 16 * piece;
    int to = piece;
    bool valid = at.first_panel + panel < p.panel_count;
    if (piece >= kSuperPieces) {
      const int group = (piece - kSuperPieces) / kGroupPieces;
      const int in_group = (piece - kSuperPieces) % kGroupPieces;
      place = L::group_place(first + group) + 16 * in_group;
      valid = valid && first + group < groups;
      const int code = in_group - kHeaderPieces;
      if (code >= 0)
        to += code_piece(Steps<kType>::lane_of(code / kPieces), code % kPieces) - code % kPieces;
    }
    copy_async(&stage.w[panel][to],
               p.panels + (valid ? (at.first_panel + panel) * p.panel_bytes + place : 0), valid);
  }
#pragma unroll
  for (int i = at.thread; i < kRows * kPieces; i += kThreads) {
    const int c = i % kPieces, row = i / kPieces;
    const bool valid = at.first_row + row < p.padded_tokens;
    const int64_t place = (at.first_row + row) * p.x_stride + chunk * kCodeChunk + 16 * c;
    copy_async(&stage.x[row][int8_piece(row, c)], p.x + (valid ? place : 0), valid);
  }
#pragma unroll
  for (int i = at.thread; i < Stage::kGroups * (kRows / 2); i += kThreads) {
    const int pair = i % (kRows / 2), group = i / (kRows / 2);
    const bool valid = first + group < groups && at.first_row + 2 * pair < p.padded_tokens;
    const int64_t place = ((first + group) * p.padded_tokens + at.first_row + 2 * pair) * 2;
    copy_async(&stage.scales[group][pair], p.scales + (valid ? place : 0), valid);
  }
}

template <WeightType kType>
__device__ inline void multiply_codes(const Place& at, const CodeStage<kType>& stage, int groups,
                                      Sums& chain) {
  using L = Layout<kType>;
  using S = Steps<kType>;
#pragma unroll 1
  for (int group = 0; group < groups; ++group) {
    const auto activations = [&](int tile, int step) {
      const int place = group * L::kColumns + S::activations(step, at.t);
      const auto* piece = reinterpret_cast<const std::byte*>(
          &stage.x[at.warp_row + 8 * tile + at.g][int8_piece(at.g, place / 16)]);
      return S::load_activations(piece + place % 16);
    };
#pragma unroll
    for (int panel = 0; panel < kWarpPanels; ++panel) {
      const auto* super = reinterpret_cast<const std::byte*>(stage.w[at.warp_panel + panel]);
      const std::byte* place = super + L::kSuperHeader + group * L::kGroupBytes;
      const auto* lines = reinterpret_cast<const Words4*>(place + L::kHeader);
      int32_t sum[kTiles][kRowTiles][4] = {};
#pragma unroll 1
      for (int step = 0; step < S::kCount; ++step) {
        Words4 raw[S::kLoads];
#pragma unroll
        for (int l = 0; l < S::kLoads; ++l) {
          const int row = S::row(step, l, at.t);
          raw[l] = lines[row * kPieces + code_piece(at.t, at.g)];
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const Words2 x = activations(tile, step);
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) S::add(sum[tile][j], raw, j, x);
        }
      }
      const RawScalings scales = raw_scalings<kType>(super, place, 4 * at.g);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const PairScales x = stage.scales[group][(at.warp_row + 8 * tile) / 2 + at.t];
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j)
          add_group<kType>(chain[panel][tile][j], sum[tile][j], scales, j, x);
      }
    }
  }
}

/// Codes of weights times codes of activations.
template <WeightType kType>
__global__ void __launch_bounds__(kThreads, 1) int8_prefill(Product p) {
  wait_for_earlier();
  constexpr int kStages = CodeShared<kType>::kStages;
  constexpr int kGroups = CodeStage<kType>::kGroups;
  auto& s = shared<CodeShared<kType>>();
  const Place at(p);
  Sums total = {}, chain = {};
  const int chunks = static_cast<int>((p.cols + kCodeChunk - 1) / kCodeChunk);
  const int segment = static_cast<int>(p.segment / kCodeChunk);
  const int groups = static_cast<int>(p.cols / Layout<kType>::kColumns);
  pipeline<kStages>(
      chunks, [&](int stage, int chunk) { copy_codes<kType>(p, at, s.stages[stage], chunk); },
      [&](int stage, int chunk) {
        if (!at.busy) return;
        const int left = groups - chunk * kGroups;
        multiply_codes<kType>(at, s.stages[stage], left < kGroups ? left : kGroups, chain);
        if ((chunk + 1) % segment == 0 || chunk + 1 == chunks) end_segment(total, chain);
      });
  finish(p, at, total);
}

}  // namespace

void matmul_prefill_bf16(Device& device, WeightType, const Product& p) {
  launch(device, tiles<kRows, kPanels>(p), kThreads, sizeof(Bf16Shared), bf16_prefill, p);
}

void matmul_prefill_int8(Device& device, WeightType type, const Product& p) {
  for_type(type, [&]<WeightType kType>() {
    if constexpr (quantised(kType))
      launch(device, tiles<kRows, kPanels>(p), kThreads, sizeof(CodeShared<kType>),
             int8_prefill<kType>, p);
  });
}

}  // namespace sala::cuda
