#include "optimizer.h"

#include <cmath>
#include <numbers>

#include "base/error.h"

namespace sala::halo {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.95, kEpsilon = 1e-8, kClip = 1.0;

}  // namespace

double Schedule::at(int64_t step) const {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done = static_cast<double>(step - warmup) /
                      static_cast<double>(std::max<int64_t>(1, steps - warmup));
  return last + (peak - last) * 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(1.0, done)));
}

AdamW::AdamW(const Weights& trained, double weight_decay) : weight_decay_(weight_decay) {
  for (const auto& [name, weight] : trained) {
    Tensor leaf = weight;
    leaf.requires_grad_(true);
    slots_.push_back({name, leaf, torch::zeros_like(leaf), torch::zeros_like(leaf)});
    slots_.back().mean.requires_grad_(false);
    slots_.back().square.requires_grad_(false);
  }
}

double AdamW::step(double learning_rate) {
  const torch::NoGradGuard no_grad;
  Tensor sum;
  for (const Slot& slot : slots_) {
    if (!slot.weight.grad().defined()) continue;
    const Tensor square = slot.weight.grad().square().sum();
    sum = sum.defined() ? sum + square : square;
  }
  SALA_CHECK(sum.defined(), "a step without gradients");
  const double norm = std::sqrt(sum.item<double>());
  const double scale = norm > kClip ? kClip / norm : 1.0;
  ++steps_;
  const double correction1 = 1.0 - std::pow(kBeta1, static_cast<double>(steps_));
  const double correction2 = 1.0 - std::pow(kBeta2, static_cast<double>(steps_));
  for (Slot& slot : slots_) {
    Tensor& gradient = slot.weight.mutable_grad();
    if (!gradient.defined()) continue;
    gradient.mul_(scale);
    slot.mean.mul_(kBeta1).add_(gradient, 1.0 - kBeta1);
    slot.square.mul_(kBeta2).addcmul_(gradient, gradient, 1.0 - kBeta2);
    if (slot.weight.dim() > 1) slot.weight.mul_(1.0 - learning_rate * weight_decay_);
    const Tensor root = (slot.square / correction2).sqrt_().add_(kEpsilon);
    slot.weight.addcdiv_(slot.mean, root, -learning_rate / correction1);
    gradient = Tensor();
  }
  return norm;
}

Weights AdamW::state() const {
  Weights state = {{"optimizer.steps", torch::tensor({steps_}, torch::kLong)}};
  for (const Slot& slot : slots_) {
    state["weight." + slot.name] = slot.weight.detach();
    state["mean." + slot.name] = slot.mean;
    state["square." + slot.name] = slot.square;
  }
  return state;
}

void AdamW::load(const Weights& state, const std::string& file) {
  const torch::NoGradGuard no_grad;
  const auto find = [&](const std::string& name) {
    const auto found = state.find(name);
    if (found == state.end())
      fail("{}: {} is missing: the file belongs to another model; remove it to start again", file,
           name);
    return found->second;
  };
  steps_ = find("optimizer.steps").item<int64_t>();
  for (Slot& slot : slots_) {
    slot.weight.copy_(find("weight." + slot.name));
    slot.mean.copy_(find("mean." + slot.name));
    slot.square.copy_(find("square." + slot.name));
  }
}

}  // namespace sala::halo
