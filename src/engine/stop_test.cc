#include "engine/stop.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"

namespace sala {
namespace {

struct Result {
  std::string given{};
  int matched = -1;
  std::string rest{};  ///< all that followed the stop string
};

/// The whole text at hand: the stop string whose end comes first, the longest of those.
Result plain_search(const std::string& text, const std::vector<std::string>& stops) {
  size_t best_end = std::string::npos, best_begin = 0;
  Result result{.given = text};
  for (size_t i = 0; i < stops.size(); ++i) {
    const size_t begin = text.find(stops[i]);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stops[i].size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_end = end;
      best_begin = begin;
      result = {
          .given = text.substr(0, begin), .matched = static_cast<int>(i), .rest = text.substr(end)};
    }
  }
  return result;
}

/// The text in pieces whose ends are `cuts`; checks what must hold on the way.
Result stream(const std::string& text, const std::vector<std::string>& stops,
              const std::vector<size_t>& cuts) {
  StopStrings finder(stops);
  Result result;
  size_t longest = 1, at = 0;
  for (const std::string& stop : stops) longest = std::max(longest, stop.size());
  for (const size_t cut : cuts) {
    result.given += finder.push(std::string_view(text).substr(at, cut - at));
    at = cut;
    if (finder.found()) {
      result.matched = finder.matched();
      result.rest = finder.rest() + text.substr(at);
      return result;
    }
    EXPECT_EQ(text.compare(0, result.given.size(), result.given), 0);
    EXPECT_GE(result.given.size() + longest, at + 1) << "waits for more than a stop string needs";
    // It waits for a reason: what is held back begins a stop string.
    const std::string held = text.substr(result.given.size(), at - result.given.size());
    bool begins = held.empty();
    for (const std::string& stop : stops) begins |= stop.starts_with(held);
    EXPECT_TRUE(begins) << held;
  }
  result.given += finder.flush();
  return result;
}

TEST(StopStrings, EqualsAPlainSearchHoweverTheTextIsCut) {
  std::mt19937 random(2);
  const auto word = [&](size_t length, int letters) {
    std::string text;
    for (size_t i = 0; i < length; ++i)
      text += static_cast<char>('a' + static_cast<int>(random() % static_cast<unsigned>(letters)));
    return text;
  };
  int found = 0;
  for (int round = 0; round < 4000; ++round) {
    const int letters = 2 + round % 2;
    const std::string text = word(random() % 60, letters);
    std::vector<std::string> stops;
    for (size_t i = random() % 5; i > 0; --i) stops.push_back(word(1 + random() % 8, letters));
    std::vector<size_t> cuts;
    for (size_t at = 0; at < text.size(); cuts.push_back(at))
      at = std::min(text.size(), at + random() % 6);
    const Result expected = plain_search(text, stops), got = stream(text, stops, cuts);
    ASSERT_EQ(got.given, expected.given) << text;
    ASSERT_EQ(got.rest, expected.rest) << text;
    if (expected.matched >= 0) {
      ++found;
      ASSERT_EQ(stops[static_cast<size_t>(got.matched)],
                stops[static_cast<size_t>(expected.matched)]);
    }
  }
  EXPECT_GT(found, 1000);
}

TEST(StopStrings, GivesAllWhenThereAreNone) {
  StopStrings none({});
  EXPECT_EQ(none.push("any text"), "any text");
  EXPECT_EQ(none.flush(), "");
}

TEST(StopStrings, KeepsCharactersWhole) {
  StopStrings finder({"é!"});
  EXPECT_EQ(finder.push("caf"), "caf");
  EXPECT_EQ(finder.push("é"), "");
  EXPECT_EQ(finder.push("è"), "éè");
  EXPECT_EQ(finder.push("é"), "");
  EXPECT_EQ(finder.push("!?"), "");
  EXPECT_TRUE(finder.found());
  EXPECT_EQ(finder.rest(), "?");
}

TEST(StopStrings, CanBeUsedAgain) {
  StopStrings finder({"<end>"});
  EXPECT_EQ(finder.push("a<end>b"), "a");
  ASSERT_TRUE(finder.found());
  EXPECT_EQ(finder.flush(), "");
  EXPECT_FALSE(finder.found());
  EXPECT_EQ(finder.push("c<en"), "c");
  EXPECT_EQ(finder.flush(), "<en");
  EXPECT_EQ(finder.push("d>"), "d>");
}

TEST(StopStrings, AnEmptyOneIsAnError) { EXPECT_THROW(StopStrings({"a", ""}), Error); }

TEST(StopStrings, LongTextsThatAlmostMatchTakeLinearTime) {
  // Quadratic work here would be 10^12 steps.
  const std::string text(1 << 20, 'a');
  StopStrings finder({std::string(1 << 20, 'a') + "b"});
  std::string given = finder.push(text) + finder.push(text);
  given += finder.flush();
  EXPECT_EQ(given.size(), size_t{2} << 20);
}

}  // namespace
}  // namespace sala
