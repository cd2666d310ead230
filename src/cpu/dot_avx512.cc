#include <algorithm>

#include "cpu/matmul_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// Products of bytes (vpdpbusd) and of bf16 pairs (vpdpbf16ps) on 512 bits, for 32 outputs of up to
// 12 rows.
//
// bf16: one chain of vpdpbf16ps over pairs of columns ascending. 24 chains, since its latency is 6
// at two a cycle. int8: unsigned weight codes times signed activation codes, exact in i32 over a
// group of 32 columns: 192 vpdpbusd a group and tile. Scaling a group costs 4 instructions beside
// every 8 of these, so two thirds of the peak is the limit. The f32 sums of tiles with many rows
// live in memory, where the compiler spills them.

namespace sala::cpu {
namespace {

constexpr int kRows = 12;

enum class Source : uint8_t { groups, w8, w4 };

/// Two vectors of weight codes: columns 4i to 4i + 3 of 32 rows.
struct Quad {
  __m512i low, high;
};

template <Source kSource>
[[gnu::target("avx512f,avx512bw")]] inline Quad load_quad(const uint8_t* codes, int i) {
  const uint8_t* place = codes + (kSource == Source::w4 ? i / 2 : i) * kPanel * 4;
  __m512i low = _mm512_loadu_si512(place);
  __m512i high = _mm512_loadu_si512(place + 64);
  if constexpr (kSource == Source::w4) {
    const __m512i nibble = _mm512_set1_epi8(15);
    if (i % 2 != 0) {
      low = _mm512_srli_epi16(low, 4);
      high = _mm512_srli_epi16(high, 4);
    }
    low = _mm512_and_si512(low, nibble);
    high = _mm512_and_si512(high, nibble);
  }
  return {low, high};
}

/// 16 scales or minima of a group, the first or the second half.
template <Source kSource>
[[gnu::target("avx512f,avx512bw")]] inline __m512 load_scales(const std::byte* scales, int half) {
  if constexpr (kSource == Source::groups)
    return _mm512_loadu_ps(reinterpret_cast<const float*>(scales) + 16 * half);
  return _mm512_maskz_cvtph_ps(  // the plain form warns in g++ 12
      0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales) + half));
}

template <Source kSource, int R>
[[gnu::target("avx512f,avx512bw,avx512vnni")]] void int8_panel(const Tile& tile, const std::byte* w,
                                                               float* c) {
  constexpr int kScale = kSource == Source::groups ? 4 : 2;
  constexpr int kGroupBytes =
      2 * kScale * kPanel + kPanel * kGroup / (kSource == Source::w4 ? 2 : 1);
  __m512 sum[R][2];
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < 2; ++h)
      sum[r][h] =
          tile.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c + r * tile.c_stride + 16 * h);
  const auto* x = static_cast<const int32_t*>(tile.x);
  const float* scales = tile.scales;
  for (int64_t g = 0; g < tile.count / kGroup; ++g) {
    const auto* codes = reinterpret_cast<const uint8_t*>(w + 2 * kScale * kPanel);
    __m512i dot[R][2];
    for (int r = 0; r < R; ++r) dot[r][0] = dot[r][1] = _mm512_setzero_si512();
    for (int i = 0; i < kGroup / 4; ++i, x += R) {
      const Quad quad = load_quad<kSource>(codes, i);
      for (int r = 0; r < R; ++r) {
        const __m512i value = _mm512_set1_epi32(x[r]);
        dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], quad.low, value);
        dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], quad.high, value);
      }
    }
    for (int h = 0; h < 2; ++h) {
      const __m512 scale = load_scales<kSource>(w, h);
      const __m512 min = load_scales<kSource>(w + kScale * kPanel, h);
      for (int r = 0; r < R; ++r) {
        const __m512 both = _mm512_mul_ps(_mm512_set1_ps(scales[2 * r]), scale);
        sum[r][h] = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xFFFF, dot[r][h]), both, sum[r][h]);
        sum[r][h] = _mm512_fmadd_ps(_mm512_set1_ps(scales[2 * r + 1]), min, sum[r][h]);
      }
    }
    scales += 2 * R;
    w += kGroupBytes;
  }
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < 2; ++h) _mm512_storeu_ps(c + r * tile.c_stride + 16 * h, sum[r][h]);
}

template <Source kSource, int R>
void int8_rows(const Tile& tile) {
  if constexpr (R > 1) {
    if (tile.rows < R) return int8_rows<kSource, R - 1>(tile);
  }
  for (int p = 0; p < tile.panels; ++p)
    int8_panel<kSource, R>(tile, tile.w + p * tile.panel_stride, tile.c + p * kPanel);
}

/// P panels side by side.
template <int R, int P>
[[gnu::target("avx512f,avx512bf16")]] void bf16_tile(const Tile& tile, const std::byte* w,
                                                     float* c) {
  __m512 acc[R][2 * P];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2 * P; ++v)
      acc[r][v] =
          tile.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c + r * tile.c_stride + 16 * v);
  const auto* x = static_cast<const int32_t*>(tile.x);
  for (int64_t k = 0; k < tile.count; k += 2, x += R, w += kPanel * 4) {
    __m512i weights[2 * P];
    for (int v = 0; v < 2 * P; ++v)
      weights[v] = _mm512_loadu_si512(w + v / 2 * tile.panel_stride + v % 2 * 64);
    for (int r = 0; r < R; ++r) {
      const __m512i value = _mm512_set1_epi32(x[r]);
      for (int v = 0; v < 2 * P; ++v)
        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], (__m512bh)weights[v], (__m512bh)value);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2 * P; ++v) _mm512_storeu_ps(c + r * tile.c_stride + 16 * v, acc[r][v]);
}

template <int R>
void bf16_rows(const Tile& tile) {
  if constexpr (R > 1) {
    if (tile.rows < R) return bf16_rows<R - 1>(tile);
  }
  constexpr int kWide = std::max(1, 6 / R);  // 12 chains where rows are few
  int p = 0;
  for (; p + kWide <= tile.panels; p += kWide)
    bf16_tile<R, kWide>(tile, tile.w + p * tile.panel_stride, tile.c + p * kPanel);
  for (; p < tile.panels; ++p)
    bf16_tile<R, 1>(tile, tile.w + p * tile.panel_stride, tile.c + p * kPanel);
}

}  // namespace

Kernels vnni_kernels(WeightType type) {
  return {.rows = kRows,
          .block = int8_rows<Source::groups, kRows>,
          .stream = type == WeightType::w8 ? int8_rows<Source::w8, kStreamRows>
                                           : int8_rows<Source::w4, kStreamRows>};
}

Kernels bf16_kernels() {
  return {.rows = kRows, .block = bf16_rows<kRows>, .stream = bf16_rows<kStreamRows>};
}

}  // namespace sala::cpu
#endif
