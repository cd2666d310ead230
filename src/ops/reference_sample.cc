#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "ops/reference.h"

namespace sala::reference {
namespace {

/// The whole order, and a walk along it for each cut.
int32_t sample_row(std::span<const float> logits, const SampleRow& row) {
  if (!std::ranges::all_of(logits, [](float x) { return x < HUGE_VALF; })) return kNoToken;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](int32_t x, int32_t y) {
    return logits[x] != logits[y] ? logits[x] > logits[y] : x < y;
  });
  const float largest = logits[order[0]];
  if (largest == -HUGE_VALF) return kNoToken;
  if (row.temperature < kGreedyBelow) return order[0];

  const TokenWeights weight{.largest = largest, .scale = 1.0 / row.temperature};
  std::vector<uint64_t> weights;
  for (const int32_t token : order) weights.push_back(weight(logits[token]));
  const auto mass = [&](size_t count) {
    return std::accumulate(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(count),
                           uint64_t{0});
  };
  size_t count = order.size();
  if (row.top_k > 0) count = std::min(count, static_cast<size_t>(row.top_k));
  if (row.top_p < 1) {
    const uint64_t enough = mass_of_top_p(row.top_p, mass(count));
    uint64_t sum = 0;
    for (count = 0; sum < enough; ++count) sum += weights[count];
  }
  while (weights[count - 1] < weight_of_min_p(row.min_p)) --count;

  uint64_t left = place_of_draw(row.draw, mass(count));
  size_t i = 0;
  while (left >= weights[i]) left -= weights[i++];
  return order[i];
}

}  // namespace

void sample(Device&, In logits, In rows, Out tokens) {
  for (int64_t b = 0; b < logits.dim[0]; ++b)
    tokens.as<int32_t>()[b] = sample_row({logits.row<float>(b), static_cast<size_t>(logits.dim[1])},
                                         *reinterpret_cast<const SampleRow*>(rows.row<uint8_t>(b)));
}

}  // namespace sala::reference
