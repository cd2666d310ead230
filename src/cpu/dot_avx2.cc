#include <algorithm>
#include <utility>

#include "cpu/matmul_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// Products of bytes on 256 bits without byte dot products, exact: 8 outputs of up to 4 rows at a
// time.
//
// w4: vpmaddubsw makes pairs <= 2 * 15 * 127, and eight of them fit 16 bits; vpmaddwd by ones ends
// every 32 columns. w8: pairs of bytes may overflow 16 bits, so even and odd columns are widened
// and go through vpmaddwd.

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

/// Columns 4i to 4i + 3 of outputs 8v to 8v + 7; kOdd says whether i is.
template <Source kSource, bool kOdd>
[[gnu::always_inline, gnu::target("avx2")]] inline __m256i load_quad(const uint8_t* codes, int i,
                                                                     int v) {
  const int row = nibbles(kSource) ? i / 2 : i;
  __m256i quad =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + row * kPanel * 4 + v * 32));
  if constexpr (nibbles(kSource)) {
    if constexpr (kOdd) quad = _mm256_srli_epi16(quad, 4);
    quad = _mm256_and_si256(quad, _mm256_set1_epi8(15));
  }
  return quad;
}

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

/// A group of activations of R rows, ready for its products: even and odd columns widened to 16
/// bits, or bytes.
template <int kColumns, size_t R>
struct Activations {
  __m256i even[kColumns / 4][R];
  __m256i odd[kColumns / 4][R];
};

template <Source kSource, int kColumns, size_t R>
[[gnu::target("avx2")]] inline void prepare(const int32_t* x, int rows,
                                            Activations<kColumns, R>& out) {
  for (int i = 0; i < kColumns / 4; ++i)
    for (size_t r = 0; r < R; ++r) {
      const __m256i four = _mm256_set1_epi32(x[i * rows + static_cast<int>(r)]);
      out.even[i][r] = narrow(kSource) ? four : _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8);
      if (!narrow(kSource)) out.odd[i][r] = _mm256_srai_epi16(four, 8);
    }
}

// The loops over rows are folds over constant indices: g++ keeps an array in registers only if no
// loop ever indexed it.

/// dot[r] += four columns of row r.
template <Source kSource, int kColumns, size_t... r>
[[gnu::always_inline, gnu::target("avx2")]] inline void add_columns(
    __m256i w, int i, const Activations<kColumns, sizeof...(r)>& x, __m256i (&dot)[sizeof...(r)],
    std::index_sequence<r...>) {
  if constexpr (narrow(kSource)) {
    ((dot[r] = _mm256_add_epi16(dot[r], _mm256_maddubs_epi16(w, x.even[i][r]))), ...);
  } else {
    const __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(255));
    const __m256i odd = _mm256_srli_epi16(w, 8);
    ((dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(even, x.even[i][r])),
      dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(odd, x.odd[i][r]))),
     ...);
  }
}

/// Outputs 8v to 8v + 7 of a group: c += the scaled sums and the minima.
template <Source kSource, int kColumns, size_t... r>
[[gnu::always_inline, gnu::target("avx2,fma,f16c")]] inline void add_group(
    const Tile& tile, const std::byte* w, const std::byte* super, int v,
    const Activations<kColumns, sizeof...(r)>& x, const float* scales, float* c, bool fresh,
    std::index_sequence<r...>) {
  constexpr int kScale = scale_bytes(kSource);
  const auto* codes = reinterpret_cast<const uint8_t*>(w + 2 * kScale * kPanel);
  constexpr int kPart = std::min(kColumns, kGroup) / 4;  // quads whose sums fit 16 bits
  __m256i dot[sizeof...(r)];
  ((dot[r] = _mm256_setzero_si256()), ...);
  for (int first = 0; first < kColumns / 4; first += kPart) {
    __m256i part[sizeof...(r)];
    ((part[r] = narrow(kSource) ? _mm256_setzero_si256() : dot[r]), ...);
    for (int i = first; i < first + kPart; i += 2) {
      add_columns<kSource>(load_quad<kSource, false>(codes, i, v), i, x, part,
                           std::index_sequence<r...>());
      add_columns<kSource>(load_quad<kSource, true>(codes, i + 1, v), i + 1, x, part,
                           std::index_sequence<r...>());
    }
    if constexpr (narrow(kSource)) {
      ((dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(part[r], _mm256_set1_epi16(1)))), ...);
    } else {
      ((dot[r] = part[r]), ...);
    }
  }
  const __m256 scale = load_scales<kSource>(w, super, v);
  const __m256 min = load_scales<kSource>(w + kScale * kPanel, super + 2 * kPanel, v);
  __m256 sum[sizeof...(r)];
  ((sum[r] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * tile.c_stride)), ...);
  ((sum[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]),
                             _mm256_mul_ps(_mm256_set1_ps(scales[2 * r]), scale), sum[r]),
    sum[r] = _mm256_fmadd_ps(_mm256_set1_ps(scales[2 * r + 1]), min, sum[r])),
   ...);
  (_mm256_storeu_ps(c + r * tile.c_stride, sum[r]), ...);
}

/// R rows, one panel.
template <Source kSource, int kColumns, int R>
[[gnu::target("avx2,fma,f16c")]] void int8_panel(const Tile& tile, const std::byte* w, float* c) {
  constexpr int kGroupBytes =
      2 * scale_bytes(kSource) * kPanel + kPanel * kColumns / (nibbles(kSource) ? 2 : 1);
  const auto* x = static_cast<const int32_t*>(tile.x);
  const float* scales = tile.scales;
  Activations<kColumns, R> ready;
  const std::byte* super = w;  // scales of the first level, where there are two
  for (int64_t g = 0; g < tile.count / kColumns; ++g) {
    if constexpr (two_level(kSource))
      if (g % (kSuper / kColumns) == 0) {
        super = w;
        w += 4 * kPanel;
      }
    if constexpr (!decoded(kSource))
      for (int line = 0; line < kGroupBytes; line += 64)
        _mm_prefetch(w + kAhead + line, _MM_HINT_T0);
    prepare<kSource>(x, tile.rows, ready);
    for (int v = 0; v < kPanel / 8; ++v)
      add_group<kSource>(tile, w, super, v, ready, scales, c + 8 * v, tile.fresh && g == 0,
                         std::make_index_sequence<R>());
    x += kColumns / 4 * tile.rows;
    scales += 2 * tile.rows;
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
