#include "weights/round.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/math.h"
#include "weights/superblock.h"

namespace sala {
namespace {

bool round_group(std::span<const float> values, float largest, WeightRow& row) {
  float low = values[0], high = values[0], sum = 0;
  for (const float x : values) {
    low = std::min(low, x);
    high = std::max(high, x);
    sum += x;  // a NaN escapes min and max
  }
  const uint16_t min = f32_to_f16(low);
  const uint16_t scale = f32_to_f16((high - f16_to_f32(min)) / largest);
  row.mins.push_back(min);
  row.scales.push_back(scale);
  if (!finite(min) || !finite(scale) || !std::isfinite(sum)) {
    row.codes.resize(row.codes.size() + values.size());
    return false;
  }
  const float inverse = f16_to_f32(scale) > 0 ? 1 / f16_to_f32(scale) : 0.0f;
  for (const float x : values) {
    const float code = std::nearbyint((x - f16_to_f32(min)) * inverse);
    row.codes.push_back(static_cast<uint8_t>(std::clamp(code, 0.0f, largest)));
  }
  return true;
}

}  // namespace

bool round_row(std::span<const float> values, WeightType type, WeightRow& row) {
  SALA_CHECK(!two_level(type), "rounding to {}", name_of(type));
  bool sound = true;
  if (quantised(type)) {
    const auto group = static_cast<size_t>(group_columns(type));
    const float largest = narrow(type) ? 15.0f : 255.0f;
    for (size_t k = 0; k < values.size(); k += group)
      sound &= round_group(values.subspan(k, group), largest, row);
    return sound;
  }
  for (const float x : values) {
    if (type == WeightType::f32) row.values.push_back(x);
    if (type == WeightType::f16) row.bits.push_back(f32_to_f16(x));
    if (type == WeightType::bf16) row.bits.push_back(f32_to_bf16(x));
    sound &= std::isfinite(x) && (type != WeightType::f16 || finite(row.bits.back()));
  }
  return sound;
}

}  // namespace sala
