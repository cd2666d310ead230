#include "cuda/mma.h"
#include "cuda/select_device.h"

// block_select's scores on tensor cores, for bf16 keys and up to 16 heads a kv head: the heads of
// a query are the rows of a tile, windows its columns. Windows come to shared memory in chunks of
// 32, a lane reads 16 bytes of a key, 8 channels, which are the pairs of two steps of mma.sync; q
// is laid out for the same order of channels. Scored with 2 d flops a head and window.
//
// A block of threads has one query, whose chunks its warps share out, or four neighbouring ones, a
// warp each, for which every chunk is read once. What is computed of a chunk, and the order in
// which chunks are merged, is the same: a query's ranks do not depend on the step.

namespace sala::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpThreads;
constexpr int kChunk = kTileWindows / kWarps;  ///< windows
constexpr int kSlices = kChunk / 8;            ///< the columns of a product
constexpr int kStages = 3;                     ///< chunks in flight
constexpr int kWide = 4;                       ///< tiles of a block of several queries

/// Bytes between keys in shared memory: half a turn of the banks more than a whole number, so that
/// eight lanes with 64 bytes of two keys meet all of them.
template <int kDim>
constexpr int kKeyBytes = kDim * 2 + (kDim % 64 == 0 ? 64 : 0);

/// One slot a warp, or the stages of the block.
template <int kDim, int kQueries>
struct ChunkSlots {
  alignas(16) std::byte at[kQueries == 1 ? kWarps : kStages][kChunk * kKeyBytes<kDim>];
};

template <int kDim, int kQueries>
struct NormaliseShared {
  ChunkSlots<kDim, kQueries> keys;
  Normaliser normalisers[kWarps][kTileHeads];  ///< of each warp's chunk, one query
};

template <int kDim, int kQueries>
struct RankShared {
  ChunkSlots<kDim, kQueries> keys;
  uint32_t best[kQueries][kTileWindows];
};

/// The rows of a query as fragments, head_dim^-1/2 q in bf16: the two steps of 32 channels hold
/// those of the lane's 16 bytes of a key. Zeros where it is not `active`.
template <int kDim>
struct QueryFragments {
  uint32_t at[kDim / 16][4];

  __device__ QueryFragments(const SelectCall& call, const Query& query, bool active) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = lane / 4 + 8 * i;
      const bool there = active && head < call.group;
      const float* x =
          call.q + query.t * call.q_stride + (query.g * call.group + head) * kDim + lane % 4 * 8;
      float values[kDim / 4];
#pragma unroll
      for (float& value : values) value = 0;
      if (there) {
#pragma unroll
        for (int c = 0; c < kDim / 4; ++c) values[c] = x[c / 8 * 32 + c % 8] * call.scale;
      }
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          at[step][half * 2 + i] =
              pack_bf16(values[4 * step + 2 * half], values[4 * step + 2 * half + 1]);
    }
  }
};

/// The tokens and the kv head of a block of threads, and its warp's own query.
template <int kQueries>
struct Tile {
  int64_t first, end;  ///< tokens
  int64_t g;
  uint32_t item = 0;  ///< the warp's query
  Query query{};

  __device__ explicit Tile(const SelectCall& call) {
    const auto heads = static_cast<uint32_t>(call.pages.kv_heads);
    const auto token = blockIdx.x / heads * kQueries;  // of the call
    const auto count = static_cast<uint32_t>(call.tokens);
    g = blockIdx.x % heads;
    first = call.first_token + token;
    end = call.first_token + (count - token < kQueries ? count : token + kQueries);
    const unsigned own = token + (kQueries == 1 ? 0 : threadIdx.x / kWarpThreads);
    if (own >= count) return;
    item = own * heads + static_cast<uint32_t>(g);
    query = query_of(call, call.first_token + own, g);
  }
};

/// Calls use(b, first, end) for each sequence b with queries in the tile, which are the tokens
/// [first, end).
template <int kQueries, class F>
__device__ inline void for_each_run(const SelectCall& call, const Tile<kQueries>& tile,
                                    const F& use) {
  for (int64_t first = tile.first, end = 0; first < tile.end; first = end) {
    const int32_t b = call.step.sequence_of(first);
    end = call.step.starts[b + 1] < tile.end ? call.step.starts[b + 1] : tile.end;
    use(b, first, end);
  }
}

/// Copies the chunk of windows from j on of sequence b by `kCopiers` threads; zeros where there are
/// none.
template <int kDim, int kCopiers>
__device__ inline void copy_chunk(const SelectCall& call, const Level& level, int32_t b, int64_t g,
                                  int32_t j, int32_t end, std::byte* to) {
  const int thread = static_cast<int>(threadIdx.x) % kCopiers;
#pragma unroll
  for (int pass = 0; pass < kChunk * 4 / kCopiers; ++pass) {
    const int i = pass * kCopiers / 4 + thread / 4;
    const bool there = j + i >= 0 && j + i < end;
    const auto* key =
        there ? reinterpret_cast<const std::byte*>(window_key<uint16_t>(call, level, b, g, j + i))
              : level.data;
#pragma unroll
    for (int c = 0; c < kDim / 32; ++c) {
      const int at = c * 64 + thread % 4 * 16;
      copy_async(to + i * kKeyBytes<kDim> + at, key + at, there);
    }
  }
}

/// Brings the windows [from, end) of sequence b to shared memory, chunk by chunk, and calls
/// use(j, keys) with the first window and the place of each: once in the block where its warps
/// share the chunks out, else in every warp. All threads of the block come here together.
template <int kDim, int kQueries, class F>
__device__ inline void for_each_chunk(const SelectCall& call, const Level& level, int32_t b,
                                      int64_t g, int32_t from, int32_t end,
                                      ChunkSlots<kDim, kQueries>& keys, const F& use) {
  if constexpr (kQueries == 1) {
    const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
    std::byte* slot = keys.at[warp];
    for (int32_t j = from + warp * kChunk; j < end; j += kWarps * kChunk) {
      copy_chunk<kDim, kWarpThreads>(call, level, b, g, j, end, slot);
      commit_copies();
      wait_copies<0>();
      __syncwarp();  // the chunk is there
      use(j, slot);
      __syncwarp();  // it is read
    }
  } else {
    const auto copy = [&](int32_t j, int stage) {
      if (j < end) copy_chunk<kDim, kThreads>(call, level, b, g, j, end, keys.at[stage]);
      commit_copies();
    };
    for (int i = 0; i < kStages - 1; ++i) copy(from + i * kChunk, i);
    int stage = 0;
    for (int32_t j = from; j < end; j += kChunk) {
      wait_copies<kStages - 2>();
      __syncthreads();  // this chunk is there, the last one is read
      const int last = stage == 0 ? kStages - 1 : stage - 1;
      copy(j + (kStages - 1) * kChunk, last);
      use(j, keys.at[stage]);
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }
    __syncthreads();  // all is read
  }
}

/// scores [16 heads][8 windows] of each slice of a chunk, in the fragments of mma.sync.
template <int kDim>
__device__ inline void multiply(const std::byte* keys, const QueryFragments<kDim>& q,
                                float (&scores)[kSlices][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const std::byte* mine = keys + lane / 4 * kKeyBytes<kDim> + lane % 4 * 16;
#pragma unroll
  for (int n = 0; n < kSlices; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i)
#pragma unroll
    for (int n = 0; n < kSlices; ++n) {
      const Words4 words =
          *reinterpret_cast<const Words4*>(mine + n * 8 * kKeyBytes<kDim> + 64 * i);
      mma_bf16(scores[n], q.at[2 * i], {words.at[0], words.at[1]});
      mma_bf16(scores[n], q.at[2 * i + 1], {words.at[2], words.at[3]});
    }
#pragma unroll
  for (int n = 0; n < kSlices; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] *= kLog2E;
}

/// The softmax of the first `count` windows of a chunk for row lane / 4 + 8 i, in the row's four
/// lanes.
__device__ inline Normaliser normaliser_of(float (&scores)[kSlices][4], int i, int32_t count) {
  const int quad = static_cast<int>(threadIdx.x) % 4;
  float largest = -std::numeric_limits<float>::infinity();
#pragma unroll
  for (int n = 0; n < kSlices; ++n)
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      float& score = scores[n][2 * i + k];
      if (n * 8 + quad * 2 + k >= count) score = -std::numeric_limits<float>::infinity();
      largest = fmaxf(largest, score);
    }
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
  float sum = 0;
#pragma unroll
  for (int n = 0; n < kSlices; ++n)
#pragma unroll
    for (int k = 0; k < 2; ++k) sum += exp2f(scores[n][2 * i + k] - largest);
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  return {largest, sum};
}

/// A block of threads takes coarse windows of its queries and kv head: tile blockIdx.y of one
/// query, or kWide tiles of several.
template <int kDim, int kQueries>
__global__ void __launch_bounds__(kThreads, kQueries == 1 ? 1 : 4) normalise_tile(SelectCall call) {
  wait_for_earlier();
  auto& s = shared<NormaliseShared<kDim, kQueries>>();
  constexpr int32_t kWindows = kTileWindows * (kQueries == 1 ? 1 : kWide);
  const Tile<kQueries> tile(call);
  const Query& query = tile.query;
  const auto from = static_cast<int32_t>(blockIdx.y) * kWindows;
  const int32_t windows = query.scored ? call.coarse.visible(query.position) : 0;
  if (kQueries == 1 && from >= windows) return;  // the whole block
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  const QueryFragments<kDim> q(call, query, from < windows);
  for_each_run(call, tile, [&](int32_t b, int64_t first, int64_t last) {
    int32_t end = 0;
    for (int64_t t = first; t < last; ++t)
      if (const Query other = query_of(call, t, tile.g); other.scored)
        end = call.coarse.visible(other.position);  // the largest is the last
    end = end < from + kWindows ? end : from + kWindows;
    if (from >= end) return;
    const bool mine = query.t >= first && query.t < last;
    Normaliser wholes[2];
    for_each_chunk<kDim>(
        call, call.coarse, b, tile.g, from, end, s.keys, [&](int32_t j, const std::byte* keys) {
          if (!mine || j >= windows) return;  // the whole warp
          float scores[kSlices][4];
          multiply(keys, q, scores);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int row = lane / 4 + 8 * i;
            const Normaliser part = normaliser_of(scores, i, windows - j);
            if constexpr (kQueries == 1) {
              if (lane % 4 == 0) s.normalisers[warp][row] = part;
            } else {
              if (j % kTileWindows == 0) {
                wholes[i] = part;
              } else {
                merge(wholes[i], part);
              }
              const bool ends = (j + kChunk) % kTileWindows == 0 || j + kChunk >= windows;
              if (ends && lane % 4 == 0 && row < call.group)
                call.parts_of(tile.item, row)[j / kTileWindows] = wholes[i];
            }
          }
        });
  });
  if constexpr (kQueries == 1) {
    __syncthreads();
    if (thread >= call.group) return;
    Normaliser whole = s.normalisers[0][thread];
    for (int w = 1; w < kWarps && from + w * kChunk < windows; ++w)
      merge(whole, s.normalisers[w][thread]);
    call.parts_of(tile.item, thread)[blockIdx.y] = whole;
  }
}

/// The sum over the eight rows of `votes` that lanes of one column hold, of the window
/// lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2 of the chunk: with every step lanes keep half of
/// their windows.
__device__ inline float sum_votes(const float (&votes)[kSlices][2]) {
  static_assert(kSlices == 4);
  const unsigned lane = threadIdx.x % kWarpThreads;
  const auto half = [&](float low, float high, unsigned bit) {
    const bool upper = (lane & bit) != 0;
    const float other = __shfl_xor_sync(kAllLanes, upper ? low : high, static_cast<int>(bit));
    return (upper ? high : low) + other;
  };
  float slices[kSlices];
#pragma unroll
  for (int n = 0; n < kSlices; ++n) slices[n] = half(votes[n][0], votes[n][1], 4);
  const float low = half(slices[0], slices[1], 8);
  const float high = half(slices[2], slices[3], 8);
  return half(low, high, 16);
}

/// A block of threads ranks tile blockIdx.y of the blocks of its queries and kv head, up to
/// kTileWindows: each chunk of their windows and the one before them is scored, the votes of the
/// heads are added up.
template <int kDim, int kQueries>
__global__ void __launch_bounds__(kThreads, kQueries == 1 ? 1 : 4)
    rank_tile(SelectCall call, int32_t tile_blocks) {
  wait_for_earlier();
  auto& s = shared<RankShared<kDim, kQueries>>();
  const Tile<kQueries> tile(call);
  const Query& query = tile.query;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  const auto first_block = static_cast<int32_t>(blockIdx.y) * tile_blocks;
  int32_t count = 0;  // of the query's own blocks
  if (query.scored && query.blocks > first_block)
    count = query.blocks - first_block < tile_blocks ? query.blocks - first_block : tile_blocks;
  if (kQueries == 1 && count == 0) return;  // the whole block
  const int32_t from = first_block * call.block_windows - 1;
  const int32_t tile_end = (first_block + tile_blocks) * call.block_windows;
  const int32_t windows = count > 0 ? call.fine.visible(query.position) : 0;
  const QueryFragments<kDim> q(call, query, count > 0);
  Normaliser low{}, high{};
  if (count > 0) {
    low = whole_normaliser(call, tile.item, lane / 4);
    high = whole_normaliser(call, tile.item, lane / 4 + 8);
  }
  // One query's best are everybody's, several ones' their warp's own.
  uint32_t* best = s.best[kQueries == 1 ? 0 : warp];
  const int self = kQueries == 1 ? thread : lane;
  constexpr int kTeam = kQueries == 1 ? kThreads : kWarpThreads;
  for (int32_t i = self; i < count; i += kTeam) best[i] = 0;
  __syncthreads();
  for_each_run(call, tile, [&](int32_t b, int64_t first, int64_t last) {
    int32_t end = 0;
    for (int64_t t = first; t < last; ++t)
      if (const Query other = query_of(call, t, tile.g); other.scored)
        end = call.fine.visible(other.position);  // the largest is the last
    end = end < tile_end ? end : tile_end;
    const bool mine = query.t >= first && query.t < last;
    for_each_chunk<kDim>(call, call.fine, b, tile.g, from, end, s.keys,
                         [&](int32_t j, const std::byte* keys) {
                           if (!mine || j >= windows) return;  // the whole warp
                           float scores[kSlices][4];
                           multiply(keys, q, scores);
                           float votes[kSlices][2];
#pragma unroll
                           for (int n = 0; n < kSlices; ++n)
#pragma unroll
                             for (int k = 0; k < 2; ++k)
                               votes[n][k] = fmaf(exp2f(scores[n][2 + k] - high.largest), high.sum,
                                                  exp2f(scores[n][k] - low.largest) * low.sum);
                           const float vote = sum_votes(votes);
                           const int32_t window = j + lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2;
                           if (window >= 0 && window < windows && window < tile_end)
                             cast_vote(call, best, first_block, count, window, vote);
                         });
  });
  __syncthreads();
  for (int32_t i = self; i < count; i += kTeam)
    call.ranks[static_cast<int64_t>(tile.item) * call.most_blocks + first_block + i] = best[i];
}

template <int kDim, int kQueries>
void score(Device& device, const SelectCall& call) {
  constexpr int kTiles = kQueries == 1 ? 1 : kWide;
  const int64_t items = (call.tokens + kQueries - 1) / kQueries * call.pages.kv_heads;
  launch(device, {.x = items, .y = (call.coarse_tiles + kTiles - 1) / kTiles}, kThreads,
         sizeof(NormaliseShared<kDim, kQueries>), normalise_tile<kDim, kQueries>, call);
  merge_normalisers(device, call);
  const int32_t blocks = call.blocks_of(kTiles * kTileWindows);
  const int32_t tile_blocks = blocks < kTileWindows ? blocks : kTileWindows;
  launch(device, {.x = items, .y = (call.most_blocks + tile_blocks - 1) / tile_blocks}, kThreads,
         sizeof(RankShared<kDim, kQueries>), rank_tile<kDim, kQueries>, call, tile_blocks);
}

/// Several queries a block where a step has neighbouring ones.
template <int kDim>
void score_dim(Device& device, const SelectCall& call) {
  if (call.tokens < kWarps * int64_t{call.step.sequences}) {
    score<kDim, 1>(device, call);
  } else {
    score<kDim, kWarps>(device, call);
  }
}

bool aligned(const Level& level) {
  return level.page_stride % 16 == 0 && reinterpret_cast<uintptr_t>(level.data) % 16 == 0;
}

}  // namespace

bool scores_in_tiles(const SelectCall& call) {
  const int d = call.pages.head_dim;
  return call.rounds && call.group <= kTileHeads && (d == 64 || d == 96 || d == 128) &&
         aligned(call.fine) && aligned(call.coarse);
}

void score_in_tiles(Device& device, const SelectCall& call) {
  switch (call.pages.head_dim) {
    case 64:
      return score_dim<64>(device, call);
    case 96:
      return score_dim<96>(device, call);
    default:
      return score_dim<128>(device, call);
  }
}

}  // namespace sala::cuda
