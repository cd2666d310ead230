#include "weights/decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "ops/math.h"
#include "weights/grouped.h"
#include "weights/superblock.h"

namespace sala {
namespace {

constexpr int64_t kBlock = 32;
static_assert(kBlock == kGroup, "a block of the file is a group of the weight");

void decode_nibbles(const std::byte* packed, uint8_t* codes) {
  uint8_t bytes[kBlock / 2];
  std::memcpy(bytes, packed, sizeof bytes);
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    codes[i] = bytes[i] & 15;
    codes[i + kBlock / 2] = bytes[i] >> 4;
  }
}

/// Adds the fifth bits of 32 columns.
void add_high_bits(const std::byte* packed, uint8_t* codes) {
  uint32_t bits = 0;
  std::memcpy(&bits, packed, sizeof bits);
  for (int64_t i = 0; i < kBlock; ++i) codes[i] |= static_cast<uint8_t>((bits >> i & 1) << 4);
}

/// One block: 32 codes, scale and minimum such that value = scale * code + min. Where the file's
/// codes stand for code - n, the minimum is -n * scale: n is a power of two, so that is exact in
/// f16 unless it overflows.
bool decode_block(StoredType type, const std::byte* block, uint8_t* codes, uint16_t& scale,
                  uint16_t& min) {
  scale = load16(block);
  float shift = 0;
  switch (type) {
    case StoredType::q4_0:
      decode_nibbles(block + 2, codes);
      shift = 8;
      break;
    case StoredType::q4_1:
      decode_nibbles(block + 4, codes);
      break;
    case StoredType::q5_0:
      decode_nibbles(block + 6, codes);
      add_high_bits(block + 2, codes);
      shift = 16;
      break;
    case StoredType::q5_1:
      decode_nibbles(block + 8, codes);
      add_high_bits(block + 4, codes);
      break;
    case StoredType::iq4_nl:
      decode_nibbles(block + 2, codes);
      for (int64_t i = 0; i < kBlock; ++i) codes[i] = kNonLinear[codes[i]];
      shift = 128;
      break;
    default:
      std::memcpy(codes, block + 2, kBlock);
      for (int64_t i = 0; i < kBlock; ++i) codes[i] ^= 0x80;
      shift = 128;
      break;
  }
  min = shift == 0 ? load16(block + 2) : f32_to_f16(-shift * f16_to_f32(scale));
  return finite(scale) && finite(min);
}

bool decode_groups(StoredType type, const std::byte* data, int64_t cols, WeightRow& row) {
  const int64_t groups = cols / kBlock, block_bytes = stored_bytes(type, kBlock);
  row.codes.resize(static_cast<size_t>(cols));
  row.scales.resize(static_cast<size_t>(groups));
  row.mins.resize(static_cast<size_t>(groups));
  bool sound = true;
  for (int64_t g = 0; g < groups; ++g)
    sound &= decode_block(type, data + g * block_bytes, row.codes.data() + g * kBlock,
                          row.scales[g], row.mins[g]);
  return sound;
}

/// For a weight with groups of `columns` columns: 16, or 32 where the file's groups have 32.
bool decode_superblocks(StoredType type, const std::byte* data, int64_t cols, int64_t columns,
                        WeightRow& row) {
  Superblock block;
  bool sound = true;
  for (int64_t first = 0; first < cols; first += kSuper, data += stored_bytes(type, kSuper)) {
    sound &= decode_superblock(type, data, block);
    row.codes.insert(row.codes.end(), block.codes, block.codes + kSuper);
    row.scales.push_back(block.scale);
    row.mins.push_back(block.min);
    for (int64_t k = 0; k < kSuper; k += columns) {
      row.scale_codes.push_back(block.scale_codes[k / 16]);
      row.min_codes.push_back(block.min_codes[k / 16]);
    }
  }
  return sound;
}

bool decode_superblock_values(StoredType type, const std::byte* data, int64_t cols, float* out) {
  Superblock block;
  bool sound = true;
  for (int64_t first = 0; first < cols; first += kSuper, data += stored_bytes(type, kSuper)) {
    sound &= decode_superblock(type, data, block);
    for (int64_t k = 0; k < kSuper; ++k) {
      const float scale = f16_to_f32(block.scale) * static_cast<float>(block.scale_codes[k / 16]);
      const float min = f16_to_f32(block.min) * static_cast<float>(block.min_codes[k / 16]);
      out[first + k] = std::fma(scale, static_cast<float>(block.codes[k]), min);
    }
  }
  return sound;
}

bool decode_values(StoredType type, const std::byte* data, int64_t cols, float* out) {
  switch (type) {
    case StoredType::f32:
      std::memcpy(out, data, static_cast<size_t>(cols) * sizeof(float));
      return true;
    case StoredType::f16:
      for (int64_t k = 0; k < cols; ++k) out[k] = f16_to_f32(load16(data + 2 * k));
      return true;
    case StoredType::bf16:
      for (int64_t k = 0; k < cols; ++k) out[k] = bf16_to_f32(load16(data + 2 * k));
      return true;
    default:
      break;
  }
  if (block_columns(type) == kSuper) return decode_superblock_values(type, data, cols, out);
  bool sound = true;
  const int64_t block_bytes = stored_bytes(type, kBlock);
  for (int64_t first = 0; first < cols; first += kBlock, data += block_bytes) {
    uint8_t codes[kBlock];
    uint16_t scale = 0, min = 0;
    sound &= decode_block(type, data, codes, scale, min);
    for (int64_t k = 0; k < kBlock; ++k)
      out[first + k] = std::fma(f16_to_f32(scale), static_cast<float>(codes[k]), f16_to_f32(min));
  }
  return sound;
}

}  // namespace

WeightType weight_type(StoredType type) {
  switch (type) {
    case StoredType::f16:
      return WeightType::f16;
    case StoredType::bf16:
      return WeightType::bf16;
    case StoredType::q4_0:
    case StoredType::q4_1:
      return WeightType::w4;
    case StoredType::q5_0:
    case StoredType::q5_1:
    case StoredType::q8_0:
    case StoredType::iq4_nl:
      return WeightType::w8;
    case StoredType::q4_k:
      return WeightType::k4;
    case StoredType::q2_k:
    case StoredType::q3_k:
    case StoredType::q5_k:
    case StoredType::q6_k:
    case StoredType::iq4_xs:
      return WeightType::k8;
    case StoredType::f32:
    case StoredType::int4:
    case StoredType::int8:
    case StoredType::other:
      break;
  }
  SALA_CHECK(type == StoredType::f32, "a tensor of type {}", name_of(type));
  return WeightType::f32;
}

WeightType weight_type(const StoredTensor& tensor) {
  return tensor.grouped ? grouped_weight_type(tensor) : weight_type(tensor.type);
}

WeightType common_type(WeightType a, WeightType b) {
  if (a == b) return a;
  if (!quantised(a) || !quantised(b) || two_level(a) != two_level(b)) return WeightType::f32;
  return two_level(a) ? WeightType::k8
                      : type_with_groups(narrow(a) && narrow(b),
                                         std::min(group_columns(a), group_columns(b)));
}

std::optional<int64_t> decode_rows(const StoredTensor& matrix, int64_t first, WeightType type,
                                   std::span<WeightRow> rows) {
  if (matrix.grouped) return decode_grouped(matrix, first, type, rows);
  std::optional<int64_t> unsound;
  for (WeightRow& row : rows) {
    if (!decode_row(matrix, first, type, row) && !unsound) unsound = first;
    ++first;
  }
  return unsound;
}

bool decode_row(const StoredTensor& matrix, int64_t n, WeightType type, WeightRow& row) {
  if (matrix.grouped) return !decode_grouped(matrix, n, type, {&row, 1});
  const int64_t cols = matrix.shape[1], bytes = stored_bytes(matrix.type, cols);
  const std::byte* data = matrix.bytes.data() + matrix.stored_row(n) * bytes;
  if (two_level(type)) return decode_superblocks(matrix.type, data, cols, group_columns(type), row);
  if (quantised(type)) return decode_groups(matrix.type, data, cols, row);
  if (type == WeightType::f32) {
    row.values.resize(static_cast<size_t>(cols));
    return decode_values(matrix.type, data, cols, row.values.data());
  }
  row.bits.resize(static_cast<size_t>(cols));
  std::memcpy(row.bits.data(), data, static_cast<size_t>(bytes));
  return true;
}

void decode_floats(const StoredTensor& tensor, std::span<float> out) {
  SALA_CHECK(
      !quantised(weight_type(tensor.type)) && static_cast<int64_t>(out.size()) == tensor.elements(),
      "{} elements of type {} into {} floats", tensor.elements(), name_of(tensor.type), out.size());
  if (!out.empty()) decode_values(tensor.type, tensor.bytes.data(), tensor.elements(), out.data());
}

}  // namespace sala
