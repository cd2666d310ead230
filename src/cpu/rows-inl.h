// Rows times a matrix, one chain of fused multiply-adds per output, compiled
// once per target.
#if defined(SALA_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SALA_CPU_ROWS_INL_H_
#undef SALA_CPU_ROWS_INL_H_
#else
#define SALA_CPU_ROWS_INL_H_
#endif

#include <cstdint>

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {

/// Rows that share one pass over a matrix.
inline constexpr int kTileRows = 6;

/// Up to kTileRows rows: row r multiplies a[r] and accumulates in c[r], which
/// begins as c[r] * start[r] (as zero where the product is fresh).
struct RowTile {
  const float* a[kTileRows];
  float* c[kTileRows];
  float start[kTileRows];
};

/// B [k][n] f32 with `stride` elements between rows.
struct Matrix {
  const float* data;
  int64_t stride;
};

/// Lines of memory to ask for while rows are multiplied, one a step of k, so
/// that the requests are spread evenly. An empty range asks for its begin again
/// and again, which costs nothing that can be measured.
struct Fetch {
  const std::byte* next;
  const std::byte* last;  ///< line

  HWY_INLINE void step() {
    constexpr int64_t kLine = 64;
    __builtin_prefetch(next, 0, 2);
    next = next < last ? next + kLine : last;
  }
};

HWY_INLINE Fetch no_fetch(const float* data) {
  const auto* line = reinterpret_cast<const std::byte*>(data);
  return {line, line};
}

/// Vectors of columns that R rows keep in registers: 24 or 12 accumulators
/// leave room for a broadcast and the loads.
template <int R>
constexpr int tile_vectors() {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return R <= 3 ? 8 : 4;
#else
  return R == 1 ? 8 : R <= 3 ? 4 : 2;
#endif
}

/// Columns [column, column + V vectors) of R rows over k in [from, to).
template <bool kFresh, int R, int V, class D>
HWY_INLINE void chain_tile(D d, const RowTile& rows, int64_t from, int64_t to, Matrix b,
                           int64_t column, Fetch& fetch) {
  const auto step = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<D> sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      sum[r][v] =
          kFresh ? hn::Zero(d)
                 : hn::Mul(hn::LoadU(d, rows.c[r] + column + v * step), hn::Set(d, rows.start[r]));
  const float* HWY_RESTRICT line = b.data + from * b.stride + column;
  const float* a[R];
  for (int r = 0; r < R; ++r) a[r] = rows.a[r];
  for (int64_t k = from; k < to; ++k, line += b.stride) {
    if constexpr (R > 1 && V > 1) fetch.step();
    hn::Vec<D> x[V];
    for (int v = 0; v < V; ++v) x[v] = hn::LoadU(d, line + v * step);
    for (int r = 0; r < R; ++r) {
      const auto factor = hn::Set(d, a[r][k]);
      for (int v = 0; v < V; ++v) sum[r][v] = hn::MulAdd(factor, x[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) hn::StoreU(sum[r][v], d, rows.c[r] + column + v * step);
}

template <bool kFresh, int R>
HWY_NOINLINE void chain_rows(const RowTile& rows, int64_t from, int64_t to, Matrix b, int64_t n,
                             Fetch& fetch) {
  const Floats d;
  constexpr int kWide = tile_vectors<R>();
  const int64_t step = lanes();
  int64_t column = 0;
  for (; column + kWide * step <= n; column += kWide * step)
    chain_tile<kFresh, R, kWide>(d, rows, from, to, b, column, fetch);
  if constexpr (kWide > 4)
    for (; column + 4 * step <= n; column += 4 * step)
      chain_tile<kFresh, R, 4>(d, rows, from, to, b, column, fetch);
  for (; column + step <= n; column += step)
    chain_tile<kFresh, R, 1>(d, rows, from, to, b, column, fetch);
  for (; column < n; ++column)
    chain_tile<kFresh, R, 1>(OneFloat(), rows, from, to, b, column, fetch);
}

/// For each of `count` rows: c[r][0..n) = start[r] * c[r][0..n) + sum over k in
/// [from, to) of a[r][k] b[k][0..n), k ascending, one chain per output. An
/// output's operations depend neither on the other rows nor on their number.
template <bool kFresh>
HWY_INLINE void multiply_rows(const RowTile& rows, int count, int64_t from, int64_t to, Matrix b,
                              int64_t n, Fetch& fetch) {
  switch (count) {
    case 1:
      return chain_rows<kFresh, 1>(rows, from, to, b, n, fetch);
    case 2:
      return chain_rows<kFresh, 2>(rows, from, to, b, n, fetch);
    case 3:
      return chain_rows<kFresh, 3>(rows, from, to, b, n, fetch);
    case 4:
      return chain_rows<kFresh, 4>(rows, from, to, b, n, fetch);
    case 5:
      return chain_rows<kFresh, 5>(rows, from, to, b, n, fetch);
    default:
      return chain_rows<kFresh, 6>(rows, from, to, b, n, fetch);
  }
}

/// The same for rows that end at their own lengths: row r runs over k in [0,
/// length[r]).
HWY_INLINE void accumulate_rows(const RowTile& rows, int count, const int64_t* length, Matrix b,
                                int64_t n, Fetch& fetch) {
  int64_t common = length[0];
  for (int r = 1; r < count; ++r) common = HWY_MIN(common, length[r]);
  multiply_rows<false>(rows, count, 0, common, b, n, fetch);
  for (int r = 0; r < count; ++r) {
    if (length[r] == common) continue;
    const RowTile rest{.a = {rows.a[r]}, .c = {rows.c[r]}, .start = {1.0f}};
    multiply_rows<false>(rest, 1, common, length[r], b, n, fetch);
  }
}

}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SALA_CPU_ROWS_INL_H_
