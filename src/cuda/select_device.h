#pragma once

#include <limits>

#include "cuda/rows_device.h"
#include "cuda/sequences_device.h"
#include "ops/attention.h"
#include "ops/pages.h"

/// What the kernels of block_select share. A query and kv head goes through three launches: the
/// softmax of its coarse windows, tile by tile; the votes of its fine windows, pooled to a rank for
/// each block; the choice. Scores are in units of log2(e). Windows lie in tiles at absolute
/// indices, so that a query's list depends on that query alone.
namespace sala::cuda {

inline constexpr int kTileWindows = 128;
inline constexpr int kTileHeads = 16;

/// The softmax of some coarse windows for one head.
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

/// One call of the op, or the part of it whose tokens begin at first_token.
struct SelectCall {
  StepTokens step;
  KvPages pages;
  CompressedKeys fine, coarse;
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
  int32_t most_blocks = 0;            ///< of a query: the width of the page table
  int32_t coarse_tiles = 0;           ///< of a query, at most
  int32_t tile_blocks = 0;            ///< whose windows fill a tile of the fine ones
  Normaliser* normalisers = nullptr;  ///< [tokens][kv_heads][coarse_tiles][group]
  uint32_t* ranks = nullptr;          ///< [tokens][kv_heads][most_blocks]

  constexpr int32_t windows_per_block() const { return pages.page / fine.stride; }
  constexpr Normaliser* normaliser(int64_t item, int64_t tile) const {
    return normalisers + (item * coarse_tiles + tile) * group;
  }
};

/// A query and kv head: one of the call's, by the index of a block of threads.
struct Query {
  int64_t t = 0, g = 0;
  int32_t position = 0;
  int32_t blocks = 0;   ///< up to its own
  bool scored = false;  ///< it has to choose
};

__device__ inline Query query_of(const SelectCall& call, int64_t item) {
  Query query{.t = call.first_token + item / call.pages.kv_heads, .g = item % call.pages.kv_heads};
  query.position = call.step.positions[query.t];
  query.blocks = query.position / call.pages.page + 1;
  query.scored = call.sparse[query.t] != 0 && query.blocks > call.top;
  return query;
}

/// Channel 0 of window j of a level for sequence b and kv head g, in units of T.
template <class T>
__device__ inline const T* window_key(const SelectCall& call, const CompressedKeys& keys, int32_t b,
                                      int64_t g, int32_t j) {
  const int page = call.pages.page;
  const int32_t index = (j * keys.stride + keys.size - 1) / page;
  const int64_t entry = j - keys.first_window(index, page);
  return reinterpret_cast<const T*>(keys.field.data +
                                    call.step.pool_page(b, index) * keys.field.stride) +
         (g * keys.capacity(page) + entry) * call.pages.head_dim;
}

/// Windows of a level that a query sees.
__device__ inline int32_t visible_windows(const CompressedKeys& keys, int32_t position) {
  return static_cast<int32_t>(keys.windows(int64_t{position} + 1));
}

/// Merges the tiles of coarse windows of a head, left to right: what its scores are compared with,
/// and the inverse of the sum. A query without a coarse window, and a head that is none, cast no
/// vote.
__device__ inline Normaliser whole_normaliser(const SelectCall& call, int64_t item,
                                              const Query& query, int32_t head) {
  const int32_t windows = visible_windows(call.coarse, query.position);
  Normaliser whole{.largest = std::numeric_limits<float>::max(), .sum = 0};
  if (windows == 0 || head >= call.group) return whole;
  whole.largest = -std::numeric_limits<float>::infinity();
  for (int32_t tile = 0; tile * kTileWindows < windows; ++tile)
    merge(whole, call.normaliser(item, tile)[head]);
  whole.sum = 1.0f / whole.sum;
  return whole;
}

/// The vote of window j goes to its block and, if it is the block's last, also to the next, where
/// they are among the tile's `count` from `first` on.
__device__ inline void cast_vote(uint32_t* best, int32_t first, int32_t count, int32_t per_block,
                                 int32_t j, float vote) {
  const int32_t block = j / per_block - first;
  const uint32_t rank = rank_of(vote);
  if (block >= 0 && block < count) atomicMax(best + block, rank);
  if (j % per_block == per_block - 1 && block + 1 >= 0 && block + 1 < count)
    atomicMax(best + block + 1, rank);
}

/// The launches that score: of any keys, and of bf16 keys on tensor cores (select_tiles.cu).
bool scores_in_tiles(const SelectCall& call);
void score_in_tiles(Device& device, const SelectCall& call);

}  // namespace sala::cuda
