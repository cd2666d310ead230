#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/matmul_panel.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu/matmul_kernels.h"
#include "cpu/simd-inl.h"

// Portable kernels of matmul: f32 products, decoding of every weight type, quantisation of
// activations, swiglu, and int8 products for machines without byte dot products.
//
// A tile keeps rows x 32 outputs in registers and walks k: per column one or two loads of weights
// and one broadcast a row. 24 accumulators of 16 lanes on AVX-512 (12 rows), 12 of 8 on AVX2 (3
// rows).

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {

constexpr int kLanes = HWY_MIN(static_cast<int>(HWY_LANES(float)), 16);
constexpr int kVectors = kPanel / kLanes;  // vectors in a row of a panel
constexpr int kRows = kLanes == 16 ? 12 : kLanes == 8 ? 3 : 2;

using V = hn::Vec<Floats>;
using Words = hn::RebindToUnsigned<Floats>;
using Integers = hn::RebindToSigned<Floats>;

// How one step over a panel's columns reads its weights: kColumns columns at a time, `raw` once,
// `get` for each.
struct F32Columns {
  static constexpr int kColumns = 1;
  static constexpr int64_t kStep = kPanel * 4;
  using Raw = V;
  static HWY_INLINE Raw raw(const std::byte* w, int v) {
    return hn::LoadU(Floats(), reinterpret_cast<const float*>(w) + v * kLanes);
  }
  template <int kColumn>
  static HWY_INLINE V get(Raw raw) {
    return raw;
  }
};

struct F16Columns {
  static constexpr int kColumns = 1;
  static constexpr int64_t kStep = kPanel * 2;
  using Raw = V;
  static HWY_INLINE Raw raw(const std::byte* w, int v) {
    const hn::Rebind<hwy::float16_t, Floats> halves;
    return hn::PromoteTo(
        Floats(), hn::LoadU(halves, reinterpret_cast<const hwy::float16_t*>(w) + v * kLanes));
  }
  template <int kColumn>
  static HWY_INLINE V get(Raw raw) {
    return raw;
  }
};

struct Bf16Columns {
  static constexpr int kColumns = 2;
  static constexpr int64_t kStep = kPanel * 4;
  using Raw = hn::Vec<Words>;
  static HWY_INLINE Raw raw(const std::byte* w, int v) {
    return hn::LoadU(Words(), reinterpret_cast<const uint32_t*>(w) + v * kLanes);
  }
  template <int kColumn>
  static HWY_INLINE V get(Raw raw) {
    if constexpr (kColumn == 0) return hn::BitCast(Floats(), hn::ShiftLeft<16>(raw));
    return hn::BitCast(Floats(), hn::And(raw, hn::Set(Words(), 0xFFFF0000)));
  }
};

// The loops over a tile are folds over constant indices: g++ keeps an array in registers only if no
// loop ever indexed it.

/// acc[v] += value * column `kColumn` of the weights, for the vectors of one row.
template <int kColumn, class Columns, size_t... v>
HWY_INLINE void add_row(float x, const typename Columns::Raw (&raw)[sizeof...(v)], V* acc,
                        std::index_sequence<v...>) {
  const V value = hn::Set(Floats(), x);
  ((acc[v] = hn::MulAdd(value, Columns::template get<kColumn>(raw[v]), acc[v])), ...);
}

/// One column of the weights times that of the activations.
template <int kColumn, class Columns, size_t N, size_t... r>
HWY_INLINE void add_column(const float* x, const typename Columns::Raw (&raw)[N],
                           V (&acc)[N * sizeof...(r)], std::index_sequence<r...>) {
  (add_row<kColumn, Columns>(x[r], raw, acc + r * N, std::make_index_sequence<N>()), ...);
}

template <class Columns, size_t... v>
HWY_INLINE void load_columns(const std::byte* w, int64_t panel_stride,
                             typename Columns::Raw (&raw)[sizeof...(v)],
                             std::index_sequence<v...>) {
  ((raw[v] = Columns::raw(w + static_cast<int64_t>(v / kVectors) * panel_stride,
                          static_cast<int>(v % kVectors))),
   ...);
}

template <size_t N, size_t... i>
HWY_INLINE void load_sums(const Tile& tile, V (&acc)[sizeof...(i)], std::index_sequence<i...>) {
  const Floats d;
  if (tile.fresh) {
    ((acc[i] = hn::Zero(d)), ...);
    return;
  }
  const float* c = tile.c;
  const int64_t stride = tile.c_stride;
  ((acc[i] = hn::LoadU(d, c + static_cast<int64_t>(i / N) * stride + i % N * kLanes)), ...);
}

template <size_t N, size_t... i>
HWY_INLINE void store_sums(const Tile& tile, const V (&acc)[sizeof...(i)],
                           std::index_sequence<i...>) {
  float* c = tile.c;
  const int64_t stride = tile.c_stride;
  (hn::StoreU(acc[i], Floats(), c + static_cast<int64_t>(i / N) * stride + i % N * kLanes), ...);
}

/// Asks for `bytes` that a stream reads soon.
HWY_INLINE void prefetch(const std::byte* w, int64_t bytes) {
  constexpr int kAhead = kLanes == 16 ? kAhead512 : kAhead256;
  for (int64_t line = 0; line < bytes; line += 64) hwy::Prefetch(w + kAhead + line);
}

/// R rows, P panels.
template <class Columns, int R, int P, bool kStream>
void f32_tile(const Tile& tile) {
  constexpr size_t kWidth = P * kVectors;
  constexpr std::make_index_sequence<R> rows;
  constexpr std::make_index_sequence<kWidth> width;
  constexpr std::make_index_sequence<R * kWidth> sums;
  V acc[R * kWidth];
  load_sums<kWidth>(tile, acc, sums);
  const auto* x = static_cast<const float*>(tile.x);
  const std::byte* w = tile.w;
  typename Columns::Raw raw[kWidth];
  int64_t left = tile.count;
  for (; left >= Columns::kColumns; left -= Columns::kColumns) {
    if constexpr (kStream)
      for (int p = 0; p < P; ++p) prefetch(w + p * tile.panel_stride, Columns::kStep);
    load_columns<Columns>(w, tile.panel_stride, raw, width);
    add_column<0, Columns>(x, raw, acc, rows);
    if constexpr (Columns::kColumns == 2) add_column<1, Columns>(x + R, raw, acc, rows);
    x += Columns::kColumns * R;
    w += Columns::kStep;
  }
  if (left > 0) {
    load_columns<Columns>(w, tile.panel_stride, raw, width);
    add_column<0, Columns>(x, raw, acc, rows);
  }
  store_sums<kWidth>(tile, acc, sums);
}

template <int R>
void f32_rows(const Tile& tile) {
  if constexpr (R == 1) {
    return f32_tile<F32Columns, 1, 1, false>(tile);
  } else {
    return tile.rows == R ? f32_tile<F32Columns, R, 1, false>(tile) : f32_rows<R - 1>(tile);
  }
}

void f32_block(const Tile& tile) { f32_rows<kRows>(tile); }

/// Panels side by side until eight chains hide the latency of an fma.
template <class Columns, int R>
void stream_rows(const Tile& tile) {
  constexpr int kWide = std::max(1, 8 / (R * kVectors));
  Tile part = tile;
  while (part.panels > 0) {
    const bool wide = kWide > 1 && part.panels >= kWide;
    wide ? f32_tile<Columns, R, kWide, true>(part) : f32_tile<Columns, R, 1, true>(part);
    const int done = wide ? kWide : 1;
    part.panels -= done;
    part.w += done * part.panel_stride;
    part.c += done * kPanel;
  }
}

template <class Columns, int R>
void stream(const Tile& tile) {
  if constexpr (R > 1) {
    if (tile.rows < R) return stream<Columns, R - 1>(tile);
  }
  stream_rows<Columns, R>(tile);
}

void f32_stream(const Tile& tile) { stream<F32Columns, kRows>(tile); }
void f16_stream(const Tile& tile) { stream<F16Columns, kRows>(tile); }
void bf16_stream(const Tile& tile) { stream<Bf16Columns, kRows>(tile); }

template <class Columns>
void decode_columns(const std::byte* w, int64_t count, float* out) {
  const Floats d;
  for (int64_t k = 0; k < count; k += Columns::kColumns, w += Columns::kStep)
    for (int v = 0; v < kVectors; ++v) {
      const auto raw = Columns::raw(w, v);
      hn::StoreU(Columns::template get<0>(raw), d, out + k * kPanel + v * kLanes);
      if constexpr (Columns::kColumns == 2)
        if (k + 1 < count)
          hn::StoreU(Columns::template get<1>(raw), d, out + (k + 1) * kPanel + v * kLanes);
    }
}

/// out[j * kPanel] = scale * byte j of each word + min, for the bytes under `mask`.
HWY_INLINE void decode_word(hn::Vec<Words> word, uint32_t mask, V scale, V min, float* out) {
  const Floats d;
  const auto low = hn::Set(Words(), mask);
  const hn::Vec<Words> codes[4] = {hn::And(word, low), hn::And(hn::ShiftRight<8>(word), low),
                                   hn::And(hn::ShiftRight<16>(word), low),
                                   hn::And(hn::ShiftRight<24>(word), low)};
  for (int j = 0; j < 4; ++j) {
    const V code = hn::ConvertTo(d, hn::BitCast(Integers(), codes[j]));
    hn::StoreU(hn::MulAdd(scale, code, min), d, out + j * kPanel);
  }
}

/// Signed bytes as floats.
HWY_INLINE V load_bytes(const std::byte* p, int v) {
  const hn::Rebind<int8_t, Floats> bytes;
  const auto codes = hn::LoadU(bytes, reinterpret_cast<const int8_t*>(p) + v * kLanes);
  return hn::ConvertTo(Floats(), hn::PromoteTo(Integers(), codes));
}

/// Where the scales, the minima and the codes of group g of a panel are.
struct GroupPlace {
  GroupPlace(WeightType type, const std::byte* panel, int64_t g)
      : group(panel + group_place(type, g)), codes(group + codes_place(type)), scales(group) {
    if (!two_level(type)) return;
    const int64_t groups = kSuper / group_columns(type);
    scales = panel + group_place(type, g / groups * groups) - kPanel * 4;
    levels = 2;
  }
  V scale(int v) const {
    const V d = F16Columns::raw(scales, v);
    return levels == 1 ? d : hn::Mul(d, load_bytes(group, v));
  }
  V min(int v) const {
    const V d = F16Columns::raw(scales + kPanel * 2, v);
    return levels == 1 ? d : hn::Mul(d, load_bytes(group + kPanel, v));
  }

  const std::byte* group;
  const std::byte* codes;
  const std::byte* scales;  // of the first level
  int levels = 1;
};

/// `columns` columns of a group from `first` on.
template <bool kNibbles>
void decode_group(const GroupPlace& from, int64_t first, int columns, float* out) {
  constexpr int kWordColumns = kNibbles ? 8 : 4;
  const auto* codes = reinterpret_cast<const uint32_t*>(from.codes) + first / kWordColumns * kPanel;
  for (int v = 0; v < kVectors; ++v) {
    const V scale = from.scale(v);
    const V min = from.min(v);
    for (int i = 0; i < columns / kWordColumns; ++i) {
      const auto word = hn::LoadU(Words(), codes + i * kPanel + v * kLanes);
      float* to = out + i * kWordColumns * kPanel + v * kLanes;
      decode_word(word, kNibbles ? 15 : 255, scale, min, to);
      if constexpr (kNibbles) decode_word(hn::ShiftRight<4>(word), 15, scale, min, to + 4 * kPanel);
    }
  }
}

void decode_groups(WeightType type, const std::byte* panel, int64_t first, int64_t count,
                   float* out) {
  const int columns = group_columns(type), step = std::min(columns, kGroup);
  for (int64_t k = first; k < first + count; k += step, out += step * kPanel) {
    const GroupPlace from(type, panel, k / columns);
    narrow(type) ? decode_group<true>(from, k % columns, step, out)
                 : decode_group<false>(from, k % columns, step, out);
  }
}

void decode_f32(WeightType type, const std::byte* panel, int64_t first, int64_t count, float* out) {
  if (quantised(type)) return decode_groups(type, panel, first, count, out);
  const std::byte* w = panel + panel_bytes(type, first);
  if (type == WeightType::f32) return decode_columns<F32Columns>(w, count, out);
  if (type == WeightType::f16) return decode_columns<F16Columns>(w, count, out);
  decode_columns<Bf16Columns>(w, count, out);
}

template <int kColumns>
void decode_to_group(WeightType type, const GroupPlace& from, CodeGroup<kColumns>& out) {
  for (int v = 0; v < kVectors; ++v) {
    hn::StoreU(from.scale(v), Floats(), out.scale + v * kLanes);
    hn::StoreU(from.min(v), Floats(), out.min + v * kLanes);
  }
  if (!narrow(type)) {
    std::memcpy(out.codes, from.codes, sizeof out.codes);
    return;
  }
  const auto low = hn::Set(Words(), 0x0F0F0F0F);
  auto* to = reinterpret_cast<uint32_t*>(out.codes);
  const auto* words = reinterpret_cast<const uint32_t*>(from.codes);
  for (int i = 0; i < kColumns / 8; ++i)
    for (int v = 0; v < kVectors; ++v) {
      const auto word = hn::LoadU(Words(), words + i * kPanel + v * kLanes);
      uint32_t* place = to + 2 * i * kPanel + v * kLanes;
      hn::StoreU(hn::And(word, low), Words(), place);
      hn::StoreU(hn::And(hn::ShiftRight<4>(word), low), Words(), place + kPanel);
    }
}

template <int kColumns>
void decode_to_groups(WeightType type, const std::byte* panel, int64_t first, int64_t count,
                      std::byte* out) {
  auto* group = reinterpret_cast<CodeGroup<kColumns>*>(out);
  for (int64_t g = first / kColumns; g < (first + count) / kColumns; ++g, ++group)
    decode_to_group(type, GroupPlace(type, panel, g), *group);
}

void decode_to_codes(WeightType type, const std::byte* panel, int64_t first, int64_t count,
                     std::byte* out) {
  switch (group_columns(type)) {
    case 16:
      return decode_to_groups<16>(type, panel, first, count, out);
    case 64:
      return decode_to_groups<64>(type, panel, first, count, out);
    case 128:
      return decode_to_groups<128>(type, panel, first, count, out);
    default:
      return decode_to_groups<kGroup>(type, panel, first, count, out);
  }
}

/// One row, sums of integers held exactly in f32: |sum| <= 128 * 255 * 127 < 2^24.
template <int kColumns>
void int8_row(const CodeGroup<kColumns>* w, const uint32_t* x, int rows, const float* scales,
              int64_t groups, float* c) {
  const Floats d;
  const auto low = hn::Set(Words(), 255);
  for (int64_t g = 0; g < groups; ++g, ++w, scales += 2 * rows) {
    V sum[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = hn::Zero(d);
    for (int i = 0; i < kColumns / 4; ++i, x += rows) {
      const uint32_t four = *x;
      for (int v = 0; v < kVectors; ++v) {
        auto word = hn::LoadU(Words(), reinterpret_cast<const uint32_t*>(w->codes[i]) + v * kLanes);
        for (int j = 0; j < 4; ++j, word = hn::ShiftRight<8>(word)) {
          const auto code = static_cast<float>(static_cast<int8_t>(four >> (8 * j)));
          const V weight = hn::ConvertTo(d, hn::BitCast(Integers(), hn::And(word, low)));
          sum[v] = hn::MulAdd(hn::Set(d, code), weight, sum[v]);
        }
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const V scale = hn::Mul(hn::Set(d, scales[0]), hn::LoadU(d, w->scale + v * kLanes));
      V y = hn::MulAdd(sum[v], scale, hn::LoadU(d, c + v * kLanes));
      y = hn::MulAdd(hn::Set(d, scales[1]), hn::LoadU(d, w->min + v * kLanes), y);
      hn::StoreU(y, d, c + v * kLanes);
    }
  }
}

template <int kColumns>
void int8_block(const Tile& tile) {
  const auto* x = static_cast<const uint32_t*>(tile.x);
  for (int r = 0; r < tile.rows; ++r) {
    float* c = tile.c + r * tile.c_stride;
    if (tile.fresh) std::fill_n(c, kPanel, 0.0f);
    int8_row(reinterpret_cast<const CodeGroup<kColumns>*>(tile.w), x + r, tile.rows,
             tile.scales + 2 * r, tile.count / kColumns, c);
  }
}

/// scale = max|x| / 127, found among the bits of |x| so that a NaN is the largest and stays.
void quantise_group(const float* x, int columns, bool halves, int8_t* codes, float* scales) {
  const Floats d;
  const Integers integers;
  const hn::Rebind<int8_t, Floats> bytes;
  auto largest = hn::Zero(integers);
  const int vectors = columns / kLanes;
  for (int v = 0; v < vectors; ++v)
    largest = hn::Max(largest, hn::BitCast(integers, hn::Abs(hn::LoadU(d, x + v * kLanes))));
  const float most = hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(integers, largest)));
  const float scale = most / 127;
  decltype(largest) sums[2] = {hn::Zero(integers), hn::Zero(integers)};  // of the two halves
  for (int v = 0; v < vectors; ++v) {
    V code = hn::Zero(d);
    if (!(scale == 0)) {
      code = hn::Div(hn::LoadU(d, x + v * kLanes), hn::Set(d, scale));
      code = hn::Min(hn::Max(code, hn::Set(d, -127.0f)), hn::Set(d, 127.0f));
    }
    const auto whole = hn::NearestInt(code);
    auto& sum = sums[v * 2 / vectors];
    sum = hn::Add(sum, whole);
    hn::StoreU(hn::DemoteTo(bytes, whole), bytes, codes + v * kLanes);
  }
  const int32_t first = hn::GetLane(hn::SumOfLanes(integers, sums[0]));
  const int32_t second = hn::GetLane(hn::SumOfLanes(integers, sums[1]));
  scales[0] = scale;
  scales[1] = scale * static_cast<float>(halves ? first : first + second);
  if (!halves) return;
  scales[2] = scale;
  scales[3] = scale * static_cast<float>(second);
}

void quantise(const float* x, int64_t count, int group, int8_t* codes, float* scales) {
  const bool halves = group < kGroup;
  const int columns = std::max(group, kGroup);
  int64_t k = 0;
  for (; k + columns <= count; k += columns, scales += halves ? 4 : 2)
    quantise_group(x + k, columns, halves, codes + k, scales);
  if (k == count) return;
  float last[kGroup] = {};
  std::copy(x + k, x + count, last);
  quantise_group(last, kGroup, halves, codes + k, scales);
}

void swiglu_panel(const float* gate, const float* up, int64_t count, float* y) {
  const Floats d;
  float out[kPanel];
  for (int v = 0; v < kVectors; ++v) {
    const V g = hn::LoadU(d, gate + v * kLanes);
    const V silu = hn::Mul(g, sigmoid(d, g));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + v * kLanes)), d, out + v * kLanes);
  }
  std::copy_n(out, count, y);
}

Kernels f32_table(WeightType type) {
  switch (type) {
    case WeightType::f32:
      return {kRows, f32_block, f32_stream};
    case WeightType::f16:
      return {kRows, f32_block, f16_stream};
    case WeightType::bf16:
      return {kRows, f32_block, bf16_stream};
    default:
      return {kRows, f32_block, nullptr};
  }
}

Kernels int8_table(WeightType type) {
  switch (group_columns(type)) {
    case 16:
      return {kRows, int8_block<16>, nullptr};
    case 64:
      return {kRows, int8_block<64>, nullptr};
    case 128:
      return {kRows, int8_block<128>, nullptr};
    default:
      return {kRows, int8_block<kGroup>, nullptr};
  }
}

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {

HWY_EXPORT(f32_table);
HWY_EXPORT(int8_table);
HWY_EXPORT(decode_f32);
HWY_EXPORT(decode_to_codes);
HWY_EXPORT(quantise);
HWY_EXPORT(swiglu_panel);

Kernels f32_kernels(WeightType type) { return HWY_DYNAMIC_DISPATCH(f32_table)(type); }
Kernels int8_kernels(WeightType type) { return HWY_DYNAMIC_DISPATCH(int8_table)(type); }

void decode_panel(WeightType type, const std::byte* panel, int64_t first, int64_t count,
                  float* out) {
  HWY_DYNAMIC_DISPATCH(decode_f32)(type, panel, first, count, out);
}

void decode_codes(WeightType type, const std::byte* panel, int64_t first, int64_t count,
                  std::byte* out) {
  HWY_DYNAMIC_DISPATCH(decode_to_codes)(type, panel, first, count, out);
}

void quantise_row(const float* x, int64_t count, int group, int8_t* codes, float* scales) {
  HWY_DYNAMIC_DISPATCH(quantise)(x, count, group, codes, scales);
}

void swiglu(const float* gate, const float* up, int64_t count, float* y) {
  HWY_DYNAMIC_DISPATCH(swiglu_panel)(gate, up, count, y);
}

}  // namespace sala::cpu
#endif
