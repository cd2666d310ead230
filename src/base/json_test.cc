#include "base/json.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace sala {
namespace {

std::string error_of(std::string_view text) {
  try {
    parse_json(text, "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error";
  return {};
}

TEST(Json, ReadsValues) {
  const auto json = parse_json(R"({"a": [1, -2.5, true, null, "\u00e9\ud83d\ude00"]})", "x");
  EXPECT_EQ(json["a"][0], 1);
  EXPECT_EQ(json["a"][1], -2.5);
  EXPECT_EQ(json["a"][4], "\u00e9\U0001F600");
}

TEST(Json, NamesTheFileAndThePlace) {
  const auto text = error_of("{\"a\": 1,\n \"b\" 2}");
  EXPECT_NE(text.find("config.json: not valid JSON"), std::string::npos) << text;
  EXPECT_NE(text.find("line 2, column 6"), std::string::npos) << text;
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* bad : {"", " ", "{", "[1,]", "{\"a\":1,}", "nul", "01", "1 2", "\"a", "'a'",
                          "\"\xff\"", "\"\\ud800\"", "\"\n\"", "NaN", "// x\n1", "1e999"})
    EXPECT_NE(error_of(bad).find("config.json: "), std::string::npos) << bad;
  EXPECT_FALSE(error_of(std::string_view("1\0", 2)).empty());
}

TEST(Json, KeepsMessagesShort) {
  EXPECT_LT(error_of("\"" + std::string(1 << 20, 'a')).size(), 1000U);
}

TEST(Json, BoundsTheDepth) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_NO_THROW(parse_json(nested(256), "x"));
  EXPECT_NE(error_of(nested(257)).find("257 levels"), std::string::npos);
  EXPECT_NE(error_of(std::string(1 << 20, '[')).find("levels"), std::string::npos);
  std::string objects;
  for (int i = 0; i < 300; ++i) objects += "{\"a\":";
  EXPECT_NE(error_of(objects).find("300 levels"), std::string::npos);
}

TEST(Json, BracketsInStringsAreNotDepth) {
  const auto text = "\"" + std::string(300, '[') + "\\\"" + std::string(300, '{') + "\"";
  EXPECT_EQ(parse_json(text, "x").get<std::string>().size(), 601U);
}

TEST(Json, ReadsFiles) {
  const auto path =
      std::filesystem::temp_directory_path() / fmt::format("sala-json-{}.json", ::getpid());
  std::ofstream(path) << "{\"a\": 7}";
  EXPECT_EQ(read_json(path)["a"], 7);
  EXPECT_EQ(read_text(path), "{\"a\": 7}");
  std::ofstream(path).close();
  EXPECT_EQ(read_text(path), "");
  std::filesystem::remove(path);
  try {
    read_json(path);
    ADD_FAILURE() << "no Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path.string() + ": cannot open"), std::string::npos);
  }
}

}  // namespace
}  // namespace sala
