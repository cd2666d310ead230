#pragma once

#include <limits>

#include "cuda/rows_device.h"
#include "cuda/sequences_device.h"
#include "ops/attention.h"
#include "ops/pages.h"

/// What the kernels of block_select share. A query and kv head goes through four launches: the
/// softmax of its coarse windows, tile by tile; that of all tiles; the votes of its fine windows,
/// pooled to a rank for each block; the choice. Scores are in units of log2(e). Windows lie in
/// tiles at absolute indices, so that a query's list depends on that query alone.
namespace sala::cuda {

inline constexpr int kTileWindows = 128;
inline constexpr int kTileHeads = 16;

/// The softmax of some coarse windows for one head; of all of them, with the inverse of the sum.
struct Normaliser {
  float largest, sum;
};

/// Adds the windows of a part behind those of `whole`; one of the two has any.
__device__ inline void merge(Normaliser& whole, const Normaliser& part) {
  const float largest = fmaxf(whole.largest, part.largest);
  whole.sum =
      fmaf(whole.sum, exp2f(whole.largest - largest), part.sum * exp2f(part.largest - largest));
  whole.largest = largest;
}

/// n / divisor as a product, for 0 <= n < 2^31.
struct Divisor {
  uint32_t multiplier = 0;
  int32_t shift = 0;

  Divisor() = default;
  explicit Divisor(int32_t divisor)
      : shift(31 + std::bit_width(static_cast<uint32_t>(divisor) - 1)) {
    multiplier = static_cast<uint32_t>((uint64_t{1} << shift) / static_cast<uint32_t>(divisor) + 1);
  }
  constexpr int32_t quotient(int32_t n) const {
    return static_cast<int32_t>(uint64_t{static_cast<uint32_t>(n)} * multiplier >> shift);
  }
};

/// A level of compressed keys as kernels take it: CompressedKeys without a division.
struct Level {
  const std::byte* data = nullptr;
  int64_t page_stride = 0;  ///< bytes
  int32_t size = 0, stride = 0, page = 0, capacity = 0;
  Divisor by_stride, by_page;

  Level(const CompressedKeys& keys, int tokens)
      : data(keys.field.data),
        page_stride(keys.field.stride),
        size(keys.size),
        stride(keys.stride),
        page(tokens),
        capacity(keys.capacity(tokens)),
        by_stride(keys.stride),
        by_page(tokens) {}
  constexpr int32_t page_of(int32_t j) const { return by_page.quotient(j * stride + size - 1); }
  constexpr int32_t first_window(int32_t index) const {
    const int32_t token = index * page - size + 1;
    return token <= 0 ? 0 : by_stride.quotient(token + stride - 1);
  }
  /// Windows that a query at `position` sees.
  constexpr int32_t visible(int32_t position) const {
    return position + 1 < size ? 0 : by_stride.quotient(position + 1 - size) + 1;
  }
};

/// One call of the op, or the part of it whose tokens begin at first_token.
struct SelectCall {
  StepTokens step;
  KvPages pages;
  Level fine, coarse;
  const float* q = nullptr;
  const uint8_t* sparse = nullptr;
  int32_t* lists = nullptr;
  int32_t* counts = nullptr;
  int64_t q_stride = 0, list_stride = 0, list_head_stride = 0, count_stride = 0;
  int64_t tokens = 0, first_token = 0;
  float scale = 0;      ///< head_dim^-1/2
  bool rounds = false;  ///< q enters its products in bf16
  int32_t group = 0;    ///< heads of a kv head
  int32_t init_blocks = 0, local_blocks = 0, top = 0;
  int32_t block_windows = 0;     ///< fine ones of a block
  Divisor by_block{};            ///< block_windows
  int32_t most_blocks = 0;       ///< of a query: the width of the page table
  int32_t coarse_tiles = 0;      ///< of a query, at most
  Normaliser* parts = nullptr;   ///< [tokens][kv_heads][group][coarse_tiles]
  Normaliser* wholes = nullptr;  ///< [tokens][kv_heads][group]
  uint32_t* ranks = nullptr;     ///< [tokens][kv_heads][most_blocks]

  constexpr Normaliser* parts_of(int64_t item, int32_t head) const {
    return parts + (item * group + head) * coarse_tiles;
  }
  /// Blocks whose windows, with the one before them, fill `windows`.
  constexpr int32_t blocks_of(int32_t windows) const {
    return windows <= block_windows ? 1 : (windows - 1) / block_windows;
  }
};

/// A query and kv head: one of the call's, which are counted by token, then kv head.
struct Query {
  int64_t t = 0, g = 0;
  int32_t position = 0;
  int32_t blocks = 0;   ///< up to its own
  bool scored = false;  ///< it has to choose
};

__device__ inline Query query_of(const SelectCall& call, int64_t t, int64_t g) {
  Query query{.t = t, .g = g, .position = call.step.positions[t]};
  query.blocks = call.fine.by_page.quotient(query.position) + 1;
  query.scored = call.sparse[t] != 0 && query.blocks > call.top;
  return query;
}

__device__ inline Query query_of(const SelectCall& call, uint32_t item) {
  const auto heads = static_cast<uint32_t>(call.pages.kv_heads);
  return query_of(call, call.first_token + item / heads, item % heads);
}

/// Channel 0 of window j of a level for sequence b and kv head g, in units of T.
template <class T>
__device__ inline const T* window_key(const SelectCall& call, const Level& level, int32_t b,
                                      int64_t g, int32_t j) {
  const int32_t index = level.page_of(j);
  const int32_t entry = static_cast<int32_t>(g) * level.capacity + j - level.first_window(index);
  return reinterpret_cast<const T*>(level.data +
                                    call.step.pool_page(b, index) * level.page_stride) +
         entry * call.pages.head_dim;
}

/// What the scores of a head are compared with, and what they are multiplied by. A head that is
/// none casts no vote.
__device__ inline Normaliser whole_normaliser(const SelectCall& call, int64_t item, int32_t head) {
  if (head < call.group) return call.wholes[item * call.group + head];
  return {.largest = std::numeric_limits<float>::max(), .sum = 0};
}

/// The vote of window j goes to its block and, if it is the block's last, also to the next, where
/// they are among the tile's `count` from `first` on.
__device__ inline void cast_vote(const SelectCall& call, uint32_t* best, int32_t first,
                                 int32_t count, int32_t j, float vote) {
  const int32_t whole = call.by_block.quotient(j), block = whole - first;
  const uint32_t rank = rank_of(vote);
  if (block >= 0 && block < count) atomicMax(best + block, rank);
  if (j - whole * call.block_windows == call.block_windows - 1 && block + 1 >= 0 &&
      block + 1 < count)
    atomicMax(best + block + 1, rank);
}

/// The launches that score: of any keys, and of bf16 keys on tensor cores (select_tiles.cu).
bool scores_in_tiles(const SelectCall& call);
void score_in_tiles(Device& device, const SelectCall& call);
/// The launch between the two of a way to score: parts to wholes.
void merge_normalisers(Device& device, const SelectCall& call);

}  // namespace sala::cuda
