// Steps that are launched before the tokens of the last one are known, on the CUDA backend's
// kernels under emulation: the same tokens as one step after the other, which is how replies run
// whose log probabilities are wanted.
#include <gtest/gtest.h>

#include <future>

#include "cuda/device.h"
#include "engine/engine.h"
#include "engine/generate.h"
#include "engine/testing.h"

namespace sala {
namespace {

using Text = std::vector<int>;

class CudaAhead : public ::testing::Test {
 protected:
  static constexpr int kSequences = 4;

  static RunOptions options() {
    RunOptions o;
    o.compute = ComputeMode::f32;
    o.kv = KvType::f32;
    o.chunk = 40;
    o.context = 500;
    o.sequences = kSequences;
    o.logits = kSequences + 4;
    o.cache_ram = 1'000'000;
    return o;
  }

  static ReplyOptions reply(uint64_t seed, int64_t limit, std::vector<int> stop, int64_t logprobs) {
    return {.limit = limit,
            .sampling = {.temperature = 1.5, .top_k = 30, .seed = seed},
            .stop = std::move(stop),
            .logprobs = logprobs};
  }

  /// A request's reply; `ahead` says whether steps may go ahead.
  struct Asked {
    Asked(Engine& engine, Text prompt, ReplyOptions options, bool ahead) {
      options.logprobs = ahead ? -1 : 0;
      std::vector<Request> one(1);
      one[0].prompt = std::move(prompt);
      one[0].reply = std::move(options);
      one[0].on_event = [this](const ReplyEvent& event) {
        tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
        if (!event.finish && event.error.empty()) return;
        last = event;
        over_.set_value();
      };
      id = engine.submit(std::move(one))[0].id;
    }
    const Text& wait() {
      over_.get_future().wait();
      EXPECT_EQ(last.error, "");
      return tokens;
    }
    uint64_t id = 0;
    Text tokens;
    ReplyEvent last;

   private:
    std::promise<void> over_;
  };

  static Scheduler::Limits limits() {
    return {.sequences = kSequences, .step_tokens = 40, .step_logits = 4};
  }

  const ModelConfig config_ = testing::tiny_sala();
  const std::unique_ptr<Device> device_ = open_cuda();
  const std::unique_ptr<Model> model_ =
      testing::random_model(config_, StoredType::f32, device_.get());
  const std::unique_ptr<Tokenizer> tokenizer_ = testing::letters(config_.vocab);
};

TEST_F(CudaAhead, EveryReplyIsWhatItIsAlone) {
  Runner runner(*model_, *device_, options());
  // Ends by limits of 1 to 14 tokens and by stop tokens.
  constexpr int kCount = 6;
  const auto prompt = [](int i) { return testing::random_text(5 + 7 * i, 20 + i); };
  const auto options = [](int i) {
    return reply(static_cast<uint64_t>(i), 1 + i * i % 14, i % 3 == 0 ? Text{5, 6, 7, 8} : Text{},
                 0);
  };
  std::vector<Text> want;
  {
    Engine engine(runner, *tokenizer_, limits(), 100);
    for (int i = 0; i < kCount; ++i)
      want.push_back(Asked(engine, prompt(i), options(i), false).wait());
    EXPECT_EQ(engine.counters().steps_ahead, 0);
  }
  Engine engine(runner, *tokenizer_, limits(), 100);
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < kCount; ++i)
    asked.push_back(std::make_unique<Asked>(engine, prompt(i), options(i), true));
  for (int i = 0; i < kCount; ++i)
    EXPECT_EQ(asked[static_cast<size_t>(i)]->wait(), want[static_cast<size_t>(i)]) << i;
  engine.call([](Runner& r) {
    r.cache().check_integrity({});
    EXPECT_EQ(r.launched(), 0);
  });
  EXPECT_GT(engine.counters().steps_ahead, 0);
}

TEST_F(CudaAhead, StepsWithDraftsTakeTurnsWithStepsAhead) {
  Runner runner(*model_, *device_, options());
  // A reply of two kinds of tokens is drafted; one of all kinds goes ahead.
  const auto options = [](int i) {
    ReplyOptions one = reply(static_cast<uint64_t>(i), 24 - 10 * i, {}, 0);
    if (i == 0) one.sampling.logit_bias = {{10, 100.0}, {20, 100.0}};
    return one;
  };
  const Text prompt = testing::random_text(20);
  std::vector<Text> want;
  {
    Engine engine(runner, *tokenizer_, limits(), 100);
    for (int i = 0; i < 2; ++i) want.push_back(Asked(engine, prompt, options(i), false).wait());
  }
  Scheduler::Limits drafting = limits();
  drafting.step_drafts = 4;
  Engine engine(runner, *tokenizer_, drafting, 100);
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(Asked(engine, prompt, options(i), true).wait(), want[static_cast<size_t>(i)]) << i;
  engine.call([](Runner& r) { r.cache().check_integrity({}); });
  const Engine::Counters counters = engine.counters();
  EXPECT_GT(counters.steps_ahead, 5);
  EXPECT_GT(counters.accepted_tokens, 3);
  EXPECT_GT(counters.drafted_tokens, counters.accepted_tokens);
}

TEST_F(CudaAhead, AConversationGoesOnFromWhatIsRemembered) {
  Runner runner(*model_, *device_, options());
  Engine engine(runner, *tokenizer_, limits(), 100);
  Text text = testing::random_text(60);
  // A stop token was fed before it was known that it ends the reply; the next turn has it.
  for (const int turn : {0, 1}) {
    const auto options = reply(static_cast<uint64_t>(turn), 30, {11, 12, 13, 14}, 0);
    Asked ahead(engine, text, options, true);
    const Text got = ahead.wait();
    if (turn > 0) {
      EXPECT_GT(ahead.last.usage.cached, 50);
    }
    EXPECT_EQ(got, Asked(engine, text, options, false).wait());
    text.insert(text.end(), got.begin(), got.end());
    text.push_back(11);
  }
}

TEST_F(CudaAhead, RepliesAreCancelled) {
  Runner runner(*model_, *device_, options());
  Engine engine(runner, *tokenizer_, limits(), 100);
  std::promise<void> began;
  std::vector<Request> one(1);
  one[0].prompt = testing::random_text(20);
  one[0].reply.limit = 400;
  std::promise<Finish> over;
  int events = 0;
  one[0].on_event = [&](const ReplyEvent& event) {
    if (++events == 5) began.set_value();
    if (event.finish) over.set_value(*event.finish);
  };
  const uint64_t id = engine.submit(std::move(one))[0].id;
  began.get_future().wait();
  engine.cancel(id);
  EXPECT_EQ(over.get_future().get(), Finish::cancelled);
  engine.call([](Runner& r) {
    r.cache().check_integrity({});
    EXPECT_EQ(r.launched(), 0);
  });
}

TEST_F(CudaAhead, OneReplyIsFollowedByOthersOfItsText) {
  Runner runner(*model_, *device_, options());
  const Text prompt = testing::random_text(40);
  const Text stop = {11, 12, 13};
  const auto write = [&](Hold& hold, const Text& text, int64_t logprobs) {
    GenerateOptions how;
    how.limit = 24;
    how.sampling.temperature = 1.5;
    how.sampling.seed = 3;
    how.stop = stop;
    how.logprobs = logprobs;
    return generate(runner, hold, *tokenizer_, text, how);
  };
  Hold ahead = runner.open(), plain = runner.open();
  Text text = prompt;
  for (int turn = 0; turn < 2; ++turn) {
    const Generation got = write(ahead, text, -1), want = write(plain, text, 0);
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.finish, want.finish);
    text.insert(text.end(), got.tokens.begin(), got.tokens.end());
    EXPECT_LE(ahead.length(), std::ssize(text));
    text.push_back(5);
  }
}

TEST_F(CudaAhead, LogitsThatAreNoNumbersAreSaidToBeSo) {
  Runner runner(*model_, *device_, options());
  // The device draws nothing, whatever the logits are.
  device_->ops.sample = [](Device& device, In, In, Out tokens) {
    device.fill(reinterpret_cast<std::byte*>(tokens.as<int32_t>()), std::byte{0xFF},
                tokens.dim[0] * int64_t{sizeof(int32_t)});
  };
  Hold hold = runner.open();
  const Text two = testing::random_text(2);
  const int next = drawn_id(0);
  Runner::Row row{.hold = hold, .tokens = two, .logits = 1, .draw = SampleRow{}};
  runner.launch({&row, 1});
  ASSERT_TRUE(runner.can_go_ahead());
  Runner::Row behind{.hold = hold, .tokens = {&next, 1}, .logits = 1, .draw = SampleRow{}};
  runner.launch({&behind, 1});
  EXPECT_FALSE(runner.can_go_ahead());
  const In gone = runner.finish();
  EXPECT_EQ(runner.drawn()[0], kNoToken);
  EXPECT_TRUE(std::isnan(*gone.row<float>(0)));
  const In there = runner.finish();
  EXPECT_EQ(runner.drawn()[0], kNoToken);
  EXPECT_FALSE(std::isnan(*there.row<float>(0)));
}

}  // namespace
}  // namespace sala
