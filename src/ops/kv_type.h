#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>

#include "ops/math.h"
#include "tensor/tensor.h"

namespace sala {

/// How keys and values are stored. The bits of a token and head depend on that token and head
/// alone.
///   f32, bf16  as such, rounded to nearest even
///   int8       codes in [-127, 127] with one scale for the channels of a head
///   int4       codes in [0, 15] with a scale and a minimum for each group of 32 channels
/// A code stands for scale * code + minimum; scale and minimum are f16. A group of channels that
/// holds a NaN, an infinity, or a number that f16 scales cannot reach is NaN throughout.
enum class KvType : uint8_t { f32, bf16, int8, int4 };

inline constexpr std::array kKvTypes = {KvType::f32, KvType::bf16, KvType::int8, KvType::int4};

constexpr std::string_view name_of(KvType type) {
  constexpr std::array<std::string_view, kKvTypes.size()> names = {"f32", "bf16", "int8", "int4"};
  return names[static_cast<size_t>(type)];
}

/// The type of the compressed keys beside keys of `type`.
constexpr DType index_type(KvType type) { return type == KvType::f32 ? DType::f32 : DType::bf16; }

/// Channels of an int4 group; code byte i of a group holds channel i in its low nibble and channel
/// i + 16 in its high one.
inline constexpr int kInt4Group = 32;

/// What the codes of one group stand for. Both numbers are exact in f16.
struct KvGrid {
  float scale = 0;
  float minimum = 0;

  constexpr float value(int code) const { return scale * static_cast<float>(code) + minimum; }
  constexpr float inverse() const { return scale > 0 ? 1 / scale : 0; }
};

/// The grid of the n channels of a group: int8 or int4.
inline KvGrid grid_of(KvType type, const float* x, int64_t n) {
  const auto f16 = [](float v) { return f16_to_f32(f32_to_f16(v)); };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  uint32_t largest = 0;  // of the magnitudes as bits, among which NaN is the largest
  float low = kInfinity, high = -kInfinity;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFU);
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  KvGrid grid;
  if (type == KvType::int8) {
    grid.scale = f16(std::bit_cast<float>(largest) / 127);
  } else {
    grid = {.scale = f16((high - low) / 15), .minimum = f16(low)};
  }
  const bool finite =
      largest < 0x7F800000U && grid.scale < kInfinity && std::abs(grid.minimum) < kInfinity;
  return finite ? grid : KvGrid{.scale = std::nanf(""), .minimum = 0};
}

/// The code of one channel; `inverse` is the grid's.
inline int code_of(KvType type, const KvGrid& grid, float inverse, float x) {
  // Adding 1.5 * 2^23 rounds to a whole number, ties to even, and leaves it in the low bits.
  constexpr float kMagic = 0x1.8p23f;
  const float rounded = (x - grid.minimum) * inverse + kMagic;
  const int code =
      static_cast<int>(std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(kMagic));
  return type == KvType::int8 ? std::clamp(code, -127, 127) : std::clamp(code, 0, 15);
}

}  // namespace sala
