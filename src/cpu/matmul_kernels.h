#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/weight.h"

/// The kernels that matmul.cc chooses among. docs/kernels_matmul.md tells how they came about.
namespace sala::cpu {

/// One tile of work: c [rows, panels * kPanel] (+)= x [rows, count] W^T for `count` columns of some
/// panels.
///
/// x lies packed in units of 4 bytes that hold consecutive columns of one row: an f32, a pair of
/// bf16, or four int8 codes. Unit u of row r is at [u * rows + r], so that a kernel reads x as one
/// stream.
struct Tile {
  int rows = 0;    ///< at most Kernels::rows
  int panels = 1;  ///< panels side by side; 1 in block kernels
  const void* x = nullptr;
  /// int8: [count / group_columns of the weight][rows] of { scale, scale * sum of the codes }.
  const float* scales = nullptr;
  const std::byte* w = nullptr;  ///< first column wanted of the first panel
  int64_t panel_stride = 0;      ///< bytes from a panel to the next
  int64_t count = 0;             ///< columns; of a panel of k8 or k4 read whole, all
  float* c = nullptr;
  int64_t c_stride = 0;  ///< floats from a row of c to the next
  bool fresh = true;     ///< c begins at zero instead of what it holds
};
using TileKernel = void (*)(const Tile& tile);

/// Bytes ahead of its reading that a stream is prefetched. Kernels of 512 bits want a page, at
/// whose end the machine's own prefetching stops; those of 256 bits, on the machines that have no
/// more, as many lines as can be under way. Past the end of the weights a prefetch does nothing.
inline constexpr int kAhead512 = 4096;
inline constexpr int kAhead256 = 1024;

/// A group of a decoded panel of quantised weights: what the block kernels of int8 read.
template <int kColumns>
struct CodeGroup {
  float scale[kPanel];
  float min[kPanel];
  uint8_t codes[kColumns / 4][kPanel][4];
};

/// Bytes of the CodeGroups of `count` columns.
constexpr int64_t code_group_bytes(WeightType type, int64_t count) {
  return count / group_columns(type) * (2 * kPanel * static_cast<int64_t>(sizeof(float))) +
         count * kPanel;
}

/// Kernels of one kind of product. All of a kind give the same bits on one machine.
struct Kernels {
  int rows = 0;  ///< rows of a full tile
  /// Many tiles, columns in blocks: w is f32 [count][kPanel], bf16 pairs, or CodeGroup<group>
  /// [count / group], group = group_columns of the weight.
  TileKernel block = nullptr;
  /// Few tiles, whole panels in their own type, decoded in registers; null where there is none.
  TileKernel stream = nullptr;
};

// f32 products: fma chains over k ascending. Every ISA (matmul_panel.cc).
Kernels f32_kernels(WeightType type);
/// Columns [first, first + count) of a panel as f32 [count][kPanel]; first and count are
/// multiples of kGroup in a quantised panel.
void decode_panel(WeightType type, const std::byte* panel, int64_t first, int64_t count,
                  float* out);

// Products of bytes: exact sums inside a group; then c = fma(sum, xscale * wscale, c), c =
// fma(xsum, wmin, c).
Kernels int8_kernels(WeightType type);
/// The groups of columns [first, first + count) of a quantised panel, as
/// CodeGroup<group_columns(type)>.
void decode_codes(WeightType type, const std::byte* panel, int64_t first, int64_t count,
                  std::byte* out);

/// Rounds `count` activations to int8 codes with a scale for each `group` columns, or each kGroup
/// where a group is half of that: for each group scales holds { scale, scale * sum of codes }.
/// `codes` has room for count rounded up to kGroup, whose end is filled with 0; a group wider than
/// kGroup divides count.
void quantise_row(const float* x, int64_t count, int group, int8_t* codes, float* scales);

/// y[0..count) = silu(gate) * up; count <= kPanel; gate and up have kPanel entries.
void swiglu(const float* gate, const float* up, int64_t count, float* y);

#if defined(__x86_64__)
// vpdpbusd on 512 bits; vpdpbf16ps on 512 bits (dot_avx512.cc).
Kernels vnni_kernels(WeightType type);
Kernels bf16_kernels();
// Exact 16-bit products on 256 bits (dot_avx2.cc).
Kernels avx2_int8_kernels(WeightType type);
#endif

}  // namespace sala::cpu
