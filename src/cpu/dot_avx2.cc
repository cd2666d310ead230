#include <algorithm>
#include <utility>

#include "cpu/matmul_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// Products of bytes on 256 bits without byte dot products, exact, for 8 outputs a vector and up to
// 4 rows.
//
// vpmaddubsw makes pairs of products of a nibble and a signed code, at most 2 * 15 * 127, and eight
// of these fit 16 bits: sums of 32 columns, which vpmaddwd then widens. A code of 8 bits is two
// nibbles with sums of their own; vpmaddwd widens those of the high ones times 16.
//
// A tile keeps the 16-bit sums of rows x outputs in at most eight registers, so that a step's
// loads, one for a vector of weights and one broadcast a row, are fewer than its products.

namespace sala::cpu {
namespace {

constexpr int kRows = 4;

/// How codes lie: decoded groups of 8-bit or of 4-bit codes, or the panels themselves, whatever the
/// columns of a group.
enum class Source : uint8_t { groups8, groups4, w8, w4, k8, k4 };

constexpr bool nibbles(Source source) { return source == Source::w4 || source == Source::k4; }
constexpr bool narrow(Source source) { return source == Source::groups4 || nibbles(source); }
constexpr bool decoded(Source source) { return source <= Source::groups4; }
constexpr bool two_level(Source source) { return source >= Source::k8; }
/// Bytes of one scale, or one minimum, of a group.
constexpr int scale_bytes(Source source) { return decoded(source) ? 4 : two_level(source) ? 1 : 2; }

[[gnu::always_inline, gnu::target("avx2,f16c")]] inline __m256 load_f16(const std::byte* numbers,
                                                                        int v) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(numbers) + v));
}

/// Entries 8v to 8v + 7 of the scales or minima of a group; `super` holds those of the first level.
template <Source kSource>
[[gnu::always_inline, gnu::target("avx2,f16c")]] inline __m256 load_scales(const std::byte* scales,
                                                                           const std::byte* super,
                                                                           int v) {
  if constexpr (decoded(kSource))
    return _mm256_loadu_ps(reinterpret_cast<const float*>(scales) + 8 * v);
  if constexpr (!two_level(kSource)) return load_f16(scales, v);
  const __m256i codes = _mm256_cvtepi8_epi32(_mm_loadu_si64(scales + 8 * v));
  return _mm256_mul_ps(load_f16(super, v), _mm256_cvtepi32_ps(codes));
}

/// Columns and bytes of a step: two quads of columns as nibbles, or one whose codes have two.
template <Source kSource>
inline constexpr int kStepColumns = narrow(kSource) ? 8 : 4;
template <Source kSource>
inline constexpr int kStepBytes = kPanel * kStepColumns<kSource> / (nibbles(kSource) ? 2 : 1);

/// Nibbles of a step of V vectors of outputs: of the first and the second quad, or the low and the
/// high ones of one quad.
template <int V>
struct Nibbles {
  __m256i first[V];
  __m256i second[V];
};

template <Source kSource, size_t... v>
[[gnu::always_inline, gnu::target("avx2")]] inline Nibbles<sizeof...(v)> load_nibbles(
    const std::byte* codes, std::index_sequence<v...>) {
  const auto* vectors = reinterpret_cast<const __m256i*>(codes);
  const __m256i low = _mm256_set1_epi8(15);
  if constexpr (decoded(kSource) && narrow(kSource))
    return {{_mm256_loadu_si256(vectors + v)...},
            {_mm256_loadu_si256(vectors + kPanel / 8 + v)...}};
  const __m256i both[] = {_mm256_loadu_si256(vectors + v)...};
  return {{_mm256_and_si256(both[v], low)...},
          {_mm256_and_si256(_mm256_srli_epi16(both[v], 4), low)...}};
}

// The loops over a tile are folds over constant indices: g++ keeps an array in registers only if no
// loop ever indexed it.

/// sum += products. The empty assembly keeps them together: g++ computes the products of a whole
/// step first otherwise, and has no registers for these and the sums.
[[gnu::always_inline, gnu::target("avx2")]] inline void add_products(__m256i w, int32_t x,
                                                                     __m256i& sum) {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, _mm256_set1_epi32(x)));
  asm("" : "+x"(sum));
}

/// sum[r * V + v] += nibbles of vector v times the codes of row r.
template <int V, size_t... i>
[[gnu::always_inline, gnu::target("avx2")]] inline void add_quad(const __m256i (&w)[V],
                                                                 const int32_t* x,
                                                                 __m256i (&sum)[sizeof...(i)],
                                                                 std::index_sequence<i...>) {
  (add_products(w[i % V], x[i / V], sum[i]), ...);
}

/// dot[i] += weight * the pairs of sum[i].
template <size_t... i>
[[gnu::always_inline, gnu::target("avx2")]] inline void widen(const __m256i (&sum)[sizeof...(i)],
                                                              int16_t weight,
                                                              __m256i (&dot)[sizeof...(i)],
                                                              std::index_sequence<i...>) {
  const __m256i weights = _mm256_set1_epi16(weight);
  ((dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(sum[i], weights))), ...);
}

template <size_t... i>
[[gnu::always_inline, gnu::target("avx2")]] inline void clear(__m256i (&sum)[sizeof...(i)],
                                                              std::index_sequence<i...>) {
  ((sum[i] = _mm256_setzero_si256()), ...);
}

/// c += the scaled dot and the minimum of one row.
[[gnu::always_inline, gnu::target("avx2,fma")]] inline void add_scaled(__m256i dot, __m256 scale,
                                                                       __m256 min, const float* x,
                                                                       bool fresh, float* c) {
  __m256 sum = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c);
  sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(_mm256_set1_ps(x[0]), scale), sum);
  _mm256_storeu_ps(c, _mm256_fmadd_ps(_mm256_set1_ps(x[1]), min, sum));
}

template <int V, size_t... i>
[[gnu::always_inline, gnu::target("avx2,fma")]] inline void add_group(
    const __m256 (&scale)[V], const __m256 (&min)[V], const float* scales,
    const __m256i (&dot)[sizeof...(i)], bool fresh, float* c, int64_t c_stride,
    std::index_sequence<i...>) {
  (add_scaled(dot[i], scale[i % V], min[i % V], scales + 2 * (i / V), fresh,
              c + static_cast<int64_t>(i / V) * c_stride + 8 * (i % V)),
   ...);
}

template <Source kSource, size_t... v>
[[gnu::always_inline, gnu::target("avx2,f16c")]] inline void load_group_scales(
    const std::byte* scales, const std::byte* super, int first, __m256 (&out)[sizeof...(v)],
    std::index_sequence<v...>) {
  ((out[v] = load_scales<kSource>(scales, super, first + static_cast<int>(v))), ...);
}

/// A group of R rows and vectors [first, first + V) of the outputs.
template <Source kSource, int kColumns, int R, int V>
[[gnu::always_inline, gnu::target("avx2,fma,f16c")]] inline void int8_group(
    const int32_t* x, const float* scales, const std::byte* w, const std::byte* super, int first,
    bool fresh, float* c, int64_t c_stride) {
  constexpr std::make_index_sequence<R * V> tile;
  constexpr std::make_index_sequence<V> vectors;
  constexpr int kScale = scale_bytes(kSource);
  constexpr int kPart = std::min(kColumns, kGroup);  // columns whose sums fit 16 bits
  const std::byte* codes = w + 2 * kScale * kPanel + 32 * first;
  __m256i dot[R * V];
  clear(dot, tile);
  // Unrolled, g++ computes the products of many steps first, and stores them.
#pragma GCC unroll 1
  for (int part = 0; part < kColumns; part += kPart) {
    __m256i sum[R * V], high[R * V];
    clear(sum, tile);
    clear(high, tile);
#pragma GCC unroll 1
    for (int k = 0; k < kPart; k += kStepColumns<kSource>, codes += kStepBytes<kSource>) {
      if constexpr (!decoded(kSource))
        for (int line = first % 2 * 32; line < 32 * V; line += 64)
          _mm_prefetch(codes + kAhead256 + line, _MM_HINT_T0);
      const Nibbles<V> step = load_nibbles<kSource>(codes, vectors);
      if constexpr (narrow(kSource)) {
        add_quad<V>(step.first, x, sum, tile);
        add_quad<V>(step.second, x + R, sum, tile);
        x += 2 * R;
      } else {
        add_quad<V>(step.first, x, sum, tile);
        add_quad<V>(step.second, x, high, tile);
        x += R;
      }
    }
    widen(sum, 1, dot, tile);
    if constexpr (!narrow(kSource)) widen(high, 16, dot, tile);
  }
  __m256 scale[V], min[V];
  load_group_scales<kSource>(w, super, first, scale, vectors);
  load_group_scales<kSource>(w + kScale * kPanel, super + 2 * kPanel, first, min, vectors);
  add_group<V>(scale, min, scales, dot, fresh, c + 8 * first, c_stride, tile);
}

/// R rows, one panel.
template <Source kSource, int kColumns, int R>
[[gnu::target("avx2,fma,f16c")]] void int8_panel(const Tile& tile, const std::byte* w, float* c) {
  constexpr int kScaleBytes = 2 * scale_bytes(kSource) * kPanel;
  constexpr int kGroupBytes = kScaleBytes + kPanel * kColumns / (nibbles(kSource) ? 2 : 1);
  constexpr int kSums = narrow(kSource) ? 1 : 2;  // registers of an output vector of a row
  constexpr int V = std::min(kPanel / 8, 8 / (R * kSums));
  const auto* x = static_cast<const int32_t*>(tile.x);
  const float* scales = tile.scales;
  const std::byte* super = w;  // scales of the first level, where there are two
  for (int64_t g = 0; g < tile.count / kColumns; ++g) {
    if constexpr (two_level(kSource))
      if (g % (kSuper / kColumns) == 0) {
        super = w;
        w += 4 * kPanel;
      }
    if constexpr (!decoded(kSource))
      for (int line = 0; line < kScaleBytes; line += 64)
        _mm_prefetch(w + kAhead256 + line, _MM_HINT_T0);
    for (int first = 0; first < kPanel / 8; first += V)
      int8_group<kSource, kColumns, R, V>(x, scales, w, super, first, tile.fresh && g == 0, c,
                                          tile.c_stride);
    x += kColumns / 4 * R;
    scales += 2 * R;
    w += kGroupBytes;
  }
}

template <Source kSource, int kColumns>
void int8_tile(const Tile& tile) {
  for (int p = 0; p < tile.panels; ++p) {
    const std::byte* w = tile.w + p * tile.panel_stride;
    float* c = tile.c + p * kPanel;
    switch (tile.rows) {
      case 1:
        int8_panel<kSource, kColumns, 1>(tile, w, c);
        break;
      case 2:
        int8_panel<kSource, kColumns, 2>(tile, w, c);
        break;
      case 3:
        int8_panel<kSource, kColumns, 3>(tile, w, c);
        break;
      default:
        int8_panel<kSource, kColumns, 4>(tile, w, c);
    }
  }
}

/// Kernels of panels kSource; kBlock are their decoded groups.
template <Source kBlock, Source kSource, int kColumns>
Kernels kernels_of() {
  return {
      .rows = kRows, .block = int8_tile<kBlock, kColumns>, .stream = int8_tile<kSource, kColumns>};
}

}  // namespace

Kernels avx2_int8_kernels(WeightType type) {
  switch (type) {
    case WeightType::w8:
      return kernels_of<Source::groups8, Source::w8, kGroup>();
    case WeightType::w8g64:
      return kernels_of<Source::groups8, Source::w8, 64>();
    case WeightType::w8g128:
      return kernels_of<Source::groups8, Source::w8, 128>();
    case WeightType::w4g64:
      return kernels_of<Source::groups4, Source::w4, 64>();
    case WeightType::w4g128:
      return kernels_of<Source::groups4, Source::w4, 128>();
    case WeightType::k8:
      return kernels_of<Source::groups8, Source::k8, 16>();
    case WeightType::k4:
      return kernels_of<Source::groups4, Source::k4, kGroup>();
    default:
      return kernels_of<Source::groups4, Source::w4, kGroup>();
  }
}

}  // namespace sala::cpu
#endif
