// Vector helpers of the kernels, compiled once per target.
#if defined(SALA_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SALA_CPU_SIMD_INL_H_
#undef SALA_CPU_SIMD_INL_H_
#else
#define SALA_CPU_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstdint>

#include "ops/math.h"

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The vectors of f32 kernels: all that a register holds, 16 lanes at most, so that lanes divide
/// every padded extent.
using Floats = hn::CappedTag<float, 16>;
/// One lane: the same elementwise operations for what is left of a row.
using OneFloat = hn::FixedTag<float, 1>;

HWY_INLINE int64_t lanes() { return static_cast<int64_t>(hn::Lanes(Floats())); }

/// `n` f32 or bf16 values at p, as f32.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const uint16_t* p) {
  const hn::Rebind<uint16_t, D> narrow;
  const hn::Rebind<uint32_t, D> wide;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(wide, hn::LoadU(narrow, p))));
}

/// f16 values at p as f32, NaN included (which Highway's own is not sure of where the machine has
/// no such conversion).
template <class D>
HWY_INLINE hn::Vec<D> load_half(D d, const uint16_t* p) {
  const hn::Rebind<uint16_t, D> narrow;
  const hn::Rebind<uint32_t, D> wide;
  const auto bits = hn::PromoteTo(wide, hn::LoadU(narrow, p));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(wide, 0x7FFF)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(wide, 0x8000)));
  const auto finite = hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f));
  const auto special = hn::BitCast(d, hn::Or(magnitude, hn::Set(wide, 0x7F800000)));
  const auto value = hn::IfThenElse(hn::Lt(finite, hn::Set(d, 65536.0f)), finite, special);
  return hn::Or(value, hn::BitCast(d, sign));
}

/// Calls body(tag, i) for whole vectors and then for single lanes over [0, n): elementwise work on
/// any length.
template <class Body>
HWY_INLINE void for_each_lane(int64_t n, const Body& body) {
  const int64_t step = lanes();
  int64_t i = 0;
  for (; i + step <= n; i += step) body(Floats(), i);
  for (; i < n; ++i) body(OneFloat(), i);
}

template <class D>
HWY_INLINE float sum_lanes(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}

/// e^x within 2 ulp; exactly 1 at 0, exactly 0 below -86.9 (so for -inf), +inf above 88.03; NaN
/// stays NaN. Range reduction by ln 2 in two parts and the polynomial of Cephes' expf.
template <class D>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  using V = hn::Vec<D>;
  const hn::RebindToSigned<D> integers;
  const V bounded = hn::Min(hn::Set(d, 89.0f), x);  // in this order NaN passes
  // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
  const V magic = hn::Set(d, 0x1.8p23f);
  const V shifted = hn::MulAdd(bounded, hn::Set(d, 1.44269504088896341f), magic);
  const V n = hn::Sub(shifted, magic);
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), bounded);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto power =
      hn::Add(hn::ShiftLeft<23>(hn::BitCast(integers, shifted)), hn::Set(integers, 127 << 23));
  const V y = hn::Mul(p, hn::BitCast(d, power));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -86.9f)), y);
}

HWY_INLINE float exp(float x) { return hn::GetLane(exp(OneFloat(), hn::Set(OneFloat(), x))); }

/// 1 / (1 + e^-x).
template <class D>
HWY_INLINE hn::Vec<D> sigmoid(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, exp(d, hn::Neg(x))));
}

/// sum of x[i]^2 over [0, n), in an order that n alone decides: four accumulators a lane, added
/// pairwise.
HWY_INLINE float sum_of_squares(const float* x, int64_t n) {
  const Floats d;
  const int64_t step = lanes();
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + step);
    const auto x2 = hn::LoadU(d, x + i + 2 * step), x3 = hn::LoadU(d, x + i + 3 * step);
    s0 = hn::MulAdd(x0, x0, s0);
    s1 = hn::MulAdd(x1, x1, s1);
    s2 = hn::MulAdd(x2, x2, s2);
    s3 = hn::MulAdd(x3, x3, s3);
  }
  for (; i + step <= n; i += step) {
    const auto x0 = hn::LoadU(d, x + i);
    s0 = hn::MulAdd(x0, x0, s0);
  }
  float sum = sum_lanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
  for (; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

/// 1 / sqrt(sum / n + eps), rounded once.
HWY_INLINE float inverse_rms(float sum, int64_t n, float eps) {
  const double mean = static_cast<double>(sum) / static_cast<double>(n);
  return static_cast<float>(1.0 / std::sqrt(mean + static_cast<double>(eps)));
}

/// to[i] = from[i] as f32.
HWY_INLINE void widen(const uint16_t* HWY_RESTRICT from, float* HWY_RESTRICT to, int64_t n) {
  const Floats d;
  const int64_t step = lanes();
  int64_t i = 0;
  for (; i + step <= n; i += step) hn::StoreU(load(d, from + i), d, to + i);
  for (; i < n; ++i) to[i] = bf16_to_f32(from[i]);
}

}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // SALA_CPU_SIMD_INL_H_
