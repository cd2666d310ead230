#pragma once

#include "cuda/platform.h"
#include "ops/pages.h"

/// How kernels read pages of keys and values (the layout is in ops/pages.h).
namespace sala::cuda {

/// Kv head g of pool page p, which has a frame.
__device__ inline KvHead kv_head(const KvPages& pages, int64_t p, int64_t g) {
  const auto* frames = static_cast<const int32_t*>(pages.frames.data);
  const int64_t frame = frames == nullptr ? p : frames[p];
  return pages.head_of(pages.field.data + frame * pages.field.stride, g);
}

/// The grid of a group of token t of a page; `grid` is that of its keys or of its values.
template <KvType kType>
__device__ inline KvGrid grid_at(const KvPages& pages, const uint16_t* grid, int group, int t) {
  const int lanes = pages.page_lanes();
  KvGrid numbers{.scale = f16_to_f32(grid[group * lanes + t])};
  if constexpr (kType == KvType::int4)
    numbers.minimum = f16_to_f32(grid[(pages.groups() + group) * lanes + t]);
  return numbers;
}

/// Channel c of the key of token t of a page, else of its value. Places in one head's part of a
/// page fit in 32 bits.
template <KvType kType>
__device__ inline float stored(const KvPages& pages, const KvHead& head, bool keys, int t, int c) {
  const auto* codes = reinterpret_cast<const KvCode<kType>*>(keys ? head.keys : head.values);
  const uint16_t* grid = keys ? head.key_grid : head.value_grid;
  const auto code_at = [&](int row) {
    return codes[keys ? kv_place(kType, row, t, pages.page_lanes())
                      : kv_place(kType, t, row, pages.code_rows())];
  };
  if constexpr (kType == KvType::f32) {
    return code_at(c);
  } else if constexpr (kType == KvType::bf16) {
    return bf16_to_f32(code_at(c));
  } else if constexpr (kType == KvType::int8) {
    return grid_at<kType>(pages, grid, 0, t).value(code_at(c));
  } else {
    constexpr int kRows = kInt4Group / 2;  // of a group
    const int group = c / kInt4Group;
    const int both = code_at(group * kRows + c % kRows);
    const int code = c % kInt4Group < kRows ? both & 15 : both >> 4;
    return grid_at<kType>(pages, grid, group, t).value(code);
  }
}

}  // namespace sala::cuda
