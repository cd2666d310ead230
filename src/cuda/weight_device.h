#pragma once

#include "cuda/platform.h"
#include "ops/math.h"
#include "ops/weight.h"

namespace sala::cuda {

/// Element (row, k) of part 0 or 1 of a packed weight; `panels` is its panel 0 and `bytes` the
/// bytes of a panel.
template <WeightType kType>
__device__ inline float element(const std::byte* panels, int64_t bytes, bool paired, int part,
                                int64_t row, int64_t k) {
  const int64_t panel = row / kPanel;
  const std::byte* p = panels + (paired ? 2 * panel + part : panel) * bytes;
  const int n = static_cast<int>(row % kPanel);
  const auto* halves = reinterpret_cast<const uint16_t*>(p);
  if constexpr (kType == WeightType::f32) return reinterpret_cast<const float*>(p)[k * kPanel + n];
  if constexpr (kType == WeightType::f16) return f16_to_f32(halves[k * kPanel + n]);
  if constexpr (kType == WeightType::bf16)
    return bf16_to_f32(halves[(k / 2 * kPanel + n) * 2 + k % 2]);
  if constexpr (quantised(kType)) {
    constexpr int kColumns = group_columns(kType);
    constexpr int kCodes = kColumns * kPanel / (narrow(kType) ? 2 : 1);  // bytes of a group's codes
    const int64_t g = k / kColumns;
    float scale, minimum;
    const std::byte* codes;
    if constexpr (two_level(kType)) {
      constexpr int kGroups = kSuper / kColumns;
      const std::byte* super = p + k / kSuper * (4 * kPanel + kGroups * (2 * kPanel + kCodes));
      const std::byte* group = super + 4 * kPanel + g % kGroups * (2 * kPanel + kCodes);
      const auto* level = reinterpret_cast<const uint16_t*>(super);
      const auto* small = reinterpret_cast<const int8_t*>(group);
      scale = f16_to_f32(level[n]) * static_cast<float>(small[n]);
      minimum = f16_to_f32(level[kPanel + n]) * static_cast<float>(small[kPanel + n]);
      codes = group + 2 * kPanel;
    } else {
      const std::byte* group = p + g * (4 * kPanel + kCodes);
      const auto* grid = reinterpret_cast<const uint16_t*>(group);
      scale = f16_to_f32(grid[n]);
      minimum = f16_to_f32(grid[kPanel + n]);
      codes = group + 4 * kPanel;
    }
    const int column = static_cast<int>(k % kColumns);
    if constexpr (narrow(kType)) {
      const auto pair = static_cast<uint8_t>(codes[(column / 8 * kPanel + n) * 4 + column % 4]);
      const int code = column % 8 < 4 ? pair & 15 : pair >> 4;
      return fmaf(scale, static_cast<float>(code), minimum);
    }
    return fmaf(
        scale,
        static_cast<float>(static_cast<uint8_t>(codes[(column / 4 * kPanel + n) * 4 + column % 4])),
        minimum);
  }
  return 0;
}

/// Calls `work.operator()<type>()` for the type of a weight.
template <class Work>
void for_type(WeightType type, const Work& work) {
  switch (type) {
    case WeightType::f32:
      return work.template operator()<WeightType::f32>();
    case WeightType::f16:
      return work.template operator()<WeightType::f16>();
    case WeightType::bf16:
      return work.template operator()<WeightType::bf16>();
    case WeightType::w8:
      return work.template operator()<WeightType::w8>();
    case WeightType::w4:
      return work.template operator()<WeightType::w4>();
    case WeightType::w8g64:
      return work.template operator()<WeightType::w8g64>();
    case WeightType::w4g64:
      return work.template operator()<WeightType::w4g64>();
    case WeightType::w8g128:
      return work.template operator()<WeightType::w8g128>();
    case WeightType::w4g128:
      return work.template operator()<WeightType::w4g128>();
    case WeightType::k8:
      return work.template operator()<WeightType::k8>();
    case WeightType::k4:
      return work.template operator()<WeightType::k4>();
  }
}

}  // namespace sala::cuda
