#include "start.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "testing.h"

namespace sala::halo {
namespace {

ModelConfig teacher() {
  ModelConfig c = small_llama(4);
  c.vocab = 40;
  c.hidden = 145;
  c.intermediate = 32;
  c.attention.head_dim = 96;
  c.rope.theta = 1e6;
  c.trained_context = 128;
  return c;
}

// A random text and its beginning again: what follows is known once some tokens have come again.
TEST(Start, InductionFindsAgainUntrained) {
  const ModelConfig config = teacher();
  const Decoder decoder(config, induction_start(config, 1, torch::kCPU));
  torch::manual_seed(5);
  const Tensor once = torch::randint(3, config.vocab, {8, 60}, torch::kLong);
  const Tensor ids = torch::cat({once, once.narrow(1, 20, 30)}, 1);
  const Tensor guess = decoder.logits(ids, {}).argmax(-1);
  const Tensor right = guess.narrow(1, 66, 23) == ids.narrow(1, 67, 23);
  EXPECT_GT(right.to(torch::kFloat).mean().item<double>(), 0.9);
  const Decoder random(config, random_start(config, 1, torch::kCPU));
  const Tensor by_chance = random.logits(ids, {}).argmax(-1).narrow(1, 66, 23);
  EXPECT_LT((by_chance == ids.narrow(1, 67, 23)).to(torch::kFloat).mean().item<double>(), 0.3);
}

TEST(Start, SaysWhatAModelLacks) {
  ModelConfig config = teacher();
  config.attention.head_dim = 32;
  try {
    induction_start(config, 1, torch::kCPU);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("heads of at least 64; found 32"), std::string::npos)
        << error.what();
  }
  config = teacher();
  config.rope.theta = 2.0;
  config.trained_context = 1 << 20;
  EXPECT_THROW(induction_start(config, 1, torch::kCPU), Error);
}

}  // namespace
}  // namespace sala::halo
