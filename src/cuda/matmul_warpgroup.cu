#include "cuda/matmul_kernels.h"
#include "cuda/tiles_device.h"
#include "cuda/warpgroup.h"
#include "cuda/weights_device.h"

// matmul of bf16 for many rows of activations with the products of warpgroups. A block makes the
// outputs of four panels (two of each part of a pair) for 192 rows: two warpgroups have two panels
// each, whose weights come to registers, decoded there where they are codes, and all rows, which
// are taken from shared memory; a third one copies both there, some chunks ahead. A warp has the
// same outputs of both panels, so that both parts of a pair meet in one thread.

namespace sala::cuda {
namespace {

constexpr int kWorkers = 2 * kWarpgroup, kThreads = kWorkers + kWarpgroup;
constexpr int kPanels = 4, kRows = kWideRows;  // of a block
constexpr int kStages = 5;
constexpr int kSteps = static_cast<int>(kValueChunk) / 16;
// Registers of a thread: together those that the kernel is launched with.
constexpr int kCopyRegisters = 56, kWorkRegisters = 224;

/// A thread's outputs: of a warp i those of number 8 i + g in both panels of its warpgroup, for the
/// rows 8 j + 2 t and 8 j + 2 t + 1.
struct Worker {
  __device__ Worker() {
    const int thread = static_cast<int>(threadIdx.x);
    t = thread % 4;
    output = thread % kWarpgroup / kWarpThreads * 8 + thread % kWarpThreads / 4;
    panel = thread / kWarpgroup * 2;
  }
  int t;
  int output;  ///< in its panels
  int panel;   ///< the first, in the block
};

/// A chunk of a panel of bf16 in shared memory.
struct Values {
  static constexpr int kCount = static_cast<int>(kValueChunk) / 2 * kPieces;
  Words4 at[kCount];

  /// Piece i: the first of its columns, where in the panel it is, and where here.
  __device__ static int64_t column(int chunk, int i) {
    return chunk * kValueChunk + i / kPieces * 2;
  }
  __device__ static int64_t place(int chunk, int i) { return int64_t{chunk * kCount + i} * 16; }
  __device__ static int to(int i) {
    return i / kPieces * kPieces + pair_piece(i / kPieces, i % kPieces);
  }

  /// The pairs of the columns [32 half + 8 t, + 8) of an output.
  __device__ void pairs(int half, const Worker& own, uint32_t (&out)[4]) const {
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * half + 4 * own.t + i;
      out[i] = at[row * kPieces + pair_piece(row, own.output / 4)].at[own.output % 4];
    }
  }
};

/// The same of codes: scales of a block of groups, of the groups that the chunk has, then the
/// codes.
template <WeightType kType>
struct Codes {
  using L = Layout<kType>;
  using D = Decoding<kType>;
  static constexpr int kChunk = static_cast<int>(kValueChunk);
  static constexpr int kGroupColumns = L::kColumns < kChunk ? L::kColumns : kChunk;
  static constexpr int kSuperPieces = L::kSuperHeader / 16, kHeaderPieces = L::kHeader / 16;
  static constexpr int kFirstCode = kSuperPieces + kChunk / kGroupColumns * kHeaderPieces;
  static constexpr int kCount = kFirstCode + kChunk / D::kLineColumns * kPieces;
  Words4 at[kCount];

  __device__ static int64_t column(int chunk, int i) {
    const int first = i < kSuperPieces ? 0
                      : i < kFirstCode ? (i - kSuperPieces) / kHeaderPieces * kGroupColumns
                                       : (i - kFirstCode) / kPieces * D::kLineColumns;
    return int64_t{chunk} * kChunk + first;
  }
  __device__ static int64_t place(int chunk, int i) {
    const int64_t k = int64_t{chunk} * kChunk, group = k / L::kColumns;
    if (i < kSuperPieces) return L::super_place(group) + 16 * i;
    // The chunk may be the second half of a group.
    const int in_group = static_cast<int>(k % L::kColumns);
    const typename D::Place place = D::place(in_group + static_cast<int>(column(0, i)));
    const int piece =
        i < kFirstCode ? (i - kSuperPieces) % kHeaderPieces : (i - kFirstCode) % kPieces;
    return L::group_place(group) + (i < kFirstCode ? place.group : place.words) + 16 * piece;
  }
  __device__ static int to(int i) {
    const int line = (i - kFirstCode) / kPieces, c = (i - kFirstCode) % kPieces;
    return i < kFirstCode ? i : i - c + code_piece(line / D::kWords % 4, c);
  }

  __device__ void pairs(int half, const Worker& own, uint32_t (&out)[4]) const {
    const int column = 32 * half + 8 * own.t;
    uint32_t words[D::kWords];
    for (int i = 0; i < D::kWords; ++i)
      words[i] = at[kFirstCode + (column / D::kLineColumns + i) * kPieces +
                    code_piece(own.t, own.output / 4)]
                     .at[own.output % 4];
    const Words4* header = at + kSuperPieces + column / kGroupColumns * kHeaderPieces;
    D(scaling<kType>(reinterpret_cast<const std::byte*>(at),
                     reinterpret_cast<const std::byte*>(header), own.output))
        .pairs(words, out);
  }
};

template <class Weights>
struct alignas(1024) Stage {
  Words4 x[kRows][kPieces];
  Weights w[kPanels];
};
template <class Weights>
struct Shared {
  Stage<Weights> stages[kStages];
  uint64_t full[kStages], empty[kStages];  ///< barriers
};

#ifdef SALA_WARPGROUPS

__device__ inline Barrier& barrier(uint64_t& place) { return reinterpret_cast<Barrier&>(place); }

/// Stages are filled and emptied in turns; `round` is the parity of the turn.
struct Turn {
  int stage = 0, round = 0;
  __device__ void next() {
    if (++stage < kStages) return;
    stage = 0;
    round ^= 1;
  }
};

template <class Weights>
__device__ inline void copy(const Product& p, const Tile& tile, Stage<Weights>& stage, int chunk) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
#pragma unroll 4
  for (int i = thread; i < kRows * kPieces; i += kWarpgroup) {
    const int c = i % kPieces, row = i / kPieces;
    const bool valid = tile.row + row < p.padded_tokens;
    const int64_t place = ((tile.row + row) * p.x_stride + chunk * kValueChunk) * 2 + 16 * c;
    copy_async(&stage.x[row][swizzled_piece(row, c)], p.x + (valid ? place : 0), valid);
  }
#pragma unroll 1
  for (int panel = 0; panel < kPanels; ++panel) {
    const std::byte* from = p.panels + (tile.panel + panel) * p.panel_bytes;
    const int64_t columns = tile.panel + panel < p.panel_count ? p.cols : 0;
    for (int i = thread; i < Weights::kCount; i += kWarpgroup) {
      const bool valid = Weights::column(chunk, i) < columns;
      copy_async(&stage.w[panel].at[Weights::to(i)],
                 valid ? from + Weights::place(chunk, i) : p.panels, valid);
    }
  }
}

/// Fills stages as they are emptied; a chunk is shown when the copies of later ones are under way.
template <class Weights>
__device__ inline void copy_all(const Product& p, const Tile& tile, Shared<Weights>& s,
                                int chunks) {
  constexpr int kAhead = kStages - 1;
  Turn filled, shown;
  const auto show = [&] {
    show_to_products();
    __syncwarp();
    if (threadIdx.x % kWarpThreads == 0) barrier(s.full[shown.stage]).arrive();
    shown.next();
  };
  for (int chunk = 0; chunk < chunks + kAhead; ++chunk) {
    if (chunk < chunks) {
      if (chunk >= kStages) barrier(s.empty[filled.stage]).wait(filled.round ^ 1);
      copy(p, tile, s.stages[filled.stage], chunk);
      filled.next();
    }
    commit_copies();
    if (chunk < kAhead) continue;
    wait_copies<kAhead>();
    show();
  }
}

/// The weights of a chunk as a warp's part of its products takes them, 16 columns a step: rows g
/// are outputs of the first panel, rows g + 8 those of the second. The columns of a lane are those
/// of add_bf16.
template <class Weights>
__device__ inline void load(const Worker& own, const Stage<Weights>& stage,
                            uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int half = 0; half < kSteps / 2; ++half)
#pragma unroll
    for (int panel = 0; panel < 2; ++panel) {
      uint32_t pairs[4];
      stage.w[own.panel + panel].pairs(half, own, pairs);
      for (int i = 0; i < 4; ++i) a[2 * half + i / 2][i % 2 * 2 + panel] = pairs[i];
    }
}

__device__ inline void finish(const Product& p, const Tile& tile, const Worker& own,
                              const WideSums& total) {
  const int64_t panel = int64_t{tile.panel} + own.panel;
  const int64_t first = (p.paired ? panel / 2 : panel) * kPanel + own.output;
  const int64_t second = first + kPanel;
#pragma unroll
  for (int j = 0; j < kRows / 8; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = int64_t{tile.row} + 8 * j + 2 * own.t + i;
      if (row >= p.tokens) continue;
      float* y = p.y + row * p.y_stride;
      const float a = total[4 * j + i], b = total[4 * j + 2 + i];
      if (first < p.rows) y[first] = p.paired ? swiglu(a, b) : a;
      if (!p.paired && second < p.rows) y[second] = b;
    }
}

template <class Weights>
__device__ inline void multiply_all(const Product& p, const Tile& tile, Shared<Weights>& s,
                                    int chunks) {
  const Worker own;
  const int segment = static_cast<int>(p.segment / kValueChunk);
  WideSums total = {}, sums = {};
  uint32_t a[kSteps][4];
  Turn turn;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const Stage<Weights>& stage = s.stages[turn.stage];
    const SwizzledRows x(stage.x);
    barrier(s.full[turn.stage]).wait(turn.round);
    load(own, stage, a);
    begin_products();
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      multiply_wide(sums, a[step], x.columns(step), chunk % segment != 0 || step > 0);
    wait_products();
    if (threadIdx.x % kWarpThreads == 0) barrier(s.empty[turn.stage]).arrive();
    turn.next();
    if ((chunk + 1) % segment != 0 && chunk + 1 != chunks) continue;
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) total[i] += sums[i];
  }
  finish(p, tile, own, total);
}

#endif  // SALA_WARPGROUPS

template <class Weights>
#ifdef SALA_WARPGROUPS
__global__ void __launch_bounds__(kThreads, 1) warpgroups(Product p) {
  wait_for_earlier();
  auto& s = shared<Shared<Weights>>();
  const Tile tile = block_tile<kRows, kPanels>(p);
  const int chunks = static_cast<int>((p.cols + kValueChunk - 1) / kValueChunk);
  if (threadIdx.x == 0)
    for (int i = 0; i < kStages; ++i) {
      barrier(s.full[i]).init(kWarpgroup / kWarpThreads);
      barrier(s.empty[i]).init(kWorkers / kWarpThreads);
    }
  __syncthreads();
  if (threadIdx.x >= kWorkers) {
    keep_registers<kCopyRegisters>();
    copy_all(p, tile, s, chunks);
  } else {
    take_registers<kWorkRegisters>();
    multiply_all(p, tile, s, chunks);
  }
}
#else
__global__ void __launch_bounds__(kWarpThreads) warpgroups(Product) {
}
#endif

template <class Weights>
void run(Device& device, const Product& p) {
  static_assert(sizeof(Shared<Weights>) <= 227 << 10);
  launch(device, tiles<kRows, kPanels>(p), kThreads, sizeof(Shared<Weights>), warpgroups<Weights>,
         p);
}

}  // namespace

#ifndef SALA_CUDA_EMULATION
bool kernels_have_warpgroups() {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(warpgroups<Values>)));
  return attributes.maxThreadsPerBlock == kThreads;
}
#endif

void matmul_warpgroup_bf16(Device& device, WeightType type, const Product& p) {
  if (type == WeightType::bf16)
    run<Values>(device, p);
  else
    for_type(type, [&]<WeightType kType>() {
      if constexpr (quantised(kType)) run<Codes<kType>>(device, p);
    });
}

}  // namespace sala::cuda
