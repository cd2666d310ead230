#include "weights/superblock.h"

#include "base/error.h"
#include "ops/math.h"

// Blocks of 256 columns in the layout of ggml's `block_q2_K` and so on. `b` is a block's bytes, k a
// column, g a group of 16 of them.

namespace sala {
namespace {

using Bytes = const uint8_t*;

/// Bits [at, at + count) of a byte.
int bits(uint8_t byte, int at, int count) { return byte >> at & ((1 << count) - 1); }

uint8_t code(int value) { return static_cast<uint8_t>(value); }
int8_t level(int value) { return static_cast<int8_t>(value); }

/// Nibbles of Q4_K and Q5_K: 64 columns in 32 bytes, the first 32 in the low halves.
int nibble(Bytes packed, int k) { return bits(packed[k / 64 * 32 + k % 32], k / 32 % 2 * 4, 4); }

/// Two bits of Q2_K and Q3_K: 128 columns in 32 bytes, the first 32 in the lowest bits.
int two_bits(Bytes packed, int k) { return bits(packed[k / 128 * 32 + k % 32], k / 32 % 4 * 2, 2); }

/// The 6-bit scales and minima of the eight groups of 32 columns of Q4_K and Q5_K, in 12 bytes.
void read_levels(Bytes packed, Superblock& out) {
  for (int g = 0; g < kSuper / 16; ++g) {
    const int j = g / 2;
    int scale = bits(packed[j % 4], 0, 6);
    int min = bits(packed[j % 4 + 4], 0, 6);
    if (j >= 4) {
      scale = bits(packed[j + 4], 0, 4) | bits(packed[j - 4], 6, 2) << 4;
      min = bits(packed[j + 4], 4, 4) | bits(packed[j], 6, 2) << 4;
    }
    out.scale_codes[g] = level(scale);
    out.min_codes[g] = level(min);
  }
}

/// scales[16] (scale and minimum in nibbles), q[64], f16 d, f16 dmin: d s q - dmin t.
void read_q2_k(Bytes b, Superblock& out) {
  for (int g = 0; g < kSuper / 16; ++g) {
    out.scale_codes[g] = level(b[g] & 15);
    out.min_codes[g] = level(b[g] >> 4);
  }
  for (int k = 0; k < kSuper; ++k) out.codes[k] = code(two_bits(b + 16, k));
}

/// high[32], q[64], scales[12], f16 d: d (s - 32) (q - 4).
void read_q3_k(Bytes b, Superblock& out) {
  const Bytes scales = b + 96;
  for (int g = 0; g < kSuper / 16; ++g) {
    const int low = bits(scales[g % 8], g / 8 * 4, 4), high = bits(scales[8 + g % 4], g / 4 * 2, 2);
    out.scale_codes[g] = out.min_codes[g] = level((low | high << 4) - 32);
  }
  for (int k = 0; k < kSuper; ++k)
    out.codes[k] = code(two_bits(b + 32, k) | bits(b[k % 32], k / 32, 1) << 2);
}

/// f16 d, f16 dmin, scales[12], q[128]: d s q - dmin t.
void read_q4_k(Bytes b, Superblock& out) {
  read_levels(b + 4, out);
  for (int k = 0; k < kSuper; ++k) out.codes[k] = code(nibble(b + 16, k));
}

/// f16 d, f16 dmin, scales[12], high[32], q[128]: d s q - dmin t.
void read_q5_k(Bytes b, Superblock& out) {
  read_levels(b + 4, out);
  for (int k = 0; k < kSuper; ++k)
    out.codes[k] = code(nibble(b + 48, k) | bits(b[16 + k % 32], k / 32, 1) << 4);
}

/// low[128], high[64], i8 scales[16], f16 d: d s (q - 32).
void read_q6_k(Bytes b, Superblock& out) {
  for (int g = 0; g < kSuper / 16; ++g) out.scale_codes[g] = out.min_codes[g] = level(b[192 + g]);
  for (int k = 0; k < kSuper; ++k) {
    const int low = bits(b[k / 128 * 64 + k % 64], k / 64 % 2 * 4, 4);
    out.codes[k] = code(low | two_bits(b + 128, k) << 4);
  }
}

/// f16 d, u16 high bits of the scales, low[4], q[128]: d (s - 32) table[q]. Of 32 columns in 16
/// bytes, the first 16 lie in the low halves.
void read_iq4_xs(Bytes b, Superblock& out) {
  for (int g = 0; g < kSuper / 16; ++g) {
    const int j = g / 2;
    const int low = bits(b[4 + j / 2], j % 2 * 4, 4), high = bits(b[2 + j / 4], j % 4 * 2, 2);
    out.scale_codes[g] = out.min_codes[g] = level((low | high << 4) - 32);
  }
  for (int k = 0; k < kSuper; ++k)
    out.codes[k] = kNonLinear[bits(b[8 + k / 32 * 16 + k % 16], k / 16 % 2 * 4, 4)];
}

}  // namespace

bool decode_superblock(StoredType type, const std::byte* block, Superblock& out) {
  const auto* b = reinterpret_cast<Bytes>(block);
  int scale = 0, min = 2;  // where they lie
  float shift = 0;         // or what codes are less than stored
  switch (type) {
    case StoredType::q2_k:
      read_q2_k(b, out);
      scale = 80, min = 82;
      break;
    case StoredType::q3_k:
      read_q3_k(b, out);
      scale = 108, shift = 4;
      break;
    case StoredType::q4_k:
      read_q4_k(b, out);
      break;
    case StoredType::q5_k:
      read_q5_k(b, out);
      break;
    case StoredType::q6_k:
      read_q6_k(b, out);
      scale = 208, shift = 32;
      break;
    default:
      SALA_CHECK(type == StoredType::iq4_xs, "{} as a block of 256 columns", name_of(type));
      read_iq4_xs(b, out);
      shift = 128;
      break;
  }
  out.scale = load16(block + scale);
  out.min = shift == 0 ? static_cast<uint16_t>(load16(block + min) ^ 0x8000)
                       : f32_to_f16(-shift * f16_to_f32(out.scale));
  return finite(out.scale) && finite(out.min);
}

}  // namespace sala
