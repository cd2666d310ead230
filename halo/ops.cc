#include "ops.h"

namespace sala::halo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, double eps) {
    const Tensor r = x.square().mean(-1, true).add_(eps).rsqrt_();
    const Tensor y = x * r;
    ctx->save_for_backward({y, r, w});
    return y * w;
  }

  // With y = x r: dx = r (g - y mean(g y)) where g = w dz.
  static tensor_list backward(AutogradContext* ctx, const tensor_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& y = saved[0];
    const Tensor& dz = grads[0];
    const Tensor g = dz * saved[2];
    const Tensor dx = g.addcmul(y, (g * y).mean(-1, true), -1.0).mul_(saved[1]);
    const Tensor dw = (dz * y).reshape({-1, y.size(-1)}).sum(0);
    return {dx, dw, Tensor()};
  }
};

struct Linear : Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, int64_t type) {
    const auto rounded = static_cast<torch::ScalarType>(type);
    const Tensor a = x.reshape({-1, x.size(-1)}).to(rounded), b = w.to(rounded);
    ctx->save_for_backward({a, b});
    auto shape = x.sizes().vec();
    shape.back() = w.size(0);
    return torch::mm(a, b.t()).to(x.scalar_type()).view(shape);
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& dy = grads[0];
    const Tensor g = dy.reshape({-1, dy.size(-1)}).to(saved[0].scalar_type());
    auto shape = dy.sizes().vec();
    shape.back() = saved[0].size(-1);
    Tensor dx, dw;
    if (ctx->needs_input_grad(0)) dx = torch::mm(g, saved[1]).to(dy.scalar_type()).view(shape);
    if (ctx->needs_input_grad(1)) dw = torch::mm(g.t(), saved[0]).to(dy.scalar_type());
    return {dx, dw, Tensor()};
  }
};

/// A turn by the angles of the tables; the turn back is the one with -sin.
Tensor turn(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  const Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  const Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);  // [T, 1, d/2]
  return torch::cat({(a * c).addcmul_(b, s, -1.0), (b * c).addcmul_(a, s)}, -1);
}

struct Rope : Function<Rope> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cos,
                        const Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return turn(x, cos, sin);
  }

  static tensor_list backward(AutogradContext* ctx, const tensor_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {turn(grads[0], saved[0], -saved[1]), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& w, double eps) { return RmsNorm::apply(x, w, eps); }

Tensor linear(const Tensor& x, const Tensor& w, torch::ScalarType type) {
  return Linear::apply(x, w, static_cast<int64_t>(type));
}

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  return Rope::apply(x, cos, sin);
}

}  // namespace sala::halo
