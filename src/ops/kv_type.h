#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

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

/// What is stored of a channel, or of two channels of int4.
template <KvType kType>
using KvCode = std::conditional_t<
    kType == KvType::f32, float,
    std::conditional_t<kType == KvType::bf16, uint16_t,
                       std::conditional_t<kType == KvType::int8, int8_t, uint8_t>>>;

/// Calls `work.operator()<type>()`.
template <class Work>
void for_kv_type(KvType type, const Work& work) {
  switch (type) {
    case KvType::f32:
      return work.template operator()<KvType::f32>();
    case KvType::bf16:
      return work.template operator()<KvType::bf16>();
    case KvType::int8:
      return work.template operator()<KvType::int8>();
    case KvType::int4:
      return work.template operator()<KvType::int4>();
  }
}

/// Where (row, column) of a matrix of codes with `columns` lies: of bf16, rows lie in pairs,
/// [rows / 2][columns][2].
template <class Integer>
constexpr Integer kv_place(KvType type, Integer row, Integer column, Integer columns) {
  return type == KvType::bf16 ? (row / 2 * columns + column) * 2 + row % 2 : row * columns + column;
}

/// What the codes of one group stand for. Both numbers are exact in f16.
struct KvGrid {
  float scale = 0;
  float minimum = 0;

  constexpr float value(int code) const { return scale * static_cast<float>(code) + minimum; }
  constexpr float inverse() const { return scale > 0 ? 1 / scale : 0; }
};

/// What decides the grid of a group of channels.
struct KvRange {
  uint32_t largest = 0;  ///< of the magnitudes as bits, among which NaN is the largest
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();

  constexpr void add(float x) { add({std::bit_cast<uint32_t>(x) & 0x7FFFFFFFU, x, x}); }
  /// Channels behind those so far: of zeros of both signs the first stays.
  constexpr void add(const KvRange& next) {
    largest = std::max(largest, next.largest);
    low = std::min(low, next.low);
    high = std::max(high, next.high);
  }
};

/// The grid of a group of that range: int8 or int4.
SALA_HD inline KvGrid grid_of(KvType type, const KvRange& range) {
  const auto f16 = [](float v) { return f16_to_f32(f32_to_f16(v)); };
  constexpr float infinity = std::numeric_limits<float>::infinity();
  KvGrid grid;
  if (type == KvType::int8) {
    grid.scale = f16(std::bit_cast<float>(range.largest) / 127);
  } else {
    grid = {.scale = f16((range.high - range.low) / 15), .minimum = f16(range.low)};
  }
  const bool finite = range.largest < 0x7F800000U && grid.scale < infinity &&
                      -infinity < grid.minimum && grid.minimum < infinity;
  return finite ? grid : KvGrid{.scale = std::numeric_limits<float>::quiet_NaN(), .minimum = 0};
}

/// The grid of the n channels of a group: int8 or int4.
inline KvGrid grid_of(KvType type, const float* x, int64_t n) {
  KvRange range;
  for (int64_t i = 0; i < n; ++i) range.add(x[i]);
  return grid_of(type, range);
}

/// The code of one channel; `inverse` is the grid's.
SALA_HD inline int code_of(KvType type, const KvGrid& grid, float inverse, float x) {
  // Adding 1.5 * 2^23 rounds to a whole number, ties to even, and leaves it in the low bits.
  constexpr float kMagic = 0x1.8p23f;
  const float rounded = (x - grid.minimum) * inverse + kMagic;
  const int code =
      static_cast<int>(std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(kMagic));
  return type == KvType::int8 ? std::clamp(code, -127, 127) : std::clamp(code, 0, 15);
}

}  // namespace sala
