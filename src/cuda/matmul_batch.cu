#include "cuda/matmul_kernels.h"
#include "cuda/pipeline_device.h"
#include "cuda/warpgroup.h"
#include "cuda/weights_device.h"

// matmul for the rows of activations of a batch: still bound by the reading of the weights, which
// pass from memory once. A block makes all rows of four panels, which share the activations, or of
// one panel where there are too few to fill a GPU by fours. Weights and activations pass through
// shared memory in chunks. A warp has a panel, all rows or half of them, and a slice of the
// columns: every kSlices-th segment. When all slices have ended one, these segments are added in
// order.

namespace sala::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpThreads;
constexpr int kRows = static_cast<int>(kBatchRows);
constexpr int kPitch = kPanel + 4;          // the stores of a warp fall into different banks
constexpr size_t kLittleShared = 99 << 10;  // of a block, on GPUs that have little
constexpr size_t kMuchShared = 227 << 10;   // on those with warpgroups
constexpr int kMostStages = 8;              // more bytes under way than memory needs
constexpr int64_t kManyPanels = 4 * 96;     // fewer would leave much of a GPU idle by fours

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

/// Where a thread is.
template <class Kind>
struct Place {
  static constexpr int kPanels = Kind::kPanels, kHalves = Kind::kHalves;
  static constexpr int kPanelThreads = kHalves * kWarpThreads;  // of a panel and slice
  static constexpr int kSliceThreads = kPanels * kPanelThreads;

  __device__ Place()
      : thread(static_cast<int>(threadIdx.x)),
        warp(thread / kWarpThreads),
        lane(thread % kWarpThreads),
        first_row(warp % kHalves * (kRows / kHalves)),
        panel(thread / kPanelThreads % kPanels),
        slice(thread / kSliceThreads) {}
  int thread, warp, lane;
  int first_row;     ///< of the warp's
  int panel, slice;  ///< of the block's
};

template <class Kind>
constexpr int kSlices = kThreads / Place<Kind>::kSliceThreads;

template <class Kind>
struct Shared {
  struct Stage {
    typename Kind::Weights w[kSlices<Kind>][Kind::kPanels];
    typename Kind::Activations x[kSlices<Kind>];
  };
  using AllSums = float[kSlices<Kind>][Kind::kPanels][kRows][kPitch];
  static constexpr int kRoom =
      static_cast<int>((Kind::kMostShared - sizeof(AllSums)) / sizeof(Stage));
  static constexpr int kStages = kRoom < kMostStages ? kRoom : kMostStages;
  static_assert(kStages >= 2);
  AllSums sums;
  Stage stages[kStages];
};

/// The pieces that a thread brings of kCount of a chunk, the i-th of kShares threads.
template <class Kind, int kCount, int kShares>
struct Pieces {
  static constexpr int kEach = (kCount + kShares - 1) / kShares;

  /// `to`: where the first of the kCount is in a stage, in bytes; `piece(j)` says which the j-th
  /// is.
  template <class Make>
  __device__ Pieces(int share, int first_column, int to, const Make& piece)
      : i(share), super_chunk(first_column / Kind::kColumns % Kind::kSuperChunks) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      at[j] = piece(i + kShares * j);
      at[j].to += to;
    }
  }

  /// Has those of the first chunk come to L2.
  __device__ void prefetch() const {
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (i + kShares * j < kCount && at[j].chunks > 0) cuda::prefetch(at[j].from);
  }

  __device__ void copy(unsigned chunk, std::byte* stage) const {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (kShares * (j + 1) > kCount && i + kShares * j >= kCount) break;
      const uint64_t place = uint64_t{chunk} * at[j].step;
      const uint64_t super =
          uint64_t{(super_chunk + chunk) / Kind::kSuperChunks} * at[j].super_step;
      copy_async(stage + at[j].to, at[j].from + place + super, chunk < at[j].chunks);
    }
  }

  int i;
  unsigned super_chunk;  ///< the first chunk, in its block of kSuper columns
  Piece at[kEach];
};

/// Counts the chunks of a slice, those of a segment and then of the one kSlices further.
template <class Kind>
struct Walk {
  explicit __device__ Walk(const Product& p)
      : length(static_cast<int>(p.segment) / Kind::kColumns), left(length) {}
  /// Whether a segment ends with the chunk that is left behind.
  __device__ bool next() {
    ++chunk;
    if (--left > 0) return false;
    chunk += (kSlices<Kind> - 1) * length;
    left = length;
    return true;
  }
  int length;  ///< chunks of a segment
  int left, chunk = 0;
};

/// The outputs of a thread: row warp + kWarps i of each panel, of which it has output row `lane`.
template <class Kind>
using Outputs = float[Kind::kPanels][kRows / kWarps];

/// Adds the segments that the slices have ended, in order, and begins the next.
template <class Kind>
__device__ inline void end_segments(const Place<Kind>& at, Sums<Kind>& sum, Outputs<Kind>& total) {
  auto& sums = shared<Shared<Kind>>().sums;
  const int g = at.lane / 4, t = at.lane % 4;
#pragma unroll
  for (int tile = 0; tile < kTiles<Kind>; ++tile) {
    auto& c = sum[tile];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = at.first_row + 8 * tile + 2 * t + i;
      *reinterpret_cast<Floats4*>(&sums[at.slice][at.panel][row][4 * g]) = {
          {c[0][i], c[0][2 + i], c[1][i], c[1][2 + i]}};
      c[0][i] = c[0][2 + i] = c[1][i] = c[1][2 + i] = 0;
    }
  }
  __syncthreads();
#pragma unroll
  for (int slice = 0; slice < kSlices<Kind>; ++slice)
#pragma unroll
    for (int panel = 0; panel < Kind::kPanels; ++panel)
#pragma unroll
      for (int i = 0; i < kRows / kWarps; ++i)
        total[panel][i] += sums[slice][panel][at.warp + kWarps * i][at.lane];
}

template <class Kind>
__device__ inline void write(const Product& p, const Place<Kind>& at, const Outputs<Kind>& total) {
  const int64_t first = int64_t{blockIdx.x} * Kind::kPanels;
#pragma unroll
  for (int i = 0; i < kRows / kWarps; ++i) {
    const int row = at.warp + kWarps * i;
    if (row >= p.tokens) return;
    const auto put = [&](int64_t panel, float value) {
      const int64_t out = panel * kPanel + at.lane;
      if (out < p.rows) p.y[row * p.y_stride + out] = value;
    };
    if (!p.paired)
      for (int panel = 0; panel < Kind::kPanels; ++panel) put(first + panel, total[panel][i]);
    else
      for (int panel = 0; panel + 1 < Kind::kPanels; panel += 2)
        put((first + panel) / 2, swiglu(total[panel][i], total[panel + 1][i]));
  }
}

template <class Kind>
__device__ inline void multiply_batch(const Product& p) {
  using At = Place<Kind>;
  using Stage = typename Shared<Kind>::Stage;
  auto& s = shared<Shared<Kind>>();
  const At at;
  const int first_column = at.slice * static_cast<int>(p.segment);
  // A panel behind the last is multiplied like the last and not written.
  const int64_t own = int64_t{blockIdx.x} * Kind::kPanels + at.panel;
  const std::byte* panel =
      p.panels + (own < p.panel_count ? own : p.panel_count - 1) * p.panel_bytes;

  constexpr int kWeights = sizeof(typename Kind::Weights);
  const Pieces<Kind, kWeights / 16, At::kPanelThreads> w(
      at.thread % At::kPanelThreads, first_column, at.thread / At::kPanelThreads * kWeights,
      [&](int i) { return Kind::weights(p, panel, first_column, i); });
  w.prefetch();
  wait_for_earlier();
  constexpr int kActivations = sizeof(typename Kind::Activations);
  const Pieces<Kind, kActivations / 16, At::kSliceThreads> x(
      at.thread % At::kSliceThreads, first_column, sizeof(Stage::w) + at.slice * kActivations,
      [&](int i) { return Kind::activations(p, first_column, i); });

  Walk<Kind> copied(p), multiplied(p);
  const int64_t round = kSlices<Kind> * p.segment;
  const int rounds = static_cast<int>((p.cols + round - 1) / round);
  Outputs<Kind> total = {};
  Sums<Kind> sum = {};
  pipeline<Shared<Kind>::kStages>(
      rounds * copied.length,
      [&](int stage, int) {
        auto* to = reinterpret_cast<std::byte*>(&s.stages[stage]);
        w.copy(copied.chunk, to);
        x.copy(copied.chunk, to);
        copied.next();
      },
      [&](int stage, int) {
        const auto& from_w = s.stages[stage].w[at.slice][at.panel];
        const auto& from_x = s.stages[stage].x[at.slice];
        if (p.tokens > (Kind::kHalves > 1 ? at.first_row : kRows / 2))
          Kind::template multiply<kTiles<Kind>>(from_w, from_x, at.first_row, at.lane, sum);
        else if constexpr (Kind::kHalves == 1)
          Kind::template multiply<kTiles<Kind> / 2>(from_w, from_x, 0, at.lane, sum);
        if (multiplied.next()) end_segments<Kind>(at, sum, total);
      });
  write<Kind>(p, at, total);
}

template <class Kind>
__global__ void __launch_bounds__(kThreads, 1) batch(Product p) {
  multiply_batch<Kind>(p);
}

template <class Kind>
__global__ void __launch_bounds__(kThreads, 1) decoded_batch(Product p) {
#ifdef SALA_WARPGROUPS  // others multiply codes
  multiply_batch<Kind>(p);
#endif
}

template <class Kind>
void run(Device& device, const Product& p, void (*kernel)(Product) = batch<Kind>) {
  launch(device, {.x = (p.panel_count + Kind::kPanels - 1) / Kind::kPanels}, kThreads,
         sizeof(Shared<Kind>), kernel, p);
}

/// Whether panels go by fours.
bool many(const Product& p) { return p.paired || p.panel_count >= kManyPanels; }

}  // namespace

void matmul_batch_bf16(Device& device, WeightType type, const Product& p) {
  if (type == WeightType::bf16)
    many(p) ? run<Values<4>>(device, p) : run<Values<1>>(device, p);
  else
    for_type(type, [&]<WeightType kType>() {
      if constexpr (quantised(kType))
        many(p) ? run<Decoded<kType, 4>>(device, p, decoded_batch<Decoded<kType, 4>>)
                : run<Decoded<kType, 1>>(device, p, decoded_batch<Decoded<kType, 1>>);
    });
}

void matmul_batch_int8(Device& device, WeightType type, const Product& p) {
  for_type(type, [&]<WeightType kType>() {
    if constexpr (quantised(kType))
      many(p) ? run<Codes<kType, 4>>(device, p) : run<Codes<kType, 1>>(device, p);
  });
}

}  // namespace sala::cuda
