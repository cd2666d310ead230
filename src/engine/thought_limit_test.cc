#include "engine/thought_limit.h"

#include <gtest/gtest.h>

#include "engine/writer.h"
#include "grammar/constraints.h"
#include "grammar/pattern.h"

namespace sala {
namespace {

constexpr int kVocab = 128;  // an ASCII character each

std::unique_ptr<Tokenizer> characters() {
  GgufVocab v;
  v.model = "llama";
  for (int c = 0; c < kVocab; ++c)
    v.tokens.push_back(c == ' ' ? "\xE2\x96\x81"
                                : std::string(1, static_cast<char>(c == 0 ? 1 : c)));
  v.tokens[1] = "\xC3\xA4";
  v.scores.assign(v.tokens.size(), 0.0f);
  v.add_space_prefix = false;
  return Tokenizer::from_gguf(v, "characters");
}

class ThoughtLimitTest : public ::testing::Test {
 protected:
  /// What a model that would write `wants`, and then end, writes with a limit.
  std::string write(std::string_view wants, Thought thought, std::optional<int64_t> most,
                    const char* pattern = nullptr, int64_t limit = 60) const {
    ReplyOptions options{.limit = limit, .sampling = {.temperature = 0.0}, .stop = {'$'}};
    options.thought = thought;
    options.thought_limit = most;
    const Constraints constraints(*tokenizer_, kVocab);
    if (pattern != nullptr)
      options.constraint = constraints.of(behind_thought(thought, parse_pattern(pattern, true)));
    Writer writer(*tokenizer_, std::vector<int>{'?'}, kVocab, options);
    std::string text;
    for (size_t i = 0; !writer.finish(); ++i) {
      // The model goes on where its own text is, whatever came in between.
      std::vector<float> logits(kVocab, 0.0f);
      logits[static_cast<size_t>(i < wants.size() ? wants[i] : '$')] = 9.0f;
      text += writer.next(logits).text;
    }
    return text + writer.flush();
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = characters();
};

TEST_F(ThoughtLimitTest, EndsAThought) {
  EXPECT_EQ(write("thinking for lon", Thought::begun, 5), "think\n</think>\n\n");
  EXPECT_EQ(write("thinking for long, then", Thought::begun, 5), "think\n</think>\n\ng, then");
  EXPECT_EQ(write("<think>abcdefghijklmnopqrst", Thought::possible, 9),
            "<think>ab\n</think>\n\nnopqrst");
  EXPECT_EQ(write("abcdef", Thought::begun, 0), "\n</think>\n\n");
}

TEST_F(ThoughtLimitTest, LeavesTheRestAlone) {
  EXPECT_EQ(write("so</think>\nyes, it is so", Thought::begun, 10), "so</think>\nyes, it is so");
  EXPECT_EQ(write("yes, it is so", Thought::possible, 5), "yes, it is so");
  EXPECT_EQ(write("<thinly> yes, it is so", Thought::possible, 3), "<thinly> yes, it is so");
  EXPECT_EQ(write("yes, it is so", Thought::none, 5), "yes, it is so");
  EXPECT_EQ(write("thinking for long", Thought::begun, {}), "thinking for long");
  // An end of the model's own that was on its way.
  EXPECT_EQ(write("abc</think>d", Thought::begun, 5), "abc</\n</think>\n\n");
}

TEST_F(ThoughtLimitTest, GoesWithConstraints) {
  EXPECT_EQ(write("thinking for long, then", Thought::begun, 5, "[a-z]{3}"),
            "think\n</think>\n\ngaa");
  EXPECT_EQ(write("abc", Thought::possible, 5, "[a-c]{3}"), "abc");
}

TEST_F(ThoughtLimitTest, CountsAsTokensOfTheReply) {
  EXPECT_EQ(write("thinking for long", Thought::begun, 5, nullptr, 9), "think\n</t");
}

TEST_F(ThoughtLimitTest, WantsTheLogitsUntilTheThoughtIsOver) {
  ReplyOptions options{.limit = 60};
  options.thought = Thought::begun;
  options.thought_limit = 1;
  Writer writer(*tokenizer_, std::vector<int>{'?'}, kVocab, options);
  std::vector<float> logits(kVocab, 0.0f);
  for (int i = 0; i < 1 + 11; ++i) {
    EXPECT_FALSE(writer.draw().has_value()) << i;
    writer.next(logits);
  }
  EXPECT_TRUE(writer.draw().has_value());
}

}  // namespace
}  // namespace sala
