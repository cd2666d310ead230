#include "cpu/pairs.h"

#include <algorithm>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

// Rows times a matrix in pairs of bf16: vpdpbf16ps on 512 bits, twice the speed of f32 FMAs where
// the machine issues as many of them. 12 to 24 chains at a time, since the latency is 6 at two a
// cycle.

#define SALA_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512bf16")

namespace sala::cpu {
namespace {

constexpr int kLanes = 16;
constexpr __mmask16 kAll = 0xFFFF;

template <int R, int V, size_t... i>
[[gnu::always_inline, SALA_TARGET]] inline void add_pairs(const uint32_t* const* a, int64_t k,
                                                          const __m512i (&x)[V],
                                                          __m512 (&sum)[R * V],
                                                          std::index_sequence<i...>) {
  ((sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)x[i % V],
                              (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i / V][k])))),
   ...);
}

/// V vectors of columns of R rows; of the last vector those in `mask`.
template <bool kFresh, int R, int V, size_t... i, size_t... v>
[[gnu::always_inline, SALA_TARGET]] inline void tile(const PairRows& rows, PairSpan span,
                                                     const PairMatrix& b, int64_t column,
                                                     __mmask16 mask, Lines& lines,
                                                     std::index_sequence<i...> outputs,
                                                     std::index_sequence<v...>) {
  const auto mask_of = [&](size_t vector) { return vector + 1 < V ? kAll : mask; };
  __m512 sum[R * V];
  if constexpr (kFresh) {
    ((sum[i] = _mm512_setzero_ps()), ...);
  } else {
    ((sum[i] = _mm512_mul_ps(
          _mm512_maskz_loadu_ps(mask_of(i % V), rows.c[i / V] + column + i % V * kLanes),
          _mm512_set1_ps(rows.start[i / V]))),
     ...);
  }
  const uint32_t* line = b.data + span.from * b.stride + column;
  __m512i x[V];
  for (int64_t k = span.from; k < span.to; ++k, line += b.stride) {
    lines.step();
    ((x[v] = _mm512_maskz_loadu_epi32(mask_of(v), line + v * kLanes)), ...);
    add_pairs<R, V>(rows.a, k, x, sum, outputs);
  }
  if (span.odd) {
    const __m512i low = _mm512_set1_epi32(0xFFFF);
    ((x[v] = _mm512_and_si512(low, _mm512_maskz_loadu_epi32(mask_of(v), line + v * kLanes))), ...);
    add_pairs<R, V>(rows.a, span.to, x, sum, outputs);
  }
  ((_mm512_mask_storeu_ps(rows.c[i / V] + column + i % V * kLanes, mask_of(i % V), sum[i])), ...);
}

template <bool kFresh, int R, int V>
[[SALA_TARGET]] void columns_of(const PairRows& rows, PairSpan span, const PairMatrix& b,
                                int64_t column, __mmask16 mask, Lines& lines) {
  tile<kFresh, R, V>(rows, span, b, column, mask, lines, std::make_index_sequence<size_t{R} * V>(),
                     std::make_index_sequence<V>());
}

/// All columns of R rows.
template <bool kFresh, int R>
void multiply(const PairRows& rows, PairSpan span, const PairMatrix& b, Lines& lines) {
  constexpr int kWide = R <= 3 ? 8 : R <= kPairRows ? 4 : 1;
  int64_t column = 0;
  for (; column + kWide * kLanes <= b.columns; column += kWide * kLanes)
    columns_of<kFresh, R, kWide>(rows, span, b, column, kAll, lines);
  if constexpr (kWide > 4)
    for (; column + 4 * kLanes <= b.columns; column += 4 * kLanes)
      columns_of<kFresh, R, 4>(rows, span, b, column, kAll, lines);
  for (; column < b.columns; column += kLanes) {
    const auto left = std::min<int64_t>(kLanes, b.columns - column);
    columns_of<kFresh, R, 1>(rows, span, b, column, static_cast<__mmask16>((1U << left) - 1),
                             lines);
  }
}

template <bool kFresh, int R = kPairRows>
void multiply(int count, const PairRows& rows, PairSpan span, const PairMatrix& b, Lines& lines) {
  if constexpr (R > 1) {
    if (count < R) return multiply<kFresh, R - 1>(count, rows, span, b, lines);
  }
  multiply<kFresh, R>(rows, span, b, lines);
}

}  // namespace

void multiply_pairs(bool fresh, int count, const PairRows& rows, PairSpan span, const PairMatrix& b,
                    Lines& lines) {
  if (fresh && count == kManyPairRows) return multiply<true, kManyPairRows>(rows, span, b, lines);
  if (fresh) return multiply<true>(count, rows, span, b, lines);
  multiply<false>(count, rows, span, b, lines);
}

[[SALA_TARGET]] void round_to_pairs(const float* x, int64_t count, uint32_t* pairs) {
  for (int64_t i = 0; i < count; i += 2 * kLanes) {
    const auto mask_of = [&](int64_t left) {
      return static_cast<__mmask16>((1U << std::clamp<int64_t>(left, 0, kLanes)) - 1);
    };
    const __m512 low = _mm512_maskz_loadu_ps(mask_of(count - i), x + i);
    const __m512 high = _mm512_maskz_loadu_ps(mask_of(count - i - kLanes), x + i + kLanes);
    _mm512_mask_storeu_epi32(pairs + i / 2, mask_of((count - i + 1) / 2),
                             (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

}  // namespace sala::cpu
#else
namespace sala::cpu {

void multiply_pairs(bool, int, const PairRows&, PairSpan, const PairMatrix&, Lines&) {
  SALA_CHECK(false, "no pairs of bf16 on this machine");
}
void round_to_pairs(const float*, int64_t, uint32_t*) {
  SALA_CHECK(false, "no pairs of bf16 on this machine");
}

}  // namespace sala::cpu
#endif
