#include "cuda/batch_kinds_device.h"
#include "cuda/matmul_kernels.h"
#include "cuda/pipeline_device.h"
#include "cuda/warpgroup.h"

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
constexpr int kPitch = kPanel + 4;       // the stores of a warp fall into different banks
constexpr int kMostStages = 8;           // more bytes under way than memory needs
constexpr int64_t kManyPanels = 4 * 96;  // fewer would leave much of a GPU idle by fours

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
