#include "cuda/attention_device.h"
#include "cuda/page_tile_device.h"

// attention over pages of 64 tokens on tensor cores. A warp has a tile of 16 rows, heads of
// one or several neighbouring queries, and takes a page as 64 columns: scores, softmax and weights
// stay in registers, in the fragments of mma.sync (Dao 2023, arXiv 2307.08691). A page's keys and
// values are B fragments, of bf16 as they lie, of codes decoded in shared memory
// (page_tile_device.h). 4 d flops a row and key; a page is read and decoded once by a block of
// threads, whatever its rows.
//
// A row's arithmetic is the same in a block of one warp and of four, split or not: its bits depend
// on its query alone. A page that a row does not see changes nothing in it.

namespace sala::cuda {
namespace {

constexpr int kPage = kTilePage;
constexpr int kWarpRows = 16;
constexpr int kWideWarps = 4;
constexpr int kMostTokens = kWideWarps * kWarpRows;  // of a tile
constexpr uint32_t kNoBlock = 0xFFFFFFFF;
constexpr int kSequenceShift = 24;  // a visit is (first token of the sequence in the tile, block)

/// kTileWarps of the kWarps warps have rows; the others help to copy and decode.
template <KvType kType, int kDim, int kTileWarps, int kWarps>
struct TilesShared {
  PageTile<kType, kDim, kWarps * kWarpThreads> page;
  float total[kTileWarps][kDim / 2][kWarpThreads];  ///< merged values, a lane's own
};

/// One row of a warp's tile, as the four lanes that hold it know it.
struct Row {
  int32_t token = 0;  ///< of the tile
  int32_t head = 0;
  int32_t position = -1;

  constexpr bool there() const { return position >= 0; }
};

/// One page that tokens of the tile visit; bit i of `tokens` is token i.
struct Visit {
  uint32_t key = kNoBlock;
  uint64_t tokens = 0;

  constexpr bool none() const { return key == kNoBlock; }
  constexpr int32_t block() const {
    return static_cast<int32_t>(key & ((1U << kSequenceShift) - 1));
  }
};

/// The blocks of the tile's tokens, two tokens a lane; every warp walks them in the same steps.
struct Walk {
  Blocks blocks[2];
  uint32_t sequence[2] = {0, 0};

  __device__ uint32_t at(int i) const {
    return blocks[i].done()
               ? kNoBlock
               : sequence[i] << kSequenceShift | static_cast<uint32_t>(blocks[i].block());
  }
  /// The next page in order, for all tokens that visit it.
  __device__ Visit next() {
    const uint32_t mine[2] = {at(0), at(1)};
    uint32_t least = mine[0] < mine[1] ? mine[0] : mine[1];
    for (int mask = 16; mask > 0; mask /= 2) {
      const uint32_t other = __shfl_xor_sync(kAllLanes, least, mask);
      least = other < least ? other : least;
    }
    uint64_t tokens = 0;
    for (int i = 0; i < 2; ++i) {
      const bool here = least != kNoBlock && mine[i] == least;
      tokens |= static_cast<uint64_t>(__ballot_sync(kAllLanes, here)) << 32 * i;
      if (here) ++blocks[i].next;
    }
    return {least, tokens};
  }
};

/// A block of threads attends for `tile_tokens` neighbouring tokens, kTileWarps tiles of 16 rows,
/// and `tile_heads` heads of a kv head: blockIdx.x counts tiles of tokens, blockIdx.y those of
/// heads, blockIdx.z the parts of a split call. Row r of the block is head r % tile_heads of token
/// r / tile_heads. The next page's keys come while the softmax and the values of this one are
/// worked on, its values while the next one's scores are.
template <KvType kType, int kDim, int kTileWarps, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarpThreads, 1)
    attend_tile(AttentionCall call, int32_t tile_tokens, int32_t tile_heads) {
  wait_for_earlier();
  constexpr bool kCodes = kType != KvType::bf16;
  constexpr int kSteps = kDim / 16, kTiles = kPage / 8, kOutputs = kDim / 8;
  auto& s = shared<TilesShared<kType, kDim, kTileWarps, kWarps>>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int quad = lane % 4;
  const int32_t head_tiles = (call.group + tile_heads - 1) / tile_heads;
  const int64_t g = blockIdx.y / head_tiles;
  const int32_t first_head = static_cast<int32_t>(blockIdx.y % head_tiles) * tile_heads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile_tokens;
  const int tokens =
      static_cast<int>(call.tokens - first < tile_tokens ? call.tokens - first : tile_tokens);

  Walk walk;
  if constexpr (kTileWarps == 1) {  // one token
    const Blocks all = all_blocks(call, first, g, call.step.positions[first]);
    const Blocks mine =
        call.parts > 0 ? part_blocks(call, all, static_cast<int32_t>(blockIdx.z)) : all;
    if (mine.done()) return;  // the whole block
    if (lane == 0) walk.blocks[0] = mine;
  } else {
    for (int i = 0; i < 2; ++i) {
      const int token = lane + kWarpThreads * i;
      if (token >= tokens) continue;
      const int64_t t = first + token;
      const int64_t start = call.step.starts[call.step.sequence_of(t)];
      walk.blocks[i] = all_blocks(call, t, g, call.step.positions[t]);
      walk.sequence[i] = static_cast<uint32_t>(start > first ? start - first : 0);
    }
  }

  Row rows[2];  // of this lane
  uint32_t q[kSteps][4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    Row& row = rows[i];
    const int r = warp * kWarpRows + lane / 4 + 8 * i;
    row.token = r / tile_heads;
    row.head = static_cast<int32_t>(g * call.group) + first_head + r % tile_heads;
    const int64_t t = first + row.token;
    if (row.token < tokens && first_head + r % tile_heads < call.group)
      row.position = call.step.positions[t];
    const float* x = call.q + t * call.q_stride + int64_t{row.head} * kDim;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int c = step * 16 + half * 8 + quad * 2;
        q[step][half * 2 + i] = row.there() ? pack_bf16(x[c], x[c + 1]) : 0;
      }
  }
  // Which tokens have rows in this warp.
  uint64_t own = 0;
  const int last_token = (warp * kWarpRows + kWarpRows - 1) / tile_heads;
  for (int i = warp * kWarpRows / tile_heads; i <= last_token && i < tokens; ++i)
    own |= uint64_t{1} << i;

  float values[kOutputs][4]{};
  Running running[2], total[2];  // running sums are those of the lane's own columns
  if (warp < kTileWarps)
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) s.total[warp][i][lane] = 0;

  KvPages pages = call.pages;  // with what is known when this is compiled
  pages.type = kType;
  pages.head_dim = kDim;
  pages.page = kPage;
  const auto head_of = [&](const Visit& visit) {
    const int32_t b = call.step.sequence_of(first + (visit.key >> kSequenceShift));
    return kv_head(pages, call.step.pool_page(b, visit.block()), g);
  };
  bool active = false;  // the warp has rows that see the page
  float scores[kTiles][4];
  uint32_t weights[kPage / 16][4];
  const auto score = [&] {
    if (!active) return;
    for (float(&four)[4] : scores)
      for (float& x : four) x = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const uint32_t* at =
            s.page.keys + (step * 8 + quad) * pair_stride(kPage) + n * 8 + lane / 4;
        mma_bf16(scores[n], q[step], {at[0], at[4 * pair_stride(kPage)]});
      }
  };
  const auto add_values = [&] {
    if (!active) return;
#pragma unroll
    for (int step = 0; step < kPage / 16; ++step)
#pragma unroll
      for (int n = 0; n < kOutputs; ++n) {
        const uint32_t* at =
            s.page.values + (step * 8 + quad) * pair_stride(kDim) + n * 8 + lane / 4;
        mma_bf16(values[n], weights[step], {at[0], at[4 * pair_stride(kDim)]});
      }
  };
  Visit visit = walk.next();
  KvHead head = head_of(visit);
  s.page.copy_keys(head);
  commit_copies();
  s.page.copy_values(head);
  commit_copies();
  bool touched = false;  // the warp has seen a page of this segment
  while (!visit.none()) {
    const Visit following = walk.next();
    if (!following.none()) head = head_of(following);
    active = (visit.tokens & own) != 0;
    touched |= active;
    wait_copies<1>();
    __syncthreads();  // keys are there
    if constexpr (kCodes) {
      s.page.decode_keys();
    } else {
      score();
    }
    __syncthreads();  // keys are read
    if (!following.none()) s.page.copy_keys(head);
    commit_copies();
    if constexpr (kCodes) score();
    if (active) {
      float base[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool sees = rows[i].there() && (visit.tokens >> rows[i].token & 1) != 0;
        const int32_t left = sees ? rows[i].position - visit.block() * kPage + 1 : 0;
        float largest = kNegativeInfinity;
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
          for (int j = 2 * i; j < 2 * i + 2; ++j) {
            const bool visible = n * 8 + quad * 2 + j % 2 < left;
            scores[n][j] = visible ? scores[n][j] * call.scale : kNegativeInfinity;
            largest = fmaxf(largest, scores[n][j]);
          }
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
        largest = fmaxf(largest, running[i].largest);
        base[i] = base_of(largest);
        const float rescale = exp2f(running[i].largest - base[i]);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
          for (int j = 2 * i; j < 2 * i + 2; ++j) {
            scores[n][j] = exp2f(scores[n][j] - base[i]);
            sum += scores[n][j];
          }
        running[i] = {.largest = largest, .sum = fmaf(running[i].sum, rescale, sum)};
        // A row without a page so far keeps its zeros; one that does not see this page its values.
#pragma unroll
        for (int n = 0; n < kOutputs; ++n) {
          values[n][2 * i] *= rescale;
          values[n][2 * i + 1] *= rescale;
        }
      }
#pragma unroll
      for (int step = 0; step < kPage / 16; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* two = &scores[2 * step + i / 2][i % 2 * 2];
          weights[step][i] = pack_bf16(two[0], two[1]);
        }
    }
    wait_copies<1>();
    __syncthreads();  // values are there
    if constexpr (kCodes) {
      s.page.decode_values();
    } else {
      add_values();
    }
    __syncthreads();  // values are read
    if (!following.none()) s.page.copy_values(head);
    commit_copies();
    if constexpr (kCodes) add_values();
    if (touched && following.key / kSegment != visit.key / kSegment) {
      touched = false;
      Factors factors[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        running[i].sum += __shfl_xor_sync(kAllLanes, running[i].sum, 1);
        running[i].sum += __shfl_xor_sync(kAllLanes, running[i].sum, 2);
        factors[i] = merge(total[i], running[i]);
        running[i] = {};
      }
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) {
        float& merged = s.total[warp][i][lane];
        merged = merge_value(merged, values[i / 4][i % 4], factors[i % 4 / 2]);
        values[i / 4][i % 4] = 0;
      }
    }
    visit = following;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Row& row = rows[i];
    if (!row.there()) continue;
    const int64_t t = first + row.token;
    float* part = call.parts > 0 ? call.part_of(t, row.head, blockIdx.z) : nullptr;
#pragma unroll
    for (int n = 0; n < kOutputs; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int c = n * 8 + quad * 2 + j;
        const float value = s.total[warp][n * 4 + 2 * i + j][lane];
        if (part != nullptr) {
          part[c] = value;
        } else {
          finish_value(call, t, row.head, c, value, total[i].sum);
        }
      }
    if (part != nullptr && quad == 0) {
      part[kDim] = total[i].largest;
      part[kDim + 1] = total[i].sum;
    }
  }
}

template <KvType kType, int kDim, int kTileWarps, int kWarps>
void launch_tiles(Device& device, const AttentionCall& call, int32_t tile_tokens) {
  const int32_t tile_heads = call.group < kWarpRows ? call.group : kWarpRows;
  const int64_t head_tiles = (call.group + tile_heads - 1) / tile_heads;
  launch(device,
         {.x = (call.tokens + tile_tokens - 1) / tile_tokens,
          .y = call.pages.kv_heads * head_tiles,
          .z = call.parts > 0 ? call.parts : 1},
         kWarps * kWarpThreads, sizeof(TilesShared<kType, kDim, kTileWarps, kWarps>),
         attend_tile<kType, kDim, kTileWarps, kWarps>, call, tile_tokens, tile_heads);
}

/// A query a warp where a step has few neighbouring queries or is split, else as many as fill four.
/// Codes take as long to decode as to multiply: there a query has the help of three more warps.
template <KvType kType, int kDim>
void launch_dim(Device& device, const AttentionCall& call) {
  constexpr int kFewWarps = kType == KvType::bf16 ? 1 : kWideWarps;
  const int32_t tile_heads = call.group < kWarpRows ? call.group : kWarpRows;
  if (call.parts > 0 || call.tokens < 4 * int64_t{call.step.sequences}) {
    launch_tiles<kType, kDim, 1, kFewWarps>(device, call, 1);
  } else {
    launch_tiles<kType, kDim, kWideWarps, kWideWarps>(device, call, kMostTokens / tile_heads);
  }
}

template <KvType kType>
void launch_type(Device& device, const AttentionCall& call) {
  switch (call.pages.head_dim) {
    case 64:
      return launch_dim<kType, 64>(device, call);
    case 96:
      return launch_dim<kType, 96>(device, call);
    default:
      return launch_dim<kType, 128>(device, call);
  }
}

}  // namespace

bool takes_tiles(const AttentionCall& call) {
  const KvPages& pages = call.pages;
  const int d = pages.head_dim;
  return call.rounds && pages.page == kPage && (d == 64 || d == 96 || d == 128) &&
         pages.field.stride % 16 == 0 && reinterpret_cast<uintptr_t>(pages.field.data) % 16 == 0;
}

void attend_tiles(Device& device, const AttentionCall& call) {
  switch (call.pages.type) {
    case KvType::int8:
      return launch_type<KvType::int8>(device, call);
    case KvType::int4:
      return launch_type<KvType::int4>(device, call);
    default:
      return launch_type<KvType::bf16>(device, call);
  }
}

}  // namespace sala::cuda
