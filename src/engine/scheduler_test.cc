// The scheduler against a model that only counts: thousands of random arrivals, ends and steps on a
// cache that is too small for them.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "engine/testing.h"
#include "model/mixer.h"

namespace sala {
namespace {

constexpr int kPage = 16, kSequences = 6;

Cache make_cache(int64_t tokens, bool hybrid) {
  ModelConfig config = testing::tiny_sala();
  if (!hybrid)
    for (MixerKind& kind : config.mixers) kind = MixerKind::attention;
  static Memory memory;
  return {cache_specs(config, KvType::f32),
          {.page = kPage, .tokens = tokens, .sequences = kSequences, .snapshots = 400'000},
          std::vector<Memory*>(static_cast<size_t>(config.layers()), &memory)};
}

/// The token after a text, made of the text, without a model; some end it. Texts repeat themselves,
/// and at times do not.
int next_token(const std::vector<int>& text, uint64_t id) {
  const int other = text.size() % 23 == 0 ? 1 : 0;
  return text.back() * 31 % 53 * 3 + static_cast<int>(id % 7) + other;
}
bool stops(int token) { return token % 150 == 149; }

/// Steps a scheduler as an engine does, where it goes ahead as with a GPU.
class Driver {
 public:
  Driver(Cache& cache, Scheduler::Limits limits, bool goes_ahead = false)
      : cache_(cache), goes_ahead_(goes_ahead), scheduler(cache, limits) {}

  void add(uint64_t id, std::vector<int> prompt, int64_t limit, std::string caller = {},
           uint64_t after = 0) {
    Job job{.id = id, .caller = std::move(caller), .text = std::move(prompt), .limit = limit};
    job.prompt = std::ssize(job.text);
    job.after = after;
    scheduler.add(std::move(job));
  }

  /// One step; returns its parts' tokens by job.
  std::map<uint64_t, int64_t> step() {
    std::map<uint64_t, int64_t> tokens;
    if (ahead_.empty()) {
      ahead_ = launch(scheduler.plan());
      int64_t sum = 0;
      for (const auto& [job, count, logits, end, drafted] : ahead_) {
        EXPECT_TRUE(tokens.emplace(job->id, count).second) << "two parts of job " << job->id;
        EXPECT_GT(count, 0);
        sum += count + drafted;
      }
      EXPECT_LE(sum, scheduler.limits().step_tokens);
      EXPECT_TRUE(!ahead_.empty() || scheduler.idle());
    }
    const auto parts = std::move(ahead_);
    ahead_ = {};
    if (goes_ahead_) ahead_ = launch(scheduler.plan_ahead(parts));
    if (!ahead_.empty()) ++steps_ahead;
    for (const Scheduler::Part& part : parts)
      if (part.job != nullptr && part.end == std::ssize(part.job->text)) tell(part);
    cache_.check_integrity(scheduler.holds());
    return tokens;
  }
  /// Ends what is on its way, so that jobs can come and go.
  void settle() {
    const bool goes_ahead = std::exchange(goes_ahead_, false);
    if (!ahead_.empty()) step();
    goes_ahead_ = goes_ahead;
  }

  int64_t steps_ahead = 0, drafts = 0, accepted = 0;
  std::map<uint64_t, std::vector<int>> finished;

 private:
  using Parts = std::vector<Scheduler::Part>;

  Parts launch(Parts parts) {
    for (const auto& [job, count, logits, end, drafted] : parts) {
      EXPECT_EQ(end, job->hold->length() + count);
      EXPECT_LE(end + drafted, job->prompt + job->limit);
      EXPECT_TRUE(job->hold->grow(count + drafted)) << "no room was made";
      job->hold->advance(count + drafted);
    }
    scheduler.commit(parts);
    return parts;
  }

  void tell(const Scheduler::Part& part) {
    Job& job = *part.job;
    EXPECT_EQ(part.logits, 1 + part.drafted);
    int token = 0;
    bool stop = false, over = false;
    int64_t right = 0;
    for (bool goes_on = true; goes_on && !over;) {
      token = next_token(job.text, job.id);
      stop = stops(token);
      const bool is_read = part.drafted == 0 && job.hold->length() > std::ssize(job.text);
      if (!stop || is_read) job.text.push_back(token);
      over = stop || std::ssize(job.text) - job.prompt >= job.limit;
      goes_on = right < part.drafted && !stop && token == job.draft[static_cast<size_t>(right)];
      if (goes_on) ++right;
    }
    if (part.drafted > 0) {
      const int64_t now = part.end + right;
      cache_.roll_back(*job.hold, now);
      EXPECT_EQ(job.hold->length(), now) << "tokens must be read again";
    }
    drafts += part.drafted;
    accepted += right;
    if (!over) return;
    finished[job.id] = job.text;
    if (stop && finished[job.id].back() == token) finished[job.id].pop_back();
    for (Scheduler::Part& ahead : ahead_)
      if (ahead.job == &job) ahead.job = nullptr;
    scheduler.remove(job.id, true);
  }

  Cache& cache_;
  bool goes_ahead_;
  Parts ahead_;

 public:
  Scheduler scheduler;
};

std::vector<int> text(int first, int64_t count) {
  std::vector<int> tokens(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    tokens[static_cast<size_t>(i)] = first + static_cast<int>(i % 50);
  return tokens;
}

TEST(Scheduler, ALongPromptDelaysNobody) {
  Cache cache = make_cache(4000, true);
  Driver d(cache, {.sequences = 4, .step_tokens = 64});
  d.add(1, text(0, 10), 20);
  d.step();
  d.add(2, text(100, 1000), 5);
  d.add(3, text(200, 30), 5);
  const auto step = d.step();
  EXPECT_EQ(step.at(1), 1);   // the reply goes on
  EXPECT_EQ(step.at(3), 30);  // a short prompt does not wait for the long one
  EXPECT_EQ(step.at(2), 33);
  while (!d.scheduler.idle()) EXPECT_TRUE(d.step().contains(1) || d.finished.contains(1));
}

TEST(Scheduler, PromptsThatArriveTogetherEndOneAfterAnother) {
  Cache cache = make_cache(4000, true);
  Driver d(cache, {.sequences = 4, .step_tokens = 64});
  d.add(1, text(0, 200), 1);
  d.add(2, text(300, 64), 1);
  d.add(3, text(600, 96), 1);
  for (int step = 1; step <= 6; ++step) {  // as few as 360 tokens take
    d.step();
    EXPECT_EQ(d.finished.contains(2), step >= 2);
    EXPECT_EQ(d.finished.contains(3), step >= 4);
    EXPECT_EQ(d.finished.contains(1), step >= 6);
  }
}

TEST(Scheduler, ShortPromptsDoNotStarveALongOne) {
  Cache cache = make_cache(4000, true);
  Driver d(cache, {.sequences = 3, .step_tokens = 64});
  d.add(1, text(0, 1000), 1);
  d.step();
  for (uint64_t id = 1; !d.finished.contains(1);) {
    while (d.scheduler.running() + d.scheduler.waiting() < 3) {
      ++id;
      d.add(id, text(static_cast<int>(id) * 60, 60), 1);
    }
    const int64_t left = d.scheduler.find(1)->left();
    const auto step = d.step();
    ASSERT_TRUE(step.contains(1)) << "the long prompt waits";
    EXPECT_GE(step.at(1), std::min<int64_t>(left, 64 / 4));
  }
  EXPECT_GT(d.finished.size(), 20U);  // and neither do they wait for it
}

TEST(Scheduler, CallersShareEvenly) {
  Cache cache = make_cache(4000, true);
  Driver d(cache, {.sequences = 2, .step_tokens = 64});
  for (uint64_t id = 1; id <= 6; ++id) d.add(id, text(static_cast<int>(id) * 60, 10), 4, "many");
  d.add(7, text(900, 10), 4, "one");
  EXPECT_TRUE(d.step().contains(7));
}

TEST(Scheduler, WhatIsRememberedIsNotReadAgain) {
  Cache cache = make_cache(4000, true);
  Driver d(cache, {.sequences = 2, .step_tokens = 64});
  d.add(1, text(0, 200), 3);
  while (!d.scheduler.idle()) d.step();
  std::vector<int> longer = text(0, 200);
  longer.push_back(7);
  d.add(2, longer, 3);
  d.step();
  EXPECT_EQ(d.scheduler.find(2)->cached, 200);
  EXPECT_LT(d.scheduler.find(2)->read_again, cache.cell());
}

TEST(Scheduler, NothingIsDraftedBehindAPromptBeforeItIsRemembered) {
  Cache cache = make_cache(600, false);
  Driver d(cache, {.sequences = kSequences, .step_tokens = 80, .step_drafts = 10});
  for (const uint64_t id : {7, 14}) {  // the second one's prompt is there but for its last token
    d.add(id, text(5, 180), 30);
    while (!d.scheduler.idle()) d.step();
  }
  EXPECT_EQ(d.finished[7], d.finished[14]);
  EXPECT_GT(d.drafts, 0);
}

TEST(Scheduler, ASiblingWaitsForThePromptAndHasIt) {
  Cache cache = make_cache(4000, true);
  Driver d(cache, {.sequences = 4, .step_tokens = 64});
  d.add(1, text(0, 200), 8);
  d.add(2, text(0, 200), 3, {}, 1);
  EXPECT_FALSE(d.step().contains(2));
  for (int i = 0; i < 4; ++i) d.step();
  ASSERT_NE(d.scheduler.find(2), nullptr);
  EXPECT_EQ(d.scheduler.find(2)->cached, 199);
}

TEST(Scheduler, RandomLoadsEndAsTheyWouldAlone) {
  struct Case {
    bool hybrid, ahead;
    int64_t drafts;
  };
  for (const auto& [hybrid, ahead, drafts] : {Case{true, false, 0},
                                              {false, false, 0},
                                              {true, true, 0},
                                              {true, false, 20},
                                              {false, true, 20}}) {
    std::mt19937 random(3);
    const auto below = [&](uint32_t n) { return static_cast<int>(random() % n); };
    Cache cache = make_cache(600, hybrid);
    Driver d(cache, {.sequences = kSequences, .step_tokens = 40, .step_drafts = drafts}, ahead);
    std::map<uint64_t, std::pair<std::vector<int>, int64_t>> asked;
    uint64_t id = 0;
    for (int step = 0; step < 3000; ++step) {
      if (below(6) == 0) {
        std::vector<int> prompt = text(60 * below(4), 1 + below(250));
        if (below(2) == 0) prompt.push_back(below(1000));
        const int64_t limit = 1 + below(200);
        if (d.scheduler.fits(std::ssize(prompt) + limit)) {
          d.settle();
          ++id;
          asked[id] = {prompt, limit};
          const auto sibling = below(10) == 0 && id > 1 ? id - 1 : 0;
          d.add(id, prompt, limit, std::string(1, static_cast<char>('a' + below(3))), sibling);
        }
      }
      if (below(50) == 0) {
        d.settle();
        const auto ids = d.scheduler.ids();
        if (ids.empty()) continue;
        const uint64_t gone = ids[static_cast<size_t>(below(static_cast<uint32_t>(ids.size())))];
        d.scheduler.remove(gone, below(2) == 0);
        asked.erase(gone);
      }
      d.step();
      ASSERT_FALSE(HasFailure()) << "step " << step;
    }
    for (int step = 0; !d.scheduler.idle(); ++step) {
      d.step();
      ASSERT_LT(step, 100'000) << "nobody makes progress";
    }
    ASSERT_GT(d.scheduler.preemptions(), 10);
    ASSERT_EQ(d.steps_ahead > 100, ahead) << d.steps_ahead;
    ASSERT_EQ(d.drafts > d.accepted + 10, drafts > 0) << d.drafts;
    ASSERT_EQ(d.accepted > 50, drafts > 0) << d.accepted;
    for (const auto& [one, question] : asked) {
      std::vector<int> want = question.first;
      for (int64_t i = 0; i < question.second; ++i) {
        const int token = next_token(want, one);
        if (stops(token)) break;
        want.push_back(token);
      }
      ASSERT_EQ(d.finished[one], want) << "job " << one;
    }
  }
}

}  // namespace
}  // namespace sala
