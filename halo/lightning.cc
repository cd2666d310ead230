#include "lightning.h"

namespace sala::halo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

constexpr int64_t kChunk = 64;

/// [B, T, H, d] as [B, H, N, C, d], the end filled up with zeros, which add nothing to any sum.
Tensor by_chunk(const Tensor& x) {
  const int64_t length = x.size(1), chunks = (length + kChunk - 1) / kChunk;
  const Tensor padded = torch::constant_pad_nd(x, {0, 0, 0, 0, 0, chunks * kChunk - length});
  return padded.view({x.size(0), chunks, kChunk, x.size(2), x.size(3)})
      .permute({0, 3, 1, 2, 4})
      .contiguous();
}

/// The way back to [B, length, H, d].
Tensor by_token(const Tensor& x, int64_t length) {
  return x.permute({0, 2, 3, 1, 4})
      .reshape({x.size(0), x.size(2) * kChunk, x.size(1), x.size(4)})
      .narrow(1, 0, length);
}

/// The decays inside a chunk, per head.
struct Decays {
  Tensor inside;  ///< [1, H, 1, C, C]: from row j to row i, zero where j is not in i's sum
  Tensor into;    ///< [1, H, 1, C, 1]: from the chunk's entrance to row i
  Tensor out_of;  ///< [1, H, 1, C, 1]: from row j to the next chunk's entrance
  Tensor whole;   ///< [1, H, 1, 1]
};

Decays decays(const Tensor& slopes, bool reverse) {
  const Tensor s = slopes.view({1, -1, 1, 1, 1});
  const Tensor i = torch::arange(kChunk, slopes.options());
  Tensor gap = i.unsqueeze(1) - i;
  if (reverse) gap = -gap;
  const Tensor upto = reverse ? kChunk - i : i + 1;
  const Tensor left = reverse ? i : kChunk - 1 - i;
  return {.inside = (-s * gap.clamp_min(0)).exp_() * (gap >= 0),
          .into = (-s * upto.view({kChunk, 1})).exp_(),
          .out_of = (-s * left.view({kChunk, 1})).exp_(),
          .whole = (-s.squeeze(-1) * kChunk).exp_()};
}

/// sum over j of decay (q_i . k_j) v_j, operands [B, H, N, C, d]; the result and the states have
/// the decays' type.
Tensor mix(const Tensor& q, const Tensor& k, const Tensor& v, const Decays& decay, bool reverse) {
  const auto rounded = q.scalar_type(), sums = decay.inside.scalar_type();
  const auto product = [&](const Tensor& a, const Tensor& b) {
    return torch::matmul(a.to(rounded), b.to(rounded)).to(sums);
  };
  Tensor out = product(product(q, k.transpose(-1, -2)).mul_(decay.inside), v);
  // What each chunk adds to the state [B, H, N, d, d], then the state at each chunk's entrance.
  const Tensor state = product((k * decay.out_of).transpose(-1, -2), v);
  const int64_t chunks = state.size(2);
  Tensor carried = torch::zeros_like(state.select(2, 0));
  for (int64_t n = 0; n < chunks; ++n) {
    const Tensor here = state.select(2, reverse ? chunks - 1 - n : n);
    const Tensor next = carried * decay.whole + here;
    here.copy_(carried);
    carried = next;
  }
  return out.add_(product(q * decay.into, state));
}

struct Lightning : Function<Lightning> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& slopes, double scale, int64_t type) {
    const auto rounded = static_cast<torch::ScalarType>(type);
    const Tensor qc = by_chunk(q.to(rounded)), kc = by_chunk(k.to(rounded)),
                 vc = by_chunk(v.to(rounded));
    ctx->save_for_backward({qc, kc, vc, slopes});
    ctx->saved_data["scale"] = scale;
    return by_token(mix(qc, kc, vc, decays(slopes, false), false), q.size(1)) * scale;
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &slopes = saved[3];
    const int64_t length = grads[0].size(1);
    const Tensor g = by_chunk((grads[0] * ctx->saved_data["scale"].toDouble()).to(q.scalar_type()));
    const Decays back = decays(slopes, true);
    return {by_token(mix(g, v, k, decays(slopes, false), false), length),
            by_token(mix(v, g, q, back, true), length),
            by_token(mix(k, q, g, back, true), length),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor lightning(const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<double>& slopes, double scale, torch::ScalarType type) {
  const Tensor s = torch::tensor(slopes, torch::kDouble).to(q.device(), q.scalar_type());
  return Lightning::apply(q, k, v, s, scale, static_cast<int64_t>(type));
}

}  // namespace sala::halo
