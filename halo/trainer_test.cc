#include "trainer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "losses.h"
#include "testing.h"

namespace sala::halo {
namespace {

TEST(Schedule, WarmsUpAndFallsAsACosine) {
  const Schedule s{.peak = 1.0, .last = 0.1, .warmup = 4, .steps = 104};
  EXPECT_DOUBLE_EQ(s.at(0), 0.25);
  EXPECT_DOUBLE_EQ(s.at(4), 1.0);
  EXPECT_NEAR(s.at(54), 0.55, 1e-12);
  EXPECT_NEAR(s.at(104), 0.1, 1e-12);
}

TEST(AdamW, TakesTheStepsOfLibtorchs) {
  torch::manual_seed(1);
  const Tensor start = torch::randn({3, 4}) * 0.1;
  Tensor ours = start.clone(), theirs = start.clone().requires_grad_(true);
  AdamW adam({{"w", ours}}, 0.1);
  torch::optim::AdamW other({theirs},
                            torch::optim::AdamWOptions(0.01).betas({0.9, 0.95}).weight_decay(0.1));
  for (int i = 0; i < 5; ++i) {
    const Tensor target = torch::randn({3, 4}) * 0.1;
    (ours - target).square().mean().backward();
    other.zero_grad();
    (theirs - target).square().mean().backward();
    EXPECT_LT(adam.step(0.01), 1.0);  // nothing is clipped
    other.step();
    EXPECT_LT((ours - theirs).abs().max().item<double>(), 1e-6);
  }
}

TEST(AdamW, ClipsTheNormOfAllGradients) {
  Tensor w = torch::zeros({2});
  AdamW adam({{"w", w}}, 0.0);
  (w * torch::tensor({30.0, 40.0})).sum().backward();
  EXPECT_NEAR(adam.step(0.1), 50.0, 1e-4);
  EXPECT_NEAR(adam.state().at("mean.w")[0].item<double>(), 0.1 * 0.6, 1e-6);
}

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() : scratch_("trainer"), tokenizer_(scratch_.path() / "tokenizer") {
    torch::set_num_threads(1);
    write_byte_tokenizer(tokenizer_);
  }

  struct Outcome {
    Weights weights;
    bool finished = false;
  };
  /// Trains a small model; `limit` seconds.
  Outcome train(const char* name, int64_t micro, double limit, bool resume) {
    torch::manual_seed(2);
    ModelConfig config = small_llama(2);
    config.vocab = 257;
    Checkpoint model{config, random_weights(config)};
    const Data data({.data = "", .recall = 0.5, .seed = 3}, tokenizer_);
    TrainOptions options;
    options.out = scratch_.path() / name;
    options.schedule = {.peak = 1e-2, .last = 1e-3, .warmup = 2, .steps = 6};
    options.context = 32;
    options.batch = 4;
    options.micro = micro;
    options.time_limit = limit;
    options.resume = resume;
    Trainer trainer(options, data, model.weights,
                    [&] { write_checkpoint(options.out, model, torch::kFloat); });
    const Decoder decoder = model.decoder();
    const bool finished =
        trainer.needed() && trainer.run([&](const Batch& batch, const StepSize& step) {
          return cross_entropy(decoder.logits(batch.ids.narrow(1, 0, 32), {}), batch, step);
        });
    return {model.weights, finished};
  }
  static double difference(const Weights& a, const Weights& b) {
    double worst = 0.0;
    for (const auto& [name, weight] : a)
      worst = std::max(worst, (weight - b.at(name)).abs().max().item<double>());
    return worst;
  }

  Scratch scratch_;
  std::filesystem::path tokenizer_;
};

// Sums in another order, and AdamW divides a gradient by its own size: where it is next to nothing,
// so does its rounding count. A tenth of one step; a wrong share of a batch would be several.
TEST_F(TrainerTest, MicroBatchesAreNotSeen) {
  EXPECT_LT(
      difference(train("whole", 4096, 0.0, false).weights, train("rows", 32, 0.0, false).weights),
      1e-3);
}

TEST_F(TrainerTest, AResumedRunIsTheUninterruptedOne) {
  const Outcome whole = train("whole", 4096, 0.0, false);
  EXPECT_TRUE(whole.finished);
  EXPECT_FALSE(train("parts", 4096, 1e-9, false).finished);  // one step
  const auto dir = scratch_.path() / "parts";
  EXPECT_TRUE(std::filesystem::exists(dir / "training.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(dir / "model.safetensors"));
  EXPECT_FALSE(train("parts", 4096, 1e-9, true).finished);
  const Outcome parts = train("parts", 4096, 0.0, true);
  EXPECT_TRUE(parts.finished);
  EXPECT_EQ(difference(whole.weights, parts.weights), 0.0);
  EXPECT_FALSE(std::filesystem::exists(dir / "training.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(dir / "loss.svg"));
  // What is finished stays as it is.
  EXPECT_FALSE(train("parts", 4096, 0.0, true).finished);
}

TEST_F(TrainerTest, TheLogHasTheFirstStepAndTheLast) {
  train("log", 4096, 0.0, false);
  std::ifstream log(scratch_.path() / "log" / "log.jsonl");
  std::vector<Json> lines;
  for (std::string line; std::getline(log, line);) lines.push_back(Json::parse(line));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].at("step"), 1);
  EXPECT_EQ(lines[1].at("tokens"), 6 * 4 * 32);
  EXPECT_LT(lines[1].at("loss").get<double>(), lines[0].at("loss").get<double>());
}

}  // namespace
}  // namespace sala::halo
