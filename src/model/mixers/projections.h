#pragma once

#include <string>

#include "model/mixer.h"

namespace sala {

/// What every mixer with heads does around its mixing: queries, keys, values and gate from the
/// layer's input by one matrix, QK-norm and RoPE of each head, and the output projection. Immutable
/// after construction.
class Projections {
 public:
  struct Form {
    int heads = 0;
    int kv_heads = 0;
    int head_dim = 0;
    bool qk_norm = false;  ///< RMSNorm of every head of q and k (`q_norm`, `k_norm`), before RoPE
    const char* gate = nullptr;  ///< name of the gate's matrix, or null
  };
  /// Takes the tensors of `prefix`self_attn.
  Projections(const ModelConfig& config, const Form& form, const std::string& prefix,
              WeightSource& source);

  int64_t q_width() const { return int64_t{form_.heads} * form_.head_dim; }
  int64_t kv_width() const { return int64_t{form_.kv_heads} * form_.head_dim; }
  int64_t weight_bytes() const { return in_.bytes() + out_.bytes(); }
  int64_t workspace(int64_t tokens) const { return Arena::bytes(DType::f32, {tokens, in_.rows}); }

  /// RoPE tables [T, head_dim / 2], empty where nothing is turned.
  struct Turn {
    In cos, sin;
  };
  struct Heads {
    Out q;     ///< [T, q_width()]
    Out k, v;  ///< [T, kv_width()]
    In gate;   ///< [T, q_width()] before the sigmoid, or empty
  };
  /// All as projected.
  Heads in(Step& step, In x) const;
  /// QK-norm and RoPE of q and k, in place.
  void norm_and_turn(Step& step, const Heads& heads, const Turn& q_turn, const Turn& k_turn) const;
  /// [head_dim] weights of QK-norm, or empty.
  In q_norm() const { return q_norm_.view(); }
  In k_norm() const { return k_norm_.view(); }
  /// y [T, hidden] = o [T, q_width()] times the output matrix.
  void out(Step& step, In o, Out y) const;

 private:
  Form form_;
  float eps_;
  Weight in_;  ///< q, k, v and the gate, one under the other
  Weight out_;
  Tensor q_norm_, k_norm_;
};

}  // namespace sala
