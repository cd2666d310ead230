#include "cuda/mma.h"
#include "cuda/select_device.h"

// block_select's scores on tensor cores, for bf16 keys and up to 16 heads a kv head: the heads of
// a query are the rows of a tile, windows its columns. A lane reads 16 bytes of a key, 8 channels,
// which are the pairs of two steps of mma.sync; q is laid out for the same order of channels. Each
// window is read once a query, 2 bytes a channel, and scored with 2 d flops a head.

namespace sala::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpThreads;
constexpr int kTiles = kTileWindows / 8 / kWarps;  // of 8 windows, for a warp

struct SelectShared {
  Normaliser normalisers[kWarps][kTileHeads];  ///< of each warp
  uint32_t best[kTileWindows];
};

/// The rows of a query as fragments, head_dim^-1/2 q in bf16: the two steps of 32 channels hold
/// those of the lane's 16 bytes of a key.
template <int kDim>
struct QueryFragments {
  uint32_t at[kDim / 16][4];

  __device__ QueryFragments(const SelectCall& call, const Query& query) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = lane / 4 + 8 * i;
      const float* x =
          call.q + query.t * call.q_stride + (query.g * call.group + head) * kDim + lane % 4 * 8;
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int c = step / 2 * 32 + step % 2 * 4 + half * 2;
          at[step][half * 2 + i] =
              head < call.group ? pack_bf16(x[c] * call.scale, x[c + 1] * call.scale) : 0;
        }
    }
  }
};

/// scores [16 heads][8 windows from j on] in the fragments of mma.sync; `end` is the first window
/// that is not read.
template <int kDim>
__device__ inline void multiply(const SelectCall& call, const Level& keys, int32_t b, int64_t g,
                                const QueryFragments<kDim>& q, int32_t j, int32_t end,
                                float (&scores)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int32_t mine = j + lane / 4;
  Words4 words[kDim / 32]{};
  if (mine >= 0 && mine < end) {
    const auto* key =
        reinterpret_cast<const Words4*>(window_key<uint16_t>(call, keys, b, g, mine)) + lane % 4;
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) words[i] = key[4 * i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] = 0;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    const uint32_t* pair = words[step / 2].at + step % 2 * 2;
    mma_bf16(scores, q.at[step], {pair[0], pair[1]});
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] *= kLog2E;
}

/// A block of threads takes tile blockIdx.y of the coarse windows of one query and kv head, a warp
/// 32 of them.
template <int kDim>
__global__ void __launch_bounds__(kThreads) normalise_tile(SelectCall call) {
  auto& s = shared<SelectShared>();
  const Query query = query_of(call, blockIdx.x);
  const int32_t windows = call.coarse.visible(query.position);
  const auto first = static_cast<int32_t>(blockIdx.y) * kTileWindows;
  if (!query.scored || first >= windows) return;  // the whole block
  const int32_t b = call.step.sequence_of(query.t);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  const QueryFragments<kDim> q(call, query);
  const int32_t own = first + warp * kTiles * 8;
  float scores[kTiles][4];
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    multiply<kDim>(call, call.coarse, b, query.g, q, own + n * 8, windows, scores[n]);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float largest = -std::numeric_limits<float>::infinity();
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
      for (int k = 0; k < 2; ++k) {
        float& score = scores[n][2 * i + k];
        if (own + n * 8 + lane % 4 * 2 + k >= windows)
          score = -std::numeric_limits<float>::infinity();
        largest = fmaxf(largest, score);
      }
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    float sum = 0;
    if (own < windows)
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        for (int k = 0; k < 2; ++k) sum += exp2f(scores[n][2 * i + k] - largest);
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (lane % 4 == 0) s.normalisers[warp][lane / 4 + 8 * i] = {largest, sum};
  }
  __syncthreads();
  if (thread < call.group) {
    Normaliser whole = s.normalisers[0][thread];
    for (int w = 1; w < kWarps && first + w * kTiles * 8 < windows; ++w)
      merge(whole, s.normalisers[w][thread]);
    call.parts_of(blockIdx.x, thread)[blockIdx.y] = whole;
  }
}

/// A block of threads ranks tile blockIdx.y of the blocks of one query and kv head: a warp scores
/// 32 windows at a time, theirs and the one before them, and adds up the votes of the heads.
template <int kDim>
__global__ void __launch_bounds__(kThreads) rank_tile(SelectCall call, int32_t tile_blocks) {
  auto& s = shared<SelectShared>();
  const Query query = query_of(call, blockIdx.x);
  const auto first = static_cast<int32_t>(blockIdx.y) * tile_blocks;
  if (!query.scored || first >= query.blocks) return;  // the whole block
  const int32_t count = query.blocks - first < tile_blocks ? query.blocks - first : tile_blocks;
  const int32_t b = call.step.sequence_of(query.t);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  if (thread < count) s.best[thread] = 0;
  const QueryFragments<kDim> q(call, query);
  __syncthreads();
  const Normaliser low = whole_normaliser(call, blockIdx.x, lane / 4);
  const Normaliser high = whole_normaliser(call, blockIdx.x, lane / 4 + 8);
  const int32_t per_block = call.block_windows;
  const int32_t windows = call.fine.visible(query.position);
  const int32_t end = (first + count) * per_block < windows ? (first + count) * per_block : windows;
  for (int32_t j = first * per_block - 1 + warp * 8; j < end; j += kWarps * 8) {
    float scores[4];
    multiply<kDim>(call, call.fine, b, query.g, q, j, end, scores);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      float vote = fmaf(exp2f(scores[2 + k] - high.largest), high.sum,
                        exp2f(scores[k] - low.largest) * low.sum);
      for (int mask = 4; mask < kWarpThreads; mask *= 2)
        vote += __shfl_xor_sync(kAllLanes, vote, mask);
      const int32_t window = j + lane % 4 * 2 + k;
      if (lane < 4 && window >= 0 && window < end)
        cast_vote(call, s.best, first, count, window, vote);
    }
  }
  __syncthreads();
  if (thread < count)
    call.ranks[static_cast<int64_t>(blockIdx.x) * call.most_blocks + first + thread] =
        s.best[thread];
}

template <int kDim>
void score_dim(Device& device, const SelectCall& call) {
  const int64_t items = call.tokens * call.pages.kv_heads;
  launch(device, {.x = items, .y = call.coarse_tiles}, kThreads, sizeof(SelectShared),
         normalise_tile<kDim>, call);
  merge_normalisers(device, call);
  const int32_t tile_blocks = call.blocks_of(kTileWindows);
  launch(device, {.x = items, .y = (call.most_blocks + tile_blocks - 1) / tile_blocks}, kThreads,
         sizeof(SelectShared), rank_tile<kDim>, call, tile_blocks);
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
