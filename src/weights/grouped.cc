#include "weights/grouped.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "ops/math.h"
#include "weights/superblock.h"

namespace sala {
namespace {

/// Where row i of eight is in a word of rows_even_first.
constexpr int kEvenFirst[8] = {0, 4, 1, 5, 2, 6, 3, 7};

float scale_at(const GroupedCodes& grouped, int64_t row, int64_t group) {
  const int64_t place = row * grouped.scale_row_stride + group * grouped.scale_group_stride;
  float scale = 0;
  switch (grouped.scale_type) {
    case StoredType::f16:
      return f16_to_f32(load16(grouped.scales + 2 * place));
    case StoredType::bf16:
      return bf16_to_f32(load16(grouped.scales + 2 * place));
    default:
      std::memcpy(&scale, grouped.scales + 4 * place, sizeof scale);
      return scale;
  }
}

int zero_at(const GroupedCodes& grouped, int64_t row, int64_t group) {
  return grouped.zeros.words != nullptr ? grouped.zeros.at(row, group)
                                        : 1 << (grouped.codes.bits - 1);
}

/// In tiles of columns, so that the lines of the file that neighbouring rows share are read once.
void unpack(const PackedIntegers codes, int64_t first, int64_t cols, std::span<WeightRow> rows) {
  constexpr int64_t kTile = 64;
  for (WeightRow& row : rows) row.codes.resize(static_cast<size_t>(cols));
  for (int64_t begin = 0; begin < cols; begin += kTile) {
    const int64_t end = std::min(begin + kTile, cols);
    for (size_t i = 0; i < rows.size(); ++i) {
      uint8_t* out = rows[i].codes.data();
      for (int64_t k = begin; k < end; ++k) out[k] = codes.at(first + static_cast<int64_t>(i), k);
    }
  }
}

/// A row's scales and zeros, one a group.
struct RowScales {
  std::vector<float> scales;
  std::vector<int> zeros;
};

bool put_groups(const GroupedCodes& grouped, const RowScales& of, WeightType type, int64_t cols,
                WeightRow& row) {
  const int64_t columns = group_columns(type);
  bool sound = true;
  for (int64_t k = 0; k < cols; k += columns) {
    const int32_t group = grouped.groups[k / grouped.block];
    const uint16_t scale = f32_to_f16(of.scales[group]);
    const uint16_t min = f32_to_f16(static_cast<float>(-of.zeros[group]) * f16_to_f32(scale));
    row.scales.push_back(scale);
    row.mins.push_back(min);
    sound &= finite(scale) && finite(min);
  }
  return sound;
}

bool put_values(const GroupedCodes& grouped, const RowScales& of, WeightType type, int64_t cols,
                WeightRow& row) {
  bool sound = true;
  for (int64_t k = 0; k < cols; ++k) {
    const int32_t group = grouped.groups[k / grouped.block];
    const float value = of.scales[group] * static_cast<float>(row.codes[k] - of.zeros[group]);
    if (type == WeightType::f32) row.values.push_back(value);
    if (type == WeightType::f16) row.bits.push_back(f32_to_f16(value));
    sound &= std::isfinite(value) && (type == WeightType::f32 || finite(row.bits.back()));
  }
  return sound;
}

}  // namespace

uint8_t PackedIntegers::at(int64_t row, int64_t column) const {
  const bool by_column = order == Order::columns;
  const int64_t along = by_column ? column : row;
  const auto lane = static_cast<int>(along & ((1 << lane_bits) - 1));
  const int64_t place = (by_column ? row : row >> lane_bits) * row_stride +
                        (by_column ? column >> lane_bits : column) * column_stride;
  uint32_t word = 0;
  if (lane_bits == 0)
    word = static_cast<uint8_t>(words[place]);
  else
    std::memcpy(&word, words + 4 * place, sizeof word);
  const int shift = bits * (order == Order::rows_even_first ? kEvenFirst[lane] : lane);
  return static_cast<uint8_t>(((word >> shift) + static_cast<uint32_t>(offset)) &
                              ((1U << bits) - 1));
}

WeightType type_with_groups(bool narrow, int64_t columns) {
  using enum WeightType;
  if (columns == 128) return narrow ? w4g128 : w8g128;
  if (columns == 64) return narrow ? w4g64 : w8g64;
  SALA_CHECK(columns == kGroup, "groups of {} columns", columns);
  return narrow ? w4 : w8;
}

WeightType grouped_weight_type(const StoredTensor& matrix) {
  if (matrix.grouped->block == 1) return WeightType::f16;
  return type_with_groups(matrix.type == StoredType::int4, matrix.grouped->block);
}

std::optional<int64_t> decode_grouped(const StoredTensor& matrix, int64_t first, WeightType type,
                                      std::span<WeightRow> rows) {
  const GroupedCodes& grouped = *matrix.grouped;
  const int64_t cols = matrix.shape[1];
  unpack(grouped.codes, first, cols, rows);
  std::optional<int64_t> unsound;
  RowScales of;
  for (WeightRow& row : rows) {
    of.scales.clear();
    of.zeros.clear();
    for (int64_t group = 0; group < grouped.count; ++group) {
      of.scales.push_back(scale_at(grouped, first, group));
      of.zeros.push_back(zero_at(grouped, first, group));
    }
    const bool sound = quantised(type) ? put_groups(grouped, of, type, cols, row)
                                       : put_values(grouped, of, type, cols, row);
    if (!sound && !unsound) unsound = first;
    ++first;
  }
  return unsound;
}

}  // namespace sala
