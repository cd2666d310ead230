#include <algorithm>
#include <utility>

#include "cpu/matmul_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// Products of bytes (vpdpbusd) and of bf16 pairs (vpdpbf16ps) on 512 bits, for 32 outputs of up to
// 12 rows.
//
// bf16: one chain of vpdpbf16ps over pairs of columns ascending. 24 chains, since its latency is 6
// at two a cycle. int8: unsigned weight codes times signed activation codes, exact in i32 over a
// group of G columns: 4 G vpdpbusd a group and tile of 8 rows. Scaling a group costs 4 instructions
// beside every G / 4 of these: the limit is two thirds of the peak for G = 32, 8 in 9 for 128. The
// f32 sums of tiles with many rows live in memory, where the compiler spills them.

namespace sala::cpu {
namespace {

constexpr int kBf16Rows = 12;
constexpr int kInt8Rows =
    8;  // more spill: both the group's sums and the row's must stay in registers

/// Asks for `bytes` that a stream reads soon.
inline void prefetch(const std::byte* w, int bytes) {
  for (int line = 0; line < bytes; line += 64) _mm_prefetch(w + kAhead512 + line, _MM_HINT_T0);
}

/// How codes lie: decoded groups, or the panels themselves, whatever the columns of a group.
enum class Source : uint8_t { decoded, w8, w4, k8, k4 };

constexpr bool decoded(Source source) { return source == Source::decoded; }
constexpr bool nibbles(Source source) { return source == Source::w4 || source == Source::k4; }
constexpr bool two_level(Source source) { return source == Source::k8 || source == Source::k4; }
/// Bytes of one scale, or one minimum, of a group.
constexpr int scale_bytes(Source source) { return decoded(source) ? 4 : two_level(source) ? 1 : 2; }

/// Weight codes of eight columns of 32 rows: four columns in each vector of 16 rows.
struct Codes {
  __m512i first[2];   ///< columns 0 to 3
  __m512i second[2];  ///< columns 4 to 7
};

template <Source kSource>
[[gnu::always_inline, gnu::target("avx512f,avx512bw")]] inline Codes load_codes(
    const uint8_t* codes) {
  const __m512i a = _mm512_loadu_si512(codes);
  const __m512i b = _mm512_loadu_si512(codes + 64);
  if constexpr (!nibbles(kSource))
    return {{a, b}, {_mm512_loadu_si512(codes + 128), _mm512_loadu_si512(codes + 192)}};
  const __m512i nibble = _mm512_set1_epi8(15);
  return {{_mm512_and_si512(a, nibble), _mm512_and_si512(b, nibble)},
          {_mm512_and_si512(_mm512_srli_epi16(a, 4), nibble),
           _mm512_and_si512(_mm512_srli_epi16(b, 4), nibble)}};
}

/// 16 numbers in f16, the first or the second half. (The plain conversions warn in g++ 12.)
[[gnu::always_inline, gnu::target("avx512f")]] inline __m512 load_f16(const std::byte* numbers,
                                                                      int half) {
  return _mm512_maskz_cvtph_ps(
      0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers) + half));
}

/// 16 scales or minima of a group, the first or the second half; `super` holds those of the first
/// level.
template <Source kSource>
[[gnu::always_inline, gnu::target("avx512f,avx512bw")]] inline __m512 load_scales(
    const std::byte* scales, const std::byte* super, int half) {
  if constexpr (decoded(kSource))
    return _mm512_loadu_ps(reinterpret_cast<const float*>(scales) + 16 * half);
  if constexpr (!two_level(kSource)) return load_f16(scales, half);
  const __m512i codes = _mm512_maskz_cvtepi8_epi32(
      0xFFFF, _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales) + half));
  return _mm512_mul_ps(load_f16(super, half), _mm512_maskz_cvtepi32_ps(0xFFFF, codes));
}

// The loops over rows are folds over constant indices: g++ keeps an array in registers only if no
// loop ever indexed it.

/// dot[2r], dot[2r + 1] += four columns of row r.
template <size_t... r>
[[gnu::always_inline, gnu::target("avx512f,avx512vnni")]] inline void add_columns(
    const __m512i (&w)[2], const int32_t* x, __m512i (&dot)[2 * sizeof...(r)],
    std::index_sequence<r...>) {
  ((dot[2 * r] = _mm512_dpbusd_epi32(dot[2 * r], w[0], _mm512_set1_epi32(x[r])),
    dot[2 * r + 1] = _mm512_dpbusd_epi32(dot[2 * r + 1], w[1], _mm512_set1_epi32(x[r]))),
   ...);
}

/// sum[2r + half] += the scaled dot and the minimum of each row.
template <size_t... r>
[[gnu::always_inline, gnu::target("avx512f")]] inline void add_group(
    __m512 scale, __m512 min, const float* scales, int half, const __m512i (&dot)[2 * sizeof...(r)],
    __m512 (&sum)[2 * sizeof...(r)], std::index_sequence<r...>) {
  ((sum[2 * r + half] =
        _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xFFFF, dot[2 * r + half]),
                        _mm512_mul_ps(_mm512_set1_ps(scales[2 * r]), scale), sum[2 * r + half]),
    sum[2 * r + half] = _mm512_fmadd_ps(_mm512_set1_ps(scales[2 * r + 1]), min, sum[2 * r + half])),
   ...);
}

template <size_t... r>
[[gnu::always_inline, gnu::target("avx512f")]] inline void load_sums(
    const Tile& tile, const float* c, __m512 (&sum)[2 * sizeof...(r)], std::index_sequence<r...>) {
  if (tile.fresh) {
    ((sum[2 * r] = sum[2 * r + 1] = _mm512_setzero_ps()), ...);
    return;
  }
  ((sum[2 * r] = _mm512_loadu_ps(c + r * tile.c_stride),
    sum[2 * r + 1] = _mm512_loadu_ps(c + r * tile.c_stride + 16)),
   ...);
}

template <size_t... r>
[[gnu::always_inline, gnu::target("avx512f")]] inline void store_sums(
    const Tile& tile, float* c, const __m512 (&sum)[2 * sizeof...(r)], std::index_sequence<r...>) {
  ((_mm512_storeu_ps(c + r * tile.c_stride, sum[2 * r]),
    _mm512_storeu_ps(c + r * tile.c_stride + 16, sum[2 * r + 1])),
   ...);
}

template <size_t... i>
[[gnu::always_inline, gnu::target("avx512f")]] inline void clear(__m512i (&dot)[sizeof...(i)],
                                                                 std::index_sequence<i...>) {
  ((dot[i] = _mm512_setzero_si512()), ...);
}

template <Source kSource, int kColumns, int R>
[[gnu::target("avx512f,avx512bw,avx512vnni")]] void int8_panel(const Tile& tile, const std::byte* w,
                                                               float* c) {
  constexpr int kScale = scale_bytes(kSource);
  constexpr int kCodes = kPanel * 8 / (nibbles(kSource) ? 2 : 1);  // bytes of eight columns
  constexpr std::make_index_sequence<R> rows;
  __m512 sum[2 * R];
  load_sums(tile, c, sum, rows);
  const auto* x = static_cast<const int32_t*>(tile.x);
  const float* scales = tile.scales;
  const std::byte* super = w;  // scales of the first level, where there are two
  for (int64_t g = 0; g < tile.count / kColumns; ++g, scales += 2 * R) {
    if constexpr (two_level(kSource))
      if (g % (kSuper / kColumns) == 0) {
        super = w;
        w += 4 * kPanel;
      }
    const std::byte* group = w;
    if constexpr (!decoded(kSource)) prefetch(w, 2 * kScale * kPanel);
    w += 2 * kScale * kPanel;
    __m512i dot[2 * R];
    clear(dot, std::make_index_sequence<2 * R>());
    for (int i = 0; i < kColumns / 8; ++i, x += 2 * R, w += kCodes) {
      if constexpr (!decoded(kSource)) prefetch(w, kCodes);
      const Codes codes = load_codes<kSource>(reinterpret_cast<const uint8_t*>(w));
      add_columns(codes.first, x, dot, rows);
      add_columns(codes.second, x + R, dot, rows);
    }
    const std::byte* mins = group + kScale * kPanel;
    add_group(load_scales<kSource>(group, super, 0),
              load_scales<kSource>(mins, super + 2 * kPanel, 0), scales, 0, dot, sum, rows);
    add_group(load_scales<kSource>(group, super, 1),
              load_scales<kSource>(mins, super + 2 * kPanel, 1), scales, 1, dot, sum, rows);
  }
  store_sums(tile, c, sum, rows);
}

template <Source kSource, int kColumns, int R>
void int8_rows(const Tile& tile) {
  if constexpr (R > 1) {
    if (tile.rows < R) return int8_rows<kSource, kColumns, R - 1>(tile);
  }
  for (int p = 0; p < tile.panels; ++p)
    int8_panel<kSource, kColumns, R>(tile, tile.w + p * tile.panel_stride, tile.c + p * kPanel);
}

/// sum[2r], sum[2r + 1] += a pair of columns of row r.
template <size_t... r>
[[gnu::always_inline, gnu::target("avx512f,avx512bf16")]] inline void add_pair(
    __m512i low, __m512i high, const int32_t* x, __m512 (&sum)[2 * sizeof...(r)],
    std::index_sequence<r...>) {
  ((sum[2 * r] = _mm512_dpbf16_ps(sum[2 * r], (__m512bh)low, (__m512bh)_mm512_set1_epi32(x[r])),
    sum[2 * r + 1] =
        _mm512_dpbf16_ps(sum[2 * r + 1], (__m512bh)high, (__m512bh)_mm512_set1_epi32(x[r]))),
   ...);
}

template <int R, bool kStream>
[[gnu::target("avx512f,avx512bf16")]] void bf16_panel(const Tile& tile, const std::byte* w,
                                                      float* c) {
  constexpr std::make_index_sequence<R> rows;
  __m512 sum[2 * R];
  load_sums(tile, c, sum, rows);
  const auto* x = static_cast<const int32_t*>(tile.x);
  for (int64_t k = 0; k < tile.count; k += 2, x += R, w += kPanel * 4) {
    if constexpr (kStream) prefetch(w, kPanel * 4);
    add_pair(_mm512_loadu_si512(w), _mm512_loadu_si512(w + 64), x, sum, rows);
  }
  store_sums(tile, c, sum, rows);
}

template <int R, bool kStream>
void bf16_rows(const Tile& tile) {
  if constexpr (R > 1) {
    if (tile.rows < R) return bf16_rows<R - 1, kStream>(tile);
  }
  for (int p = 0; p < tile.panels; ++p)
    bf16_panel<R, kStream>(tile, tile.w + p * tile.panel_stride, tile.c + p * kPanel);
}

template <Source kSource, int kColumns>
Kernels int8_kernels_of() {
  return {.rows = kInt8Rows,
          .block = int8_rows<Source::decoded, kColumns, kInt8Rows>,
          .stream = int8_rows<kSource, kColumns, kInt8Rows>};
}

}  // namespace

Kernels vnni_kernels(WeightType type) {
  switch (type) {
    case WeightType::w8g64:
      return int8_kernels_of<Source::w8, 64>();
    case WeightType::w4g64:
      return int8_kernels_of<Source::w4, 64>();
    case WeightType::w8g128:
      return int8_kernels_of<Source::w8, 128>();
    case WeightType::w4g128:
      return int8_kernels_of<Source::w4, 128>();
    case WeightType::k8:
      return int8_kernels_of<Source::k8, 16>();
    case WeightType::k4:
      return int8_kernels_of<Source::k4, kGroup>();
    case WeightType::w4:
      return int8_kernels_of<Source::w4, kGroup>();
    default:
      return int8_kernels_of<Source::w8, kGroup>();
  }
}

Kernels bf16_kernels() {
  return {.rows = kBf16Rows,
          .block = bf16_rows<kBf16Rows, false>,
          .stream = bf16_rows<kBf16Rows, true>};
}

}  // namespace sala::cpu
#endif
