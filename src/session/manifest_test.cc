#include "session/manifest.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "session/testing.h"

namespace sala {
namespace {

using testing::expect_error;
using Runs = std::vector<Manifest::Run>;

Manifest example() {
  Manifest m = testing::small_begin();
  m.next = 5;
  m.segments = {{.id = 0, .tokens = 30, .pages = 9}, {.id = 3, .tokens = 10, .pages = 2}};
  m.tokens = 33;
  m.token_runs = {{0, 0, 24}, {3, 1, 9}};
  m.tokens_checksum = 0x0123456789abcdef;
  m.page_runs = {{0, 0, 5}, {0, 7, 2}, {3, 0, 2}};
  m.pages_checksum = 7;
  m.snapshots = {{.id = 1, .position = 24, .checksum = 1}, {.id = 4, .position = 32}};
  m.turns = {0, 30};
  m.origins.push_back({.first = 24, .numerics = {{"isa", "avx2"}}});
  return m;
}

TEST(Manifest, ReadsWhatItPrints) {
  const std::string text = print_manifest(example());
  const Manifest m = parse_manifest(text, "manifest.json");
  EXPECT_EQ(print_manifest(m), text);
  EXPECT_EQ(m.token_runs, example().token_runs);
  EXPECT_EQ(m.page_runs, example().page_runs);
  EXPECT_EQ(m.layout, example().layout);
  EXPECT_EQ(m.pages(), 9);
  EXPECT_EQ(m.tokens_checksum, 0x0123456789abcdefU);
  EXPECT_EQ(m.origins[1].numerics.at("isa"), "avx2");
  EXPECT_TRUE(Json::accept(text)) << "it is JSON for other programs too";
}

TEST(Manifest, RefusesEveryOtherByte) {
  const std::string text = print_manifest(example());
  for (size_t i = 0; i < text.size(); ++i) {
    std::string other = text;
    other[i] ^= 1;
    expect_error([&] { parse_manifest(other, "manifest.json"); },
                 {"manifest.json: its checksum does not fit"});
  }
  for (size_t size = 0; size < text.size(); ++size)
    expect_error([&] { parse_manifest(text.substr(0, size), "manifest.json"); },
                 {"manifest.json: "});
  expect_error([&] { parse_manifest(text + " ", "manifest.json"); }, {"checksum"});
}

/// A manifest whose JSON was changed is refused with a message that contains all of `parts`.
void refuse(const std::function<void(Json&)>& change,
            std::initializer_list<std::string_view> parts) {
  Json json = Json::parse(print_manifest(example()));
  change(json);
  expect_error([&] { parse_manifest_json(json.dump(), "manifest.json"); }, {"manifest.json: "});
  expect_error([&] { parse_manifest_json(json.dump(), "manifest.json"); }, parts);
}

TEST(Manifest, RefusesAnotherFormat) {
  refuse([](Json& m) { m["format"] = 1; }, {"format 1; this program reads format 2"});
  refuse([](Json& m) { m = Json::array(); }, {"expected an object"});
  refuse([](Json& m) { m["format"] = "1"; }, {"\"format\" is \"1\""});
}

TEST(Manifest, RefusesWhatIsMissingOrOfAnotherType) {
  const Json json = Json::parse(print_manifest(example()));
  for (const auto& [key, value] : json.items()) {
    if (key == "checksum") continue;
    refuse([&](Json& m) { m.erase(key); }, {key});
    for (const Json& other : {Json(nullptr), Json(1.5), Json(-1), Json("x"), Json(Json::array({1})),
                              Json::object(), Json(uint64_t{1} << 63)}) {
      if (key == "model" && other.is_string()) continue;
      if (key == "identity" && other.is_object()) continue;
      if (key == "turns" && other.is_array()) continue;
      refuse([&](Json& m) { m[key] = other; }, {"damaged"});
    }
  }
}

TEST(Manifest, RefusesNumbersThatCannotBe) {
  refuse([](Json& m) { m["layout"]["page"] = 0; }, {"\"page\" is 0"});
  refuse([](Json& m) { m["layout"]["kv"] = {1, 2}; }, {"\"index\"", "2 layers"});
  refuse([](Json& m) { m["layout"]["kv"][0] = int64_t{1} << 50; }, {"\"kv\""});
  refuse([](Json& m) { m["layout"]["kv"] = Json(Json::array_t(3, int64_t{1} << 40)); },
         {"bytes at most"});
  refuse([](Json& m) { m["segments"][1]["id"] = 0; }, {"\"id\" is 0"});
  refuse([](Json& m) { m["segments"][1]["id"] = 5; }, {"\"id\" is 5"});
  refuse([](Json& m) { m["next"] = 3; }, {"\"id\" is 3"});
  refuse([](Json& m) { m["tokens"]["count"] = 32; }, {"\"runs\"", "32 entries"});
  refuse([](Json& m) { m["tokens"]["count"] = 37; }, {"\"runs\""});
  refuse([](Json& m) { m["tokens"]["runs"][1] = {3, 2, 9}; }, {"entries of the 10 committed"});
  refuse([](Json& m) { m["tokens"]["runs"][1] = {2, 1, 9}; }, {"one of \"segments\""});
  refuse([](Json& m) { m["tokens"]["runs"][1] = {0, 23, 7}; }, {"after the one before"});
  refuse([](Json& m) { m["tokens"]["runs"][1] = {3, 1}; }, {"[segment, first, count]"});
  refuse([](Json& m) { m["tokens"]["runs"][1] = {3, 1, 0}; }, {"\"runs\" is 0"});
  refuse([](Json& m) { m["tokens"]["checksum"] = "0123456789ABCDEF"; }, {"hexadecimal"});
  refuse([](Json& m) { m["pages"]["runs"][2] = {3, 0, 1}; }, {"9 entries"});
  refuse([](Json& m) { m["pages"]["runs"][1] = {0, 4, 2}; }, {"after the one before"});
  refuse([](Json& m) { m["snapshots"][0]["position"] = 23; }, {"a multiple of 2"});
  refuse([](Json& m) { m["snapshots"][1]["position"] = 24; }, {"\"position\" is 24"});
  refuse([](Json& m) { m["snapshots"][1]["position"] = 34; }, {"\"position\" is 34"});
  refuse([](Json& m) { m["snapshots"][1]["id"] = 5; }, {"\"id\" is 5"});
  refuse([](Json& m) { m["origins"] = Json::array(); }, {"\"origins\""});
  refuse([](Json& m) { m["origins"][0]["first"] = 1; }, {"\"first\" is 1"});
  refuse([](Json& m) { m["turns"][0] = 31; }, {"\"turns\" is 30"});
  refuse([](Json& m) { m["identity"]["kv"] = "\x1b[2J"; }, {"printable"});
  refuse([](Json& m) { m["identity"]["kv"] = std::string(2000, 'x'); }, {"1000 characters"});
}

TEST(Manifest, RunsJoinAndShorten) {
  Runs runs;
  append_run(runs, {0, 0, 4});
  append_run(runs, {0, 4, 2});
  EXPECT_EQ(runs, (Runs{{0, 0, 6}}));
  append_run(runs, {0, 9, 1});
  append_run(runs, {1, 0, 5});
  EXPECT_EQ(runs, (Runs{{0, 0, 6}, {0, 9, 1}, {1, 0, 5}}));
  trim_runs(runs, 9);
  EXPECT_EQ(runs, (Runs{{0, 0, 6}, {0, 9, 1}, {1, 0, 2}}));
  trim_runs(runs, 6);
  EXPECT_EQ(runs, (Runs{{0, 0, 6}}));
  trim_runs(runs, 0);
  EXPECT_TRUE(runs.empty());
}

}  // namespace
}  // namespace sala
