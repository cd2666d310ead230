#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rope.cc"
#include <hwy/foreach_target.h>
// Highway includes this file once per target, so its header comes second.
#include <hwy/highway.h>

#include <cmath>

#include "cpu/kernels.h"
#include "cpu/simd-inl.h"
#include "cpu/work.h"
#include "ops/math.h"

// rope_table and qk_norm_rope. Parallel over tokens. The table is made once a step with the
// library's double sine and cosine: the angle reaches 10^6, where accuracy is worth more than time.

HWY_BEFORE_NAMESPACE();
namespace sala::cpu::HWY_NAMESPACE {
namespace {

void rotate(float* HWY_RESTRICT x, const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin,
            int64_t half) {
  for_each_lane(half, [&](auto d, int64_t i) {
    const auto a = hn::LoadU(d, x + i);
    const auto b = hn::LoadU(d, x + i + half);
    const auto c = hn::LoadU(d, cos + i);
    const auto s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, x + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, x + i + half);
  });
}

/// The heads of one token; w, and cos with sin, may be null.
void norm_rope_row(float* x, int heads, int64_t head_dim, const float* w, float eps,
                   const float* cos, const float* sin) {
  for (int h = 0; h < heads; ++h, x += head_dim) {
    if (w != nullptr) {
      const float inverse = inverse_rms(sum_of_squares(x, head_dim), head_dim, eps);
      for_each_lane(head_dim, [&](auto d, int64_t i) {
        const auto normed = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse));
        hn::StoreU(hn::Mul(normed, hn::LoadU(d, w + i)), d, x + i);
      });
    }
    if (cos != nullptr) rotate(x, cos, sin, head_dim / 2);
  }
}

}  // namespace
}  // namespace sala::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sala::cpu {

HWY_EXPORT(norm_rope_row);

void rope_table(Device& device, In positions, In inverse_frequency, RopeFactor factor, Out cos,
                Out sin) {
  constexpr int64_t kCost = 64;  // of a sine and a cosine, in the units of for_rows
  const int64_t half = cos.dim[1];
  for_rows(self(device), cos.dim[0], half * kCost, [&](int64_t t) {
    const auto position = static_cast<float>(positions.as<int32_t>()[t]);
    const float scale = rope_factor(factor.scale, factor.log_base, position);
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position * inverse_frequency.as<float>()[i];
      cos.row<float>(t)[i] = static_cast<float>(std::cos(angle)) * scale;
      sin.row<float>(t)[i] = static_cast<float>(std::sin(angle)) * scale;
    }
  });
}

void qk_norm_rope(Device& device, Out x, int heads, In w, float eps, In cos, In sin) {
  const auto row_kernel = HWY_DYNAMIC_DISPATCH(norm_rope_row);
  const float* weight = w.empty() ? nullptr : w.as<float>();
  for_rows(self(device), x.dim[0], x.dim[1], [&](int64_t t) {
    row_kernel(x.row<float>(t), heads, x.dim[1] / heads, weight, eps,
               cos.empty() ? nullptr : cos.row<float>(t),
               sin.empty() ? nullptr : sin.row<float>(t));
  });
}

}  // namespace sala::cpu
#endif
