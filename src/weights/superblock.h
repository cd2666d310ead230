#pragma once

#include <cstdint>
#include <cstring>

#include "ops/weight.h"
#include "weights/stored_tensor.h"

namespace sala {

inline uint16_t load16(const std::byte* p) {
  uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}

inline bool finite(uint16_t f16) { return (f16 & 0x7C00) != 0x7C00; }

/// The values of the codes of IQ4_NL and IQ4_XS, plus 128.
inline constexpr uint8_t kNonLinear[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                           129, 141, 153, 166, 181, 197, 217, 241};

/// 256 columns of a row whose scales have two levels: in group g of 16 columns, the value of a code
/// is (scale * scale_codes[g]) * code + min * min_codes[g]. Where the file's groups are 32 columns
/// wide, groups 2g and 2g + 1 are equal.
struct Superblock {
  uint8_t codes[kSuper];
  uint16_t scale, min;  ///< f16
  int8_t scale_codes[kSuper / 16];
  int8_t min_codes[kSuper / 16];
};

/// Decodes a block of a type of 256 columns (StoredType). Exact: where the file's codes stand for
/// code - n, `min` is -n * scale, n a power of two. False if the scale or the minimum is not a
/// finite f16 number.
[[nodiscard]] bool decode_superblock(StoredType type, const std::byte* block, Superblock& out);

}  // namespace sala
