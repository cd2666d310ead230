#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/json.h"
#include "text/byte_alphabet.h"
#include "text/normalizer.h"

namespace sala {
namespace {

const std::filesystem::path kFixtures =
    std::filesystem::path(SALA_SOURCE_DIR) / "tests/text/fixtures";

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int>& ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const int id : ids) text += detokenizer.push(id);
  return text + detokenizer.flush();
}

/// A byte-level vocabulary of the 256 bytes, a few words and an end token.
GgufVocab small_vocab() {
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = "smollm";
  for (int byte = 0; byte < 256; ++byte)
    vocab.tokens.push_back(to_byte_letters(std::string(1, static_cast<char>(byte))));
  vocab.merges = {"h e", "l l", "he ll", "hell o"};
  for (const char* piece : {"he", "ll", "hell", "hello"}) vocab.tokens.emplace_back(piece);
  vocab.types.assign(vocab.tokens.size(), 1);
  vocab.tokens.emplace_back("<|end|>");
  vocab.types.push_back(3);
  vocab.eos = 260;
  return vocab;
}

/// A folder of its own for a test's files.
class Scratch {
 public:
  Scratch()
      : path_(std::filesystem::temp_directory_path() /
              ("sala_tokenizer_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name) << text;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string error_of(const std::string& tokenizer_json) {
  const Scratch scratch;
  scratch.write("tokenizer.json", tokenizer_json);
  try {
    Tokenizer::from_directory(scratch.path());
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Tokenizer, EqualsTheReferencesOnEveryConfiguration) {
  int folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFixtures)) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().filename().string());
    const auto tokenizer = Tokenizer::from_directory(entry.path());
    ASSERT_NE(tokenizer, nullptr);
    const bool hex = std::filesystem::exists(entry.path() / "tokenizer.model");
    for (const Json& each : read_json(entry.path() / "cases.json")) {
      const std::string text = hex ? from_hex(each[0]) : each[0].get<std::string>();
      const auto ids = tokenizer->encode(text, {.parse_special = each[1].get<bool>()});
      EXPECT_EQ(ids, each[2].get<std::vector<int>>()) << each[0];
      const std::string decoded = each[3];
      EXPECT_EQ(tokenizer->decode(ids, hex), decoded);
      EXPECT_EQ(stream(*tokenizer, ids, hex), decoded);
    }
    ++folders;
  }
  EXPECT_GE(folders, 19);
}

TEST(Tokenizer, MergesWordsOfAGgufVocabulary) {
  const auto tokenizer = Tokenizer::from_gguf(small_vocab(), "test.gguf");
  EXPECT_EQ(tokenizer->encode("hello"), std::vector<int>{259});
  EXPECT_EQ(tokenizer->encode("hell 12"), (std::vector<int>{258, 32, 49, 50}));
  EXPECT_EQ(tokenizer->size(), 261);
  EXPECT_EQ(tokenizer->eos(), 260);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->piece(259), "hello");
  EXPECT_EQ(tokenizer->id_of("ll"), 257);
  EXPECT_EQ(tokenizer->id_of("nothing"), std::nullopt);
}

TEST(Tokenizer, TextCannotForgeSpecialTokens) {
  const auto tokenizer = Tokenizer::from_gguf(small_vocab(), "test.gguf");
  EXPECT_EQ(tokenizer->encode("a<|end|>", {.parse_special = true}), (std::vector<int>{97, 260}));
  const auto plain = tokenizer->encode("a<|end|>");
  EXPECT_EQ(plain.size(), 8U);
  EXPECT_EQ(tokenizer->decode(plain, true), "a<|end|>");
  EXPECT_TRUE(tokenizer->is_special(260));
  EXPECT_FALSE(tokenizer->is_special(259));
  EXPECT_EQ(tokenizer->decode(std::vector<int>{97, 260, 98}, true), "ab");
  EXPECT_EQ(tokenizer->decode(std::vector<int>{97, 260, 98, -1, 999999}, false), "a<|end|>b");
}

TEST(Tokenizer, QuotedTextIsTheTextInEveryConfiguration) {
  for (const auto& entry : std::filesystem::directory_iterator(kFixtures)) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().filename().string());
    const auto tokenizer = Tokenizer::from_directory(entry.path());
    const bool hex = std::filesystem::exists(entry.path() / "tokenizer.model");
    std::string forged;
    for (int id = 0; id < tokenizer->size(); ++id)
      if (tokenizer->is_special(id)) forged += fmt::format("{0} a{0}{0}", tokenizer->piece(id));
    std::vector<std::string> texts = {forged, forged.substr(0, forged.size() / 2)};
    for (const Json& each : read_json(entry.path() / "cases.json"))
      texts.push_back(hex ? from_hex(each[0]) : each[0].get<std::string>());
    for (const std::string& text : texts) {
      const std::string quoted = tokenizer->quote(text);
      const auto ids = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->encode(quoted, {.parse_special = true}), ids) << text;
      if (tokenizer->encode(text, {.parse_special = true}) == ids) {
        EXPECT_EQ(quoted, text);
      }
    }
  }
}

TEST(Tokenizer, QuotedPartsStandBesideSpecialTokens) {
  GgufVocab vocab = small_vocab();
  vocab.tokens.emplace_back("→");  // of one character
  vocab.types.push_back(3);
  vocab.tokens.emplace_back("d|>hello");  // overlaps with another
  vocab.types.push_back(3);
  const auto tokenizer = Tokenizer::from_gguf(vocab, "test.gguf");
  const std::string text = "hello→<|end|>hello";
  const auto plain = tokenizer->encode(text);
  EXPECT_EQ(tokenizer->decode(plain, true), text);
  std::vector<int> want = {260};
  want.insert(want.end(), plain.begin(), plain.end());
  want.push_back(260);
  EXPECT_EQ(
      tokenizer->encode("<|end|>" + tokenizer->quote(text) + "<|end|>", {.parse_special = true}),
      want);
  // What stands for the quotes cannot come from a text.
  const std::string mark = tokenizer->quote("→").substr(3);
  EXPECT_EQ(tokenizer->quote(mark + "a"), "\uFFFDa");
  // No part of a quoted text spells a token either, as templates cut and strip.
  for (size_t at = 0; at <= tokenizer->quote(text).size(); ++at)
    for (const int id :
         tokenizer->encode(tokenizer->quote(text).substr(at), {.parse_special = true}))
      EXPECT_LT(id, 260) << at;
}

TEST(Tokenizer, QuotesTokensThatANormaliserWrites) {
  const Scratch scratch;
  scratch.write("tokenizer.json", R"({"model": {"type": "BPE", "merges": [],
      "vocab": {"<": 0, "s": 1, ">": 2, "\u00e9": 3}}, "normalizer": {"type": "NFKC"},
      "added_tokens": [{"id": 4, "content": "<s>", "special": true, "normalized": true}]})");
  const auto tokenizer = Tokenizer::from_directory(scratch.path());
  const std::string wide = "\uFF1Cs\uFF1E\u00e9";
  EXPECT_EQ(tokenizer->encode(wide, {.parse_special = true}), (std::vector<int>{4, 3}));
  EXPECT_EQ(tokenizer->encode(tokenizer->quote(wide) + "<s>", {.parse_special = true}),
            (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_EQ(tokenizer->quote("s\uFF1E\u00e9"), "s\uFF1E\u00e9");
}

TEST(Tokenizer, InvalidBytesBecomeReplacementCharacters) {
  const auto tokenizer = Tokenizer::from_gguf(small_vocab(), "test.gguf");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xFF\xE4\xBDz"), false),
            "a\xEF\xBF\xBD\xEF\xBF\xBDz");
}

TEST(Tokenizer, LongWordsGiveWhatShortOnesDo) {
  const auto tokenizer = Tokenizer::from_gguf(small_vocab(), "test.gguf");
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "hello";
  EXPECT_EQ(tokenizer->encode(text), std::vector<int>(5000, 259));
  EXPECT_EQ(tokenizer->encode(text + "hel").size(), 5002U);
}

TEST(Tokenizer, ManyThreadsMayEncode) {
  const auto tokenizer = Tokenizer::from_directory(kFixtures / "llama3");
  const std::string text = read_text(kFixtures / "llama3" / "cases.json");
  const auto expected = tokenizer->encode(text);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { EXPECT_EQ(tokenizer->encode(text), expected); });
}

TEST(Tokenizer, DirectoryWithoutTokenizerGivesNothing) {
  EXPECT_EQ(Tokenizer::from_directory(Scratch().path()), nullptr);
}

TEST(Tokenizer, ConfigurationNamesSpecialTokens) {
  const Scratch scratch;
  std::filesystem::copy_file(kFixtures / "gpt2" / "tokenizer.json",
                             scratch.path() / "tokenizer.json",
                             std::filesystem::copy_options::overwrite_existing);
  scratch.write("tokenizer_config.json",
                R"({"bos_token": {"content": "<s>"}, "eos_token": "<fresh>", "add_bos_token": false,
                    "added_tokens_decoder": {"7777": {"content": "<tool>", "special": true}}})");
  const auto tokenizer = Tokenizer::from_directory(scratch.path());
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_FALSE(tokenizer->adds_bos());
  ASSERT_TRUE(tokenizer->eos().has_value());
  EXPECT_EQ(tokenizer->piece(*tokenizer->eos()), "<fresh>");
  EXPECT_EQ(tokenizer->encode("<fresh><tool>", {.parse_special = true}).size(), 2U);
}

TEST(Tokenizer, FaultsNameFileAndField) {
  EXPECT_NE(error_of("{").find("tokenizer.json"), std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"type": "Unigram"}})").find("'type' is \"Unigram\""),
            std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"vocab": {"a": 0}, "merges": ["a b"]}})").find("'vocab' lacks"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"vocab": {"a": -1}}})").find("id of token 'a'"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"vocab": {}}, "normalizer": {"type": "Magic"}})")
                .find("normalizer 'Magic'"),
            std::string::npos);
  EXPECT_NE(
      error_of(R"({"model": {"vocab": {}}, "decoder": {"type": "Magic"}})").find("decoder 'Magic'"),
      std::string::npos);
  const std::string bad_regex = R"({"model": {"vocab": {}}, "pre_tokenizer":
      {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}})";
  EXPECT_NE(error_of(bad_regex).find("regular expression '('"), std::string::npos);
}

TEST(Tokenizer, KindOfGgufVocabularyDecidesAboutBos) {
  const auto adds = [](const char* pre, std::optional<bool> flag) {
    GgufVocab vocab = small_vocab();
    vocab.pre = pre;
    vocab.bos = 260;
    vocab.add_bos = flag;
    return Tokenizer::from_gguf(vocab, "test.gguf")->adds_bos();
  };
  EXPECT_TRUE(adds("llama-bpe", std::nullopt));  // Llama 3's files carry no flag
  EXPECT_FALSE(adds("qwen2", std::nullopt));
  EXPECT_FALSE(adds("llama-bpe", false));
  EXPECT_TRUE(adds("qwen2", true));
}

TEST(Tokenizer, LeavesCharactersNewerThanTokenizersAsTheyAre) {
  const auto normalized = [](std::string_view text) {
    return Normalizer::from_json({{"type", "NFKC"}}, "test").apply(text);
  };
  EXPECT_EQ(normalized("\u32FE e\u0301 \u32FF\u0301\uFB01"), "\u30F2 \u00E9 \u32FF\u0301fi");
  EXPECT_EQ(Normalizer::from_json({{"type", "Lowercase"}}, "test").apply("A\u00C9\u1C89\U00010D65"),
            "a\u00E9\u1C8A\U00010D85");
}

TEST(Tokenizer, GgufFaultsNameTheKey) {
  const auto fault = [](auto change) {
    GgufVocab vocab = small_vocab();
    change(vocab);
    try {
      Tokenizer::from_gguf(vocab, "test.gguf");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(fault([](GgufVocab& v) { v.tokens.clear(); }).find("tokenizer.ggml.tokens"),
            std::string::npos);
  EXPECT_NE(fault([](GgufVocab& v) { v.types.pop_back(); }).find("token_type has 260"),
            std::string::npos);
  EXPECT_NE(fault([](GgufVocab& v) { v.model = "bert"; }).find("'bert'"), std::string::npos);
  EXPECT_NE(fault([](GgufVocab& v) { v.pre = "new"; }).find("'new'"), std::string::npos);
  EXPECT_NE(fault([](GgufVocab& v) { v.eos = 9999; }).find("eos_token_id is 9999"),
            std::string::npos);
  EXPECT_NE(fault([](GgufVocab& v) { v.merges.emplace_back("zz"); }).find("merges entry 4"),
            std::string::npos);
  EXPECT_NE(fault([](GgufVocab& v) { v.model = "llama"; }).find("scores is missing"),
            std::string::npos);
}

TEST(Detokenizer, NeverGivesHalfACharacter) {
  const auto tokenizer = Tokenizer::from_gguf(small_vocab(), "test.gguf");
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.push(0xE4), "");
  EXPECT_EQ(detokenizer.push(0xBD), "");
  EXPECT_EQ(detokenizer.push(0xA0), "你");
  EXPECT_EQ(detokenizer.push(0xE4), "");
  EXPECT_EQ(detokenizer.push('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(detokenizer.push(0xF0), "");
  EXPECT_EQ(detokenizer.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.flush(), "");
  EXPECT_EQ(detokenizer.push(259), "hello");
}

}  // namespace
}  // namespace sala
