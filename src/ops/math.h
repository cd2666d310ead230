#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

/// Scalar maths that every backend shares, so that host, CPU kernels and device code round alike.
#ifdef __CUDACC__
#define SALA_HD __host__ __device__
#else
#define SALA_HD
#endif

namespace sala {

/// bf16 bits <-> f32. To bf16 rounds to nearest even; NaN stays NaN.
SALA_HD inline float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
SALA_HD inline uint16_t f32_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/// f16 bits -> f32, exactly.
SALA_HD inline float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1F;
  const uint32_t mantissa = bits & 0x3FF;
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

/// f32 -> f16 bits, to nearest even; overflow gives infinity.
SALA_HD inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
  if (magnitude < 0x38800000) {  // subnormal in f16: let the f32 adder round at bit 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) & 0x7FF));
  }
  const uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

/// RoPE's inverse frequency of pair i of a head of size d, with the two f32 roundings of the
/// released models.
inline float rope_inverse_frequency(double theta, int i, int d) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(d);
  return 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
}

/// What a token's RoPE table is multiplied by: scale, times ln(p + a) / ln(a) where a > 0.
SALA_HD inline float rope_factor(float scale, float a, float position) {
  if (a <= 0.0f) return scale;
  return scale * static_cast<float>(std::log(double{position} + a) / std::log(double{a}));
}

}  // namespace sala
