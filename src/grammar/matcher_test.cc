#include "grammar/matcher.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "base/random.h"
#include "grammar/constraints.h"
#include "grammar/json_schema.h"
#include "text/unicode.h"

namespace sala {
namespace {

constexpr int kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;

/// Pieces of JSON and of text, with the given beginnings of words.
std::unique_ptr<Tokenizer> tokenizer(bool sentencepiece) {
  GgufVocab v;
  const auto add = [&](const std::string& piece, int type = kNormal) {
    v.tokens.push_back(piece);
    v.types.push_back(type);
    v.scores.push_back(0.0f);
  };
  add("<unk>", kUnknown);
  add("<s>", kControl);
  add("</s>", kControl);
  const std::string space = sentencepiece ? "\xE2\x96\x81" : "\xC4\xA0";
  if (sentencepiece) {
    for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), kByte);
    add("ä");
    add("日本");
  } else {
    for (char32_t c = 33; c < 127; ++c) add(to_utf8(c));
    for (char32_t c = 0xA1; c < 0x144; ++c)
      if (c != 0xAD) add(to_utf8(c));
    add("Ã¤");  // ä in the letters of bytes
  }
  for (const char* piece :
       {"\"", "{\"", "\":", "\",", "\"}", "true", "name", "tr", "ue", "}}", "12"}) {
    if (sentencepiece || std::string_view(piece).size() > 1) add(piece);
    add(space + piece);
  }
  add(space + space);
  if (sentencepiece) add(space);
  v.model = sentencepiece ? "llama" : "gpt2";
  v.pre = "smollm";
  v.bos = 1;
  v.eos = 2;
  v.unk = 0;
  return Tokenizer::from_gguf(v, "pieces");
}

class MatcherTest : public ::testing::TestWithParam<bool> {
 protected:
  Matcher matcher(const std::string& schema) {
    Rules rules;
    const Language language = json_language(OrderedJson::parse(schema), rules);
    grammar_ = std::make_shared<const Grammar>(language, rules);
    return Matcher({grammar_, vocabulary_}, {2});
  }
  static bool bit(std::span<const uint64_t> mask, int token) {
    return (mask[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = tokenizer(GetParam());
  const int size_ = tokenizer_->size() + 3;  // a model may have more
  const std::shared_ptr<const Vocabulary> vocabulary_ =
      std::make_shared<const Vocabulary>(*tokenizer_, size_);
  std::shared_ptr<const Grammar> grammar_;
};

TEST_P(MatcherTest, AllowsWhatGoesOnWithTheText) {
  for (
      const char* schema :
      {R"({"properties": {"name": {"type": "string"}, "on": {"type": "boolean"}, "n": {"maximum": 125}}})",
       R"({"type": "array", "items": {"type": "string", "maxLength": 12}})", "true"}) {
    int ended = 0;
    for (uint64_t seed = 0; seed < 60; ++seed) {
      Matcher matcher = this->matcher(schema);
      Recogniser recogniser(grammar_);
      Recogniser::Place place = recogniser.start();
      Detokenizer detokenizer(*tokenizer_);
      std::string text, bytes;
      for (uint64_t i = 0; i < 40; ++i) {
        const std::span<const uint64_t> allowed = matcher.allowed();
        std::vector<int> may;
        for (int token = 0; token < size_; ++token) {
          // The slow way: byte by byte, each token by itself.
          const std::string added = tokenizer_->bytes_of(token, i == 0);
          Recogniser::Place behind = place;
          for (const char c : added)
            if (behind != Recogniser::kNowhere)
              behind = recogniser.next(behind, static_cast<uint8_t>(c));
          bool right = !added.empty() && token != 0 && behind != Recogniser::kNowhere;
          if (token == 2) right = recogniser.may_end(place);
          ASSERT_EQ(bit(allowed, token), right) << token << " behind " << bytes;
          if (right) may.push_back(token);
        }
        ASSERT_FALSE(may.empty()) << bytes;
        const int token = may[random_bits(seed, i) % may.size()];
        if (token == 2 || matcher.must_end()) {
          ++ended;
          EXPECT_TRUE(Json::accept(bytes)) << bytes;
          EXPECT_TRUE(matcher.may_end());
          break;
        }
        matcher.accept(token);
        for (const char c : tokenizer_->bytes_of(token, i == 0))
          place = recogniser.next(place, static_cast<uint8_t>(c));
        bytes += tokenizer_->bytes_of(token, i == 0);
        text += detokenizer.push(token);
      }
      // What a reader sees is what the grammar has seen.
      EXPECT_TRUE(bytes.starts_with(text)) << bytes << "\n" << text;
      EXPECT_LT(bytes.size() - text.size(), 4U);
    }
    EXPECT_GT(ended, 3) << schema;
  }
}

TEST_P(MatcherTest, EndsWhereItMust) {
  Matcher matcher = this->matcher(R"({"const": true})");
  EXPECT_FALSE(matcher.may_end());
  matcher.accept(*tokenizer_->id_of("tr"));
  EXPECT_FALSE(matcher.must_end());
  matcher.accept(*tokenizer_->id_of("ue"));
  EXPECT_TRUE(matcher.must_end());
  EXPECT_TRUE(bit(matcher.allowed(), 2));
  EXPECT_FALSE(bit(matcher.allowed(), 1));
}

TEST_P(MatcherTest, LongTexts) {
  Matcher matcher = this->matcher(R"({"type": "array", "items": {"enum": [12]}})");
  const auto byte = [&](char c) {
    for (int token = 0; token < size_; ++token)
      if (tokenizer_->bytes_of(token, false) == std::string(1, c) &&
          tokenizer_->bytes_of(token, true) == std::string(1, c))
        return token;
    return -1;
  };
  matcher.accept(byte('['));
  const int number = *tokenizer_->id_of("12"), comma = byte(',');
  for (int i = 0; i < 3000; ++i) {
    ASSERT_TRUE(bit(matcher.allowed(), number));
    matcher.accept(number);
    ASSERT_TRUE(bit(matcher.allowed(), comma));
    matcher.accept(comma);
  }
  matcher.accept(number);
  matcher.accept(byte(']'));
  EXPECT_TRUE(matcher.must_end());
}

TEST(Constraints, AreNotTooMany) {
  const auto tokenizer = sala::tokenizer(false);
  const Constraints constraints(*tokenizer, tokenizer->size());
  const Language large = repeated(literal(std::string(49'000, 'a')), 0, 8);  // 392,000 states
  const auto make = [&] { return constraints.of(large); };
  std::vector<Constraint> alive;
  for (int i = 0; i < 7; ++i) alive.push_back(make());
  EXPECT_THROW(make(), TooManyConstraints);
  EXPECT_THROW(make(), TooManyConstraints);
  constraints.of(literal("a"));
  alive.pop_back();
  make();
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, MatcherTest, ::testing::Bool(),
                         [](const auto& kind) { return kind.param ? "sentencepiece" : "bytes"; });

}  // namespace
}  // namespace sala
