#pragma once

#include "ops/basic.h"
#include "ops/pages.h"
#include "ops/sequences.h"
#include "tensor/tensor.h"

namespace sala {

class Device;

/// Stores k, v [T, kv_heads * head_dim] at their positions in the pages of their sequences, in the
/// pages' type. Tokens at kept positions are not written; a build with assertions compares
/// them with what is there, where the page has a frame. A token whose page is shared with other
/// sequences must not be written: the caller has copied the page.
void kv_append(Device& device, const Sequences& sequences, In k, In v, const KvPages& pages);

/// Computes every window of `keys` that ends at a token of this step: the mean, summed in f32 token
/// by token and then multiplied by fl32(1 / size), of the stored keys, rounded to the field's type.
/// Windows that end at a kept position are not written, and compared like tokens are. Comes after
/// kv_append.
void compress_keys(Device& device, const Sequences& sequences, const KvPages& pages,
                   const CompressedKeys& keys);

/// How InfLLM-V2 chooses blocks; a block is a page.
struct Selection {
  int init_blocks = 1;    ///< first blocks, always chosen
  int local_blocks = 32;  ///< blocks before the query's own that are always chosen, besides its own
  int top = 96;           ///< blocks chosen in all (topk + window / block), forced ones included
  /// The type in which q enters its products, times head_dim^-1/2; bf16 where keys are not f32.
  Compute compute = Compute::f32;
};

/// Chooses the blocks that each query attends to (InfLLM-V2 stage 1 and pooling). For query t at
/// position p, kv head g, its group of heads h, s = head_dim^-1/2:
///   coarse windows j that end at or before p:  m_h = max_j s q_h.K2_j,  Z_h = sum_j exp(s q_h.K2_j
///   - m_h) fine windows j that end at or before p:    score[j] = sum_h exp(s q_h.K1_j - m_h) / Z_h
///   (f32; 0 without a coarse one) blocks b <= p / page:  B[b] = max score[j], j in [b r - 1, b r +
///   r) and visible, r = page / fine.stride; -inf if none
/// Forced blocks (b < init_blocks, b >= p / page - local_blocks) rank above every score, among
/// themselves by index. The `top` best are chosen; ties go to the lowest index.
///   q [T, heads * head_dim]; sparse [T] u8: where 0 the query attends densely and its count is -1
///   lists [T, kv_heads, top] i32: ascending block indices;  counts [T, kv_heads] i32
/// Heads are summed in ascending order in groups that do not depend on the step, so that a query's
/// list depends on that query alone, bit for bit.
void block_select(Device& device, const Sequences& sequences, In q, const KvPages& pages,
                  const CompressedKeys& fine, const CompressedKeys& coarse,
                  const Selection& selection, In sparse, Out lists, Out counts);

/// Causal softmax attention over the keys of the chosen blocks (all blocks up to the query's own
/// when lists is empty or the count is -1), then the gate: o_h = sum_u softmax_u(scale q_h.K_u) V_u
/// over u <= p, times sigmoid(gate) where a gate is given. Head h uses kv head h / (heads /
/// kv_heads). q, o, gate [T, heads * head_dim]. Softmax runs block by block at absolute positions,
/// in segments of 16 blocks that are merged left to right, so that a query's bits depend on that
/// query alone. With Compute::bf16 and keys and values of fewer bits than f32, q and the softmax's
/// weights enter their products rounded to bf16 (and decoded int8 and int4, where products of bf16
/// pairs are what the backend has); sums are f32.
void attention(Device& device, const Sequences& sequences, In q, const KvPages& pages, In lists,
               In counts, float scale, Compute compute, In gate, Out o);

}  // namespace sala
