#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "tensor/tensor.h"

namespace sala {

class Device;

/// How the token of one row is drawn (docs/sampling.md), as it lies in a device's memory.
struct SampleRow {
  double temperature = 0.0;  ///< below kGreedyBelow: the most likely token
  double top_p = 1.0;        ///< in [0, 1]; 1: no cut
  double min_p = 0.0;        ///< in [0, 1]; 0: no cut
  double draw = 0.0;         ///< in [0, 1): the place in the distribution that is drawn
  int64_t top_k = 0;         ///< 0: no cut
};

inline constexpr int kNoToken = -1;  ///< from logits with NaN or +infinity, or all -infinity

/// tokens[b] i32 [B]: what Sampler::sample chooses from logits[b], [B, V] f32, with rows[b]; u8 [B,
/// sizeof(SampleRow)], whose bytes are a SampleRow on a boundary of 8. kNoToken where logits hold
/// NaN or +infinity, or nothing but -infinity. Nothing but the two extents is read on the host.
///
/// Tokens are put in order from the largest logit down, the lower id first among equals. Each has a
/// whole weight (TokenWeights), so that sums of weights are exact and have no order, and every cut
/// keeps a beginning of the order: the longest that all of them allow. The token is the one at
/// which the sum of weights exceeds place_of_draw(draw, sum of what is kept).
void sample(Device& device, In logits, In rows, Out tokens);

/// Temperatures below take the largest logit.
inline constexpr double kGreedyBelow = 1e-5;

/// e^x for x in [-700, 0] within 2 units in the last place. Taylor's series around 0 after the
/// nearest power of two is taken out: additions and multiplications in a fixed order and no library
/// call, so the same bits on every IEEE 754 machine.
constexpr double exponential(double x) {
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const double shifted = x * kLog2e + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln 2 / 2
  const double r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
  const double a = (1.0 / 2 + r * (1.0 / 6)) + r2 * (1.0 / 24 + r * (1.0 / 120));
  const double b = (1.0 / 720 + r * (1.0 / 5040)) + r2 * (1.0 / 40320 + r * (1.0 / 362880));
  const double c =
      (1.0 / 3628800 + r * (1.0 / 39916800)) + r2 * (1.0 / 479001600 + r * (1.0 / 6227020800));
  const double sum = 1.0 + (r + r2 * (a + (r4 * b + r8 * c)));
  return sum * std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
}

/// The weight of the most likely token.
inline constexpr double kUnitWeight = 0x1p40;
/// Tokens whose weights can be summed without overflow.
inline constexpr int64_t kMostVocabulary = int64_t{1} << 23;

/// Weights of a row's tokens: e^((logit - largest) / temperature) in units of 2^-40, to nearest; 0
/// from a distance of about 28.4 on, with which a token is never drawn. They never rise where
/// logits fall: exponents are rounded to multiples of 2^-32, whose exponentials lie further apart
/// than exponential() errs.
struct TokenWeights {
  double largest = 0.0;
  double scale = 0.0;  ///< 1 / temperature

  constexpr uint64_t operator()(float logit) const {
    constexpr double kFarthest = -29.0;
    constexpr double kGrid = 0x1.8p20;  // numbers of its size are multiples of 2^-32
    constexpr double kInteger = 0x1p52;
    const double x = (static_cast<double>(logit) - largest) * scale;
    const double bounded = x > kFarthest ? x : kFarthest;
    const double w = exponential((bounded + kGrid) - kGrid);
    return std::bit_cast<uint64_t>(w * kUnitWeight + kInteger) - std::bit_cast<uint64_t>(kInteger);
  }
};

/// Of at most kMostVocabulary tokens.
uint64_t sum_of_weights(std::span<const float> logits, const TokenWeights& weight);

/// The sum of weights at which top_p < 1 ends its cut of tokens that weigh `mass` > 0 together; at
/// least 1, so that one token is left.
constexpr uint64_t mass_of_top_p(double top_p, uint64_t mass) {
  const double enough = top_p * static_cast<double>(mass);
  auto whole = static_cast<uint64_t>(enough);
  if (static_cast<double>(whole) < enough) ++whole;
  if (whole < 1) return 1;
  return whole < mass ? whole : mass;
}

/// The least weight that min_p keeps; at least 1.
constexpr uint64_t weight_of_min_p(double min_p) {
  return mass_of_top_p(min_p, static_cast<uint64_t>(kUnitWeight));
}

/// Where in tokens that weigh `mass` > 0 together `draw` of [0, 1) falls: in [0, mass).
constexpr uint64_t place_of_draw(double draw, uint64_t mass) {
  const auto place = static_cast<uint64_t>(draw * static_cast<double>(mass));
  return place < mass ? place : mass - 1;
}

}  // namespace sala
