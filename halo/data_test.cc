#include "data.h"

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint.h"
#include "testing.h"

namespace sala::halo {
namespace {

class DataTest : public testing::Test {
 protected:
  DataTest() : scratch_("data") { write_byte_tokenizer(dir()); }
  const std::filesystem::path& dir() const { return scratch_.path(); }
  /// Packs two texts of 5,000 bytes and gives the file.
  std::string packed() const {
    for (const char name : {'a', 'b'})
      std::ofstream(dir() / std::string(1, name)) << std::string(5000, name);
    const auto tokenizer = Tokenizer::from_directory(dir());
    EXPECT_EQ(pack({dir() / "a", dir() / "b"}, *tokenizer, dir() / "text.safetensors"), 10003);
    return dir() / "text.safetensors";
  }
  Scratch scratch_;
};

TEST_F(DataTest, ByteTokenizerGivesBytes) {
  const auto tokenizer = Tokenizer::from_directory(dir());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->size(), 257);
  EXPECT_EQ(tokenizer->eos(), 256);
  EXPECT_TRUE(tokenizer->adds_bos());
  const std::string text = "A line\n\tof \"bytes\": \xC3\xA9 \xE4\xB8\xAD 12 345";
  const std::vector<int> ids = tokenizer->encode(text);
  ASSERT_EQ(ids.size(), text.size());
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i], static_cast<unsigned char>(text[i]));
  EXPECT_EQ(tokenizer->decode(ids, true), text);
}

TEST_F(DataTest, PackDividesDocuments) {
  const Tensor tokens = read_tensors(packed()).at("tokens");
  for (const int64_t at : {0, 5001, 10002}) EXPECT_EQ(tokens[at].item<int>(), 256);
  EXPECT_EQ((tokens == 256).sum().item<int64_t>(), 3);
}

TEST_F(DataTest, ASequenceIsAFunctionOfItsNumber) {
  const Data data({.data = packed(), .recall = 0.5, .seed = 7}, dir());
  const Batch all = data.draw(0, 8, 64);
  for (int64_t i = 0; i < 8; ++i) {
    const Batch one = data.draw(i, 1, 64);
    EXPECT_TRUE(torch::equal(one.ids[0], all.ids[i]));
    EXPECT_TRUE(torch::equal(one.weights[0], all.weights[i]));
  }
  const Batch other = Data({.data = packed(), .recall = 0.5, .seed = 8}, dir()).draw(0, 8, 64);
  EXPECT_FALSE(torch::equal(all.ids, other.ids));
  const int64_t recall = data.draw(0, 200, 16).recall.sum().item<int64_t>();
  EXPECT_NEAR(static_cast<double>(recall), 100.0, 30.0);
}

TEST_F(DataTest, HeldOutTextIsTheEnd) {
  const Data data({.data = packed(), .recall = 0.0, .seed = 0}, dir());
  EXPECT_GT((data.draw(0, 50, 64).ids == 'a').sum().item<int64_t>(), 0);
  EXPECT_EQ((data.held_out(50, 64, false).ids == 'a').sum().item<int64_t>(), 0);
}

TEST_F(DataTest, AnswersAreMarkedAndFollowFromWhatStandsBefore) {
  const Data data({.data = "", .recall = 1.0, .seed = 1}, dir());
  const Batch batch = data.held_out(20, 400, true);
  int64_t digits = 0;
  for (int64_t b = 0; b < 20; ++b) {
    for (int64_t t = 0; t < 400; ++t) {
      const bool answer = batch.answers[b][t].item<bool>();
      EXPECT_EQ(batch.weights[b][t].item<float>(), answer ? 1.0f : 0.1f);
      const auto next = batch.ids[b][t + 1].item<int64_t>();
      digits += answer && next >= '0' && next <= '9';
    }
  }
  EXPECT_GT(digits, 300);
  EXPECT_EQ(batch.recall.sum().item<int64_t>(), 20);
}

TEST_F(DataTest, TooLittleTextIsTold) {
  const Data data({.data = packed(), .recall = 0.0, .seed = 0}, dir());
  EXPECT_THROW(data.held_out(1, 4096, false), std::exception);
}

}  // namespace
}  // namespace sala::halo
