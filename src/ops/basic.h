#pragma once

#include "ops/math.h"
#include "ops/sample.h"
#include "ops/sequences.h"
#include "ops/weight.h"
#include "tensor/tensor.h"

namespace sala {

class Device;

/// What stands in embed()'s ids for a token that the host does not know yet: drawn[i].
constexpr int drawn_id(int64_t i) { return static_cast<int>(-1 - i); }

/// h [T, D] = scale * table[ids[t]]; ids [T] i32, each in [0, table.rows), or drawn_id(i) for the
/// token drawn[i], i32 [N], of which none are needed where none is named. A row is zero where
/// nothing was drawn (kNoToken).
void embed(Device& device, In ids, In drawn, const Weight& table, float scale, Out h);
/// The row of the table that embed() takes for ids[t], kNoToken, or less for one of `count` drawn
/// tokens that is not there.
SALA_HD inline int embedded_row(const int32_t* ids, const int32_t* drawn, int64_t count,
                                int64_t t) {
  if (ids[t] >= 0) return ids[t];
  const int i = drawn_id(ids[t]);
  return i < count ? drawn[i] : kNoToken - 1;
}

/// h [T, D] += scale * a [T, D] (nothing is added when a is empty), then
/// x [T, D] = h / sqrt(mean(h^2) + eps) * w [D]   (RMSNorm, Zhang and Sennrich 2019). x may be h
/// itself when a is empty.
void residual_norm(Device& device, Out h, In a, float scale, In w, float eps, Out x);

/// The type in which activations enter a matmul.
///   f32    as they are
///   bf16   rounded to bf16 (nearest even); products of bf16 pairs where the CPU has them and the
///          weight is bf16
///   int8   codes of 8 bits with one scale per row and group of activation_columns(weight) columns:
///          scale = max|x| / 127, x ~ scale * code
/// Sums are f32 in all of them.
enum class Compute : uint8_t { f32, bf16, int8 };

enum class Epilogue : uint8_t {
  none,    ///< y [T, N] = x W^T
  swiglu,  ///< y [T, N] = silu(x W0^T) * (x W1^T) with the two parts of a paired weight (Shazeer
           ///< 2020)
};

/// y = epilogue(x [T, K] W^T). A row of y depends on that row of x alone, bit for bit: each output
/// is one chain of fused multiply-adds over k ascending (f32, bf16), or the groups' exact integer
/// sums scaled and added in order (int8 with a quantised weight), whatever T and the number of
/// threads.
void matmul(Device& device, In x, const Weight& w, Epilogue epilogue, Compute compute, Out y);

/// What every entry of a RoPE table is multiplied by, so that the vectors it turns are scaled too.
struct RopeFactor {
  float scale = 1.0f;
  float log_base = 0.0f;  ///< a > 1: also by ln(position + a) / ln(a) (HypeNet's scaling of
                          ///< attention logits); 0: not
};

/// cos and sin [T, half] of fl32(position) * inverse_frequency[i], the product formed in f32 (spec
/// of the released models), each multiplied by the factor; inverse_frequency [half]. Frequencies of
/// 0 turn nothing.
void rope_table(Device& device, In positions, In inverse_frequency, RopeFactor factor, Out cos,
                Out sin);

/// For each token and each of `heads` heads of x [T, heads * d], in place: RMSNorm over the head
/// with weight w [d] (when given), then rotate-half RoPE (Su et al. 2021) of all d = 2 * half
/// dimensions with cos, sin [T, half] (when given): y_i = x_i cos_i - x_{i+half} sin_i, y_{i+half}
/// = x_{i+half} cos_i + x_i sin_i.
void qk_norm_rope(Device& device, Out x, int heads, In w, float eps, In cos, In sin);

}  // namespace sala
