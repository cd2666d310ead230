// The promise that everything later stands on: on the cpu backend a token's logits depend on the
// tokens before it and on nothing else, bit for bit: not on how the prompt was cut, on who else is
// in the batch, nor on the number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/runner.h"
#include "engine/testing.h"

namespace sala {
namespace {

using testing::Mode;

class Invariance : public ::testing::TestWithParam<Mode> {
 protected:
  static constexpr int kTokens = 230;

  RunOptions options(int threads, int sequences, int64_t context) const {
    RunOptions o;
    o.threads = threads;
    o.compute = GetParam().compute;
    o.kv = GetParam().kv;
    o.sparse = GetParam().policy;
    o.chunk = kTokens * sequences;
    o.context = context;
    o.sequences = sequences;
    o.logits = kTokens * sequences;
    return o;
  }

  /// Logits of every token, the prompt fed in pieces of the given sizes.
  std::vector<float> run(const std::vector<int>& pieces, int threads) {
    const RunOptions o = options(threads, 1, kTokens);
    const auto device = open_device(o);
    Runner runner(*model_, *device, o);
    Hold hold = runner.open();
    std::vector<float> all;
    size_t at = 0;
    for (const int piece : pieces) {
      Runner::Row row{.hold = hold,
                      .tokens = std::span(prompt_).subspan(at, static_cast<size_t>(piece)),
                      .logits = piece};
      append(all, runner.step({&row, 1}));
      at += static_cast<size_t>(piece);
    }
    EXPECT_EQ(at, prompt_.size());
    return all;
  }

  static void append(std::vector<float>& all, In logits) {
    all.insert(all.end(), logits.as<float>(), logits.as<float>() + logits.size());
  }

  static void expect_same(const std::vector<float>& a, const std::vector<float>& b,
                          const std::string& what) {
    ASSERT_EQ(a.size(), b.size()) << what;
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
          << what << ": position " << i / 61 << " token " << i % 61 << ": " << a[i] << " and "
          << b[i];
  }

  const std::unique_ptr<Model> model_ =
      testing::random_model(testing::tiny_sala(), GetParam().weights);
  const std::vector<int> prompt_ = testing::random_text(kTokens);
};

TEST_P(Invariance, OneShotEqualsPiecesAndThreads) {
  const std::vector<float> whole = run({kTokens}, 1);
  for (const float x : whole) ASSERT_TRUE(std::isfinite(x));
  expect_same(whole, run({kTokens}, 3), "three threads");
  expect_same(whole, run(std::vector<int>(kTokens, 1), 2), "token by token");
  expect_same(whole, run({64, 64, 64, 38}, 2), "pieces of 64");
  std::mt19937 random(11);
  for (int round = 0; round < 4; ++round) {
    std::vector<int> pieces;
    for (int left = kTokens; left > 0; left -= pieces.back())
      pieces.push_back(
          std::min<int>(left, 1 + static_cast<int>(random() % (round % 2 == 0 ? 9 : 90))));
    expect_same(whole, run(pieces, 1 + round % 3), fmt::format("random pieces, round {}", round));
  }
}

TEST_P(Invariance, AloneEqualsAmongStrangers) {
  const std::vector<float> alone = run({kTokens}, 2);
  constexpr int kSequences = 4;
  const RunOptions o = options(2, kSequences, kTokens * kSequences);
  const auto device = open_device(o);
  Runner runner(*model_, *device, o);
  std::mt19937 random(17);
  std::vector<std::vector<int>> texts(kSequences, prompt_);
  for (size_t s = 1; s < texts.size(); ++s)
    for (int& token : texts[s]) token = static_cast<int>(random() % 61);
  std::vector<Hold> holds;
  for (int s = 0; s < kSequences; ++s) holds.push_back(runner.open());
  std::vector<size_t> at(kSequences, 0);
  std::vector<float> among;
  while (at[0] < prompt_.size()) {
    std::vector<Runner::Row> rows;
    std::vector<size_t> order = {0, 1, 2, 3};
    std::ranges::shuffle(order, random);
    size_t before = 0, mine = 0, rows_before = 0;
    for (const size_t s : order) {
      const size_t left = texts[s].size() - at[s];
      const size_t count = std::min<size_t>(left, random() % 3 == 0 ? 1 : random() % 40);
      if (count == 0) continue;
      if (s == 0) {
        rows_before = before;
        mine = count;
      }
      rows.push_back({.hold = holds[s],
                      .tokens = std::span(texts[s]).subspan(at[s], count),
                      .logits = static_cast<int64_t>(count)});
      at[s] += count;
      before += count;
    }
    if (rows.empty()) continue;
    const In logits = runner.step(rows);
    if (mine > 0)
      append(among,
             sala::rows(logits, static_cast<int64_t>(rows_before), static_cast<int64_t>(mine)));
  }
  expect_same(alone, among, "among three strangers");
}

std::vector<Mode> modes() {
  std::vector<Mode> all;
  for (const SparsePolicy policy :
       {SparsePolicy::always, SparsePolicy::per_query, SparsePolicy::dense}) {
    all.push_back({StoredType::f32, ComputeMode::f32, KvType::f32, policy});
    all.push_back({StoredType::bf16, ComputeMode::automatic, KvType::bf16, policy});
    all.push_back({StoredType::bf16, ComputeMode::automatic, KvType::int8, policy});
    all.push_back({StoredType::f32, ComputeMode::f32, KvType::int4, policy});
  }
  for (const ComputeMode compute : {ComputeMode::f32, ComputeMode::bf16, ComputeMode::int8}) {
    for (const StoredType weights :
         {StoredType::f32, StoredType::bf16, StoredType::q8_0, StoredType::q4_1})
      all.push_back({weights, compute, KvType::bf16, SparsePolicy::always});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Modes, Invariance, ::testing::ValuesIn(modes()),
                         [](const auto& tested) { return tested.param.name(); });

TEST(Backends, CpuEqualsReferenceWithinRounding) {
  for (const SparsePolicy policy :
       {SparsePolicy::always, SparsePolicy::per_query, SparsePolicy::dense}) {
    const auto model = testing::random_model(testing::tiny_sala(), StoredType::f32, nullptr, 9);
    const std::vector<int> prompt = testing::random_text(180, 4);
    std::vector<std::vector<float>> results;
    for (const char* backend : {"reference", "cpu"}) {
      RunOptions o;
      o.backend = backend;
      o.compute = ComputeMode::f32;
      o.kv = KvType::f32;
      o.sparse = policy;
      o.context = o.logits = 180;
      const auto device = open_device(o);
      Runner runner(*model, *device, o);
      Hold hold = runner.open();
      std::vector<float>& all = results.emplace_back();
      runner.read(hold, prompt, {.wanted = 180, .on_logits = [&](In logits) {
                                   all.insert(all.end(), logits.as<float>(),
                                              logits.as<float>() + logits.size());
                                 }});
    }
    double worst = 0.0;
    for (size_t t = 0; t < 180; ++t) {
      double error = 0.0, norm = 0.0;
      for (size_t i = t * 61; i < (t + 1) * 61; ++i) {
        error += std::pow(results[0][i] - results[1][i], 2.0);
        norm += std::pow(results[0][i], 2.0);
      }
      worst = std::max(worst, std::sqrt(error / norm));
    }
    EXPECT_LT(worst, 1e-4) << "policy " << static_cast<int>(policy);
  }
}

}  // namespace
}  // namespace sala
