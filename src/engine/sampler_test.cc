#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "base/error.h"

namespace sala {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(size_t vocab, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(vocab);
  for (float& x : logits) x = normal(random);
  return logits;
}

int sample_at(std::span<const float> logits, SamplingParams params, uint64_t index) {
  params.seed += 1000 * index;
  return Sampler(params, static_cast<int64_t>(logits.size())).sample(logits);
}

void sort_falling(std::vector<int>& tokens, const std::vector<float>& logits) {
  std::ranges::sort(tokens, [&](int a, int b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
}

/// What docs/sampling.md says, step by step over the whole vocabulary: token to probability.
std::map<int, double> oracle(std::vector<float> logits, const SamplingParams& p,
                             const std::vector<int>& prompt = {},
                             const std::vector<int>& reply = {}) {
  for (const auto& [token, bias] : p.logit_bias)
    logits[static_cast<size_t>(token)] =
        static_cast<float>(logits[static_cast<size_t>(token)] + bias);
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto times = [&](const std::vector<int>& in) {
      return static_cast<double>(std::ranges::count(in, static_cast<int>(i)));
    };
    double x = logits[i];
    if (times(prompt) + times(reply) > 0)
      x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    x -= p.frequency_penalty * times(reply);
    if (times(reply) > 0) x -= p.presence_penalty;
    logits[i] = static_cast<float>(x);
  }
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  sort_falling(order, logits);
  if (p.temperature == 0.0) return {{order.front(), 1.0}};
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < order.size())
    order.resize(static_cast<size_t>(p.top_k));
  std::vector<double> weight;
  for (const int token : order)
    weight.push_back(std::exp(
        (double{logits[static_cast<size_t>(token)]} - logits[static_cast<size_t>(order[0])]) /
        p.temperature));
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  std::map<int, double> kept;
  double mass = 0.0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && ((p.top_p < 1.0 && mass >= p.top_p * total) || weight[i] < p.min_p)) break;
    kept[order[i]] = weight[i];
    mass += weight[i];
  }
  for (auto& [token, w] : kept) w /= mass;
  return kept;
}

/// Pearson's statistic of `draws` draws; tokens expected less than 5 times count as one. Fails when
/// a token comes that may not, or when chi-square is beyond its mean by six standard deviations
/// (seeds are fixed, so this never happens by chance later).
void expect_distribution(const std::map<int, double>& expected, const std::map<int, int>& counts,
                         int draws) {
  double statistic = 0.0, rest_expected = 0.0;
  int cells = 0, rest = 0;
  for (const auto& [token, count] : counts)
    ASSERT_TRUE(expected.contains(token)) << "token " << token << " came " << count << " times";
  for (const auto& [token, p] : expected) {
    const int count = counts.contains(token) ? counts.at(token) : 0;
    if (p * draws < 5) {
      rest_expected += p * draws;
      rest += count;
      continue;
    }
    statistic += (count - p * draws) * (count - p * draws) / (p * draws);
    ++cells;
  }
  if (rest_expected >= 5) {
    statistic += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
    ++cells;
  }
  const double freedom = std::max(1, cells - 1);
  EXPECT_LT(statistic, freedom + 6 * std::sqrt(2 * freedom)) << cells << " cells";
}

void expect_follows_oracle(const std::vector<float>& logits, const SamplingParams& params,
                           const std::vector<int>& prompt = {}, const std::vector<int>& reply = {},
                           int draws = 4000) {
  const auto expected = oracle(logits, params, prompt, reply);
  std::map<int, int> counts;
  for (int i = 0; i < draws; ++i) {
    SamplingParams p = params;
    p.seed = static_cast<uint64_t>(i) * 77 + 5;
    Sampler sampler(p, static_cast<int64_t>(logits.size()));
    sampler.see_prompt(prompt);
    for (const int token : reply) sampler.accept(token);
    ++counts[sampler.sample(logits)];
  }
  expect_distribution(expected, counts, draws);
}

TEST(Sampler, ExponentialIsThatOfTheLibrary) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponents(-699.0, 0.0);
  for (int i = 0; i < 200000; ++i) {
    const double x = i % 2 == 0 ? exponents(random) : exponents(random) / 700.0;
    ASSERT_NEAR(exponential(x) / std::exp(x), 1.0, 5e-16) << x;
  }
  EXPECT_EQ(exponential(0.0), 1.0);
  EXPECT_EQ(exponential(-0.0), 1.0);
}

TEST(Sampler, ExponentialHasTheseBits) {
  EXPECT_EQ(exponential(-1.0), 0x1.78b56362cef38p-2);
  EXPECT_EQ(exponential(-0.3), 0x1.7b4c869c37c05p-1);
  EXPECT_EQ(exponential(-50.25), 0x1.6b30390494d8ep-73);
}

TEST(Sampler, ADrawIsAFunctionOfSeedAndIndex) {
  EXPECT_EQ(uniform(0, 0), 0x1.c4415072f63b9p-1);
  EXPECT_EQ(uniform(7, 3), uniform(7, 3));
  EXPECT_NE(uniform(7, 3), uniform(7, 4));
  EXPECT_NE(uniform(7, 3), uniform(8, 3));
  double mean = 0.0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = uniform(42, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    mean += u / 10000;
  }
  EXPECT_NEAR(mean, 0.5, 0.02);

  const std::vector<float> logits = random_logits(500, 3, 1.0f);
  const SamplingParams params{.temperature = 1.5, .top_p = 1.0, .seed = 11};
  Sampler first(params, 500), second(params, 500);
  std::vector<int> tokens;
  for (int i = 0; i < 50; ++i) {
    tokens.push_back(first.sample(logits));
    EXPECT_EQ(first.sample(logits), tokens.back()) << "asked twice";
    first.accept(tokens.back());
  }
  // What else the second one saw between its draws does not matter.
  for (int i = 0; i < 50; ++i) {
    second.logprobs(random_logits(500, static_cast<uint32_t>(i), 3.0f), 0, 3);
    ASSERT_EQ(second.sample(logits), tokens[static_cast<size_t>(i)]) << i;
    second.accept(tokens[static_cast<size_t>(i)]);
  }
  std::ranges::sort(tokens);
  EXPECT_GT(std::ranges::unique(tokens).begin() - tokens.begin(), 20) << "draws differ";
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(sample_at(std::vector{0.0f, 3.0f, 3.0f, -1.0f}, {.temperature = 0.0}, 0), 1);
  std::vector<float> logits(1000, -5.0f);
  EXPECT_EQ(sample_at(logits, {.temperature = 0.0}, 0), 0);
  logits[999] = logits[998] = -4.0f;
  EXPECT_EQ(sample_at(logits, {.temperature = 0.0}, 0), 998);
}

TEST(Sampler, EachCutFollowsTheOracle) {
  for (const float spread : {0.5f, 3.0f}) {
    const std::vector<float> logits = random_logits(300, 8, spread);
    for (const double temperature : {0.3, 1.0, 2.0}) {
      expect_follows_oracle(logits, {.temperature = temperature, .top_p = 1.0});
      expect_follows_oracle(logits, {.temperature = temperature, .top_k = 7, .top_p = 1.0});
      expect_follows_oracle(logits, {.temperature = temperature, .top_p = 0.6});
      expect_follows_oracle(logits, {.temperature = temperature, .top_p = 1.0, .min_p = 0.1});
      expect_follows_oracle(logits,
                            {.temperature = temperature, .top_k = 40, .top_p = 0.8, .min_p = 0.05});
    }
  }
}

TEST(Sampler, PenaltiesAndBiasFollowTheOracle) {
  const std::vector<float> logits = random_logits(60, 4, 1.5f);
  const std::vector<int> prompt = {1, 5, 5, 9, 30, 31, 32, 33}, reply = {9, 9, 9, 2, 7};
  const SamplingParams base{.temperature = 1.0, .top_p = 1.0};
  const auto with = [&](auto change) {
    SamplingParams p = base;
    change(p);
    expect_follows_oracle(logits, p, prompt, reply);
  };
  with([](SamplingParams& p) { p.repetition_penalty = 1.8; });
  with([](SamplingParams& p) { p.presence_penalty = 1.2; });
  with([](SamplingParams& p) { p.frequency_penalty = -0.6; });
  with([](SamplingParams& p) { p.logit_bias = {{3, 2.5}, {9, -100.0}, {3, 0.5}}; });
  with([](SamplingParams& p) {
    p = {.temperature = 0.7,
         .top_k = 20,
         .top_p = 0.9,
         .min_p = 0.02,
         .repetition_penalty = 1.3,
         .presence_penalty = 0.4,
         .frequency_penalty = 0.3,
         .logit_bias = {{9, 3.0}, {40, 1.0}}};
  });
}

TEST(Sampler, BiasForcesAndBans) {
  const std::vector<float> logits = random_logits(50, 6, 2.0f);
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(sample_at(logits, {.temperature = 1.0, .logit_bias = {{17, 100.0}}}, i), 17);
    EXPECT_NE(
        sample_at(std::vector{0.0f, 1.0f}, {.temperature = 1.0, .logit_bias = {{1, -100.0}}}, i),
        1);
  }
  EXPECT_EQ(sample_at(logits, {.temperature = 0.0, .logit_bias = {{17, 100.0}}}, 0), 17);
}

TEST(Sampler, TiesGoToTheLowestId) {
  const std::vector<float> equal(1000, 1.0f);
  std::map<int, int> counts;
  for (uint64_t i = 0; i < 3000; ++i)
    ++counts[sample_at(equal, {.temperature = 1.0, .top_k = 3, .top_p = 1.0}, i)];
  EXPECT_EQ(counts.size(), 3u);
  EXPECT_EQ(counts.rbegin()->first, 2);
  counts.clear();
  for (uint64_t i = 0; i < 3000; ++i)  // a half of 1000 equal tokens is exactly 500
    ++counts[sample_at(equal, {.temperature = 1.0, .top_p = 0.5}, i)];
  EXPECT_EQ(counts.rbegin()->first, 499);
  EXPECT_GT(counts.size(), 480u);
  // Equal to the most likely one is not less likely.
  counts.clear();
  for (uint64_t i = 0; i < 200; ++i)
    ++counts[sample_at(std::vector{2.0f, 1.9f, 2.0f},
                       {.temperature = 1.0, .top_p = 1.0, .min_p = 1.0}, i)];
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_FALSE(counts.contains(1));
}

TEST(Sampler, ExtremesLeaveOneTokenAtLeast) {
  const std::vector<float> logits = random_logits(200, 2, 1.0f);
  const auto best = static_cast<int>(std::ranges::max_element(logits) - logits.begin());
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(sample_at(logits, {.temperature = 1.0, .top_p = 0.0}, i), best);
    EXPECT_EQ(sample_at(logits, {.temperature = 1.0, .top_k = 1}, i), best);
    EXPECT_EQ(sample_at(logits, {.temperature = 1.0, .top_p = 1.0, .min_p = 1.0}, i), best);
    EXPECT_EQ(sample_at(logits, {.temperature = 1e-6}, i), best);
    EXPECT_EQ(sample_at(logits, {.temperature = 1e-4, .top_p = 1.0}, i), best);
    EXPECT_EQ(sample_at(std::vector{-2.0f}, {.temperature = 1.0}, i), 0);
    EXPECT_EQ(sample_at(std::vector{-kInfinity, 3e38f, -3e38f}, {.temperature = 100.0}, i), 1);
  }
}

TEST(Sampler, BannedTokensNeverCome) {
  std::vector<float> logits(400, -kInfinity);
  logits[3] = 0.0f;
  logits[399] = 1.0f;
  for (const int64_t top_k : {0, 50})
    expect_follows_oracle(logits, {.temperature = 1.0, .top_k = top_k, .top_p = 1.0}, {}, {}, 500);
  logits[3] = logits[399] = -kInfinity;
  EXPECT_THROW(sample_at(logits, {.temperature = 1.0}, 0), Error);
  EXPECT_THROW(sample_at(logits, {.temperature = 0.0}, 0), Error);
}

TEST(Sampler, DamagedLogitsAreAnError) {
  for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity}) {
    for (const size_t at : {0u, 7u, 63u, 99u}) {
      std::vector<float> logits = random_logits(100, 1, 1.0f);
      logits[at] = bad;
      for (const double temperature : {0.0, 1.0}) {
        try {
          sample_at(logits, {.temperature = temperature}, 0);
          FAIL() << bad << " at " << at;
        } catch (const Error& e) {
          EXPECT_NE(std::string(e.what()).find(fmt::format("id {}:", at)), std::string::npos)
              << e.what();
        }
      }
    }
  }
}

TEST(Sampler, ParametersOutOfRangeAreErrors) {
  const double nan = std::nan("");
  const std::vector<std::pair<std::string, SamplingParams>> wrong = {
      {"temperature", {.temperature = -1.0}},
      {"temperature", {.temperature = nan}},
      {"top_k", {.top_k = -1}},
      {"top_p", {.top_p = 1.1}},
      {"min_p", {.min_p = -0.1}},
      {"repetition_penalty", {.repetition_penalty = 0.0}},
      {"presence_penalty", {.presence_penalty = nan}},
      {"frequency_penalty", {.frequency_penalty = HUGE_VAL}},
      {"logit_bias", {.logit_bias = {{10, 1.0}}}},
      {"logit_bias", {.logit_bias = {{-1, 1.0}}}},
      {"logit_bias", {.logit_bias = {{1, nan}}}},
  };
  for (const auto& [name, params] : wrong) {
    try {
      Sampler(params, 10);
      FAIL() << name;
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).find(name), 0u) << e.what();
    }
  }
}

TEST(FallingOrder, IsThatOfASort) {
  FallingOrder order;
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const size_t vocab = 1 + random() % 3000;
    std::vector<float> logits =
        random_logits(vocab, static_cast<uint32_t>(round), round % 3 == 0 ? 0.01f : 4.0f);
    if (round % 2 == 0)  // ties
      for (float& x : logits) x = std::round(x * 4) / 4;
    if (round % 5 == 0) logits[random() % vocab] = -kInfinity;
    std::vector<int> expected;
    for (size_t i = 0; i < vocab; ++i)
      if (logits[i] > -kInfinity) expected.push_back(static_cast<int>(i));
    sort_falling(expected, logits);
    if (expected.empty()) continue;
    order.start(logits, logits[static_cast<size_t>(expected[0])], round % 7 == 0 ? 1e-5 : 2.0);
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto* entry = order.at(i);
      ASSERT_NE(entry, nullptr) << i << " of " << expected.size();
      ASSERT_EQ(entry->token, expected[i]) << i;
      ASSERT_EQ(entry->logit, logits[static_cast<size_t>(expected[i])]);
    }
    ASSERT_EQ(order.at(expected.size()), nullptr);
  }
}

TEST(Sampler, LogprobsAreThoseOfTheRawLogits) {
  const std::vector<float> logits = random_logits(700, 12, 3.0f);
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(double{x});
  Sampler sampler(
      {.temperature = 0.1, .top_k = 2, .presence_penalty = 3.0, .logit_bias = {{5, 9.0}}}, 700);
  sampler.accept(4);
  const Logprobs found = sampler.logprobs(logits, 5, 4);
  EXPECT_EQ(found.chosen.token, 5);
  EXPECT_NEAR(found.chosen.logprob, logits[5] - std::log(sum), 1e-12);
  ASSERT_EQ(found.top.size(), 4u);
  const auto expected = oracle(logits, {.temperature = 1.0, .top_k = 4, .top_p = 1.0});
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(expected.contains(found.top[i].token));
    EXPECT_NEAR(found.top[i].logprob,
                logits[static_cast<size_t>(found.top[i].token)] - std::log(sum), 1e-12);
    EXPECT_LE(found.top[i].logprob, found.top[i > 0 ? i - 1 : 0].logprob);
  }
  EXPECT_EQ(sampler.logprobs(logits, 5, 0).top.size(), 0u);
  EXPECT_EQ(sampler.logprobs(logits, 5, 10000).top.size(), 700u);
}

}  // namespace
}  // namespace sala
