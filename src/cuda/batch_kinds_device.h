#pragma once

#include "cuda/matmul_kernels.h"
#include "cuda/weights_device.h"

/// The kinds of products of matmul_batch.cu: what a chunk of columns is in shared memory, which
/// sixteen bytes of it come from where, and how a warp multiplies it.
namespace sala::cuda {

inline constexpr int kRows = static_cast<int>(kBatchRows);
inline constexpr size_t kLittleShared = 99 << 10;  // of a block, on GPUs that have little
inline constexpr size_t kMuchShared = 227 << 10;   // on those with warpgroups

/// Tiles of 8 rows of a warp, and their sums.
template <class Kind>
constexpr int kTiles = kRows / Kind::kHalves / 8;
template <class Kind>
using Sums = float[kTiles<Kind>][kRowTiles][4];

/// Sixteen bytes that a thread brings of every chunk. A slice's first chunk is where it begins.
struct Piece {
  const std::byte* from;  ///< of the first chunk
  unsigned step;          ///< bytes to those of the next chunk
  unsigned super_step;    ///< and as many besides where a block of kSuper columns ends
  unsigned chunks;        ///< from which on there are only zeros
  int to;                 ///< bytes from the beginning of a stage
};

/// The chunks of kColumns columns that hold one of the matrix from `column` on, of every kColumns.
template <int kColumns>
__device__ inline unsigned chunks_from(const Product& p, int column) {
  const int left = static_cast<int>(p.cols) - column;
  return left > 0 ? (left + kColumns - 1) / kColumns : 0;
}

/// The place of piece c of a row of activations, which has kCount pieces of a chunk.
template <int kCount>
__device__ constexpr int row_place(int row, int c) {
  return c ^ row * kCount / kPieces % (kCount / 2) * 2;
}

/// Piece i of the activations of a chunk of kColumns columns, of kSize bytes each.
template <int kColumns, int kSize>
__device__ inline Piece row_piece(const Product& p, int first_column, int i) {
  constexpr int kCount = kColumns * kSize / 16;
  const int c = i % kCount, row = i / kCount, column = first_column + 16 / kSize * c;
  return {.from = p.x + (row * p.x_stride + column) * kSize,
          .step = 16 * kCount,
          .super_step = 0,
          .chunks = row < p.padded_tokens ? chunks_from<kColumns>(p, column) : 0,
          .to = 16 * (row * kCount + row_place<kCount>(row, c))};
}

/// bf16 weights times bf16 activations, in chunks of 32 columns.
template <int kBlockPanels>
struct Values {
  static constexpr size_t kMostShared = kLittleShared;
  static constexpr int kPanels = kBlockPanels, kHalves = 2;
  static constexpr int kColumns = 32;
  static constexpr int kSuperChunks = 1;
  static constexpr int kPairs = kColumns / 2, kRowPieces = kColumns / 8;

  /// Of a panel.
  struct Weights {
    Words4 at[kPairs][kPieces];
  };
  /// Of all rows.
  struct Activations {
    Words4 at[kRows][kRowPieces];
  };

  /// Piece i of the weights of a panel, and of the activations.
  __device__ static Piece weights(const Product& p, const std::byte* panel, int first_column,
                                  int i) {
    const int c = i % kPieces, row = i / kPieces, column = first_column + 2 * row;
    return {.from = panel + int64_t{column} * 2 * kPanel + 16 * c,
            .step = sizeof(Weights),
            .super_step = 0,
            .chunks = chunks_from<kColumns>(p, column),
            .to = 16 * (row * kPieces + pair_piece(row, c))};
  }
  __device__ static Piece activations(const Product& p, int first_column, int i) {
    return row_piece<kColumns, 2>(p, first_column, i);
  }

  /// Adds the products of a chunk with kTiles tiles of rows from first_row on.
  template <int kTiles>
  __device__ static void multiply(const Weights& w, const Activations& x, int first_row, int lane,
                                  Sums<Values>& sum) {
    const int g = lane / 4, t = lane % 4;
    Words4 a[4], b[kTiles];
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = w.at[4 * t + i][pair_piece(4 * t + i, g)];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int row = first_row + 8 * tile + g;
      b[tile] = x.at[row][row_place<kRowPieces>(row, t)];
    }
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j) add_bf16(sum[tile][j], a, j, step, b[tile]);
  }
};

/// Codes of weights times codes of activations, in chunks of whole groups.
template <WeightType kType, int kBlockPanels>
struct Codes {
  using L = Layout<kType>;
  using S = Steps<kType>;
  static constexpr size_t kMostShared = kLittleShared;
  static constexpr int kPanels = kBlockPanels;
  // What a group costs beside its sums is the same for 32 rows as for 16; where groups are long it
  // counts less, and twice the slices would leave no room for stages.
  static constexpr int kHalves = L::kColumns > 32 ? 2 : 1;
  // Two groups a barrier where that leaves room for stages too.
  static constexpr int kLeast = kPanels > 1 && narrow(kType) ? 64 : 32;
  static constexpr int kColumns = L::kColumns < kLeast ? kLeast : L::kColumns;
  static constexpr int kSuperChunks = two_level(kType) ? kSuper / kColumns : 1;
  static constexpr int kGroups = kColumns / L::kColumns, kRowPieces = kColumns / 16;
  static constexpr int kSuperPieces = L::kSuperHeader / 16, kGroupPieces = L::kGroupBytes / 16;
  static constexpr int kHeaderPieces = L::kHeader / 16;

  /// The bytes of a panel as they lie, but the pieces of a line of codes permuted.
  struct Weights {
    Words4 at[kSuperPieces + kGroups * kGroupPieces];
  };
  struct Activations {
    Words4 codes[kRows][kRowPieces];
    PairScales scales[kGroups][kRows / 2];
  };

  __device__ static Piece weights(const Product& p, const std::byte* panel, int first_column,
                                  int i) {
    const int first = first_column / L::kColumns, in_groups = i - kSuperPieces;
    if (in_groups < 0)
      return {.from = panel + L::super_place(first) + 16 * i,
              .step = 0,
              .super_step = L::kSuperBytes,
              .chunks = chunks_from<kColumns>(p, first_column),
              .to = 16 * i};
    const int group = in_groups / kGroupPieces;
    const int code = in_groups % kGroupPieces - kHeaderPieces, c = code % kPieces;
    const int to = code < 0 ? i : i - c + code_piece(S::lane_of(code / kPieces), c);
    return {.from = panel + L::group_place(first) + 16 * in_groups,
            .step = kGroups * L::kGroupBytes,
            .super_step = L::kSuperHeader,
            .chunks = chunks_from<kColumns>(p, first_column + group * L::kColumns),
            .to = 16 * to};
  }
  __device__ static Piece activations(const Product& p, int first_column, int i) {
    const int scales = i - kRows * kRowPieces;
    if (scales < 0) return row_piece<kColumns, 1>(p, first_column, i);
    const unsigned pair = scales % (kRows / 2);
    const int group = scales / (kRows / 2);
    const auto rows = static_cast<unsigned>(p.padded_tokens);
    const int column = first_column + group * L::kColumns;
    constexpr unsigned kBytes = sizeof(PairScales) / 2;  // of a row
    return {.from = reinterpret_cast<const std::byte*>(p.scales) +
                    (int64_t{column / L::kColumns} * rows + 2 * pair) * kBytes,
            .step = kGroups * rows * kBytes,
            .super_step = 0,
            .chunks = 2 * pair < rows ? chunks_from<kColumns>(p, column) : 0,
            .to = 16 * i};
  }

  template <int kTiles>
  __device__ static void multiply(const Weights& w, const Activations& x, int first_row, int lane,
                                  Sums<Codes>& chain) {
    const int g = lane / 4, t = lane % 4;
    const auto* super = reinterpret_cast<const std::byte*>(w.at);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const Words4* header = w.at + kSuperPieces + group * kGroupPieces;
      const Words4* lines = header + kHeaderPieces;
      int32_t sum[kTiles][kRowTiles][4] = {};
#pragma unroll
      for (int step = 0; step < S::kCount; ++step) {
        Words4 raw[S::kLoads];
#pragma unroll
        for (int l = 0; l < S::kLoads; ++l)
          raw[l] = lines[S::row(step, l, t) * kPieces + code_piece(t, g)];
        const int place = group * L::kColumns + S::activations(step, t);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const int row = first_row + 8 * tile + g;
          const auto* piece = reinterpret_cast<const std::byte*>(
              &x.codes[row][row_place<kRowPieces>(row, place / 16)]);
          const Words2 b = S::load_activations(piece + place % 16);
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) S::add(sum[tile][j], raw, j, b);
        }
      }
      const RawScalings scales =
          raw_scalings<kType>(super, reinterpret_cast<const std::byte*>(header), 4 * g);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j)
          add_group<kType>(chain[tile][j], sum[tile][j], scales, j,
                           x.scales[group][first_row / 2 + 4 * tile + t]);
    }
  }
};

/// Codes of weights, decoded to bf16, times bf16 activations, in the chunks of Codes.
template <WeightType kType, int kBlockPanels>
struct Decoded {
  using D = Decoding<kType>;
  using Raw = Codes<kType, kBlockPanels>;
  static constexpr size_t kMostShared = kMuchShared;
  static constexpr int kPanels = kBlockPanels, kHalves = Raw::kHalves;
  static constexpr int kColumns = Raw::kColumns, kSuperChunks = Raw::kSuperChunks;
  static constexpr int kRowPieces = kColumns / 8;

  using Weights = typename Raw::Weights;
  struct Activations {
    Words4 at[kRows][kRowPieces];
  };

  __device__ static Piece weights(const Product& p, const std::byte* panel, int first_column,
                                  int i) {
    return Raw::weights(p, panel, first_column, i);
  }
  __device__ static Piece activations(const Product& p, int first_column, int i) {
    return row_piece<kColumns, 2>(p, first_column, i);
  }

  template <int kTiles>
  __device__ static void multiply(const Weights& w, const Activations& x, int first_row, int lane,
                                  Sums<Decoded>& sum) {
    using L = Layout<kType>;
    const int g = lane / 4, t = lane % 4;
    const auto* super = reinterpret_cast<const std::byte*>(w.at);
#pragma unroll
    for (int part = 0; part < kColumns / 32; ++part) {
      const int column = 32 * part + 8 * t;
      const Words4* header = w.at + Raw::kSuperPieces + column / L::kColumns * Raw::kGroupPieces;
      Words4 raw[D::kWords], a[4];
#pragma unroll
      for (int i = 0; i < D::kWords; ++i) {
        const int line = column % L::kColumns / D::kLineColumns + i;
        raw[i] = header[Raw::kHeaderPieces + line * kPieces + code_piece(Raw::S::lane_of(line), g)];
      }
      decode_rows<kType>(
          raw, raw_scalings<kType>(super, reinterpret_cast<const std::byte*>(header), 4 * g), a);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int row = first_row + 8 * tile + g;
        const Words4 b = x.at[row][row_place<kRowPieces>(row, 4 * part + t)];
#pragma unroll
        for (int step = 0; step < 2; ++step)
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) add_bf16(sum[tile][j], a, j, step, b);
      }
    }
  }
};

}  // namespace sala::cuda
