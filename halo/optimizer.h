#pragma once

#include <string>
#include <vector>

#include "decoder.h"

namespace sala::halo {

/// Learning rate: linear from 0 over `warmup` steps to `peak`, then a cosine down to `last` at
/// `steps`.
struct Schedule {
  double peak = 1e-3, last = 1e-5;
  int64_t warmup = 50, steps = 1;
  double at(int64_t step) const;
};

/// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) on f32 master weights, betas 0.9 and 0.95,
/// with the global norm of the gradients clipped to 1. Weight decay concerns matrices only.
class AdamW {
 public:
  /// Makes every tensor of `trained` a leaf that asks for gradients; they are changed in place.
  AdamW(const Weights& trained, double weight_decay);

  /// Takes a step with the gradients that backward passes have summed, and clears them. Gives
  /// their norm before clipping.
  double step(double learning_rate);

  /// Everything that a later run needs to go on: weights and moments, by name.
  Weights state() const;
  void load(const Weights& state, const std::string& file);

 private:
  struct Slot {
    std::string name;
    Tensor weight, mean, square;
  };
  std::vector<Slot> slots_;
  double weight_decay_;
  int64_t steps_ = 0;
};

}  // namespace sala::halo
