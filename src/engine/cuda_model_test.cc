// Whole models on the CUDA backend's kernels, under emulation: the logits of the CPU within a
// bound, and those of one prompt whatever the pieces it is read in.
#include <gtest/gtest.h>

#include <random>

#include "cpu/device.h"
#include "cuda/device.h"
#include "engine/runner.h"
#include "engine/testing.h"

namespace sala {
namespace {

using testing::RandomWeights;

struct Case {
  StoredType weights;
  ComputeMode compute;
  KvType kv;
  SparsePolicy policy;
  double bound;
};

class CudaModel : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kTokens = 150;

  CudaModel() {
    RandomWeights weights(config_, GetParam().weights, 5);
    WeightSource source = weights.source();
    model_ = std::make_unique<Model>(config_, source);
    std::mt19937 random(3);
    for (int i = 0; i < kTokens; ++i) prompt_.push_back(static_cast<int>(random() % 61));
  }

  /// Logits of every token, the prompt fed in pieces of at most `piece`.
  std::vector<float> run(Device& device, int64_t piece) {
    RunOptions o;
    o.compute = GetParam().compute;
    o.kv = GetParam().kv;
    o.sparse = GetParam().policy;
    o.chunk = static_cast<int>(kTokens);
    o.logits = kTokens;
    o.context = kTokens;
    Runner runner(*model_, device, o);
    Hold hold = runner.open();
    std::vector<float> all;
    for (int64_t at = 0; at < kTokens; at += piece) {
      const int64_t count = std::min(piece, kTokens - at);
      Runner::Row row{
          .hold = hold,
          .tokens = std::span(prompt_).subspan(static_cast<size_t>(at), static_cast<size_t>(count)),
          .logits = count};
      const In logits = runner.step({&row, 1});
      all.insert(all.end(), logits.as<float>(), logits.as<float>() + logits.size());
    }
    return all;
  }

  ModelConfig config_ = testing::tiny_sala();
  std::unique_ptr<Model> model_;
  std::vector<int> prompt_;
};

TEST_P(CudaModel, HasTheLogitsOfTheCpuInPiecesOfAnySize) {
  const auto cpu = open_cpu(1);
  const std::vector<float> expected = run(*cpu, kTokens);
  float largest = 0;
  for (const float x : expected) largest = std::max(largest, std::abs(x));
  for (const int64_t piece : {kTokens, int64_t{37}, int64_t{1}}) {
    const auto device = open_cuda();
    const std::vector<float> logits = run(*device, piece);
    ASSERT_EQ(logits.size(), expected.size());
    double worst = 0;
    for (size_t i = 0; i < expected.size(); ++i)
      worst = std::max<double>(worst, std::abs(logits[i] - expected[i]));
    EXPECT_LE(worst, GetParam().bound * largest) << "pieces of " << piece;
  }
}

std::vector<Case> cases() {
  using enum SparsePolicy;
  return {{StoredType::f32, ComputeMode::f32, KvType::f32, always, 1e-5},
          {StoredType::f32, ComputeMode::f32, KvType::f32, dense, 1e-5},
          {StoredType::f32, ComputeMode::f32, KvType::int8, always, 1e-5},
          {StoredType::f32, ComputeMode::f32, KvType::int4, per_query, 1e-5},
          // Rounding of codes and bf16 differs where sums differ in their last bit, and with sparse
          // attention a block may then be another: dense, and a bound of a few such roundings.
          {StoredType::bf16, ComputeMode::bf16, KvType::bf16, dense, 4e-2},
          {StoredType::q8_0, ComputeMode::int8, KvType::bf16, dense, 4e-2},
          {StoredType::q4_1, ComputeMode::int8, KvType::bf16, dense, 4e-2}};
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  constexpr const char* computes[] = {"auto", "f32", "bf16", "int8"};
  constexpr const char* policies[] = {"always", "perquery", "hf", "dense"};
  return fmt::format("{}_{}_{}_{}", name_of(info.param.weights),
                     computes[static_cast<int>(info.param.compute)], name_of(info.param.kv),
                     policies[static_cast<int>(info.param.policy)]);
}

INSTANTIATE_TEST_SUITE_P(Modes, CudaModel, ::testing::ValuesIn(cases()), case_name);

}  // namespace
}  // namespace sala
