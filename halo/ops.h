#pragma once

#include <torch/torch.h>

namespace sala::halo {

using torch::Tensor;

/// The differentiable operations of a decoder. The custom ones have their own backward, checked
/// against central differences in double (ops_test.cc). `type` is the type in which the operands
/// of a matrix product are rounded: bf16 to be fast, f32 to be exact, f64 to be tested; between
/// products everything has the type of x.

/// RMSNorm over the last dimension: x / sqrt(mean(x^2) + eps) * w.
Tensor rms_norm(const Tensor& x, const Tensor& w, double eps);

/// x [..., in] W^T [in, out].
Tensor linear(const Tensor& x, const Tensor& w, torch::ScalarType type);

/// Rotary position embedding (Su et al. 2021) of x [B, T, H, d], element i with element i + d/2, by
/// the tables cos and sin [T, d/2].
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin);

}  // namespace sala::halo
