#include "weights/safetensors.h"

#include <gtest/gtest.h>

#include "weights/testing.h"

namespace sala {
namespace {

using testing::as_span;
using testing::bytes_of;
using testing::expect_error;
using testing::FileTensor;
using testing::safetensors_file;
using testing::Scratch;

std::vector<StoredTensor> parse(const std::string& file) {
  return parse_safetensors(as_span(file), "model.safetensors", nullptr);
}

/// Expects that a file is refused with a message that names it and contains `parts`.
void refuse(const std::string& file, std::initializer_list<std::string_view> parts) {
  expect_error([&] { parse(file); }, {"model.safetensors: "});
  expect_error([&] { parse(file); }, parts);
}

std::string entry(const std::string& fields) { return R"({"w":{)" + fields + "}}"; }

const std::string kFour = bytes_of(std::vector<float>{1, 2, 3, 4});
const FileTensor kMatrix{"w", "F32", {2, 2}, kFour};

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirData) {
  const std::string header =
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
          "__metadata__":{"format":"pt","note":"\u00fc"},
          "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
          "none":{"dtype":"F16","shape":[0,7],"data_offsets":[4,4]}}   )";
  const auto file = safetensors_file(header, std::string(16, 'x'));
  const auto tensors = parse(file);
  ASSERT_EQ(tensors.size(), 3U);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].type, StoredType::f32);
  EXPECT_EQ(tensors[0].elements(), 1);
  EXPECT_EQ(tensors[1].name, "none");
  EXPECT_EQ(tensors[1].elements(), 0);
  EXPECT_EQ(tensors[2].name, "b");
  EXPECT_EQ(tensors[2].type, StoredType::bf16);
  EXPECT_EQ(tensors[2].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors[2].bytes.data(), as_span(file).data() + 8 + header.size() + 4);
  EXPECT_EQ(tensors[2].bytes.size(), 12U);
}

TEST(Safetensors, KnowsTypesThatItDoesNotTake) {
  const auto tensors = parse(safetensors_file({{"w", "I64", {2}, std::string(16, 'x')},
                                               {"f", "F8_E4M3", {3}, "abc"},
                                               {"h", "F4", {2}, "a"}}));
  for (const auto& tensor : tensors) EXPECT_EQ(tensor.type, StoredType::other);
  EXPECT_EQ(tensors[0].type_name, "I64");
}

TEST(Safetensors, RefusesEveryTruncation) {
  const auto file = safetensors_file({kMatrix});
  EXPECT_EQ(parse(file).size(), 1U);
  for (size_t size = 0; size < file.size(); ++size)
    refuse(file.substr(0, size), {"obtain it again"});
}

TEST(Safetensors, RefusesHeaderLengthsThatLie) {
  const auto lie = [](uint64_t size) { return bytes_of(size) + "{}"; };
  refuse("", {"0 bytes are too few"});
  refuse("1234567", {"7 bytes are too few"});
  refuse(lie(3), {"claims 3 bytes, but 2 follow"});
  refuse(lie(100'000'000), {"claims 100000000 bytes, but 2 follow"});
  refuse(lie(100'000'001), {"more than the 100000000"});
  refuse(lie(~uint64_t{0}), {"18446744073709551615"});
  refuse(lie(1), {"not valid JSON"});
  refuse(lie(0), {"not valid JSON"});
  EXPECT_TRUE(parse(lie(2)).empty());
}

TEST(Safetensors, RefusesHeadersThatAreNotJson) {
  refuse(safetensors_file("not JSON", ""), {"not valid JSON at byte"});
  refuse(safetensors_file("{} x", ""), {"not valid JSON"});
  refuse(safetensors_file(std::string("{}\0", 3), ""), {"not valid JSON at byte 2", "NUL"});
  refuse(safetensors_file("{\"\xff\":1}", ""), {"not valid JSON"});
  refuse(safetensors_file(std::string(100000, '['), ""), {"found an array"});
  refuse(safetensors_file("[]", ""), {"found an array, expected an object"});
  refuse(safetensors_file("7", ""), {"found 7"});
  refuse(safetensors_file("null", ""), {"found null"});
}

TEST(Safetensors, RefusesEntriesOfAnotherForm) {
  refuse(safetensors_file(R"({"w":7})", ""), {"found 7", "'w'"});
  refuse(safetensors_file(R"({"w":[1]})", ""), {"found an array", "'w'"});
  refuse(safetensors_file(entry(""), ""), {"lacks", "'w'"});
  refuse(safetensors_file(entry(R"("dtype":"F32","shape":[1])"), kFour), {"lacks", "'w'"});
  refuse(safetensors_file(entry(R"("dtype":"F32","data_offsets":[0,4])"), kFour), {"lacks", "'w'"});
  refuse(safetensors_file(entry(R"("shape":[1],"data_offsets":[0,4])"), kFour), {"lacks", "'w'"});
  refuse(safetensors_file(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), kFour),
         {"lacks", "'w'"});
  refuse(safetensors_file(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,5])"), kFour),
         {"found 5", "'w'"});
  refuse(safetensors_file(entry(R"("dtype":3)"), ""), {"found 3", "'w'"});
  refuse(safetensors_file(entry(R"("shape":"1")"), ""), {"found the string '1'", "'w'"});
  refuse(safetensors_file(entry(R"("shape":[-1])"), ""), {"found -1", "'w'"});
  refuse(safetensors_file(entry(R"("shape":[1.5])"), ""), {"found 1.5", "'w'"});
  refuse(safetensors_file(entry(R"("shape":[[1]])"), ""), {"found an array", "'w'"});
  refuse(safetensors_file(entry(R"("shape":[9223372036854775808])"), ""),
         {"found 9223372036854775808", "'w'"});
  refuse(safetensors_file(entry(R"("shape":[99999999999999999999])"), ""), {"found", "'w'"});
  refuse(safetensors_file(entry(R"("color":"red")"), ""), {"found the field 'color'", "'w'"});
  refuse(safetensors_file(R"({"__metadata__":{"a":1}})", ""), {"found 1", "'a'"});
  refuse(safetensors_file(R"({"__metadata__":"a"})", ""), {"found the string 'a'"});
}

TEST(Safetensors, RefusesDuplicates) {
  const std::string w = R"("w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  refuse(safetensors_file(fmt::format("{{{0},{0}}}", w), ""), {"two entries", "'w'"});
  refuse(safetensors_file(entry(R"("dtype":"F32","dtype":"F32")"), ""),
         {"a second field 'dtype'", "'w'"});
  refuse(safetensors_file(R"({"__metadata__":{},"__metadata__":{}})", ""), {"a second"});
  refuse(safetensors_file(R"({"__metadata__":{"a":"1","a":"2"}})", ""), {"a second field 'a'"});
}

TEST(Safetensors, RefusesSizesThatDoNotFit) {
  const auto one = [](const char* dtype, const char* shape, const char* offsets) {
    return safetensors_file(
        entry(fmt::format(R"("dtype":"{}","shape":{},"data_offsets":{})", dtype, shape, offsets)),
        kFour);
  };
  EXPECT_EQ(parse(one("F32", "[2,2]", "[0,16]")).size(), 1U);
  refuse(one("F32", "[2,2]", "[0,17]"), {"'w'", "[0, 17]", "16 bytes of data"});
  refuse(one("F32", "[2,2]", "[16,0]"), {"'w'", "[16, 0]"});
  refuse(one("F32", "[2,2]", "[0,9223372036854775807]"), {"'w'", "outside"});
  refuse(one("F32", "[2,3]", "[0,16]"), {"'w'", "[2, 3]", "needs 192 bits", "16 bytes"});
  refuse(one("BF16", "[2,2]", "[0,16]"), {"'w'", "BF16", "64 bits"});
  refuse(one("F4", "[1]", "[0,1]"), {"'w'", "F4", "4 bits"});
  refuse(one("F31", "[2,2]", "[0,16]"), {"'w'", "'F31'"});
  refuse(one("F32", "[4294967296,4294967296]", "[0,16]"), {"'w'", "overflows"});
  refuse(one("F32", "[9223372036854775807]", "[0,16]"), {"'w'", "overflows"});
  refuse(one("F32", "[0,4294967296,4294967296]", "[0,0]"), {"'w'", "overflows"});
}

TEST(Safetensors, RefusesOverlapsHolesAndTails) {
  const auto two = [](int begin, int end, size_t data) {
    return safetensors_file(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},
                         "b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                                        end - begin, begin, end),
                            std::string(data, 'x'));
  };
  EXPECT_EQ(parse(two(4, 8, 8)).size(), 2U);
  EXPECT_EQ(parse(two(0, 0, 4)).size(), 2U);
  EXPECT_EQ(parse(two(4, 4, 4)).size(), 2U);
  refuse(two(3, 8, 8), {"'a'", "'b'", "overlap by 1 bytes"});
  refuse(two(0, 4, 4), {"'a'", "'b'", "overlap by 4 bytes"});
  refuse(two(2, 2, 4), {"overlap"});
  refuse(two(5, 8, 8), {"1 bytes before tensor 'b'", "no holes"});
  refuse(two(4, 8, 10), {"2 bytes after the last tensor"});
  refuse(safetensors_file("{}", "x"), {"1 bytes after the last tensor"});
}

TEST(Safetensors, MessagesShowNamesSafely) {
  refuse(
      safetensors_file(R"({"a\u001b[2J\u0000":{"dtype":"X","shape":[],"data_offsets":[0,0]}})", ""),
      {R"('a\x1b[2J\x00')"});
  const std::string longest(100000, 'n');
  const auto text =
      testing::error_of([&] { parse(safetensors_file(fmt::format("{{\"{}\":1}}", longest), "")); });
  EXPECT_LT(text.size(), 1000U);
  EXPECT_NE(text.find("nnn...'"), std::string::npos) << text;
}

/// A directory with two shards and their index.
struct Sharded : Scratch {
  Sharded() {
    write("1.safetensors", safetensors_file({{"a", "F32", {4}, kFour}}));
    write("2.safetensors", safetensors_file({{"b", "F32", {4}, kFour}, {"c", "F32", {4}, kFour}}));
    index(R"("a":"1.safetensors","b":"2.safetensors","c":"2.safetensors")");
  }
  void index(const std::string& map) const {
    write("model.safetensors.index.json",
          R"({"metadata":{"total_size":[{"deep":48}]},"weight_map":{)" + map + "}}");
  }
  void refuse(std::initializer_list<std::string_view> parts) const {
    expect_error([&] { read_safetensors_directory(dir()); }, {dir().string()});
    expect_error([&] { read_safetensors_directory(dir()); }, parts);
  }
};

TEST(SafetensorsDirectory, ReadsShards) {
  const Sharded files;
  const auto tensors = read_safetensors_directory(files.dir());
  ASSERT_EQ(tensors.size(), 3U);
  EXPECT_EQ(tensors[2].name, "c");
  EXPECT_EQ(tensors[2].file->path(), files.dir() / "2.safetensors");
}

TEST(SafetensorsDirectory, PrefersTheSingleFile) {
  const Sharded files;
  files.write("model.safetensors", safetensors_file({kMatrix}));
  EXPECT_EQ(read_safetensors_directory(files.dir()).size(), 1U);
}

TEST(SafetensorsDirectory, RefusesShardsThatDisagreeWithTheIndex) {
  const Sharded files;
  files.index(R"("a":"1.safetensors","b":"2.safetensors","c":"3.safetensors")");
  files.refuse({"holds tensor 'c'", "in '3.safetensors'"});
  files.index(R"("a":"1.safetensors","b":"2.safetensors","c":"2.safetensors","d":"0.safetensors")");
  files.refuse({"'0.safetensors'", "not in the directory"});
  files.index(R"("a":"1.safetensors","b":"2.safetensors","c":"2.safetensors","d":"1.safetensors")");
  files.refuse({"tensor 'd' should be in", "1.safetensors"});
  files.index(R"("a":"1.safetensors","b":"2.safetensors")");
  files.refuse({"2.safetensors: holds tensor 'c', which", "does not name"});
  files.index(R"("a":"1.safetensors","b":"2.safetensors","c":"2.safetensors")");
  files.write("1.safetensors",
              safetensors_file({{"a", "F32", {4}, kFour}, {"b", "F32", {4}, kFour}}));
  files.refuse({"1.safetensors: holds tensor 'b'", "in '2.safetensors'"});
  files.write("1.safetensors", "short");
  files.refuse({"1.safetensors: 5 bytes are too few"});
  std::filesystem::remove(files.dir() / "1.safetensors");
  files.refuse({"'1.safetensors'", "not in the directory"});
}

TEST(SafetensorsDirectory, RefusesShardsElsewhere) {
  const Sharded files;
  for (const char* name : {"/etc/passwd", "../1.safetensors", "sub/1.safetensors", "..", ".", "",
                           "1.safetensors\\u0000"}) {
    files.index(fmt::format(R"("a":"{}")", name));
    files.refuse({"tensor 'a'", "not a plain file name"});
  }
}

TEST(SafetensorsDirectory, RefusesBadIndexes) {
  const Sharded files;
  const auto text = [&](const std::string& index, std::initializer_list<std::string_view> parts) {
    files.write("model.safetensors.index.json", index);
    files.refuse({"model.safetensors.index.json: "});
    files.refuse(parts);
  };
  text("", {"not valid JSON at byte"});
  text("{", {"not valid JSON"});
  text("[]", {"found an array"});
  text("{}", {"no 'weight_map'"});
  text(R"({"weight_map":7})", {"found a number", "'weight_map'"});
  text(R"({"weight_map":[]})", {"found an array"});
  text(R"({"weight_map":{"a":1}})", {"found a number", "'a'"});
  text(R"({"weight_map":{"a":{}}})", {"found an object", "'a'"});
  text(R"({"weight_map":{"a":"1","a":"1"}})", {"second entry of 'a'"});
  text(R"({"weight_map":{},"weight_map":{}})", {"second 'weight_map'"});
  text(R"({"other":{"weight_map":{"a":"1"}}})", {"no 'weight_map'"});
}

TEST(SafetensorsDirectory, SaysWhatIsMissing) {
  const Scratch scratch;
  const auto read = [&](const std::filesystem::path& dir) {
    return [=] { read_safetensors_directory(dir); };
  };
  expect_error(read(scratch.dir()), {scratch.dir().string(), "neither model.safetensors nor"});
  expect_error(read(scratch.dir() / "none"), {"none: not a directory"});
  expect_error([&] { read_safetensors(scratch.dir() / "none"); }, {"none: cannot open"});
  expect_error([&] { read_safetensors(scratch.write("empty", "")); }, {"empty: 0 bytes"});
}

}  // namespace
}  // namespace sala
