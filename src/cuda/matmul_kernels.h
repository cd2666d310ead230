#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/platform.h"
#include "ops/weight.h"

/// What the kernels of matmul share.
///
/// The order of a sum is the same in all kernels of a kind of product, so that a row's result
/// depends on that row alone: the columns are cut into at most kSegments segments (by their number
/// alone), each segment is one chain that begins at zero, columns or groups ascending, and the
/// segments are added in order. Inside one step of bf16 products tensor cores add as they do, which
/// differs among their generations; sums of codes are exact everywhere.
namespace sala::cuda {

inline constexpr int kSegments = 16;

/// Rows of activations up to which a matmul reads weights straight into registers.
inline constexpr int64_t kDecodeRows = 8;
/// Those up to which it is bound by the weights, which a block reads for all rows at once.
inline constexpr int64_t kBatchRows = 32;
/// Those up to which a bf16 kernel for few rows reads activations as they come: no more bytes a
/// block than of eight converted rows, and no launch before it.
inline constexpr int64_t kRoundedRows = 4;
/// Those up to which tiles of 128 rows of bf16 are as good as those of a warpgroup's 192.
inline constexpr int64_t kTiledRows = 128;
/// What the converted activations' rows are a multiple of, the rest being zero.
inline constexpr int64_t kRowUnit = 16;
/// Columns that kernels walk in one step, of which a segment is a multiple: of f32 and bf16
/// activations, which end in zeros up to a multiple, and of int8 ones.
inline constexpr int64_t kValueChunk = 64;
inline constexpr int64_t kCodeChunk = 128;

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/// Columns of a segment.
constexpr int64_t segment_columns(int64_t cols, int64_t chunk) {
  return round_up(round_up(cols, chunk) / chunk, kSegments) / kSegments * chunk;
}

/// Columns of an int8 activation group's sum: those of the weight's group.
constexpr int sum_columns(WeightType type) {
  return quantised(type) ? group_columns(type) : kGroup;
}

/// One call, as the kernels see it.
struct Product {
  const std::byte* panels = nullptr;
  int64_t panel_bytes = 0;
  int64_t panel_count = 0;  ///< both parts of a pair
  int64_t rows = 0;         ///< outputs
  int64_t cols = 0;
  bool paired = false;
  int64_t segment = 0;  ///< columns

  int64_t tokens = 0;
  int64_t padded_tokens = 0;      ///< a multiple of kRowUnit; the rest is zero
  const std::byte* x = nullptr;   ///< f32, bf16 or s8 [padded_tokens][x_stride]
  bool rounds = false;            ///< x is f32 [tokens][x_stride], to be rounded to bf16
  bool warpgroups = false;        ///< columns of x are those of warpgroup_column
  int64_t x_stride = 0;           ///< elements
  const float* scales = nullptr;  ///< int8: [groups][padded_tokens] of { scale, scale * sum }

  float* y = nullptr;
  int64_t y_stride = 0;
};

__device__ inline float swiglu(float gate, float up) { return gate / (1 + expf(-gate)) * up; }

/// Products in f32 of any weight with f32 activations (matmul_fma.cu).
void matmul_fma(Device& device, WeightType type, const Product& product);
/// Products of bf16 weights and activations, of codes and int8 activations on tensor cores, for at
/// most kDecodeRows rows (matmul_decode.cu), at most kBatchRows (matmul_batch.cu) and for any
/// number (matmul_prefill.cu).
void matmul_decode_bf16(Device& device, WeightType type, const Product& product);
void matmul_decode_int8(Device& device, WeightType type, const Product& product);
void matmul_batch_bf16(Device& device, WeightType type, const Product& product);
void matmul_batch_int8(Device& device, WeightType type, const Product& product);
void matmul_prefill_bf16(Device& device, WeightType type, const Product& product);
void matmul_prefill_int8(Device& device, WeightType type, const Product& product);
/// The same of bf16 by products of warpgroups, where the GPU has them (matmul_warpgroup.cu). The
/// columns of the activations are in the order of warpgroup_column.
void matmul_warpgroup_bf16(Device& device, WeightType type, const Product& product);

/// The column at place k of such activations: of 32 columns, step 0 or 1 of add_bf16 has 16, lane t
/// those that are at 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 in a product.
constexpr int64_t warpgroup_column(int64_t k) {
  const int64_t place = k % 32, step = place / 16, t = place % 8 / 2;
  return k - place + 8 * t + 4 * step + place % 16 / 8 * 2 + place % 2;
}

}  // namespace sala::cuda
