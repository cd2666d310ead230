#include "cache/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace sala {
namespace {

constexpr int kPage = 4;

TEST(PrefixIndex, FindsTheLongestBeginningOfManyTexts) {
  PrefixIndex index(kPage);
  std::mt19937 random(3);
  std::vector<std::vector<int>> texts;
  std::map<int32_t, std::vector<int>> content;  // of a page: the text up to its end
  std::map<int32_t, int> owners;
  int32_t next = 0;
  for (int round = 0; round < 400; ++round) {
    // Branch off an earlier text, so that there is much in common.
    std::vector<int> text;
    if (!texts.empty()) {
      text = texts[random() % texts.size()];
      text.resize(random() % (text.size() + 1));
    }
    for (auto more = random() % 12; more > 0; --more)
      text.push_back(static_cast<int>(random() % 2));

    size_t longest = 0;
    for (const auto& known : texts) {
      const auto common =
          static_cast<size_t>(std::ranges::mismatch(known, text).in1 - known.begin());
      longest = std::max(longest, common);
    }
    const PrefixIndex::Match match = index.find(text);
    ASSERT_EQ(match.tokens, static_cast<int64_t>(longest));
    ASSERT_EQ(match.pages.size(), (longest + kPage - 1) / kPage);
    for (size_t i = 0; i < match.pages.size(); ++i) {
      const std::vector<int>& there = content[match.pages[i]];
      const size_t end = std::min((i + 1) * kPage, longest);
      ASSERT_GE(there.size(), end);
      ASSERT_TRUE(
          std::equal(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end), there.begin()));
    }

    std::vector<int32_t> pages;
    for (size_t end = 0; end < text.size();) {
      end = std::min(end + kPage, text.size());
      content[next] = {text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end)};
      pages.push_back(next++);
    }
    index.insert(text, pages, {}, [&](int32_t p) { ++owners[p]; }, [&](int32_t p) { --owners[p]; });
    texts.push_back(text);
  }
  std::vector<int32_t> held = index.pages();
  std::ranges::sort(held);
  std::vector<int32_t> counted;
  for (const auto& [page, count] : owners) {
    ASSERT_TRUE(count == 0 || count == 1);
    if (count == 1) counted.push_back(page);
  }
  EXPECT_EQ(held, counted);

  // Forgetting takes ends first, so that what is left is always whole texts.
  size_t left = held.size();
  while (index.forget_one([](int32_t) { return true; }, [&](int32_t p) { --owners[p]; })) --left;
  EXPECT_EQ(left, 0u);
  EXPECT_EQ(index.find(texts.back()).tokens, 0);
}

TEST(PrefixIndex, GivesTheSnapshotsOnTheWay) {
  Snapshots pool(8, 800, 0, ".");
  PrefixIndex index(kPage);
  std::vector<SnapshotRef> snapshots;
  for (const int64_t at : {2, 4, 8, 10}) snapshots.push_back(pool.make(at, nullptr, [](auto) {}));
  const std::vector<int> text = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const std::vector<int32_t> pages = {0, 1, 2};
  const auto ignore = [](int32_t) {};
  index.insert(text, pages, snapshots, ignore, ignore);
  snapshots.clear();
  const auto positions = [&](std::span<const int> tokens) {
    std::vector<int64_t> all;
    for (const SnapshotRef& s : index.find(tokens).snapshots) all.push_back(s->position());
    return all;
  };
  EXPECT_EQ(positions(text), (std::vector<int64_t>{2, 4, 8, 10}));
  EXPECT_EQ(positions(std::span(text).first(9)), (std::vector<int64_t>{2, 4, 8}));
  EXPECT_EQ(positions(std::span(text).first(3)), (std::vector<int64_t>{2}));
}

}  // namespace
}  // namespace sala
