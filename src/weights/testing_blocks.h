#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ops/math.h"
#include "weights/stored_tensor.h"

/// The types of tensors as their definitions read, for tests: random bytes of them and their
/// values.
namespace sala::testing {

/// Every type that can be taken.
inline constexpr StoredType kTypes[] = {
    StoredType::f32,  StoredType::f16,  StoredType::bf16, StoredType::q4_0,   StoredType::q4_1,
    StoredType::q5_0, StoredType::q5_1, StoredType::q8_0, StoredType::iq4_nl, StoredType::q2_k,
    StoredType::q3_k, StoredType::q4_k, StoredType::q5_k, StoredType::q6_k,   StoredType::iq4_xs};

/// Columns of the blocks; floats as if they had some too.
inline size_t columns_of(StoredType type) {
  return static_cast<size_t>(std::max<int64_t>(32, block_columns(type)));
}

/// Where the f16 numbers of a block are.
inline std::vector<size_t> halves_of(StoredType type) {
  switch (type) {
    case StoredType::q4_1:
    case StoredType::q5_1:
    case StoredType::q4_k:
    case StoredType::q5_k:
      return {0, 2};
    case StoredType::q2_k:
      return {80, 82};
    case StoredType::q3_k:
      return {108};
    case StoredType::q6_k:
      return {208};
    default:
      return {0};
  }
}

/// Random bytes of a tensor, sane as a writer of the type makes them: floats and scales are finite.
inline std::string random_bytes(StoredType type, int64_t elements, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(static_cast<size_t>(stored_bytes(type, elements)), '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  const auto half = [&](size_t at) {
    const uint16_t bits = f32_to_f16((static_cast<float>(random() % 2001) - 1000) / 3000);
    std::memcpy(bytes.data() + at, &bits, sizeof bits);
  };
  const auto width =
      static_cast<size_t>(stored_bytes(type, static_cast<int64_t>(columns_of(type))));
  for (size_t at = 0; at < bytes.size(); at += width) {
    if (type == StoredType::f32) {
      for (size_t i = at; i < at + width; i += 4) {
        const float value = (static_cast<float>(random() % 2001) - 1000) / 300;
        std::memcpy(bytes.data() + i, &value, 4);
      }
    } else if (type == StoredType::f16) {
      for (size_t i = at; i < at + width; i += 2) half(i);
    } else if (type == StoredType::bf16) {
      for (size_t i = at; i < at + width; i += 2) bytes[i + 1] &= 0x3F;
    } else {
      for (const size_t place : halves_of(type)) half(at + place);
    }
  }
  return bytes;
}

inline constexpr int kNonLinearValues[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113};

/// The values of a tensor, straight from the definition of the blocks, in double.
inline std::vector<float> defined_values(StoredType type, const std::string& bytes) {
  std::vector<float> values;
  const auto bits = [&](size_t at) {
    uint16_t b = 0;
    std::memcpy(&b, bytes.data() + at, sizeof b);
    return b;
  };
  const auto half = [&](size_t at) { return static_cast<double>(f16_to_f32(bits(at))); };
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(bytes[at]); };
  const auto width =
      static_cast<size_t>(stored_bytes(type, static_cast<int64_t>(columns_of(type))));
  for (size_t at = 0; at < bytes.size(); at += width) {
    for (size_t k = 0; k < columns_of(type); ++k) {
      const auto nibble = [&](size_t first) {
        return k < 16 ? byte(first + k) % 16 : byte(first + k - 16) / 16;
      };
      const auto five = [&](size_t first) {
        return nibble(first + 4) + 16 * (byte(first + k / 8) >> k % 8 & 1);
      };
      // Of the blocks of 256 columns: unsigned bits of byte `place` of this one.
      const auto bits_at = [&](size_t place, size_t shift, int count) {
        return byte(at + place) >> shift & ((1 << count) - 1);
      };
      const size_t g = k / 16, h = k / 32;
      // Scale and minimum of 6 bits.
      const auto six = [&](size_t first) {
        if (h < 4) return bits_at(first + h, 0, 6);
        const size_t shift = first == 4 ? 0 : 4;
        return bits_at(8 + h, shift, 4) + 16 * bits_at(first + h - 4, 6, 2);
      };
      double value = 0;
      float single = 0;
      switch (type) {
        case StoredType::q2_k:
          value =
              half(at + 80) * bits_at(g, 0, 4) * bits_at(16 + k / 128 * 32 + k % 32, h % 4 * 2, 2) -
              half(at + 82) * bits_at(g, 4, 4);
          break;
        case StoredType::q3_k:
          value =
              half(at + 108) *
              (bits_at(96 + g % 8, g / 8 * 4, 4) + 16 * bits_at(104 + g % 4, g / 4 * 2, 2) - 32) *
              (bits_at(32 + k / 128 * 32 + k % 32, h % 4 * 2, 2) - 4 * (1 - bits_at(k % 32, h, 1)));
          break;
        case StoredType::q4_k:
          value = half(at) * six(4) * bits_at(16 + k / 64 * 32 + k % 32, h % 2 * 4, 4) -
                  half(at + 2) * six(8);
          break;
        case StoredType::q5_k:
          value = half(at) * six(4) *
                      (bits_at(48 + k / 64 * 32 + k % 32, h % 2 * 4, 4) +
                       16 * bits_at(16 + k % 32, h, 1)) -
                  half(at + 2) * six(8);
          break;
        case StoredType::q6_k:
          value = half(at + 208) * static_cast<signed char>(byte(at + 192 + g)) *
                  (bits_at(k / 128 * 64 + k % 64, k % 128 / 64 * 4, 4) +
                   16 * bits_at(128 + k / 128 * 32 + k % 32, h % 4 * 2, 2) - 32);
          break;
        case StoredType::iq4_xs:
          value = half(at) *
                  (bits_at(4 + h / 2, h % 2 * 4, 4) + 16 * bits_at(2 + h / 4, h % 4 * 2, 2) - 32) *
                  kNonLinearValues[bits_at(8 + h * 16 + k % 16, k % 32 / 16 * 4, 4)];
          break;
        case StoredType::f32:
          std::memcpy(&single, bytes.data() + at + 4 * k, 4);
          value = single;
          break;
        case StoredType::f16:
          value = half(at + 2 * k);
          break;
        case StoredType::bf16:
          value = bf16_to_f32(bits(at + 2 * k));
          break;
        case StoredType::q4_0:
          value = half(at) * (nibble(at + 2) - 8);
          break;
        case StoredType::q4_1:
          value = half(at) * nibble(at + 4) + half(at + 2);
          break;
        case StoredType::q5_0:
          value = half(at) * (five(at + 2) - 16);
          break;
        case StoredType::q5_1:
          value = half(at) * five(at + 4) + half(at + 2);
          break;
        case StoredType::iq4_nl:
          value = half(at) * kNonLinearValues[nibble(at + 2)];
          break;
        default:
          value = half(at) * static_cast<signed char>(byte(at + 2 + k));
          break;
      }
      values.push_back(static_cast<float>(value));
    }
  }
  return values;
}

}  // namespace sala::testing
