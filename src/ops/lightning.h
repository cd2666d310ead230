#pragma once

#include "ops/sequences.h"
#include "tensor/tensor.h"

namespace sala {

class Device;

/// What a Lightning layer remembers of each sequence: the state at the last cell edge (a multiple
/// of `cell` positions) and the keys and values of the tokens since.
struct LightningMemory {
  Out state;   ///< [slots, heads, d, d] f32, row = key dimension, column = value dimension
  Out keys;    ///< [slots, kv_heads, d, cell] f32: column i is token i of the cell
  Out values;  ///< [slots, kv_heads, cell, d] f32
  int cell = 64;
};

/// What comes before the mix, decay, scale and what follows it.
struct LightningForm {
  In q_norm{}, k_norm{};  ///< [d] weights of an RMSNorm of every head, or empty
  In cos{}, sin{};        ///< [T, d / 2] tables of RoPE, or empty
  In slopes;              ///< [heads]: log-decay of head h is -slopes[h]
  float scale = 1.0f;
  In norm;            ///< [heads * d] weight of one RMSNorm over all heads, or empty
  float eps = 1e-6f;  ///< of all norms
};

/// Lightning attention (simple gated linear attention with a constant decay per head; Qin et al.
/// 2024, arXiv 2401.04658) in its canonical form. With lambda = exp(-slope), token at offset i of
/// its cell:
///   o_i = scale * (lambda^(i+1) q_i S + sum_{j <= i} lambda^(i-j) (q_i . k_j) v_j)        j
///   ascending
/// and when a cell is full:  S = lambda^cell S + sum_j lambda^(cell-1-j) k_j^T v_j          j
/// ascending. exp(-slope * n) is evaluated in double for each n and rounded to f32. Head h uses kv
/// head h / (heads / kv_heads). Then o = RMSNorm(o) over all heads where a norm is given, and o *=
/// sigmoid(gate) where a gate is given.
///   q, gate, o [T, heads * d]; k, v [T, kv_heads * d]
/// q and k are taken after norm and RoPE as in qk_norm_rope, as far as these are given, and hold
/// anything afterwards. Positions begin at 0 for a new sequence, whose slot must be zero.
void lightning(Device& device, const Sequences& sequences, Out q, Out k, In v,
               const LightningMemory& memory, const LightningForm& form, In gate, Out o);

/// Norm and RoPE of q and k in place, for backends that do them first.
void norm_and_turn_heads(Device& device, Out q, Out k, const LightningMemory& memory,
                         const LightningForm& form);

}  // namespace sala
