#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace sala {

/// How the entries of a weight matrix are stored.
///   f32, f16, bf16   as such
///   w8, w4           unsigned 8- and 4-bit integers q with, for each row and each group of
///                    `kGroup` columns, a scale and a minimum in f16: the value is scale * q + min
///                    (one fused multiply-add in f32)
///   w8g64, w4g64, w8g128, w4g128   the same with groups of 64 and 128 columns
///   k8, k4           the same with scales in two levels: for each 256 columns d and m in f16, for
///                    each group of 16 (k8) or 32 (k4) columns s and t in i8; scale = d * s and
///                    min = m * t, which are exact in f32
enum class WeightType : uint8_t { f32, f16, bf16, w8, w4, w8g64, w4g64, w8g128, w4g128, k8, k4 };

std::string_view name_of(WeightType type);

/// Output rows in a panel, columns in the quantisation groups that most types have, and columns in
/// a block of groups whose scales have two levels.
inline constexpr int kPanel = 32;
inline constexpr int kGroup = 32;
inline constexpr int kSuper = 256;

constexpr bool quantised(WeightType type) { return type >= WeightType::w8; }
constexpr bool two_level(WeightType type) { return type >= WeightType::k8; }
/// Whether a code takes four bits.
constexpr bool narrow(WeightType type) {
  return type == WeightType::w4 || type == WeightType::w4g64 || type == WeightType::w4g128 ||
         type == WeightType::k4;
}
/// Columns that share a scale and a minimum.
constexpr int group_columns(WeightType type) {
  switch (type) {
    case WeightType::k8:
      return 16;
    case WeightType::w8g64:
    case WeightType::w4g64:
      return 64;
    case WeightType::w8g128:
    case WeightType::w4g128:
      return 128;
    default:
      return kGroup;
  }
}
/// Columns of an int8 activation group beside a weight of this type: those of the weight's group,
/// so that an integer sum runs over a whole group, but at least kGroup.
constexpr int activation_columns(WeightType type) {
  return group_columns(type) < kGroup ? kGroup : group_columns(type);
}
/// What the number of columns is a multiple of.
constexpr int column_unit(WeightType type) {
  return two_level(type) ? kSuper : quantised(type) ? group_columns(type) : 1;
}

/// A weight matrix W [rows, cols] of a linear map y = x W^T, packed for the kernels of every ISA:
/// panels of kPanel output rows, and inside a panel the columns in order, so that one panel is one
/// stream and a kernel keeps 32 outputs in registers. Rows past the end and columns past the end
/// are zero. Immutable after packing; cheap to copy.
///
/// A panel, byte by byte (n = row in the panel 0..31, k = column):
///   f32, f16   [cols][32]                       element (k, n)
///   bf16       [ceil(cols/2)][32][2]            element (k/2, n, k%2)
///   w8 family  [cols/G groups] of { f16 scale[32], f16 min[32], u8 [G/4][32][4] }   byte (k%G/4,
///              n, k%4); G = group_columns
///   w4 family  [cols/G groups] of { f16 scale[32], f16 min[32], u8 [G/8][32][4] }   byte (k%G/8,
///              n, k%4): low nibble for the columns with k%8 < 4, high nibble for k%8 >= 4
///   k8         [cols/256] of { f16 d[32], f16 m[32], [16 groups] of { i8 s[32], i8 t[32],
///              u8 [4][32][4] } }    byte (k%16/4, n, k%4)
///   k4         [cols/256] of { f16 d[32], f16 m[32], [8 groups] of { i8 s[32], i8 t[32],
///              u8 [4][32][4] } }    codes as in w4
/// `cols` is a multiple of column_unit: of G, and of 256 for k8 and k4.
///
/// A paired weight holds two matrices of equal shape (gate and up): panel 2j is panel j of the
/// first, panel 2j+1 panel j of the second; `rows` counts the rows of one.
struct Weight {
  WeightType type = WeightType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  bool paired = false;
  Storage storage;                  ///< owner, shared by copies
  const std::byte* data = nullptr;  ///< panel 0

  int64_t panels() const { return (rows + kPanel - 1) / kPanel * (paired ? 2 : 1); }
  int64_t panel_bytes() const;
  int64_t bytes() const { return panels() * panel_bytes(); }
  const std::byte* panel(int64_t i) const { return data + i * panel_bytes(); }
};

/// Bytes of one panel of a matrix with `cols` columns.
int64_t panel_bytes(WeightType type, int64_t cols);

/// Bytes from the start of a quantised panel to its group g.
int64_t group_place(WeightType type, int64_t g);
/// Bytes from the start of a group to its codes.
int64_t codes_place(WeightType type);

/// One row of a matrix in a form that a panel can take without loss: `values` for f32; `bits` for
/// f16 and bf16; for the quantised types `codes`, one a byte, `scales` and `mins` (f16 bits, one
/// per group of w8 and w4, one per 256 columns of k8 and k4), and for k8 and k4 `scale_codes` and
/// `min_codes`, one per group.
struct WeightRow {
  std::vector<float> values;
  std::vector<uint16_t> bits;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales, mins;
  std::vector<int8_t> scale_codes, min_codes;
};

/// Fills `row`, which comes empty, with row n of matrix `part` (0, or 1 of a paired weight). Called
/// from several threads.
using RowReader = std::function<void(int part, int64_t n, WeightRow& row)>;

/// The same for as many rows as `rows` has, from row `first` on: for files in which neighbouring
/// rows lie together.
using RowsReader = std::function<void(int part, int64_t first, std::span<WeightRow> rows)>;

/// Packs a matrix. `parallel` runs its second argument for 0..count-1, on any threads. Throws Error
/// when the memory cannot be had.
Weight pack(
    WeightType type, int64_t rows, int64_t cols, bool paired, const RowReader& read,
    const std::function<void(int64_t count, const std::function<void(int64_t)>& work)>& parallel);

Weight pack(
    WeightType type, int64_t rows, int64_t cols, bool paired, const RowsReader& read,
    const std::function<void(int64_t count, const std::function<void(int64_t)>& work)>& parallel);

/// Row n of part 0 or 1 as f32 into out[cols]. The values are those that every kernel computes
/// with.
void unpack_row(const Weight& w, int part, int64_t n, std::span<float> out);

}  // namespace sala
