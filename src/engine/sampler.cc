#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace sala {

double uniform(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

int sample(std::span<const float> logits, const SamplingParams& params, uint64_t index) {
  SALA_CHECK(!logits.empty(), "no logits");
  const auto best = static_cast<int>(std::ranges::max_element(logits) - logits.begin());
  if (params.temperature <= 0.0) return best;

  const double largest = logits[static_cast<size_t>(best)];
  std::vector<double> weight(logits.size());
  double total = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    weight[i] = std::exp((static_cast<double>(logits[i]) - largest) / params.temperature);
    total += weight[i];
  }
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](int a, int b) {
    const double wa = weight[static_cast<size_t>(a)], wb = weight[static_cast<size_t>(b)];
    return wa != wb ? wa > wb : a < b;
  });
  double kept = 0.0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < params.top_p * total))
    kept += weight[static_cast<size_t>(order[count++])];
  double left = uniform(params.seed, index) * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= weight[static_cast<size_t>(order[i])];
    if (left < 0.0) return order[i];
  }
  return order[count - 1];
}

}  // namespace sala
