#pragma once

#include <vector>

#include "ops.h"

namespace sala::halo {

/// Lightning attention (Qin et al. 2024, arXiv 2401.04658), all operands [B, T, H, d]:
///   o_t = scale * sum over j <= t of exp(-slope_h (t - j)) (q_t . k_j) v_j
/// in chunks. `type` is that of operands in products, as in ops.h; sums and states have q's. Its
/// backward is three of its forwards: with LA(q, k, v) = o,
///   dq = LA(do, v, k), dk = LA'(v, do, q), dv = LA'(k, q, do),
/// where LA' runs from the end to the beginning.
Tensor lightning(const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<double>& slopes, double scale, torch::ScalarType type);

}  // namespace sala::halo
