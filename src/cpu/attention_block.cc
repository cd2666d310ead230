#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_block.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "cpu/attention_block.h"
#include "cpu/rows-inl.h"

// The arithmetic of attention on one block of keys, in f32: scores, running maximum, weights,
// values, each in an order fixed by the row and the block's absolute position. 4 d flops a row and
// key, 2 d elements read a key. Keys and values of fewer bits are decoded block by block.

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {

/// Scales the scores of one row, hides those of keys that it may not see, and
/// returns the largest.
HWY_INLINE float scale_scores(float* HWY_RESTRICT scores, int64_t visible, float scale) {
  const Floats d;
  const int64_t step = lanes();
  const auto none = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto top = none;
  for (int64_t j = 0; j < visible; j += step) {
    auto s = hn::Mul(hn::LoadU(d, scores + j), hn::Set(d, scale));
    if (j + step > visible)
      s = hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(visible - j)), s, none);
    hn::StoreU(s, d, scores + j);
    top = hn::Max(top, s);
  }
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

/// Turns the scores of one row into exp(score - largest) and returns their sum.
HWY_INLINE float exponentiate(float* HWY_RESTRICT scores, int64_t visible, float largest) {
  const Floats d;
  auto total = hn::Zero(d);
  for (int64_t j = 0; j < visible; j += lanes()) {
    const auto p = exp(d, hn::Sub(hn::LoadU(d, scores + j), hn::Set(d, largest)));
    hn::StoreU(p, d, scores + j);
    total = hn::Add(total, p);
  }
  return sum_lanes(d, total);
}

// Row by row in loops whose rows overlap: a row alone is one long chain.
void weigh_rows(const AttendedBlock& block) {
  const int64_t width = block.pages->page_lanes();
  float* HWY_RESTRICT rescale = block.rescale;
  for (int64_t i = 0; i < block.rows; ++i) {
    float& largest = block.softmax.largest[block.state[i]];
    const float top = scale_scores(block.scores + i * width, block.visible[i], block.scale);
    const float now = HWY_MAX(largest, top);
    rescale[i] = largest - now;
    largest = now;
  }
  for_each_lane(block.rows, [&](auto d, int64_t i) {
    hn::StoreU(exp(d, hn::LoadU(d, rescale + i)), d, rescale + i);
  });
  for (int64_t i = 0; i < block.rows; ++i) {
    const int32_t row = block.state[i];
    float& sum = block.softmax.sum[row];
    sum = sum * rescale[i] +
          exponentiate(block.scores + i * width, block.visible[i], block.softmax.largest[row]);
  }
}

/// Codes as f32.
template <class D>
HWY_INLINE hn::Vec<D> load_codes(D d, const int8_t* codes) {
  const hn::Rebind<int8_t, D> narrow;
  const hn::Rebind<int32_t, D> wide;
  return hn::ConvertTo(d, hn::PromoteTo(wide, hn::LoadU(narrow, codes)));
}
template <class D>
HWY_INLINE hn::Vec<D> load_nibbles(D d, const uint8_t* codes, bool high) {
  const hn::Rebind<uint8_t, D> narrow;
  const hn::Rebind<int32_t, D> wide;
  const auto bytes = hn::PromoteTo(wide, hn::LoadU(narrow, codes));
  return hn::ConvertTo(d, high ? hn::ShiftRight<4>(bytes) : hn::And(bytes, hn::Set(wide, 15)));
}

/// The scales and minima of a block as f32.
void read_grid(const AttendedBlock& block, const uint16_t* grid) {
  const Floats d;
  const int64_t count = int64_t{block.pages->grid_rows()} * block.pages->page_lanes();
  for (int64_t i = 0; i < count; i += lanes())
    hn::StoreU(load_half(d, grid + i), d, block.grid + i);
}

/// Decodes the first `columns` tokens of K^T from int8 or int4.
void decode_keys(const AttendedBlock& block, int64_t columns) {
  const Floats d;
  const KvPages& pages = *block.pages;
  const int64_t width = pages.page_lanes();
  read_grid(block, block.head.key_grid);
  for (int64_t g = 0; g < pages.groups(); ++g) {
    const int64_t first = g * pages.group();
    const int64_t count = HWY_MIN(pages.group(), pages.head_dim - first);
    for (int64_t j = 0; j < columns; j += lanes()) {
      float* to = block.wide + first * width + j;
      const auto scale = hn::LoadU(d, block.grid + g * width + j);
      if (pages.type == KvType::int8) {
        const auto* codes = reinterpret_cast<const int8_t*>(block.head.keys) + j;
        for (int64_t c = 0; c < count; ++c)
          hn::StoreU(hn::Mul(load_codes(d, codes + c * width), scale), d, to + c * width);
      } else {
        const auto minimum = hn::LoadU(d, block.grid + (pages.groups() + g) * width + j);
        const auto* codes =
            reinterpret_cast<const uint8_t*>(block.head.keys) + g * kInt4Group / 2 * width + j;
        for (int64_t c = 0; c < count; ++c) {
          const auto code = load_nibbles(d, codes + c % 16 * width, c >= 16);
          hn::StoreU(hn::MulAdd(code, scale, minimum), d, to + c * width);
        }
      }
    }
  }
}

/// Decodes the first `tokens` rows of V from int8 or int4.
void decode_values(const AttendedBlock& block, int64_t tokens) {
  const KvPages& pages = *block.pages;
  read_grid(block, block.head.value_grid);
  for (int64_t t = 0; t < tokens; ++t) {
    float* to = block.wide + t * pages.head_dim;
    const float* scale = block.grid + t;
    if (pages.type == KvType::int8) {
      const auto* codes = reinterpret_cast<const int8_t*>(block.head.values) + t * pages.head_dim;
      for_each_lane(pages.head_dim, [&](auto d, int64_t c) {
        hn::StoreU(hn::Mul(load_codes(d, codes + c), hn::Set(d, *scale)), d, to + c);
      });
      continue;
    }
    const Floats d;
    const float* minimum = scale + int64_t{pages.groups()} * pages.page_lanes();
    const auto* codes =
        reinterpret_cast<const uint8_t*>(block.head.values) + int64_t{pages.code_rows()} * t;
    for (int64_t g = 0; g < pages.groups(); ++g, codes += kInt4Group / 2, to += kInt4Group) {
      const auto s = hn::Set(d, scale[g * pages.page_lanes()]);
      const auto m = hn::Set(d, minimum[g * pages.page_lanes()]);
      for (int64_t i = 0; i < kInt4Group / 2; i += lanes()) {
        hn::StoreU(hn::MulAdd(load_nibbles(d, codes + i, false), s, m), d, to + i);
        hn::StoreU(hn::MulAdd(load_nibbles(d, codes + i, true), s, m), d, to + 16 + i);
      }
    }
  }
}

/// `rows` rows of bf16, which lie in pairs, as f32 rows of `columns` each.
void widen_pairs(const std::byte* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t row = 0; row < rows; row += 2, to += 2 * columns)
    for_each_lane(columns, [&](auto d, int64_t i) {
      const hn::Rebind<uint32_t, decltype(d)> words;
      const auto pairs =
          hn::LoadU(words, reinterpret_cast<const uint32_t*>(from) + row / 2 * columns + i);
      hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(pairs)), d, to + i);
      hn::StoreU(hn::BitCast(d, hn::And(pairs, hn::Set(words, 0xFFFF0000))), d, to + columns + i);
    });
}

/// K^T of a block as f32, and V: as far as `columns` and `tokens` say.
const float* keys_of(const AttendedBlock& block, int64_t columns) {
  const KvPages& pages = *block.pages;
  if (pages.type == KvType::f32) return reinterpret_cast<const float*>(block.head.keys);
  if (pages.type == KvType::bf16) {
    widen_pairs(block.head.keys, pages.head_dim, pages.page_lanes(), block.wide);
  } else {
    decode_keys(block, columns);
  }
  return block.wide;
}
const float* values_of(const AttendedBlock& block, int64_t tokens) {
  const KvPages& pages = *block.pages;
  if (pages.type == KvType::f32) return reinterpret_cast<const float*>(block.head.values);
  if (pages.type == KvType::bf16) {
    widen_pairs(block.head.values, tokens, pages.head_dim, block.wide);
  } else {
    decode_values(block, tokens);
  }
  return block.wide;
}

/// to = from, rounded to bf16 (nearest even), whole vectors of it.
void round_to_bf16(const float* from, int64_t count, float* to) {
  for_each_lane((count + lanes() - 1) / lanes() * lanes(), [&](auto d, int64_t i) {
    const hn::Rebind<uint32_t, decltype(d)> words;
    const auto bits = hn::BitCast(words, hn::LoadU(d, from + i));
    const auto tie = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
    const auto rounded = hn::Add(hn::Add(bits, hn::Set(words, 0x7FFF)), tie);
    hn::StoreU(hn::BitCast(d, hn::And(rounded, hn::Set(words, 0xFFFF0000))), d, to + i);
  });
}

void attend(const AttendedBlock& block) {
  const int64_t d = block.pages->head_dim;
  const int64_t width = block.pages->page_lanes();
  int64_t most = 0;
  for (int64_t i = 0; i < block.rows; ++i) most = HWY_MAX(most, block.visible[i]);
  const int64_t columns = (most + lanes() - 1) / lanes() * lanes();

  const std::byte* next = block.next == nullptr ? block.head.begin() : block.next;
  Fetch fetch{next, block.next == nullptr ? next : next + block.pages->head_bytes() - 64};
  const Matrix keys{keys_of(block, columns), width};
  for (int64_t first = 0; first < block.rows; first += kTileRows) {
    const int count = static_cast<int>(HWY_MIN(kTileRows, block.rows - first));
    RowTile tile;
    for (int r = 0; r < count; ++r) {
      tile.a[r] = block.q[first + r];
      tile.c[r] = block.scores + (first + r) * width;
    }
    multiply_rows<true>(tile, count, 0, d, keys, columns, fetch);
  }

  weigh_rows(block);
  if (rounds(block.compute, block.pages->type))
    for (int64_t i = 0; i < block.rows; ++i)
      round_to_bf16(block.scores + i * width, block.visible[i], block.scores + i * width);

  const Matrix values{values_of(block, most), d};
  for (int64_t first = 0; first < block.rows; first += kTileRows) {
    const int count = static_cast<int>(HWY_MIN(kTileRows, block.rows - first));
    RowTile tile;
    for (int r = 0; r < count; ++r) {
      tile.a[r] = block.scores + (first + r) * width;
      tile.c[r] = block.softmax.values + block.state[first + r] * d;
      tile.start[r] = block.rescale[first + r];
    }
    accumulate_rows(tile, count, block.visible + first, values, d, fetch);
  }
}

void merge_row(const Softmax& segment, const Softmax& total, int64_t row, int64_t head_dim) {
  if (segment.sum[row] == 0.0f) return;
  const float largest = HWY_MAX(total.largest[row], segment.largest[row]);
  const float old = exp(total.largest[row] - largest);
  const float add = exp(segment.largest[row] - largest);
  total.sum[row] = total.sum[row] * old + segment.sum[row] * add;
  total.largest[row] = largest;
  float* HWY_RESTRICT to = total.values + row * head_dim;
  const float* HWY_RESTRICT from = segment.values + row * head_dim;
  for_each_lane(head_dim, [&](auto d, int64_t i) {
    const auto kept = hn::Mul(hn::LoadU(d, to + i), hn::Set(d, old));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, from + i), hn::Set(d, add), kept), d, to + i);
  });
}

void merge(const Softmax& segment, const Softmax& total, int64_t rows, int64_t head_dim) {
  for (int64_t row = 0; row < rows; ++row) merge_row(segment, total, row, head_dim);
}

void finish_row(const Softmax& total, int64_t row, int64_t head_dim, const float* gate,
                float* HWY_RESTRICT o) {
  const float* HWY_RESTRICT values = total.values + row * head_dim;
  const float inverse = total.sum[row] > 0.0f ? 1.0f / total.sum[row] : total.sum[row];
  for_each_lane(head_dim, [&](auto d, int64_t i) {
    auto y = hn::Mul(hn::LoadU(d, values + i), hn::Set(d, inverse));
    if (gate != nullptr) y = hn::Mul(y, sigmoid(d, hn::LoadU(d, gate + i)));
    hn::StoreU(y, d, o + i);
  });
}

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {

HWY_EXPORT(attend);
HWY_EXPORT(weigh_rows);
HWY_EXPORT(merge);
HWY_EXPORT(finish_row);

void attend(const AttendedBlock& block) { HWY_DYNAMIC_DISPATCH(attend)(block); }

void weigh(const AttendedBlock& block) { HWY_DYNAMIC_DISPATCH(weigh_rows)(block); }

void merge(const Softmax& segment, const Softmax& total, int64_t rows, int64_t head_dim) {
  HWY_DYNAMIC_DISPATCH(merge)(segment, total, rows, head_dim);
}

void finish_row(const Softmax& total, int64_t row, int64_t head_dim, const float* gate, float* o) {
  HWY_DYNAMIC_DISPATCH(finish_row)(total, row, head_dim, gate, o);
}

}  // namespace sala::cpu
#endif
