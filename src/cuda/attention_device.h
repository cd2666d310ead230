#pragma once

#include <limits>

#include "cuda/pages_device.h"
#include "cuda/sequences_device.h"
#include "ops/attention.h"

/// What the kernels of attention share: the op as they take it, which blocks a query visits, and
/// how the softmax of one part of them is merged with that of the parts before.
///
/// Scores are in units of log2(e), so that weights are powers of two. A segment is 16 blocks at
/// absolute indices; a query's segments that hold a block of its list begin afresh and are merged
/// left to right, by one block of threads or by many, with the same arithmetic.
namespace sala::cuda {

inline constexpr int kSegment = 16;  ///< blocks
inline constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

/// One call of the op.
struct AttentionCall {
  StepTokens step;
  KvPages pages;
  const float* q = nullptr;
  const int32_t* lists = nullptr;  ///< null: every query is dense
  const int32_t* counts = nullptr;
  const float* gate = nullptr;  ///< null: none
  float* o = nullptr;
  int64_t q_stride = 0, list_stride = 0, list_head_stride = 0, count_stride = 0, gate_stride = 0,
          o_stride = 0;
  int64_t tokens = 0;
  float scale = 0;      ///< times log2(e)
  bool rounds = false;  ///< q and weights enter their products in bf16
  int32_t group = 0;    ///< heads of a kv head
  int32_t heads = 0;
  /// Where a query's blocks are split among several blocks of threads: how many at most, and what
  /// they leave for merge_parts, [tokens][heads][parts][head_dim + 2] with the values (not divided
  /// by the sum), the largest score and the sum. 0: not split.
  int32_t parts = 0;
  float* part = nullptr;

  constexpr float* part_of(int64_t t, int64_t h, int64_t i) const {
    return part + ((t * heads + h) * parts + i) * (pages.head_dim + 2);
  }
};

/// Blocks of one query, ascending: list[next..end), or next..end themselves where list is null.
struct Blocks {
  const int32_t* list = nullptr;
  int32_t next = 0, end = 0;

  constexpr bool done() const { return next >= end; }
  constexpr int32_t block() const { return list == nullptr ? next : list[next]; }
};

/// All blocks of token t at position p.
__device__ inline Blocks all_blocks(const AttentionCall& call, int64_t t, int64_t g, int32_t p) {
  const int32_t count = call.lists == nullptr ? -1 : call.counts[t * call.count_stride + g];
  if (count < 0) return {.next = 0, .end = p / call.pages.page + 1};
  return {.list = call.lists + t * call.list_stride + g * call.list_head_stride,
          .next = 0,
          .end = count};
}

/// How many parts a query's blocks fall into: its segments, or one where a dense query has more of
/// them than there are parts. A warp together.
__device__ inline int32_t count_parts(const AttentionCall& call, const Blocks& all) {
  if (all.list == nullptr) {
    const int32_t segments = (all.end + kSegment - 1) / kSegment;
    return segments <= call.parts ? segments : 1;
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  int32_t parts = 0;
  for (int32_t first = 0; first < all.end; first += kWarpThreads) {
    const int32_t i = first + lane;
    const bool begins =
        i < all.end && (i == 0 || all.list[i] / kSegment != all.list[i - 1] / kSegment);
    parts += __popc(__ballot_sync(kAllLanes, begins));
  }
  return parts;
}

/// The blocks of part `part`; none where there are fewer parts. A warp together.
__device__ inline Blocks part_blocks(const AttentionCall& call, const Blocks& all, int32_t part) {
  if (all.list == nullptr) {
    if ((all.end + kSegment - 1) / kSegment > call.parts)
      return part == 0 ? all : Blocks{.next = 0, .end = 0};
    const int32_t first = part * kSegment;
    return {.next = first, .end = first + kSegment < all.end ? first + kSegment : all.end};
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  Blocks mine{.list = all.list, .next = all.end, .end = all.end};
  int32_t begun = 0;  // parts
  for (int32_t first = 0; first < all.end; first += kWarpThreads) {
    const int32_t i = first + lane;
    const bool begins =
        i < all.end && (i == 0 || all.list[i] / kSegment != all.list[i - 1] / kSegment);
    unsigned votes = __ballot_sync(kAllLanes, begins);
    for (; votes != 0; votes &= votes - 1, ++begun) {
      const int32_t at = first + 31 - __clz(static_cast<int>(votes & (~votes + 1)));
      if (begun == part) mine.next = at;
      if (begun == part + 1) mine.end = at;
    }
  }
  return mine;
}

/// The running softmax of a row.
struct Running {
  float largest = kNegativeInfinity;
  float sum = 0;
};

/// What the values before and those of a part are multiplied by when they are added.
struct Factors {
  float kept, added;
};

/// What scores are compared with: 0 while there is none.
__device__ inline float base_of(float largest) {
  return largest == kNegativeInfinity ? 0.0f : largest;
}

/// Merges the softmax of a part behind `total`.
__device__ inline Factors merge(Running& total, const Running& part) {
  const float largest = fmaxf(total.largest, part.largest);
  const float base = base_of(largest);
  const Factors factors{.kept = exp2f(total.largest - base), .added = exp2f(part.largest - base)};
  total.sum = fmaf(total.sum, factors.kept, part.sum * factors.added);
  total.largest = largest;
  return factors;
}
__device__ inline float merge_value(float total, float part, const Factors& factors) {
  return fmaf(total, factors.kept, part * factors.added);
}

/// Writes channel c of head h of token t.
__device__ inline void finish_value(const AttentionCall& call, int64_t t, int64_t h, int64_t c,
                                    float value, float sum) {
  const int64_t column = h * call.pages.head_dim + c;
  float x = value / sum;
  if (call.gate != nullptr) x /= 1.0f + expf(-call.gate[t * call.gate_stride + column]);
  call.o[t * call.o_stride + column] = x;
}

/// attend_tiles (attention_tiles.cu) of a call whose pages it takes.
bool takes_tiles(const AttentionCall& call);
void attend_tiles(Device& device, const AttentionCall& call);

}  // namespace sala::cuda
