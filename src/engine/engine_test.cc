// A request gets the same tokens alone, in a crowd, after cache hits and after preemption.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <future>
#include <mutex>
#include <random>
#include <regex>

#include "base/error.h"
#include "engine/generate.h"
#include "engine/testing.h"
#include "grammar/constraints.h"
#include "grammar/pattern.h"

namespace sala {
namespace {

using Text = std::vector<int>;

/// A reply as a caller collects it.
class Listener {
 public:
  std::function<void(const ReplyEvent&)> sink() {
    return [this](const ReplyEvent& event) {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(over_) << "an event after the last";
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      for (const Logprobs& one : event.logprobs) logprobs.push_back(one.chosen.logprob);
      for (const Logprobs& one : event.prompt_logprobs) prompt_logprobs.push_back(one.chosen);
      text += event.text;
      last = event;
      ++events;
      over_ = event.finish.has_value() || !event.error.empty();
      changed_.notify_all();
    };
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return over_; });
  }
  void wait_for_event() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return events > 0; });
  }

  Text tokens;
  std::vector<double> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;
  std::string text;
  ReplyEvent last;
  int events = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
};

/// Replies of three kinds of tokens: what follows three of them has often been there, and differed.
const std::vector<std::pair<int, double>> kFewTokens = {{10, 100.0}, {20, 100.0}, {30, 100.0}};

struct Case {
  const char* name;
  StoredType weights;
  ComputeMode compute;
  KvType kv;
};

class EngineTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int kSequences = 8;

  EngineTest() : config_(testing::tiny_sala()) {
    model_ = testing::random_model(config_, GetParam().weights);
    device_ = open_device(options(1000));
    tokenizer_ = testing::letters(config_.vocab);
  }

  static RunOptions options(int64_t context) {
    RunOptions o;
    o.threads = 1;
    o.compute = GetParam().compute;
    o.kv = GetParam().kv;
    o.chunk = 40;
    o.context = context;
    o.sequences = kSequences;
    o.logits = kSequences + 16;
    o.cache_ram = 1'000'000;
    return o;
  }
  static Scheduler::Limits limits(int drafts = 0) {
    return {.sequences = kSequences, .step_tokens = 40, .step_logits = 16, .step_drafts = drafts};
  }

  Request request(int number) const {
    std::mt19937 random(static_cast<uint32_t>(number));
    Request r;
    // Some begin alike.
    const int alike = number % 3;
    for (int i = 0; i < 30 * alike; ++i) r.prompt.push_back(3 + (i * 7 + alike) % 50);
    for (uint32_t i = 0; i < 1 + random() % 40; ++i)
      r.prompt.push_back(3 + static_cast<int>(random() % 50));
    r.reply.limit = 1 + static_cast<int64_t>(random() % 100);
    r.reply.sampling.temperature = 1.0;
    r.reply.sampling.seed = static_cast<uint64_t>(number);
    if (number % 3 == 0) r.reply.stop = {static_cast<int>(random() % 60)};
    r.reply.logprobs = 0;
    r.caller = std::string(1, static_cast<char>('a' + number % 4));
    return r;
  }

  struct Answer {
    Text tokens;
    std::vector<double> logprobs;
    bool operator==(const Answer&) const = default;
  };
  /// What a request gets alone, with an engine of its own.
  Answer alone(const Request& request) const {
    Runner runner(*model_, *device_, options(1000));
    Engine engine(runner, *tokenizer_, limits(), 100);
    return run(engine, request);
  }
  static Answer run(Engine& engine, Request request) {
    Listener listener;
    request.on_event = listener.sink();
    std::vector<Request> one;
    one.push_back(std::move(request));
    EXPECT_EQ(engine.submit(std::move(one))[0].refusal, Engine::Refusal::none);
    listener.wait();
    EXPECT_EQ(listener.last.error, "");
    return {listener.tokens, listener.logprobs};
  }

  /// What requests get that come at the same time.
  static std::vector<Listener> run_all(Engine& engine, std::vector<Request> requests) {
    std::vector<Listener> listeners(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      std::vector<Request> one;
      one.push_back(std::move(requests[i]));
      one[0].on_event = listeners[i].sink();
      EXPECT_EQ(engine.submit(std::move(one))[0].refusal, Engine::Refusal::none);
    }
    for (Listener& listener : listeners) {
      listener.wait();
      EXPECT_EQ(listener.last.error, "");
    }
    return listeners;
  }

  ModelConfig config_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(EngineTest, ACrowdGetsWhatEachGetsAlone) {
  constexpr int kCrowd = 64;
  std::vector<Request> requests;
  for (int i = 0; i < kCrowd; ++i) requests.push_back(request(i));
  std::vector<Answer> want;
  for (const Request& one : requests) want.push_back(alone(one));
  // So few pages that replies are given up; then again, when much is remembered.
  Runner runner(*model_, *device_, options(300));
  Engine engine(runner, *tokenizer_, limits(), 2 * kCrowd);
  for (int round = 0; round < 2; ++round) {
    const std::vector<Listener> got = run_all(engine, requests);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].tokens, want[i].tokens) << "request " << i;
      EXPECT_EQ(got[i].logprobs, want[i].logprobs) << "request " << i;
    }
  }
  engine.call([](Runner&) {});  // the last step has been counted
  const Engine::Counters counters = engine.counters();
  EXPECT_GT(counters.preemptions, 0);
  EXPECT_GT(counters.cached_tokens, 0);
  EXPECT_EQ(counters.requests, 2 * kCrowd);
}

TEST_P(EngineTest, ConstrainedRepliesAreTheSameInACrowd) {
  constexpr int kCrowd = 24;
  const Constraints constraints(*tokenizer_, config_.vocab);
  const std::vector<std::pair<const char*, std::regex>> forms = {
      {"[0-9]{4}:[A-F]+(ab|cd)*;", std::regex("[0-9]{4}:[A-F]+(ab|cd)*;")},
      {"(abc|de)=(0|1){12,40}", std::regex("(abc|de)=(0|1){12,40}")},
      {"[a-l]{3}", std::regex("[a-l]{3}")}};
  std::vector<Request> requests;
  for (int i = 0; i < kCrowd; ++i) {
    Request r = request(i);
    r.reply.stop = {40};  // "X", which no form has
    r.reply.limit = 100;
    if (i % 4 == 0) r.reply.logprobs = -1;
    if (i % 5 == 0) r.reply.sampling.frequency_penalty = 0.5;
    if (i % 6 == 5) r.reply.sampling.temperature = 0.0;
    r.reply.constraint =
        constraints.of(parse_pattern(forms[static_cast<size_t>(i % 3)].first, true));
    requests.push_back(std::move(r));
  }
  std::vector<Answer> want;
  for (const Request& one : requests) want.push_back(alone(one));
  Runner runner(*model_, *device_, options(300));
  Engine engine(runner, *tokenizer_, limits(5), 2 * kCrowd);
  const std::vector<Listener> got = run_all(engine, requests);
  int whole = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].tokens, want[i].tokens) << "request " << i;
    const std::string text = tokenizer_->decode(got[i].tokens, true);
    if (got[i].last.finish == Finish::length) continue;
    ++whole;
    EXPECT_TRUE(std::regex_match(text, forms[i % 3].second)) << text;
  }
  EXPECT_GT(whole, kCrowd / 2);
}

TEST_P(EngineTest, DraftsChangeNoReply) {
  constexpr int kCrowd = 24;
  const auto repeating = [&](int number) {
    Request r = request(number);
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 12; ++j) r.prompt.push_back(3 + (j * j + number) % 50);
    r.reply.sampling.temperature = number % 4 * 0.2;
    if (number % 2 == 0) r.reply.sampling.logit_bias = kFewTokens;
    if (number % 5 == 0) r.reply.sampling.frequency_penalty = 0.1;
    if (number % 4 == 1) r.reply.stop_strings = {"77", "Q"};
    return r;
  };
  std::vector<Request> requests;
  for (int i = 0; i < kCrowd; ++i) requests.push_back(repeating(i));
  std::vector<Answer> want;
  for (const Request& one : requests) want.push_back(alone(one));
  Runner runner(*model_, *device_, options(500));
  Engine engine(runner, *tokenizer_, limits(5), 2 * kCrowd);
  for (size_t i = 0; i < requests.size(); i += 7)  // alone a draft is longest
    EXPECT_EQ(run(engine, requests[i]), want[i]) << "request " << i;
  const std::vector<Listener> got = run_all(engine, requests);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ((Answer{got[i].tokens, got[i].logprobs}), want[i]) << "request " << i;
    const Usage& usage = got[i].last.usage;
    EXPECT_LE(usage.accepted, std::min(usage.drafted, usage.generated));
  }
  engine.call([](Runner& r) { r.cache().check_integrity({}); });
  const Engine::Counters counters = engine.counters();
  EXPECT_GT(counters.accepted_tokens, 20);
  EXPECT_GT(counters.drafted_tokens, counters.accepted_tokens);
}

TEST_P(EngineTest, AConversationWithDraftsIsTheSame) {
  const auto talk = [&](int draft) {
    RunOptions o = options(600);
    o.draft = draft;
    Runner runner(*model_, *device_, o);
    Hold hold = runner.open();
    Text text = request(5).prompt;
    int64_t drafted = 0, right = 0;
    for (int turn = 0; turn < 6; ++turn) {
      // Limits and stop tokens end replies among tokens of a draft, and behind it.
      GenerateOptions how{.limit = 40 + turn, .sampling = {.temperature = turn % 3 * 0.3}};
      how.sampling.seed = static_cast<uint64_t>(turn);
      if (turn % 2 == 0) how.sampling.logit_bias = kFewTokens;
      const Text stop = {text[static_cast<size_t>(3 * turn)]};
      if (turn % 2 == 1) how.stop = stop;
      const Generation reply = generate(runner, hold, *tokenizer_, text, how);
      drafted += reply.drafted;
      right += reply.accepted;
      text.insert(text.end(), reply.tokens.begin(), reply.tokens.end());
      EXPECT_LE(hold.length(), std::ssize(text));
      EXPECT_GE(hold.length(), std::ssize(text) - 1) << "tokens must be read again";
      for (int i = 0; i < 8; ++i) text.push_back(text[static_cast<size_t>(i)]);
    }
    EXPECT_EQ(right > 0, draft > 0) << right;
    EXPECT_EQ(drafted > right, draft > 0) << drafted;
    return text;
  };
  const Text plain = talk(0);
  for (const int draft : {1, 4, 15}) EXPECT_EQ(talk(draft), plain) << draft;
}

TEST_P(EngineTest, LogprobsOfAPromptAreThoseOfItsReply) {
  Runner runner(*model_, *device_, options(1000));
  Engine engine(runner, *tokenizer_, limits(), 100);
  Request first = request(4);
  first.reply.stop.clear();
  Answer reply = run(engine, first);
  // The same text as a prompt.
  Request echo = request(4);
  echo.prompt.insert(echo.prompt.end(), reply.tokens.begin(), reply.tokens.end());
  echo.reply.limit = 0;
  echo.reply.logprobs = 2;
  echo.prompt_logprobs = true;
  Listener listener;
  echo.on_event = listener.sink();
  const auto size = echo.prompt.size();
  std::vector<Request> one;
  one.push_back(std::move(echo));
  engine.submit(std::move(one));
  listener.wait();
  ASSERT_EQ(listener.prompt_logprobs.size(), size - 1);
  for (size_t i = 0; i < reply.tokens.size(); ++i) {
    const TokenLogprob got = listener.prompt_logprobs[size - 1 - reply.tokens.size() + i];
    EXPECT_EQ(got.token, reply.tokens[i]);
    EXPECT_EQ(got.logprob, reply.logprobs[i]);
  }
}

TEST_P(EngineTest, SiblingsShareThePrompt) {
  Runner runner(*model_, *device_, options(1000));
  Engine engine(runner, *tokenizer_, limits(), 100);
  std::vector<Listener> listeners(3);
  std::vector<Request> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(request(5));
    requests.back().reply.sampling.seed = static_cast<uint64_t>(i);
    requests.back().after = i > 0 ? 1 : 0;
    requests.back().on_event = listeners[static_cast<size_t>(i)].sink();
  }
  engine.submit(std::move(requests));
  for (Listener& listener : listeners) listener.wait();  // the device is for one engine at a time
  for (int i = 0; i < 3; ++i) {
    Request same = request(5);
    same.reply.sampling.seed = static_cast<uint64_t>(i);
    EXPECT_EQ(listeners[static_cast<size_t>(i)].tokens, alone(same).tokens);
    EXPECT_EQ(listeners[static_cast<size_t>(i)].last.usage.cached,
              i > 0 ? std::ssize(same.prompt) - 1 : 0);
  }
}

TEST_P(EngineTest, CancelsRefusesAndDrains) {
  Runner runner(*model_, *device_, options(1000));
  Engine engine(runner, *tokenizer_, limits(), 12);
  std::vector<Listener> listeners(20);
  std::vector<uint64_t> ids;
  int refused = 0;
  // The engine waits until all have come, so that nothing ends too early.
  std::promise<void> waits, all_came;
  std::thread holder([&] {
    engine.call([&](Runner&) {
      waits.set_value();
      all_came.get_future().wait();
    });
  });
  waits.get_future().wait();
  for (int i = 0; i < 20; ++i) {
    std::vector<Request> one;
    one.push_back(request(i));
    one[0].reply.stop.clear();
    one[0].reply.limit = 200;
    one[0].on_event = listeners[static_cast<size_t>(i)].sink();
    const auto submitted = engine.submit(std::move(one));
    ids.push_back(submitted[0].id);
    refused += submitted[0].refusal == Engine::Refusal::full ? 1 : 0;
  }
  EXPECT_EQ(refused, 8);
  all_came.set_value();
  holder.join();
  engine.cancel(ids[0]);
  listeners[0].wait();
  EXPECT_EQ(listeners[0].last.finish, Finish::cancelled);
  EXPECT_TRUE(engine.drain(std::chrono::minutes(1)));
  for (int i = 1; i < 12; ++i) {
    listeners[static_cast<size_t>(i)].wait();
    EXPECT_EQ(listeners[static_cast<size_t>(i)].tokens.size(), 200U);
  }
  std::vector<Request> late;
  late.push_back(request(1));
  EXPECT_EQ(engine.submit(std::move(late))[0].refusal, Engine::Refusal::draining);
}

TEST_P(EngineTest, EndsWithRequestsInFlight) {
  Listener listener;
  {
    Runner runner(*model_, *device_, options(1000));
    Engine engine(runner, *tokenizer_, limits(), 100);
    std::vector<Request> one;
    one.push_back(request(1));
    one[0].reply.stop.clear();
    one[0].reply.limit = 800;
    one[0].on_event = listener.sink();
    engine.submit(std::move(one));
    listener.wait_for_event();
    EXPECT_THROW(engine.call([](Runner&) { fail("told"); }), Error);
  }
  listener.wait();
  EXPECT_EQ(listener.last.finish, Finish::cancelled);
}

TEST_P(EngineTest, MemoryThatCannotBeWrittenEndsRequestsAndNotTheProgram) {
  constexpr int64_t kContext = 1000, kFrames = 40;
  const int64_t page = config_.page(), pages = (kContext + page - 1) / page;
  RunOptions small = options(kContext);
  small.kv_memory = Runner(*model_, *device_, small).memory().cache.kv / pages * kFrames;
  small.cache_dir = "/nowhere";
  Runner runner(*model_, *device_, small);
  Engine engine(runner, *tokenizer_, limits(), 100);
  // The first finds no room while its step is planned, where it would copy a page that is now
  // remembered too; the second in the model.
  for (const int64_t length : {kFrames * page - 3, (kFrames + 2) * page}) {
    Listener listener;
    std::vector<Request> one(1);
    one[0].prompt.assign(static_cast<size_t>(length), 3);
    one[0].reply.limit = 2;
    one[0].on_event = listener.sink();
    ASSERT_EQ(engine.submit(std::move(one))[0].refusal, Engine::Refusal::none);
    listener.wait();
    EXPECT_NE(listener.last.error.find("--cache-dir"), std::string::npos) << listener.last.error;
    engine.call([](Runner& r) { r.cache().check_integrity({}); });
  }
  EXPECT_EQ(engine.counters().running, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Modes, EngineTest,
    ::testing::Values(Case{"f32_f32", StoredType::f32, ComputeMode::f32, KvType::f32},
                      Case{"bf16_bf16", StoredType::bf16, ComputeMode::automatic, KvType::bf16},
                      Case{"int8_int8", StoredType::q8_0, ComputeMode::int8, KvType::int8}),
    [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace sala
