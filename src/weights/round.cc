#include "weights/round.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/math.h"
#include "weights/superblock.h"

namespace sala {
namespace {

bool round_group(std::span<const float> values, float largest, WeightRow& row) {
  const Grid grid = grid_of(values, largest);
  float sum = 0;
  for (const float x : values) sum += x;  // a NaN escapes min and max
  row.mins.push_back(grid.min);
  row.scales.push_back(grid.scale);
  if (!finite(grid.min) || !finite(grid.scale) || !std::isfinite(sum)) {
    row.codes.resize(row.codes.size() + values.size());
    return false;
  }
  for (const float x : values) row.codes.push_back(grid.code(x));
  return true;
}

}  // namespace

Grid grid_of(std::span<const float> values, float largest) {
  const auto [low, high] = std::ranges::minmax(values);
  const uint16_t min = f32_to_f16(low);
  return {.scale = f32_to_f16((high - f16_to_f32(min)) / largest), .min = min, .largest = largest};
}

uint8_t Grid::code(float x) const {
  const float width = f16_to_f32(scale);
  const float inverse = width > 0 ? 1 / width : 0.0f;
  return static_cast<uint8_t>(
      std::clamp(std::nearbyint((x - f16_to_f32(min)) * inverse), 0.0f, largest));
}

float Grid::value(uint8_t code) const {
  return std::fma(f16_to_f32(scale), static_cast<float>(code), f16_to_f32(min));
}

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
