#include <algorithm>
#include <cmath>

#include "cuda/kernels.h"
#include "cuda/rows_device.h"
#include "cuda/select_device.h"
#include "ops/math.h"

// block_select: scores for any keys, and the choice. 2 d flops a head and window. The way of bf16
// keys on tensor cores is select_tiles.cu.

namespace sala::cuda {
namespace {

constexpr int kThreads = kTileWindows;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kMostDim = 256;
/// Queries and kv heads that leave multiprocessors free: blocks of all the threads there are.
constexpr int64_t kFewQueries = 64;

struct ScoreShared {
  float q[kTileHeads][kMostDim];
  Normaliser normalisers[kWarps][kTileHeads];  ///< coarse: of each warp; fine: row 0, of all
  uint32_t best[kTileWindows];
};

/// head_dim^-1/2 q of `rows` heads from `head` on, in the type in which it enters its products.
__device__ void load_queries(const SelectCall& call, const Query& query, int head, int rows,
                             float (&q)[kTileHeads][kMostDim]) {
  const int d = call.pages.head_dim;
  const float* from = call.q + query.t * call.q_stride + (query.g * call.group + head) * d;
  for (int i = static_cast<int>(threadIdx.x); i < rows * d; i += kThreads) {
    const float x = from[i] * call.scale;
    q[i / d][i % d] = call.rounds ? bf16_to_f32(f32_to_bf16(x)) : x;
  }
}

__device__ inline float widened(float x) { return x; }
__device__ inline float widened(uint16_t x) { return bf16_to_f32(x); }

/// scores[h] = log2(e) q_h.k.
template <class T>
__device__ inline void multiply(const float (&q)[kTileHeads][kMostDim], const T* key, int d,
                                int rows, float (&scores)[kTileHeads]) {
#pragma unroll
  for (int h = 0; h < kTileHeads; ++h) scores[h] = 0;
  for (int c = 0; c < d; ++c) {
    const float k = widened(key[c]);
#pragma unroll
    for (int h = 0; h < kTileHeads; ++h)
      if (h < rows) scores[h] = fmaf(q[h][c], k, scores[h]);
  }
#pragma unroll
  for (int h = 0; h < kTileHeads; ++h) scores[h] *= kLog2E;
}

/// A block of threads takes tile blockIdx.y of the coarse windows of one query and kv head, a
/// thread a window.
template <class T>
__global__ void __launch_bounds__(kThreads) normalise_windows(SelectCall call) {
  wait_for_earlier();
  auto& s = shared<ScoreShared>();
  const Query query = query_of(call, blockIdx.x);
  const int32_t windows = call.coarse.visible(query.position);
  const auto first = static_cast<int32_t>(blockIdx.y) * kTileWindows;
  if (!query.scored || first >= windows) return;  // the whole block
  const int32_t b = call.step.sequence_of(query.t);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  const int32_t j = first + thread;
  const bool seen = j < windows;
  for (int head = 0; head < call.group; head += kTileHeads) {
    const int rows = call.group - head < kTileHeads ? call.group - head : kTileHeads;
    __syncthreads();
    load_queries(call, query, head, rows, s.q);
    __syncthreads();
    float scores[kTileHeads];
    if (seen)
      multiply(s.q, window_key<T>(call, call.coarse, b, query.g, j), call.pages.head_dim, rows,
               scores);
#pragma unroll
    for (int h = 0; h < kTileHeads; ++h) {
      if (h >= rows) break;
      const float largest = warp_max(seen ? scores[h] : -std::numeric_limits<float>::infinity());
      const float sum = warp_sum(seen ? exp2f(scores[h] - largest) : 0.0f);
      if (lane == 0) s.normalisers[warp][h] = {largest, sum};
    }
    __syncthreads();
    if (thread < rows) {
      Normaliser whole = s.normalisers[0][thread];
      for (int w = 1; w < kWarps; ++w) {
        if (s.normalisers[w][thread].sum == 0.0f) break;  // a warp without a window
        merge(whole, s.normalisers[w][thread]);
      }
      call.parts_of(blockIdx.x, head + thread)[blockIdx.y] = whole;
    }
  }
}

struct MergeShared {
  float factors[kWarps][kWarpThreads], sums[kWarps][kWarpThreads];
};

/// Merges the tiles of a query's coarse windows, left to right: a warp has one head, a lane a tile.
/// Only the sum goes from tile to tile; what it is multiplied by follows from the largest scores up
/// to each tile, which lanes find together.
__global__ void __launch_bounds__(kThreads) merge_tiles(SelectCall call) {
  wait_for_earlier();
  auto& s = shared<MergeShared>();
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const Query query = query_of(call, blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int32_t head = static_cast<int32_t>(blockIdx.y) * kWarps + warp;
  if (!query.scored || head >= call.group) return;  // the whole warp
  const int32_t tiles = (call.coarse.visible(query.position) + kTileWindows - 1) / kTileWindows;
  const Normaliser* parts = call.parts_of(blockIdx.x, head);
  float largest = kNone, sum = 0;
  for (int32_t first = 0; first < tiles; first += kWarpThreads) {
    const Normaliser part =
        first + lane < tiles ? parts[first + lane] : Normaliser{.largest = kNone, .sum = 0};
    float through = part.largest;
    for (int delta = 1; delta < kWarpThreads; delta *= 2) {
      const float other = __shfl_up_sync(kAllLanes, through, delta);
      if (lane >= delta) through = fmaxf(through, other);
    }
    through = fmaxf(through, largest);
    const float left = __shfl_up_sync(kAllLanes, through, 1);
    const float before = lane == 0 ? largest : left;
    s.factors[warp][lane] = exp2f(before - through);
    s.sums[warp][lane] = part.sum * exp2f(part.largest - through);
    __syncwarp();
    const int32_t count = tiles - first < kWarpThreads ? tiles - first : kWarpThreads;
    for (int32_t i = 0; i < count; ++i) sum = fmaf(sum, s.factors[warp][i], s.sums[warp][i]);
    largest = warp_max(through);
    __syncwarp();
  }
  // Without a coarse window no vote is cast.
  if (lane == 0)
    call.wholes[static_cast<int64_t>(blockIdx.x) * call.group + head] =
        tiles > 0 ? Normaliser{.largest = largest, .sum = 1.0f / sum}
                  : Normaliser{.largest = std::numeric_limits<float>::max(), .sum = 0};
}

/// A block of threads ranks tile blockIdx.y of the blocks of one query and kv head, a thread a
/// window: theirs and the one before them.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) rank_blocks(SelectCall call, int32_t tile_blocks) {
  wait_for_earlier();
  auto& s = shared<ScoreShared>();
  const Query query = query_of(call, blockIdx.x);
  const auto first = static_cast<int32_t>(blockIdx.y) * tile_blocks;
  if (!query.scored || first >= query.blocks) return;  // the whole block
  const int32_t count = query.blocks - first < tile_blocks ? query.blocks - first : tile_blocks;
  const int32_t b = call.step.sequence_of(query.t);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < count) s.best[thread] = 0;
  const int32_t per_block = call.block_windows;
  const int32_t windows = call.fine.visible(query.position);
  const int32_t end = (first + count) * per_block < windows ? (first + count) * per_block : windows;
  for (int32_t from = first * per_block - 1; from < end; from += kThreads) {
    const int32_t j = from + thread;
    const bool seen = j >= 0 && j < end;
    float vote = 0;
    for (int head = 0; head < call.group; head += kTileHeads) {
      const int rows = call.group - head < kTileHeads ? call.group - head : kTileHeads;
      __syncthreads();
      load_queries(call, query, head, rows, s.q);
      if (thread < rows)
        s.normalisers[0][thread] = whole_normaliser(call, blockIdx.x, head + thread);
      __syncthreads();
      if (!seen) continue;
      float scores[kTileHeads];
      multiply(s.q, window_key<T>(call, call.fine, b, query.g, j), call.pages.head_dim, rows,
               scores);
#pragma unroll
      for (int h = 0; h < kTileHeads; ++h)
        if (h < rows)
          vote =
              fmaf(exp2f(scores[h] - s.normalisers[0][h].largest), s.normalisers[0][h].sum, vote);
    }
    if (seen) cast_vote(call, s.best, first, count, j, vote);
  }
  __syncthreads();
  if (thread < count)
    call.ranks[static_cast<int64_t>(blockIdx.x) * call.most_blocks + first + thread] =
        s.best[thread];
}

constexpr int kBins = 256;
constexpr int kCopies =
    4;  ///< of a histogram, for a lane each in turn: ranks have few first digits

template <int kChoosers>
struct ChooseShared {
  uint32_t histograms[kCopies][kBins + 1];
  uint32_t digit, left;
  int32_t above[kChoosers / kWarpThreads], equal[kChoosers / kWarpThreads];  ///< of each warp
};

/// Warp 0 finds the digit at which the `left` largest end: bins are counted from the top.
template <int kChoosers>
__device__ void find_digit(ChooseShared<kChoosers>& s, uint32_t left) {
  constexpr int kOwn = kBins / kWarpThreads;  // bins of a lane
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int top = kBins - 1 - lane * kOwn;
  uint32_t mine = 0;
  for (int i = 0; i < kOwn; ++i) mine += s.histograms[0][top - i];
  uint32_t through = mine;
  for (int delta = 1; delta < kWarpThreads; delta *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, through, delta);
    if (lane >= delta) through += other;
  }
  uint32_t before = through - mine;
  if (before >= left || through < left) return;
  for (int i = 0; i < kOwn; ++i) {
    const uint32_t here = s.histograms[0][top - i];
    if (before + here >= left) {
      s.digit = static_cast<uint32_t>(top - i);
      s.left = left - before;
      return;
    }
    before += here;
  }
}

/// The ranks of a query's blocks; forced ones are above all others.
struct Ranks {
  static constexpr int kBatch = 4;  ///< loads at once

  const uint32_t* at;
  int32_t blocks, forced_first, forced_last;

  __device__ Ranks(const SelectCall& call, const Query& query, int64_t item)
      : at(call.ranks + item * call.most_blocks),
        blocks(query.blocks),
        forced_first(call.init_blocks),
        forced_last(query.blocks - 1 - call.local_blocks) {}
  /// Of blocks first, first + step, ..; 0 behind the last.
  __device__ void load(int32_t first, int32_t step, int32_t end, uint32_t (&ranks)[kBatch]) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int32_t block = first + i * step;
      const bool forced = block < forced_first || block >= forced_last;
      ranks[i] = block >= end ? 0 : forced ? 0xFFFFFFFFU : at[block];
    }
  }
};

/// A block of threads chooses for one query and kv head. The rank of the last to be chosen is found
/// digit by digit, from the highest; then the blocks above it and the first of its equals are
/// written in order, a run of neighbouring blocks by each warp.
template <int kChoosers>
__global__ void __launch_bounds__(kChoosers) choose_blocks(SelectCall call) {
  wait_for_earlier();
  constexpr int kBatch = Ranks::kBatch;
  auto& s = shared<ChooseShared<kChoosers>>();
  const Query query = query_of(call, blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  const bool sparse = call.sparse[query.t] != 0;
  if (thread == 0)
    call.counts[query.t * call.count_stride + query.g] = !sparse                   ? -1
                                                         : query.blocks < call.top ? query.blocks
                                                                                   : call.top;
  if (!sparse) return;  // the whole block
  int32_t* list = call.lists + query.t * call.list_stride + query.g * call.list_head_stride;
  if (!query.scored) {
    for (int32_t block = thread; block < query.blocks; block += kChoosers) list[block] = block;
    return;  // the whole block
  }
  const Ranks ranks(call, query, blockIdx.x);
  uint32_t x[kBatch];
  uint32_t last = 0, known = 0;
  auto left = static_cast<uint32_t>(call.top);
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = thread; i < kBins; i += kChoosers)
      for (int copy = 0; copy < kCopies; ++copy) s.histograms[copy][i] = 0;
    __syncthreads();
    for (int32_t first = thread; first < query.blocks; first += kChoosers * kBatch) {
      ranks.load(first, kChoosers, query.blocks, x);
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        if (first + i * kChoosers < query.blocks && (x[i] & known) == last)
          atomicAdd(s.histograms[lane % kCopies] + (x[i] >> shift & (kBins - 1)), 1U);
    }
    __syncthreads();
    for (int i = thread; i < kBins; i += kChoosers)
      for (int copy = 1; copy < kCopies; ++copy) s.histograms[0][i] += s.histograms[copy][i];
    __syncthreads();
    if (warp == 0) find_digit(s, left);
    __syncthreads();
    last |= s.digit << shift;
    known |= (kBins - 1U) << shift;
    left = s.left;
  }
  const auto equals = static_cast<int32_t>(left);  // to be chosen
  const int32_t run = (query.blocks + kChoosers - 1) / kChoosers * kWarpThreads;
  const int32_t begin = warp * run;
  const int32_t end = begin + run < query.blocks ? begin + run : query.blocks;
  int32_t above = 0, equal = 0;
  for (int32_t first = begin + lane; first - lane < end; first += kWarpThreads * kBatch) {
    ranks.load(first, kWarpThreads, end, x);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const bool there = first + i * kWarpThreads < end;
      above += __popc(__ballot_sync(kAllLanes, there && x[i] > last));
      equal += __popc(__ballot_sync(kAllLanes, there && x[i] == last));
    }
  }
  if (lane == 0) {
    s.above[warp] = above;
    s.equal[warp] = equal;
  }
  __syncthreads();
  above = 0;  // of those before the blocks at hand
  equal = 0;
  for (int w = 0; w < warp; ++w) {
    above += s.above[w];
    equal += s.equal[w];
  }
  const unsigned lower = (1U << lane) - 1;
  for (int32_t first = begin + lane; first - lane < end; first += kWarpThreads * kBatch) {
    ranks.load(first, kWarpThreads, end, x);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int32_t block = first + i * kWarpThreads;
      const bool is_above = block < end && x[i] > last;
      const bool is_equal = block < end && x[i] == last;
      const unsigned above_votes = __ballot_sync(kAllLanes, is_above);
      const unsigned equal_votes = __ballot_sync(kAllLanes, is_equal);
      const int32_t my_above = above + __popc(above_votes & lower);
      const int32_t my_equal = equal + __popc(equal_votes & lower);
      if (is_above || (is_equal && my_equal < equals))
        list[my_above + (my_equal < equals ? my_equal : equals)] = block;
      above += __popc(above_votes);
      equal += __popc(equal_votes);
    }
  }
}

template <int kChoosers>
void choose(Device& device, const SelectCall& call) {
  launch(device, {.x = call.tokens * call.pages.kv_heads}, kChoosers,
         sizeof(ChooseShared<kChoosers>), choose_blocks<kChoosers>, call);
}

template <class T>
void score_any(Device& device, const SelectCall& call) {
  SALA_CHECK(call.pages.head_dim <= kMostDim, "block_select: heads of {} on a GPU, at most {}",
             call.pages.head_dim, kMostDim);
  const int64_t items = call.tokens * call.pages.kv_heads;
  launch(device, {.x = items, .y = call.coarse_tiles}, kThreads, sizeof(ScoreShared),
         normalise_windows<T>, call);
  merge_normalisers(device, call);
  const int32_t tile_blocks = call.blocks_of(kTileWindows);
  launch(device, {.x = items, .y = (call.most_blocks + tile_blocks - 1) / tile_blocks}, kThreads,
         sizeof(ScoreShared), rank_blocks<T>, call, tile_blocks);
}

/// Scores and chooses for the call's tokens.
void select_tokens(Device& device, const SelectCall& call) {
  if (scores_in_tiles(call)) {
    score_in_tiles(device, call);
  } else if (index_type(call.pages.type) == DType::f32) {
    score_any<float>(device, call);
  } else {
    score_any<uint16_t>(device, call);
  }
  if (call.tokens * call.pages.kv_heads <= kFewQueries) {
    choose<1024>(device, call);
  } else {
    choose<kThreads>(device, call);
  }
}

}  // namespace

void merge_normalisers(Device& device, const SelectCall& call) {
  launch(device, {.x = call.tokens * call.pages.kv_heads, .y = (call.group + kWarps - 1) / kWarps},
         kThreads, sizeof(MergeShared), merge_tiles, call);
}

void block_select(Device& device, const Sequences& sequences, In q, const KvPages& pages,
                  const CompressedKeys& fine, const CompressedKeys& coarse,
                  const Selection& selection, In sparse, Out lists, Out counts) {
  constexpr int64_t kMostRanks = int64_t{64} << 20;  // bytes
  SelectCall call{.step = step_tokens(sequences),
                  .pages = pages,
                  .fine = Level(fine, pages.page),
                  .coarse = Level(coarse, pages.page)};
  call.q = q.as<float>();
  call.q_stride = q.stride[0];
  call.sparse = sparse.as<uint8_t>();
  call.lists = lists.as<int32_t>();
  call.list_stride = lists.stride[0];
  call.list_head_stride = lists.stride[1];
  call.counts = counts.as<int32_t>();
  call.count_stride = counts.stride[0];
  call.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(pages.head_dim)));
  call.rounds = selection.compute == Compute::bf16 && pages.type != KvType::f32;
  call.group = static_cast<int32_t>(q.dim[1] / pages.head_dim / pages.kv_heads);
  call.init_blocks = selection.init_blocks;
  call.local_blocks = selection.local_blocks;
  call.top = selection.top;
  call.block_windows = pages.page / fine.stride;
  call.by_block = Divisor(call.block_windows);
  const int64_t width = sequences.page_table.dim[1];
  call.most_blocks = static_cast<int32_t>(width);
  call.coarse_tiles =
      static_cast<int32_t>((coarse.windows(width * pages.page) + kTileWindows - 1) / kTileWindows);
  // Long tables take a step in parts whose ranks lie in bounded memory.
  const int64_t most = std::max<int64_t>(1, kMostRanks / (4 * pages.kv_heads * width));
  const int64_t tokens = std::min(most, sequences.tokens());
  const auto normalisers = [&](int lane, int64_t count) {
    return reinterpret_cast<Normaliser*>(
        self(device).scratch(lane, count * call.group * static_cast<int64_t>(sizeof(Normaliser))));
  };
  call.parts = normalisers(0, tokens * pages.kv_heads * call.coarse_tiles);
  call.wholes = normalisers(2, tokens * pages.kv_heads);
  call.ranks =
      reinterpret_cast<uint32_t*>(self(device).scratch(1, tokens * pages.kv_heads * width * 4));
  for (int64_t first = 0; first < sequences.tokens(); first += tokens) {
    call.first_token = first;
    call.tokens = std::min(tokens, sequences.tokens() - first);
    select_tokens(device, call);
  }
}

}  // namespace sala::cuda
