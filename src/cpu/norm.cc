#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/norm.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/highway.h>

#include "cpu/kernels.h"
#include "cpu/simd-inl.h"
#include "cpu/work.h"

// residual_norm. Parallel over rows. 12 to 16 bytes and 5 flops an element, so memory decides: one
// pass adds the residual and sums squares, the second, still in cache, scales.

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {

void add_scaled(float* HWY_RESTRICT h, const float* HWY_RESTRICT a, float scale, int64_t n) {
  for_each_lane(n, [&](auto d, int64_t i) {
    hn::StoreU(hn::MulAdd(hn::Set(d, scale), hn::LoadU(d, a + i), hn::LoadU(d, h + i)), d, h + i);
  });
}

/// One row; a may be null.
void residual_norm_row(float* h, const float* a, float scale, const float* w, float eps, int64_t n,
                       float* x) {
  if (a != nullptr) add_scaled(h, a, scale, n);
  const float inverse = inverse_rms(sum_of_squares(h, n), n, eps);
  for_each_lane(n, [&](auto d, int64_t i) {
    const auto normed = hn::Mul(hn::LoadU(d, h + i), hn::Set(d, inverse));
    hn::StoreU(hn::Mul(normed, hn::LoadU(d, w + i)), d, x + i);
  });
}

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {

HWY_EXPORT(residual_norm_row);

void residual_norm(Device& device, Out h, In a, float scale, In w, float eps, Out x) {
  const auto row_kernel = HWY_DYNAMIC_DISPATCH(residual_norm_row);
  const int64_t n = h.dim[1];
  for_rows(self(device), h.dim[0], n, [&](int64_t t) {
    row_kernel(h.row<float>(t), a.empty() ? nullptr : a.row<float>(t), scale, w.as<float>(), eps, n,
               x.row<float>(t));
  });
}

}  // namespace sala::cpu
#endif
