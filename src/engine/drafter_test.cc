#include "engine/drafter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace sala {
namespace {

using Text = std::vector<int>;

Text random_text(int tokens, int kinds, uint32_t seed) {
  std::mt19937 random(seed);
  Text text(static_cast<size_t>(tokens));
  for (int& token : text) token = static_cast<int>(random() % static_cast<uint32_t>(kinds));
  return text;
}

/// Reads `text` token by token from `from` on: how many were drafted, and how many right.
std::pair<int64_t, int64_t> follow(Drafter& drafter, const Text& text, size_t from) {
  int64_t drafted = 0, right = 0;
  while (from < text.size()) {
    const Text draft = drafter.draft(std::span(text).first(from), 100);
    size_t same = 0;
    while (same < draft.size() && from + same < text.size() && draft[same] == text[from + same])
      ++same;
    drafted += std::ssize(draft);
    right += static_cast<int64_t>(same);
    from += same + 1;
  }
  return {drafted, right};
}

TEST(Drafter, GoesOnAsTheTextDidBefore) {
  Drafter drafter(8);
  Text text = random_text(1000, 50'000, 1);
  EXPECT_EQ(drafter.draft(text, 8), Text());  // nothing has been there before
  text.insert(text.end(), text.begin() + 300, text.begin() + 320);
  EXPECT_EQ(drafter.draft(text, 8), Text(text.begin() + 320, text.begin() + 328));
  EXPECT_EQ(drafter.draft(text, 3), Text(text.begin() + 320, text.begin() + 323));
  EXPECT_EQ(drafter.draft(text, 0), Text());
  EXPECT_EQ(drafter.draft(text, -1), Text());
}

TEST(Drafter, PrefersTheLongestMatchAndThenTheLast) {
  const auto draft = [&](Text text) { return Drafter(1).draft(text, 1); };
  EXPECT_EQ(draft({1, 2, 3, 4, 5, 6, 7, 70, 9, 5, 6, 7, 71, 0, 3, 4, 5, 6, 7}), Text({70}));
  EXPECT_EQ(draft({4, 5, 6, 7, 70, 9, 4, 5, 6, 7, 71, 0, 4, 5, 6, 7}), Text({71}));
  EXPECT_EQ(draft({6, 7, 70, 6, 7}), Text());  // two tokens are too few
  EXPECT_EQ(draft({}), Text());
  EXPECT_EQ(draft({1}), Text());
}

TEST(Drafter, KnowsWhatIsExpected) {
  const Text expected = random_text(100, 50'000, 6), text = random_text(50, 50'000, 7);
  Text now = text;
  now.insert(now.end(), expected.begin() + 10, expected.begin() + 40);
  Drafter drafter(4, expected);
  EXPECT_EQ(drafter.draft(text, 4), Text());
  EXPECT_EQ(drafter.draft(now, 4), Text(expected.begin() + 40, expected.begin() + 44));
  EXPECT_EQ(Drafter(4).draft(now, 4), Text());
}

TEST(Drafter, RepeatsAPeriod) {
  Text text = random_text(100, 50'000, 2);
  for (int i = 0; i < 10; ++i)
    for (const int token : {1, 2, 3}) text.push_back(token);
  EXPECT_EQ(Drafter(7).draft(text, 7), Text({1, 2, 3, 1, 2, 3, 1}));
}

TEST(Drafter, SeesTheSameHoweverTheTextHasGrown) {
  // A period never fails, so that what was learned on the way lowers no draft.
  Text text = random_text(500, 50'000, 3);
  for (int i = 0; i < 600; ++i) text.push_back(i % 30);
  Drafter pieces(15);
  for (size_t length = 570; length <= text.size(); length += 37) {
    const auto now = std::span(text).first(length);
    const Text want = {text.begin() + 500 + static_cast<int>(length - 500) % 30,
                       text.begin() + 500 + static_cast<int>(length - 500) % 30 + 15};
    EXPECT_EQ(Drafter(15).draft(now, 15), want) << length;
    EXPECT_EQ(pieces.draft(now, 15), want) << length;
  }
}

TEST(Drafter, LearnsWhatADraftIsWorth) {
  // Quotations of 60 tokens come true; noise of few kinds of tokens agrees in three now and then.
  const Text source = random_text(5000, 50'000, 4);
  Text quotes = source;
  for (int i = 0; i < 20; ++i) {
    const auto at = source.begin() + i * 200;
    quotes.insert(quotes.end(), at, at + 60);
    quotes.push_back(60'000 + i);
  }
  Drafter one(15);
  const auto [drafted, right] = follow(one, quotes, source.size());
  EXPECT_GT(right, 20 * 40);
  EXPECT_LT(drafted - right, 20 * 18);  // what stands behind the end of each

  const Text noise = random_text(20'000, 12, 5);
  Drafter other(15);
  const auto [tried, found] = follow(other, noise, 2000);
  EXPECT_LT(tried, 2000) << found;  // of 18,000 tokens
}

TEST(Drafter, NoneKeepsNothing) {
  Drafter none;
  EXPECT_EQ(none.draft(Text(100, 7), 10), Text());
}

TEST(Drafter, ALongTextIsQuick) {
  // Every place has the same three tokens in front of it: each draft looks at few of them.
  const Text same(200'000, 1);
  Drafter drafter(15);
  for (size_t length = 100'000; length < same.size(); ++length)
    ASSERT_EQ(drafter.draft(std::span(same).first(length), 1), Text({1}));
}

}  // namespace
}  // namespace sala
