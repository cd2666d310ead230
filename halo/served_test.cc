// Trained equals served: the trainer's forward against the engine's, on the files that the trainer
// writes.
#include <gtest/gtest.h>

#include "engine/open.h"
#include "engine/runner.h"
#include "testing.h"

namespace sala::halo {
namespace {

/// Logits [T, vocab] of the engine.
Tensor served(const std::filesystem::path& dir, const std::vector<int>& ids, SparsePolicy policy) {
  ModelFiles files = open_model(dir, OpenText::no);
  RunOptions options;
  options.compute = ComputeMode::f32;
  options.kv = KvType::f32;
  options.sparse = policy;
  options.threads = 1;
  options.context = options.logits = static_cast<int64_t>(ids.size());
  const auto device = open_device(options);
  const Model model(files.config, files.weights);
  Runner runner(model, *device, options);
  std::vector<Tensor> rows;
  Hold hold = runner.open();
  const auto keep = [&](In logits) {
    for (int64_t i = 0; i < logits.dim[0]; ++i)
      rows.push_back(torch::tensor(
          torch::ArrayRef<float>(logits.row<float>(i), static_cast<size_t>(logits.dim[1]))));
  };
  runner.read(hold, ids, {.wanted = options.logits, .on_logits = keep});
  return torch::stack(rows);
}

/// The largest distance of a row of logits, relative to the row.
double distance(const ModelConfig& config, bool sparse) {
  torch::manual_seed(5);
  const Scratch scratch("served");
  const Checkpoint checkpoint{.config = config, .weights = random_weights(config)};
  write_checkpoint(scratch.path(), checkpoint, torch::kFloat);
  const Checkpoint back = read_checkpoint(scratch.path(), torch::kCPU);

  const int64_t length = 300;
  const Tensor ids = torch::randint(config.vocab, {1, length}, torch::kLong);
  const torch::NoGradGuard no_grad;
  const Tensor trained = back.decoder().logits(ids, {.type = torch::kFloat, .sparse = sparse})[0];
  std::vector<int> list;
  for (int64_t i = 0; i < length; ++i) list.push_back(ids[0][i].item<int>());
  const Tensor engine =
      served(scratch.path(), list, sparse ? SparsePolicy::always : SparsePolicy::dense);
  return ((trained - engine).norm(2, {1}) / engine.norm(2, {1})).max().item<double>();
}

ModelConfig hybrid(const char* family) {
  ModelConfig c = small_llama(4);
  c.family = family;
  c.mixers = {MixerKind::attention, MixerKind::lightning, MixerKind::lightning,
              MixerKind::attention};
  c.attention.rope = false;
  c.attention.gate = true;
  c.lightning = {.heads = 4, .kv_heads = 4, .head_dim = 8, .scale = 1.0 / std::sqrt(8.0)};
  return c;
}

ModelConfig small_sala() {
  ModelConfig c = hybrid("minicpm_sala");
  c.attention.sparse = {.kernel_size = 8,
                        .kernel_stride = 4,
                        .block_size = 16,
                        .init_blocks = 1,
                        .window_size = 32,
                        .topk = 3,
                        .dense_len = 0};
  c.embed_scale = 2.0f;
  c.residual_scale = 0.7f;
  c.logit_divisor = 4.0f;
  return c;
}

TEST(TrainedEqualsServed, Teacher) { EXPECT_LT(distance(small_llama(3), false), 1e-4); }

TEST(TrainedEqualsServed, TiedTeacherWithQkNorm) {
  ModelConfig c = small_llama(2);
  c.family = "qwen3";
  c.attention.qk_norm = true;
  c.tied = true;
  EXPECT_LT(distance(c, false), 1e-4);
}

TEST(TrainedEqualsServed, HybridDense) { EXPECT_LT(distance(small_sala(), false), 1e-4); }
TEST(TrainedEqualsServed, HybridSparse) { EXPECT_LT(distance(small_sala(), true), 1e-4); }

TEST(TrainedEqualsServed, SparseIsNotDense) {
  const ModelConfig c = small_sala();
  torch::manual_seed(5);
  const Decoder decoder(c, random_weights(c));
  const Tensor ids = torch::randint(c.vocab, {1, 300}, torch::kLong);
  const Tensor difference =
      decoder.logits(ids, {.sparse = true}) - decoder.logits(ids, {.sparse = false});
  EXPECT_GT(difference.abs().max().item<double>(), 1e-2);
}

TEST(TrainedEqualsServed, ThreeHeadsAndFewerKeys) {
  ModelConfig c = small_sala();
  c.lightning = {.heads = 6, .kv_heads = 3, .head_dim = 4, .scale = 1.0 / 4.0};
  EXPECT_LT(distance(c, true), 1e-4);
}

TEST(TrainedEqualsServed, HypeNet) {
  ModelConfig c = hybrid("hypenet");
  c.attention.qk_norm = true;
  c.attention.log_base = 50.0;
  EXPECT_LT(distance(c, false), 1e-4);
}

TEST(ConfigJson, IsReadBack) {
  const ModelConfig c = small_sala();
  const ModelConfig back = parse_config(config_json(c, "float32"), "test");
  EXPECT_EQ(back.mixers, c.mixers);
  EXPECT_EQ(back.embed_scale, c.embed_scale);
  EXPECT_FLOAT_EQ(back.residual_scale, c.residual_scale);
  EXPECT_EQ(back.logit_divisor, c.logit_divisor);
  EXPECT_EQ(back.norm_eps, c.norm_eps);
  EXPECT_EQ(back.attention.sparse->topk, 3);
  EXPECT_FALSE(back.attention.rope);
}

}  // namespace
}  // namespace sala::halo
