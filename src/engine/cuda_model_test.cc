// Whole models on the CUDA backend's kernels, under emulation: the logits of the CPU within a
// bound, and those of one prompt whatever the pieces it is read in.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cpu/device.h"
#include "cuda/device.h"
#include "engine/runner.h"
#include "engine/testing.h"

namespace sala {
namespace {

struct Case {
  testing::Mode mode;
  double bound;  ///< of the largest logit
};

class CudaModel : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kTokens = 150;

  /// Logits of every token, the prompt fed in pieces of at most `piece`.
  std::vector<float> run(Device& device, int64_t piece) {
    RunOptions o;
    o.compute = GetParam().mode.compute;
    o.kv = GetParam().mode.kv;
    o.sparse = GetParam().mode.policy;
    o.chunk = static_cast<int>(kTokens);
    o.logits = kTokens;
    o.context = kTokens;
    const auto model =
        testing::random_model(testing::tiny_sala(), GetParam().mode.weights, &device);
    Runner runner(*model, device, o);
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

  const std::vector<int> prompt_ = testing::random_text(kTokens);
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
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(logits[i], expected[i], GetParam().bound * largest)
          << "pieces of " << piece << ", token " << i / 61;
  }
}

std::vector<Case> cases() {
  using enum SparsePolicy;
  return {{{StoredType::f32, ComputeMode::f32, KvType::f32, always}, 1e-5},
          {{StoredType::f32, ComputeMode::f32, KvType::f32, dense}, 1e-5},
          {{StoredType::f32, ComputeMode::f32, KvType::int8, always}, 1e-5},
          {{StoredType::f32, ComputeMode::f32, KvType::int4, per_query}, 1e-5},
          // Rounding of codes and bf16 differs where sums differ in their last bit, and with sparse
          // attention a block may then be another: dense, and a bound of a few such roundings.
          {{StoredType::bf16, ComputeMode::bf16, KvType::bf16, dense}, 4e-2},
          {{StoredType::q8_0, ComputeMode::int8, KvType::bf16, dense}, 4e-2},
          {{StoredType::q4_1, ComputeMode::int8, KvType::bf16, dense}, 4e-2}};
}

INSTANTIATE_TEST_SUITE_P(Modes, CudaModel, ::testing::ValuesIn(cases()),
                         [](const auto& tested) { return tested.param.mode.name(); });

}  // namespace
}  // namespace sala
