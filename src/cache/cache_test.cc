#include "cache/cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <random>

namespace sala {
namespace {

constexpr int kPage = 8;

/// A layer of pages and one of states that are complete at multiples of four.
std::vector<CacheSpec> two_layers() {
  using Growth = Field::Growth;
  using Role = Field::Role;
  return {{.fields = {{"kv", Growth::paged, Role::kv, DType::bf16, 100},
                      {"k1", Growth::paged, Role::index, DType::f32, 7}}},
          {.fields = {{"state", Growth::state, Role::state, DType::f32, 11},
                      {"rows", Growth::tail, Role::state, DType::f32, 5}},
           .cell = 4}};
}

CacheSize size_of_cache(int64_t tokens, int sequences) {
  return {.page = kPage, .tokens = tokens, .sequences = sequences, .snapshots = 44 * 10};
}

Memory memory;

std::vector<int> numbers(int count, int first = 0) {
  std::vector<int> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

float& state(Cache& cache, const Hold& hold) {
  const FieldView& view = cache.layer(1)[0];
  return *reinterpret_cast<float*>(view.data + hold.slot() * view.stride);
}
std::byte& first_byte(Cache& cache, int32_t page) {
  const FieldView& view = cache.layer(0)[0];
  return view.data[page * view.stride];
}

TEST(Cache, MemoryOfCountsWholePagesAndOneState) {
  const MemoryUse use = memory_of(two_layers(), 16, 33);
  EXPECT_EQ(use.kv, 3 * 200);
  EXPECT_EQ(use.index, 3 * 28);
  EXPECT_EQ(use.state, 64);
  EXPECT_EQ(use.total(), 600 + 84 + 64);
}

TEST(Cache, GrowsByPagesAndRefusesWhenFull) {
  Cache cache(two_layers(), size_of_cache(32, 2), {&memory, &memory});
  Hold a = cache.open();
  ASSERT_TRUE(a.grow(9));
  a.advance(9);
  EXPECT_EQ(a.pages().size(), 2u);
  ASSERT_TRUE(a.grow(7));
  EXPECT_EQ(a.pages().size(), 2u);
  Hold b = cache.open();
  EXPECT_FALSE(b.grow(17));
  EXPECT_EQ(b.pages().size(), 0u);
  EXPECT_TRUE(b.grow(16));
  EXPECT_EQ(cache.free_pages(), 0);
  const Hold* holds[] = {&a, &b};
  cache.check_integrity(holds);
}

TEST(Cache, PagesAndStatesComeBackZeroed) {
  Cache cache(two_layers(), size_of_cache(32, 1), {&memory, &memory});
  for (int round = 0; round < 2; ++round) {
    Hold hold = cache.open();
    ASSERT_TRUE(hold.grow(32));
    for (int layer = 0; layer < 2; ++layer) {
      for (size_t f = 0; f < 2; ++f) {
        const FieldView& view = cache.layer(layer)[f];
        for (int64_t i = 0; i < view.entries * view.stride; ++i)
          ASSERT_EQ(view.data[i], std::byte{0})
              << "layer " << layer << " byte " << i << " round " << round;
        std::memset(view.data, 0x5A, static_cast<size_t>(view.entries * view.stride));
      }
    }
  }
}

TEST(Cache, SharesWhatItRemembersAndCopiesBeforeWriting) {
  Cache cache(two_layers(), size_of_cache(64, 2), {&memory, &memory});
  const std::vector<int> text = numbers(21);
  {
    Hold first = cache.open();
    ASSERT_TRUE(first.grow(21));
    first.advance(21);
    state(cache, first) = 20.0f;  // as after 20 tokens, the last multiple of four
    first_byte(cache, first.pages()[2]) = std::byte{7};
    cache.snapshot(first);
    cache.remember(first, text);
  }
  Hold second = cache.open(text);
  EXPECT_EQ(second.kept(), 21);
  EXPECT_EQ(second.length(), 20);
  EXPECT_EQ(state(cache, second), 20.0f);
  const std::vector<int32_t> shared(second.pages().begin(), second.pages().end());
  ASSERT_TRUE(second.grow(1));  // a replay writes to no page
  EXPECT_TRUE(std::ranges::equal(second.pages(), shared));
  second.advance(1);
  EXPECT_EQ(second.length(), 21);
  ASSERT_TRUE(second.grow(1));
  EXPECT_EQ(second.pages()[0], shared[0]);
  EXPECT_EQ(second.pages()[1], shared[1]);
  EXPECT_NE(second.pages()[2], shared[2]);
  EXPECT_EQ(first_byte(cache, second.pages()[2]), std::byte{7});
  const Hold* holds[] = {&second};
  cache.check_integrity(holds);
}

TEST(Cache, FindsThePartThatTextsHaveInCommon) {
  Cache cache(two_layers(), size_of_cache(64, 2), {&memory, &memory});
  {
    Hold hold = cache.open();
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(hold.grow(8));
      hold.advance(8);
      state(cache, hold) = static_cast<float>(hold.length());
      cache.snapshot(hold);
    }
    cache.remember(hold, numbers(24));
  }
  std::vector<int> other = numbers(24);
  other[19] = 99;
  Hold hold = cache.open(other);
  EXPECT_EQ(hold.kept(), 19);
  EXPECT_EQ(hold.length(), 16);
  EXPECT_EQ(state(cache, hold), 16.0f);
  EXPECT_EQ(cache.open(numbers(5, 3)).kept(), 0);
}

TEST(Cache, RollsBackWithinACellWithoutASnapshot) {
  Cache cache(two_layers(), size_of_cache(64, 1), {&memory, &memory});
  Hold hold = cache.open();
  ASSERT_TRUE(hold.grow(23));
  hold.advance(23);
  state(cache, hold) = 20.0f;
  cache.roll_back(hold, 21);
  EXPECT_EQ(hold.length(), 21);
  EXPECT_EQ(state(cache, hold), 20.0f);
  cache.roll_back(hold, 19);  // no snapshot: from the beginning
  EXPECT_EQ(hold.length(), 0);
  EXPECT_EQ(hold.kept(), 19);
  EXPECT_EQ(state(cache, hold), 0.0f);
  EXPECT_EQ(hold.pages().size(), 3u);
}

TEST(Cache, ForksCostTheirStateAndTouchedPages) {
  Cache cache(two_layers(), size_of_cache(80, 4), {&memory, &memory});
  Hold trunk = cache.open();
  ASSERT_TRUE(trunk.grow(20));
  trunk.advance(20);
  state(cache, trunk) = 20.0f;
  const int64_t before = cache.free_pages();
  std::vector<Hold> branches;
  for (int i = 0; i < 3; ++i) branches.push_back(cache.fork(trunk));
  EXPECT_EQ(cache.free_pages(), before);
  for (Hold& branch : branches) {
    EXPECT_EQ(state(cache, branch), 20.0f);
    ASSERT_TRUE(branch.grow(1));
    branch.advance(1);
  }
  EXPECT_EQ(cache.free_pages(), before - 3);
}

TEST(Cache, ForgetsTheOldestTextFirst) {
  Cache cache(two_layers(), size_of_cache(32, 1), {&memory, &memory});
  for (int text = 0; text < 4; ++text) {
    Hold hold = cache.open();
    ASSERT_TRUE(hold.grow(8)) << text;
    hold.advance(8);
    cache.remember(hold, numbers(8, 100 * text));
  }
  EXPECT_EQ(cache.free_pages(), 0);
  EXPECT_EQ(cache.open(numbers(8, 0)).kept(), 8);  // used last now
  {
    Hold hold = cache.open(numbers(8, 900));
    ASSERT_TRUE(hold.grow(8));
  }
  EXPECT_EQ(cache.open(numbers(8, 100)).kept(), 0);
  EXPECT_EQ(cache.open(numbers(8, 0)).kept(), 8);
  EXPECT_EQ(cache.open(numbers(8, 200)).kept(), 8);
}

TEST(Cache, RandomUseLosesNothing) {
  Cache cache(two_layers(), size_of_cache(8 * 50, 6), {&memory, &memory});
  std::mt19937 random(7);
  struct Sequence {
    Hold hold;
    std::vector<int> text;
  };
  std::vector<std::unique_ptr<Sequence>> all;
  std::vector<std::vector<int>> texts = {{}};
  for (int step = 0; step < 5000; ++step) {
    const auto dice = random() % 6;
    Sequence* one = all.empty() ? nullptr : all[random() % all.size()].get();
    if (dice == 0 && cache.free_slots() > 0) {
      std::vector<int> text = texts[random() % texts.size()];
      Hold hold = cache.open(text);
      text.resize(static_cast<size_t>(hold.kept()));
      all.push_back(std::make_unique<Sequence>(std::move(hold), text));
    } else if (dice == 1 && one != nullptr && cache.free_slots() > 0) {
      all.push_back(std::make_unique<Sequence>(cache.fork(one->hold), one->text));
    } else if (dice == 2 && !all.empty()) {
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(random() % all.size()));
    } else if (dice == 3 && one != nullptr) {
      const auto tokens = static_cast<int64_t>(random() % (one->text.size() + 1));
      cache.roll_back(one->hold, tokens);
      one->text.resize(static_cast<size_t>(tokens));
    } else if (dice == 4 && one != nullptr) {
      if (random() % 2 == 0) cache.snapshot(one->hold);
      cache.remember(one->hold, one->text);
      if (texts.size() < 20) texts.push_back(one->text);
    } else if (one != nullptr) {
      const auto tokens = static_cast<int64_t>(random() % 40);
      const int64_t pages = static_cast<int64_t>(one->hold.pages().size());
      if (one->hold.grow(tokens)) {
        one->hold.advance(tokens);
        while (static_cast<int64_t>(one->text.size()) < one->hold.kept())
          one->text.push_back(static_cast<int>(random() % 3));
      } else {
        EXPECT_EQ(pages, static_cast<int64_t>(one->hold.pages().size()));
      }
    }
    std::vector<const Hold*> holds;
    for (const auto& sequence : all) holds.push_back(&sequence->hold);
    cache.check_integrity(holds);
  }
}

}  // namespace
}  // namespace sala
