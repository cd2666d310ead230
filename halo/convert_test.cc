#include "convert.h"

#include <gtest/gtest.h>

#include "attention.h"
#include "lightning.h"
#include "losses.h"
#include "model/decay.h"
#include "testing.h"

namespace sala::halo {
namespace {

Checkpoint teacher() {
  torch::manual_seed(3);
  const ModelConfig config = small_llama(3);
  return {config, random_weights(config)};
}

TEST(Convert, HeadsAreExpandedInterleaved) {
  const Tensor w = torch::arange(4).view({4, 1});  // two heads of two rows
  EXPECT_TRUE(
      torch::equal(expand_heads(w, 2, 4).view({-1}), torch::tensor({0, 1, 0, 1, 2, 3, 2, 3})));
}

// Stage 0: with the gate at one, no norms and no decay, the converted layer is the grouped layer
// with its softmax replaced by its linear scores.
TEST(Convert, ConvertedLayerIsTheUnexpandedOne) {
  const Checkpoint from = teacher();
  const Checkpoint student = lightning_student(from, 0);
  const AttentionConfig& a = from.config.attention;
  const Tensor x = torch::randn({2, 100, from.config.hidden}, torch::kDouble);
  const auto project = [&](const Checkpoint& model, const char* part, int64_t heads) {
    const Tensor& w = model.weights.at(layer_tensor(1, std::string("self_attn.") + part));
    return linear(x, w.to(torch::kDouble), torch::kDouble).view({2, 100, heads, a.head_dim});
  };
  const std::vector<double> no_decay(static_cast<size_t>(a.heads), 0.0);
  const Tensor converted =
      lightning(project(student, "q_proj", a.heads), project(student, "k_proj", a.heads),
                project(student, "v_proj", a.heads), no_decay, 0.25, torch::kDouble);
  const Tensor q = project(from, "q_proj", a.heads), k = project(from, "k_proj", a.kv_heads),
               v = project(from, "v_proj", a.kv_heads);
  for (int h = 0; h < a.heads; ++h) {
    const int64_t group = h / (a.heads / a.kv_heads);
    const Tensor scores =
        torch::matmul(q.select(2, h), k.select(2, group).transpose(1, 2)).tril() * 0.25;
    const Tensor want = torch::matmul(scores, v.select(2, group));
    EXPECT_LT((converted.select(2, h) - want).abs().max().item<double>(), 1e-10) << "head " << h;
  }
}

TEST(Convert, StudentKeepsEverythingElse) {
  const Checkpoint from = teacher();
  const Checkpoint student = lightning_student(from, 0);
  for (const auto& [name, weight] : from.weights) {
    if (name.find("k_proj") != std::string::npos || name.find("v_proj") != std::string::npos)
      continue;
    EXPECT_TRUE(torch::equal(weight, student.weights.at(name))) << name;
  }
  EXPECT_TRUE(
      torch::equal(student.weights.at(layer_tensor(0, "self_attn.o_norm")), torch::ones(32)));
  student.decoder();  // has every tensor of its configuration
}

TEST(Convert, HybridTakesMixersFromBoth) {
  const Checkpoint from = teacher();
  Checkpoint student = lightning_student(from, 0);
  for (auto& [name, weight] : student.weights) weight = weight + 1.0;  // as if trained
  const Checkpoint made = hybrid(from, student, {1}, {.sparse = SparseConfig{}});
  EXPECT_EQ(made.config.mixers[0], MixerKind::lightning);
  EXPECT_EQ(made.config.mixers[1], MixerKind::attention);
  EXPECT_FALSE(made.config.attention.rope);
  const std::string kept = layer_tensor(1, "self_attn.k_proj"),
                    other = layer_tensor(2, "self_attn.k_proj");
  EXPECT_TRUE(torch::equal(made.weights.at(kept), from.weights.at(kept)));
  EXPECT_TRUE(torch::equal(made.weights.at(other), student.weights.at(other)));
  EXPECT_LT(made.weights.at(layer_tensor(1, "self_attn.o_gate")).abs().max().item<double>(), 0.2);
}

Batch some_batch(const ModelConfig& config) {
  return {.ids = torch::randint(config.vocab, {2, 33}, torch::kLong),
          .weights = torch::ones({2, 32}),
          .answers = torch::zeros({2, 32}, torch::kBool),
          .recall = torch::zeros({2, 1}, torch::kBool)};
}

TEST(Align, NoLayerSeesAnothersError) {
  const Checkpoint from = teacher();
  Checkpoint student = lightning_student(from, 0);
  for (auto& [name, weight] : student.weights) weight.requires_grad_(true);
  const Batch batch = some_batch(from.config);
  const auto aligned = [&] {
    return align_layers(from.decoder(), student.decoder(), {}, batch,
                        {.predictions = 64, .weight = 64});
  };
  const Metrics before = aligned();
  {
    const torch::NoGradGuard no_grad;
    student.weights.at(layer_tensor(1, "self_attn.q_proj")).mul_(2.0);
  }
  const Metrics after = aligned();
  EXPECT_EQ(before.at("layer_0").sum, after.at("layer_0").sum);
  EXPECT_NE(before.at("layer_1").sum, after.at("layer_1").sum);
  EXPECT_EQ(before.at("layer_2").sum, after.at("layer_2").sum);
  EXPECT_FALSE(student.weights.at("model.norm.weight").grad().defined());
}

TEST(Losses, DivergenceFromItselfIsZeroAndItsGradientIsTheDifference) {
  torch::manual_seed(4);
  const ModelConfig config = small_llama(1);
  const Batch batch = some_batch(config);
  const Tensor wanted = torch::randn({2, 32, config.vocab});
  Tensor logits = wanted.clone().requires_grad_(true);
  const StepSize step{.predictions = 64, .weight = 64};
  EXPECT_NEAR(divergence(logits, wanted, batch, step).at("loss").value(), 0.0, 1e-6);
  logits = torch::randn({2, 32, config.vocab}).requires_grad_(true);
  divergence(logits, wanted, batch, step);
  const Tensor want = (torch::softmax(logits.detach(), -1) - torch::softmax(wanted, -1)) / 64.0;
  EXPECT_LT((logits.grad() - want).abs().max().item<double>(), 1e-7);
}

TEST(Losses, ExactCountsWholeAnswers) {
  // Two rows of four predictions; answers at 0-1 and 3 of the first, at 1-2 of the second.
  Batch batch{.ids = torch::tensor({0, 1, 2, 3, 4, 0, 1, 2, 3, 4}, torch::kLong).view({2, 5}),
              .weights = torch::ones({2, 4}),
              .answers = torch::tensor({1, 1, 0, 1, 0, 1, 1, 0}, torch::kLong).view({2, 4}) == 1,
              .recall = torch::ones({2, 1}, torch::kBool)};
  Tensor logits = torch::one_hot(batch.ids.narrow(1, 1, 4), 5).to(torch::kFloat);  // all right
  EXPECT_EQ(predictions(logits, batch).at("exact").value(), 1.0);
  logits[1][2] = torch::tensor({9.0, 0.0, 0.0, 0.0, 0.0});  // half of the last one is wrong
  const Metrics metrics = predictions(logits, batch);
  EXPECT_DOUBLE_EQ(metrics.at("exact").value(), 2.0 / 3.0);
  EXPECT_DOUBLE_EQ(metrics.at("recall").value(), 4.0 / 5.0);
}

}  // namespace
}  // namespace sala::halo
