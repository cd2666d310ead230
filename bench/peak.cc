#include "peak.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "peak.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/highway.h>

#include <algorithm>
#include <ctime>
#include <functional>
#include <vector>

HWY_BEFORE_NAMESPACE();
namespace sala::bench::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// Twelve chains of `count` multiply-adds; returns the floating-point operations done.
double multiply_add(int64_t count, float* sink) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, 0.999f), term = hn::Set(d, 0.001f);
  // Different beginnings, or the compiler would see that all chains are one.
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
float read(const float* data, int64_t count) {
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
}  // namespace sala::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::bench {
namespace {

HWY_EXPORT(multiply_add);
HWY_EXPORT(read);

/// Processor time of the calling thread: what other programs take does not count.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// The best of a few rounds of the sum over threads of work(thread) / its seconds.
double best_rate(ThreadPool& pool, const std::function<double(int64_t)>& work) {
  constexpr int kRounds = 7;
  double best = 0;
  std::vector<double> rates(static_cast<size_t>(pool.threads()));
  for (int round = 0; round < kRounds; ++round) {
    pool.run(pool.threads(), [&](int64_t i, int) {
      const double start = thread_seconds();
      const double done = work(i);
      rates[static_cast<size_t>(i)] = done / (thread_seconds() - start);
    });
    double sum = 0;
    for (const double rate : rates) sum += rate;
    best = std::max(best, sum);
  }
  return best;
}

}  // namespace

Peak measure_peak(ThreadPool& pool) {
  constexpr int64_t kAdds = 1 << 22;
  // 1 GB in all, beyond the caches of any machine; each thread its part, in steps of `read`.
  const int64_t floats = (int64_t{256} << 20) / pool.threads() / 64 * 64;
  std::vector<float> sinks(static_cast<size_t>(pool.threads()) * 16);
  Peak peak;
  peak.gflops =
      1e-9 * best_rate(pool, [&](int64_t i) {
        return HWY_DYNAMIC_DISPATCH(multiply_add)(kAdds, &sinks[static_cast<size_t>(i) * 16]);
      });
  std::vector<float> data(static_cast<size_t>(floats * pool.threads()), 1.0f);
  peak.gigabytes = 1e-9 * best_rate(pool, [&](int64_t i) {
                     sinks[static_cast<size_t>(i) * 16] +=
                         HWY_DYNAMIC_DISPATCH(read)(data.data() + i * floats, floats);
                     return 4.0 * static_cast<double>(floats);
                   });
  return peak;
}

}  // namespace sala::bench
#endif
