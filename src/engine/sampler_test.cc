#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

namespace sala {
namespace {

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  const std::vector<float> logits = {0.0f, 3.0f, 3.0f, -1.0f};
  EXPECT_EQ(sample(logits, {.temperature = 0.0}, 0), 1);
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f};
  constexpr int kDraws = 20000;
  std::array<int, 3> counts{};
  for (int i = 0; i < kDraws; ++i)
    ++counts[static_cast<size_t>(
        sample(logits, {.temperature = 0.5, .top_p = 1.0, .seed = 9}, static_cast<uint64_t>(i)))];
  double total = 0.0;
  for (const float x : logits) total += std::exp(x / 0.5);
  for (size_t i = 0; i < 3; ++i) {
    const double p = std::exp(logits[i] / 0.5) / total;
    EXPECT_NEAR(counts[i] / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws))
        << "token " << i;
  }
}

TEST(Sampler, TopPLeavesOutTheTail) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  for (uint64_t i = 0; i < 2000; ++i)
    EXPECT_NE(sample(logits, {.temperature = 1.0, .top_p = 0.7, .seed = 1}, i), 2);
  bool second = false;
  for (uint64_t i = 0; i < 2000; ++i)
    second |= sample(logits, {.temperature = 1.0, .top_p = 0.7, .seed = 1}, i) == 1;
  EXPECT_TRUE(second);
}

TEST(Sampler, ADrawIsAFunctionOfSeedAndIndex) {
  EXPECT_EQ(uniform(7, 3), uniform(7, 3));
  EXPECT_NE(uniform(7, 3), uniform(7, 4));
  EXPECT_NE(uniform(7, 3), uniform(8, 3));
  for (uint64_t i = 0; i < 1000; ++i) {
    EXPECT_GE(uniform(42, i), 0.0);
    EXPECT_LT(uniform(42, i), 1.0);
  }
}

}  // namespace
}  // namespace sala
