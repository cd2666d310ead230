#include "cache/frames.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <random>

#include "base/error.h"

namespace sala {
namespace {

/// Two layers with keys and values, one without.
std::vector<CacheSpec> layers() {
  const auto kv = [](int64_t elements) {
    return CacheSpec{
        .fields = {{"kv", Field::Growth::paged, Field::Role::kv, DType::u8, elements}}};
  };
  return {kv(24), {}, kv(40)};
}

Memory memory;

std::filesystem::path scratch() { return std::filesystem::temp_directory_path(); }

std::byte number(int64_t record, int layer, size_t i) {
  return static_cast<std::byte>((record * 31 + layer * 7 + static_cast<int64_t>(i)) & 0xFF);
}

/// Hands out the same bytes for a record always; counts what is read.
class Numbers : public PageStore {
 public:
  void read(int64_t record, int layer, std::span<std::byte> out) override {
    ++reads;
    if (broken) fail("page {} is damaged", record);
    for (size_t i = 0; i < out.size(); ++i) out[i] = number(record, layer, i);
  }
  int reads = 0;
  bool broken = false;
};

std::byte* frame_of(const Frames& frames, int layer, int32_t page) {
  const FieldView& field = frames.fields(layer)[0];
  const In table = frames.table(layer);
  return field.data + (table.empty() ? page : table.as<int32_t>()[page]) * field.stride;
}

TEST(Frames, AnyUseOfFewFramesKeepsEveryByte) {
  constexpr int kPages = 40;
  for (const int64_t count : {3, 7, 40}) {
    Frames frames(layers(), kPages, count, scratch(), {&memory, &memory, &memory});
    std::mt19937 random(5);
    std::map<std::pair<int, int32_t>, std::vector<std::byte>> truth;  // of pages handed out
    std::vector<bool> free(kPages, true);
    for (int step = 0; step < 4000; ++step) {
      const auto page = static_cast<int32_t>(random() % kPages);
      if (free[static_cast<size_t>(page)]) {
        frames.take(page);
        for (const int layer : {0, 2})
          truth[{layer, page}].assign(static_cast<size_t>(frames.fields(layer)[0].stride),
                                      std::byte{0});
        free[static_cast<size_t>(page)] = false;
      } else if (random() % 8 == 0) {
        frames.drop(page);
        free[static_cast<size_t>(page)] = true;
      } else {
        const int layer = random() % 2 == 0 ? 0 : 2;
        std::vector<int32_t> pages = {page};
        while (static_cast<int64_t>(pages.size()) < count && random() % 3 != 0) {
          const auto more = static_cast<int32_t>(random() % kPages);
          if (!free[static_cast<size_t>(more)]) pages.push_back(more);
        }
        const bool writes = random() % 2 == 0;
        frames.use(layer, pages, writes ? Frames::Access::write : Frames::Access::read);
        for (const int32_t p : pages) {
          std::vector<std::byte>& want = truth[{layer, p}];
          std::byte* got = frame_of(frames, layer, p);
          ASSERT_TRUE(std::equal(want.begin(), want.end(), got)) << "page " << p;
          if (!writes) continue;
          for (std::byte& b : want) b = static_cast<std::byte>(random() & 0xFF);
          std::ranges::copy(want, got);
        }
      }
      if (step % 50 == 0) frames.check_integrity(free);
    }
    for (auto& [key, want] : truth) {
      if (free[static_cast<size_t>(key.second)]) continue;
      std::vector<std::byte> got(want.size());
      frames.read(key.second, key.first, got);
      EXPECT_EQ(got, want);
    }
    EXPECT_EQ(frames.traffic().blocks_written > 0, count < kPages);
  }
}

TEST(Frames, AttachedPagesAreReadWhenUsedAndOnlyThen) {
  for (const int64_t count : {4, 10}) {
    Frames frames(layers(), 10, count, scratch(), {&memory, &memory, &memory});
    EXPECT_EQ(frames.managed(), count < 10);
    auto store = std::make_shared<Numbers>();
    for (int32_t page = 0; page < 6; ++page) {
      frames.take(page);
      frames.attach(page, store, 100 + page);
    }
    EXPECT_TRUE(frames.managed());
    EXPECT_EQ(store->reads, 0);
    const int32_t wanted[] = {1, 5};
    frames.use(2, wanted, Frames::Access::read);
    EXPECT_EQ(store->reads, 2);
    frames.use(2, wanted, Frames::Access::read);
    EXPECT_EQ(store->reads, 2);
    EXPECT_EQ(frame_of(frames, 2, 5)[3], number(105, 2, 3));
    frames.take(9);
    frames.copy(1, 9);
    std::vector<std::byte> original(24), copy(24);
    frames.read(1, 0, original);
    frames.read(9, 0, copy);
    EXPECT_EQ(original, copy);
    EXPECT_EQ(copy[0], number(101, 0, 0));
    for (int32_t page = 0; page < 6; ++page) frames.drop(page);
    EXPECT_EQ(frames.managed(), count < 10);
  }
}

TEST(Frames, APageThatCannotBeReadLeavesTheRestInOrder) {
  for (const int64_t count : {2, 6}) {
    Frames frames(layers(), 6, count, scratch(), {&memory, &memory, &memory});
    auto store = std::make_shared<Numbers>();
    std::vector<bool> free(6, true);
    for (int32_t page = 0; page < 3; ++page) {
      frames.take(page);
      frames.attach(page, store, page);
      free[static_cast<size_t>(page)] = false;
    }
    store->broken = true;
    const int32_t wanted[] = {2};
    EXPECT_THROW(frames.use(0, wanted, Frames::Access::read), Error);
    frames.check_integrity(free);
    store->broken = false;
    frames.use(0, wanted, Frames::Access::read);
    EXPECT_EQ(frame_of(frames, 0, 2)[0], number(2, 0, 0));
    frames.check_integrity(free);
  }
}

TEST(SpillFile, SaysWhereItCannotBe) {
  try {
    SpillFile file("/nonexistent/place", 100);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("/nonexistent/place"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("--cache-dir"), std::string::npos);
  }
  try {
    SpillFile file(scratch(), int64_t{1} << 60);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("--cache-disk"), std::string::npos);
  }
}

}  // namespace
}  // namespace sala
