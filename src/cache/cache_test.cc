#include "cache/cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>

namespace sala {
namespace {

std::vector<CacheSpec> two_layers() {
  return {{{"kv", Field::Growth::paged, Field::Role::kv, DType::bf16, 100},
           {"k1", Field::Growth::paged, Field::Role::index, DType::f32, 7}},
          {{"state", Field::Growth::state, Field::Role::state, DType::f32, 11}}};
}

TEST(Cache, MemoryOfCountsWholePagesAndOneState) {
  const MemoryUse use = memory_of(two_layers(), 16, 33);
  EXPECT_EQ(use.kv, 3 * 200);
  EXPECT_EQ(use.index, 3 * 28);
  EXPECT_EQ(use.state, 44);
  EXPECT_EQ(use.total(), 600 + 84 + 44);
}

TEST(Cache, GrowsByPagesAndRefusesWhenFull) {
  Cache cache(two_layers(), 16, 64, 2);
  Hold a = cache.open();
  ASSERT_TRUE(a.grow(17));
  a.advance(17);
  EXPECT_EQ(a.pages().size(), 2u);
  ASSERT_TRUE(a.grow(15));
  EXPECT_EQ(a.pages().size(), 2u);
  Hold b = cache.open();
  EXPECT_FALSE(b.grow(33));
  EXPECT_EQ(b.pages().size(), 0u);
  EXPECT_TRUE(b.grow(32));
  EXPECT_EQ(cache.free_pages(), 0);
  const Hold* holds[] = {&a, &b};
  cache.check_integrity(holds);
}

TEST(Cache, PagesAndSlotsComeBackZeroed) {
  Cache cache(two_layers(), 16, 32, 1);
  for (int round = 0; round < 2; ++round) {
    Hold hold = cache.open();
    ASSERT_TRUE(hold.grow(32));
    for (int layer = 0; layer < 2; ++layer) {
      for (const FieldView& view : cache.layer(layer)) {
        for (int64_t i = 0; i < view.entries * view.stride; ++i)
          ASSERT_EQ(view.data[i], std::byte{0})
              << "layer " << layer << " byte " << i << " round " << round;
        std::memset(view.data, 0x5A, static_cast<size_t>(view.entries * view.stride));
      }
    }
  }
}

TEST(Cache, RandomUseLosesNothing) {
  Cache cache(two_layers(), 8, 8 * 50, 6);
  std::mt19937 random(7);
  std::vector<std::unique_ptr<Hold>> holds;
  for (int step = 0; step < 3000; ++step) {
    const auto dice = random() % 3;
    if (dice == 0 && cache.free_slots() > 0) {
      holds.push_back(std::make_unique<Hold>(cache.open()));
    } else if (dice == 1 && !holds.empty()) {
      holds.erase(holds.begin() + static_cast<std::ptrdiff_t>(random() % holds.size()));
    } else if (!holds.empty()) {
      Hold& hold = *holds[random() % holds.size()];
      const int64_t tokens = static_cast<int64_t>(random() % 40);
      const int64_t before = cache.free_pages();
      if (hold.grow(tokens)) {
        hold.advance(tokens);
      } else {
        EXPECT_EQ(before, cache.free_pages());
      }
    }
    std::vector<const Hold*> all;
    for (const auto& hold : holds) all.push_back(hold.get());
    cache.check_integrity(all);
  }
}

}  // namespace
}  // namespace sala
