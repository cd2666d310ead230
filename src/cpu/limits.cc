#include "cpu/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/limits.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/highway.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "cpu/isa.h"

#if defined(__x86_64__) && HWY_ONCE
#include <immintrin.h>
#endif

// Loops that do nothing but what they count. Chains of multiply-adds begin with different numbers,
// or the compiler would see that all are one; there are more of them than latency times issue.

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// Twelve chains of `count` multiply-adds; returns the operations done.
double multiply_floats(int64_t count, float* sink) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, 0.999f), term = hn::Set(d, 0.001f);
  const auto one = hn::Set(d, 1.0f);
  auto a = hn::Zero(d), b = hn::Add(a, one), c = hn::Add(b, one), e = hn::Add(c, one);
  auto f = hn::Add(e, one), g = hn::Add(f, one), h = hn::Add(g, one), i = hn::Add(h, one);
  auto j = hn::Add(i, one), k = hn::Add(j, one), l = hn::Add(k, one), m = hn::Add(l, one);
  for (int64_t n = 0; n < count; ++n) {
    a = hn::MulAdd(a, factor, term);
    b = hn::MulAdd(b, factor, term);
    c = hn::MulAdd(c, factor, term);
    e = hn::MulAdd(e, factor, term);
    f = hn::MulAdd(f, factor, term);
    g = hn::MulAdd(g, factor, term);
    h = hn::MulAdd(h, factor, term);
    i = hn::MulAdd(i, factor, term);
    j = hn::MulAdd(j, factor, term);
    k = hn::MulAdd(k, factor, term);
    l = hn::MulAdd(l, factor, term);
    m = hn::MulAdd(m, factor, term);
  }
  const auto sum = hn::Add(
      hn::Add(hn::Add(a, b), hn::Add(c, e)),
      hn::Add(hn::Add(hn::Add(f, g), hn::Add(h, i)), hn::Add(hn::Add(j, k), hn::Add(l, m))));
  *sink = hn::GetLane(hn::SumOfLanes(d, sum));
  return 24.0 * static_cast<double>(count) * static_cast<double>(hn::Lanes(d));
}

/// Sums `count` floats, a multiple of 64.
float read_floats(const float* data, int64_t count) {
  const hn::CappedTag<float, 16> d;
  const auto step = static_cast<int64_t>(hn::Lanes(d));
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (int64_t i = 0; i < count; i += 4 * step) {
    a = hn::Add(a, hn::LoadU(d, data + i));
    b = hn::Add(b, hn::LoadU(d, data + i + step));
    c = hn::Add(c, hn::LoadU(d, data + i + 2 * step));
    e = hn::Add(e, hn::LoadU(d, data + i + 3 * step));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {
namespace {

HWY_EXPORT(multiply_floats);
HWY_EXPORT(read_floats);

constexpr int64_t kCount = int64_t{1} << 18;  // rounds of a loop: some milliseconds
constexpr int kRounds = 7;

#if defined(__x86_64__)
// The loops over chains are folds over constant indices: g++ keeps an array in registers only if no
// loop ever indexed it.

template <size_t... i>
[[gnu::target("avx512f,avx512bf16")]] double multiply_pairs(int64_t count, float* sink,
                                                            std::index_sequence<i...>) {
  const __m512 x = _mm512_set1_ps(0.37f), y = _mm512_set1_ps(-1.13f);
  __m512 sum[] = {_mm512_set1_ps(static_cast<float>(i))...};
  for (int64_t n = 0; n < count; ++n)
    ((sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)x, (__m512bh)y)), ...);
  __m512 total = _mm512_setzero_ps();
  ((total = _mm512_add_ps(total, sum[i])), ...);
  *sink = _mm512_cvtss_f32(total);
  return 64.0 * sizeof...(i) * static_cast<double>(count);
}

template <size_t... i>
[[gnu::target("avx512f,avx512vnni")]] double multiply_bytes(int64_t count, float* sink,
                                                            std::index_sequence<i...>) {
  const __m512i x = _mm512_set1_epi32(0x01020304), y = _mm512_set1_epi32(0x03010201);
  __m512i sum[sizeof...(i)];
  ((sum[i] = _mm512_set1_epi32(static_cast<int>(i))), ...);
  for (int64_t n = 0; n < count; ++n) ((sum[i] = _mm512_dpbusd_epi32(sum[i], x, y)), ...);
  __m512i total = _mm512_setzero_si512();
  ((total = _mm512_add_epi32(total, sum[i])), ...);
  *sink = static_cast<float>(_mm_cvtsi128_si32(_mm512_castsi512_si128(total)));
  return 128.0 * sizeof...(i) * static_cast<double>(count);
}

/// Bytes times signed bytes in pairs, summed in 16 bits. The empty assembly hides that all products
/// are the same, and keeps each beside its sum.
template <size_t... i>
[[gnu::target("avx2")]] double multiply_short(int64_t count, float* sink,
                                              std::index_sequence<i...>) {
  const __m256i x = _mm256_set1_epi8(3);
  __m256i y = _mm256_set1_epi8(5);
  __m256i sum[] = {_mm256_set1_epi16(static_cast<int16_t>(i))...};
  const auto add = [&](__m256i& to) __attribute__((always_inline, target("avx2"))) {
    asm("" : "+x"(y));
    to = _mm256_add_epi16(to, _mm256_maddubs_epi16(x, y));
    asm("" : "+x"(to));
  };
  for (int64_t n = 0; n < count; ++n) (add(sum[i]), ...);
  __m256i total = _mm256_setzero_si256();
  ((total = _mm256_add_epi16(total, sum[i])), ...);
  *sink = static_cast<float>(_mm_cvtsi128_si32(_mm256_castsi256_si128(total)));
  return 64.0 * sizeof...(i) * static_cast<double>(count);
}

constexpr std::make_index_sequence<24> kChains;
constexpr std::make_index_sequence<12> kByteChains;
#endif

}  // namespace

LimitProbe::LimitProbe(ThreadPool& pool, int64_t bytes)
    : pool_(pool),
      floats_(bytes / static_cast<int64_t>(sizeof(float)) / pool.threads() / 64 * 64),
      data_(DType::f32, {floats_ * pool.threads()}),
      sinks_(static_cast<size_t>(pool.threads()) * 16) {
  pool_.run(pool_.threads(), [&](int64_t i, int) {
    std::fill_n(data_.view().as<float>() + i * floats_, floats_, 1.0f);
  });
}

/// The most that work(thread, sink) of all threads together does in a second, of some rounds.
template <class Work>
double LimitProbe::best_rate(const Work& work) {
  std::vector<double> done(static_cast<size_t>(pool_.threads()));
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    pool_.run(pool_.threads(), [&](int64_t i, int) {
      done[static_cast<size_t>(i)] = work(i, &sinks_[static_cast<size_t>(i) * 16]);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    double sum = 0;
    for (const double part : done) sum += part;
    best = std::max(best, sum / seconds.count());
  }
  return best;
}

double LimitProbe::read() {
  return best_rate([&](int64_t i, float* sink) {
    *sink += HWY_DYNAMIC_DISPATCH(read_floats)(data_.view().as<float>() + i * floats_, floats_);
    return static_cast<double>(sizeof(float)) * static_cast<double>(floats_);
  });
}

double LimitProbe::f32() {
  return best_rate(
      [](int64_t, float* sink) { return HWY_DYNAMIC_DISPATCH(multiply_floats)(kCount, sink); });
}

double LimitProbe::bf16() {
#if defined(__x86_64__)
  if (has_fast_bf16())
    return best_rate([](int64_t, float* sink) { return multiply_pairs(kCount, sink, kChains); });
#endif
  return f32();
}

double LimitProbe::int8() {
#if defined(__x86_64__)
  if (has_vnni())
    return best_rate(
        [](int64_t, float* sink) { return multiply_bytes(kCount, sink, kByteChains); });
  if (isa() >= Isa::avx2)
    return best_rate(
        [](int64_t, float* sink) { return multiply_short(kCount, sink, kByteChains); });
#endif
  return f32();
}

}  // namespace sala::cpu
#endif
