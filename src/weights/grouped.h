#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ops/weight.h"
#include "weights/stored_tensor.h"

namespace sala {

/// A table of integers below 2^bits as quantisers pack them: several in a word, which hold
/// neighbouring columns or neighbouring rows.
struct PackedIntegers {
  enum class Order : uint8_t {
    columns,         ///< lane i of a word is column i of its 2^lane_bits columns
    rows,            ///< lane i of a word is row i of its 2^lane_bits rows
    rows_even_first  ///< rows 0, 2, 4, 6, 1, 3, 5, 7 (AWQ)
  };
  const std::byte* words = nullptr;
  int bits = 4;
  int lane_bits = 3;  ///< a word of 32 bits has 2^lane_bits integers; 0: words are bytes
  Order order = Order::columns;
  int64_t row_stride = 0, column_stride = 0;  ///< in words
  int offset = 0;                             ///< is added to what is stored, modulo 2^bits

  uint8_t at(int64_t row, int64_t column) const;
};

/// The numbers of an int4 or int8 matrix (StoredType), which lie in several tensors: the value of a
/// code is scale * (code - zero), with a scale and a zero for each row and group of columns.
struct GroupedCodes {
  PackedIntegers codes;
  PackedIntegers zeros;  ///< [rows][groups]; without words: all 2^(bits - 1)
  const std::byte* scales = nullptr;
  StoredType scale_type = StoredType::f16;  ///< f32, f16 or bf16
  int64_t scale_row_stride = 0, scale_group_stride = 0;
  int64_t count = 1;  ///< groups of a row
  /// The group of columns [i * block, (i + 1) * block). `block` is 128, 64 or 32, the largest for
  /// which that is one group; 1 where none is.
  std::vector<int32_t> groups;
  int64_t block = 1;
  std::vector<std::shared_ptr<const MappedFile>> files;  ///< keep zeros and scales alive
};

/// w8 or w4 (narrow) with groups of 32, 64 or 128 columns.
WeightType type_with_groups(bool narrow, int64_t columns);

/// The type of the w4 or w8 family with `block` columns a group; f16 where `block` is 1. Scales and
/// minima are rounded to f16: exact for scales in f16, and in bf16 from 2^-17 on, and zeros that
/// are powers of two.
WeightType grouped_weight_type(const StoredTensor& matrix);

/// decode_rows (decode.h) of an int4 or int8 matrix, for grouped_weight_type, a wider type of the
/// families with groups that divide `block`, or f32.
std::optional<int64_t> decode_grouped(const StoredTensor& matrix, int64_t first, WeightType type,
                                      std::span<WeightRow> rows);

}  // namespace sala
