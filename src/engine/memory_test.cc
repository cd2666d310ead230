// Memory never changes a result: whatever way a sequence came to hold a text (read whole, found
// among remembered texts, forked, rolled back, given up and taken up again, its keys and values
// moved to a file and back), the logits of its next token are those of a cold run, bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <map>
#include <random>

#include "engine/runner.h"
#include "engine/testing.h"

namespace sala {
namespace {

using Bits = std::vector<uint32_t>;

Bits bits_of(In logits) {
  Bits bits(static_cast<size_t>(logits.size()));
  std::transform(logits.as<float>(), logits.as<float>() + logits.size(), bits.begin(),
                 [](float x) { return std::bit_cast<uint32_t>(x); });
  return bits;
}

struct Case {
  StoredType weights;
  ComputeMode compute;
  KvType kv;
  bool hybrid;   ///< else attention in every layer, which has no states
  bool spills;   ///< keys and values do not fit in memory
  bool crowded;  ///< pages are so few that remembered texts must go
};

class Memory : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kLongest = 300;

  Memory() {
    config_ = testing::tiny_sala();
    if (!GetParam().hybrid)
      for (MixerKind& kind : config_.mixers) kind = MixerKind::attention;
    model_ = testing::random_model(config_, GetParam().weights);
    device_ = open_device(options());
  }

  RunOptions options() const {
    RunOptions o;
    o.threads = 1;
    o.compute = GetParam().compute;
    o.kv = GetParam().kv;
    o.chunk = 48;
    o.context = GetParam().crowded ? 3 * kLongest : 8 * kLongest;
    o.sequences = 4;
    o.logits = 4;
    const auto specs = cache_specs(config_, o.kv);
    const int64_t page_kv = memory_of(specs, config_.page(), 1).kv;
    if (GetParam().spills) o.kv_memory = 22 * page_kv;
    o.cache_disk = int64_t{1} << 24;
    o.cache_ram = GetParam().crowded ? 150'000 : 2'000'000;
    return o;
  }

  /// The logits after `text`, from a run that knows nothing before.
  const Bits& truth(const std::vector<int>& text) {
    Bits& known = truth_[text];
    if (known.empty()) {
      RunOptions o = options();
      o.kv_memory = -1;
      o.cache_ram = o.cache_disk = 0;
      o.sequences = 1;
      o.logits = 1;
      o.context = o.chunk = static_cast<int>(text.size());
      Runner cold(*model_, *device_, o);
      Hold hold = cold.open();
      cold.read(hold, text,
                {.wanted = 1, .on_logits = [&](In logits) { known = bits_of(logits); }});
    }
    return known;
  }

  ModelConfig config_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Device> device_;
  std::map<std::vector<int>, Bits> truth_;
};

TEST_P(Memory, RandomTreesOfOperationsGiveTheBitsOfColdRuns) {
  Runner runner(*model_, *device_, options());
  Cache& cache = runner.cache();
  std::mt19937 random(11);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  struct Sequence {
    Hold hold;
    std::vector<int> text;  ///< its first hold.kept() tokens
  };
  std::vector<std::unique_ptr<Sequence>> all;
  std::vector<std::vector<int>> remembered = {{}};
  int64_t compared = 0, reused = 0, replayed = 0;

  /// Reads a few more tokens, some ways of cutting them, and compares the last one's logits.
  const auto go_on = [&](Sequence& one, size_t count) {
    std::vector<int> text = one.text;
    for (size_t i = 0; i < count; ++i) text.push_back(static_cast<int>(below(4)));
    if (static_cast<int64_t>(text.size()) > kLongest) return;
    replayed += one.hold.kept() - one.hold.length();
    std::vector<int64_t> marks;
    if (below(2) == 0) marks.push_back(static_cast<int64_t>(below(text.size()) + 1));
    Bits got;
    // The pool may be full of live sequences: then this one must wait.
    const auto needed = static_cast<int64_t>(text.size()) - one.hold.length();
    if (!one.hold.grow(needed)) return;
    runner.read(one.hold, text,
                {.wanted = 1, .on_logits = [&](In l) { got = bits_of(l); }, .marks = marks});
    one.text = text;
    ASSERT_EQ(got, truth(text)) << text.size() << " tokens";
    ++compared;
  };

  /// One step of all sequences.
  const auto together = [&] {
    std::vector<Runner::Row> rows;
    std::vector<std::vector<int>> texts;
    texts.reserve(all.size());
    for (const auto& one : all) {
      std::vector<int>& text = texts.emplace_back(one->text);
      for (size_t more = 1 + below(4); more > 0; --more) text.push_back(static_cast<int>(below(4)));
      const auto read = static_cast<size_t>(one->hold.length());
      if (static_cast<int64_t>(text.size()) > kLongest || text.size() - read > 48 / 4 ||
          !one->hold.grow(static_cast<int64_t>(text.size() - read))) {
        text = one->text;  // too long, or too much to replay in a step
        continue;
      }
      rows.push_back({.hold = one->hold, .tokens = std::span(text).subspan(read), .logits = 1});
    }
    if (rows.empty()) return;
    const In logits = runner.step(rows);
    int64_t row = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      if (texts[i] == all[i]->text) continue;
      all[i]->text = texts[i];
      ASSERT_EQ(bits_of(sala::rows(logits, row++, 1)), truth(texts[i]));
      ++compared;
    }
  };

  for (int step = 0; step < 2500; ++step) {
    Sequence* one = all.empty() ? nullptr : all[below(all.size())].get();
    switch (below(8)) {
      case 0:
      case 1:  // a prompt that begins like an earlier text
        if (cache.free_slots() > 0) {
          std::vector<int> prompt = remembered[below(remembered.size())];
          prompt.resize(below(prompt.size() + 1));
          for (size_t more = 1 + below(20); more > 0; --more)
            prompt.push_back(static_cast<int>(below(4)));
          Hold hold = runner.open(prompt);
          reused += hold.kept();
          prompt.resize(static_cast<size_t>(hold.kept()));
          all.push_back(std::make_unique<Sequence>(std::move(hold), prompt));
          go_on(*all.back(), 1 + below(60));
        }
        break;
      case 2:
        if (one != nullptr && cache.free_slots() > 0)
          all.push_back(std::make_unique<Sequence>(cache.fork(one->hold), one->text));
        break;
      case 3:
        if (one != nullptr) {
          const size_t tokens = below(one->text.size() + 1);
          cache.roll_back(one->hold, static_cast<int64_t>(tokens));
          one->text.resize(tokens);
        }
        break;
      case 4:
        if (one != nullptr) {
          cache.snapshot(one->hold);
          cache.remember(one->hold, one->text);
          if (remembered.size() < 30) remembered.push_back(one->text);
        }
        break;
      case 5:  // given up in the middle, or at the end
        if (one != nullptr) {
          if (below(2) == 0) {
            cache.snapshot(one->hold);
            cache.remember(one->hold, one->text);
          }
          std::erase_if(all, [&](const auto& s) { return s.get() == one; });
        }
        break;
      case 6:
        together();
        break;
      default:
        if (one != nullptr) go_on(*one, 1 + below(below(3) == 0 ? 90 : 5));
    }
    if (HasFatalFailure()) return;
    std::vector<const Hold*> holds;
    for (const auto& sequence : all) holds.push_back(&sequence->hold);
    cache.check_integrity(holds);
  }
  EXPECT_GT(compared, 100);
  EXPECT_GT(reused, 500);
  EXPECT_GT(replayed, GetParam().hybrid ? 100 : -1);
  EXPECT_EQ(cache.traffic().blocks_written > 0, GetParam().spills);
}

/// The same with room for everything, since a crowded cache may have to read more.
class Turns : public Memory {};

TEST_P(Turns, ATurnReadsOnlyWhatIsNewAndLessThanACell) {
  RunOptions o = options();
  Runner runner(*model_, *device_, o);
  std::mt19937 random(3);
  std::vector<int> text;
  const auto cell = static_cast<int64_t>(runner.cache().cell());
  for (int turn = 0; turn < 20; ++turn) {
    const auto before = static_cast<int64_t>(text.size());
    for (int i = 0; i < 15; ++i) text.push_back(static_cast<int>(random() % 61));
    Hold hold = runner.open(text);
    EXPECT_GE(hold.kept(), before);
    EXPECT_GT(hold.length(), before - cell);
    Bits got;
    runner.read(hold, text, {.wanted = 1, .on_logits = [&](In l) { got = bits_of(l); }});
    EXPECT_EQ(got, truth(text));
    runner.cache().snapshot(hold);
    runner.cache().remember(hold, text);
  }
}

const Case kCases[] = {
    {StoredType::f32, ComputeMode::f32, KvType::f32, true, false, false},
    {StoredType::f32, ComputeMode::f32, KvType::f32, true, true, true},
    {StoredType::bf16, ComputeMode::bf16, KvType::bf16, true, false, true},
    {StoredType::bf16, ComputeMode::bf16, KvType::bf16, true, true, false},
    {StoredType::f32, ComputeMode::f32, KvType::int8, true, true, true},
    {StoredType::q4_1, ComputeMode::int8, KvType::int8, true, false, false},
    {StoredType::bf16, ComputeMode::f32, KvType::int4, true, true, false},
    {StoredType::q8_0, ComputeMode::int8, KvType::bf16, false, true, false},
    {StoredType::q8_0, ComputeMode::int8, KvType::bf16, false, false, true},
    {StoredType::bf16, ComputeMode::bf16, KvType::int8, true, true, true},
    {StoredType::f32, ComputeMode::f32, KvType::int4, true, false, true},
};
std::string name_of_case(const ::testing::TestParamInfo<Case>& tested) {
  const Case& c = tested.param;
  return fmt::format("{}_{}_{}{}{}", name_of(c.weights), name_of(c.kv),
                     c.hybrid ? "hybrid" : "attention", c.spills ? "_spills" : "",
                     c.crowded ? "_crowded" : "");
}
INSTANTIATE_TEST_SUITE_P(Modes, Memory, ::testing::ValuesIn(kCases), name_of_case);

std::vector<Case> roomy() {
  std::vector<Case> cases(std::begin(kCases), std::end(kCases));
  std::erase_if(cases, [](const Case& c) { return c.crowded; });
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Modes, Turns, ::testing::ValuesIn(roomy()), name_of_case);

}  // namespace
}  // namespace sala
