#include "weights/source.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "ops/math.h"
#include "weights/decode.h"
#include "weights/describe.h"
#include "weights/testing.h"
#include "weights/testing_blocks.h"

namespace sala {
namespace {

using testing::as_span;
using testing::bytes_of;
using testing::columns_of;
using testing::defined_values;
using testing::expect_error;
using testing::halves_of;
using testing::kTypes;
using testing::random_bytes;

/// `bytes` must outlive the tensor.
StoredTensor stored(std::string name, StoredType type, std::vector<int64_t> shape,
                    const std::string& bytes) {
  StoredTensor tensor;
  tensor.name = std::move(name);
  tensor.type = type;
  tensor.type_name = name_of(type);
  tensor.shape = std::move(shape);
  tensor.bytes = as_span(bytes);
  return tensor;
}

StoredTensor stored(std::string, StoredType, std::vector<int64_t>, std::string&&) = delete;

void expect_values(const Weight& w, int part, int64_t first, int64_t rows,
                   const std::vector<float>& values) {
  std::vector<float> row(static_cast<size_t>(w.cols));
  for (int64_t n = 0; n < rows; ++n) {
    unpack_row(w, part, first + n, row);
    for (int64_t k = 0; k < w.cols; ++k)
      ASSERT_EQ(row[k], values[n * w.cols + k]) << "row " << n << ", column " << k;
  }
}

/// A team of threads of the test's own, so that readers race.
void in_threads(int64_t count, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  std::vector<std::jthread> team;
  for (int i = 0; i < 3; ++i)
    team.emplace_back([&] {
      for (int64_t n = next++; n < count; n = next++) work(n);
    });
}

class EveryType : public ::testing::TestWithParam<StoredType> {};

TEST_P(EveryType, IsTakenWithoutLoss) {
  const int64_t kRows = 70, kCols = GetParam() >= StoredType::q2_k ? 512 : 96;
  const auto bytes = random_bytes(GetParam(), kRows * kCols, 1);
  WeightSource source({stored("w", GetParam(), {kRows, kCols}, bytes)}, "memory");
  source.parallel = in_threads;
  const auto w = source.take_matrix("w", kRows, kCols);
  EXPECT_EQ(w.type, weight_type(GetParam()));
  expect_values(w, 0, 0, kRows, defined_values(GetParam(), bytes));
  source.expect_all_taken();
}

TEST_P(EveryType, MixesInStacksWithoutLoss) {
  constexpr int64_t kRows[] = {33, 5}, kCols = 256;
  for (const StoredType other : kTypes) {
    const auto first = random_bytes(GetParam(), kRows[0] * kCols, 2);
    const auto second = random_bytes(other, kRows[1] * kCols, 3);
    WeightSource source({stored("a", GetParam(), {kRows[0], kCols}, first),
                         stored("b", other, {kRows[1], kCols}, second)},
                        "memory");
    const std::string names[] = {"a", "b"};
    const auto w = source.take_stack(names, kRows, kCols);
    EXPECT_EQ(w.rows, 38);
    EXPECT_EQ(w.type, common_type(weight_type(GetParam()), weight_type(other)));
    expect_values(w, 0, 0, kRows[0], defined_values(GetParam(), first));
    expect_values(w, 0, kRows[0], kRows[1], defined_values(other, second));
  }
}

TEST_P(EveryType, MixesInPairsWithoutLoss) {
  constexpr int64_t kRows = 40, kCols = 256;
  for (const StoredType other : kTypes) {
    const auto first = random_bytes(GetParam(), kRows * kCols, 4);
    const auto second = random_bytes(other, kRows * kCols, 5);
    WeightSource source({stored("a", GetParam(), {kRows, kCols}, first),
                         stored("b", other, {kRows, kCols}, second)},
                        "memory");
    const auto w = source.take_pair("a", "b", kRows, kCols);
    EXPECT_TRUE(w.paired);
    expect_values(w, 0, 0, kRows, defined_values(GetParam(), first));
    expect_values(w, 1, 0, kRows, defined_values(other, second));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, EveryType, ::testing::ValuesIn(kTypes),
                         [](const auto& type) { return std::string(name_of(type.param)); });

TEST(CommonType, IsTheNarrowestThatHoldsBoth) {
  using enum WeightType;
  EXPECT_EQ(common_type(w4, w4), w4);
  EXPECT_EQ(common_type(w4, w8), w8);
  EXPECT_EQ(common_type(w8, w4), w8);
  EXPECT_EQ(common_type(w4g128, w4g64), w4g64);
  EXPECT_EQ(common_type(w4, w4g128), w4);
  EXPECT_EQ(common_type(w4g64, w8g128), w8g64);
  EXPECT_EQ(common_type(w4g64, k4), f32);
  EXPECT_EQ(common_type(w8, bf16), f32);
  EXPECT_EQ(common_type(f16, w4), f32);
  EXPECT_EQ(common_type(bf16, f16), f32);
  EXPECT_EQ(common_type(bf16, bf16), bf16);
  EXPECT_EQ(common_type(f16, f32), f32);
  EXPECT_EQ(common_type(k4, k4), k4);
  EXPECT_EQ(common_type(k4, k8), k8);
  EXPECT_EQ(common_type(k8, k4), k8);
  EXPECT_EQ(common_type(k4, w4), f32);
  EXPECT_EQ(common_type(w8, k8), f32);
  EXPECT_EQ(common_type(k8, f16), f32);
}

TEST(WeightSource, KeepsQ8_0OfEveryScale) {
  // All finite scales whose minimum -128 d is a finite f16, subnormal ones included.
  std::string bytes;
  int64_t rows = 0;
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const float scale = f16_to_f32(static_cast<uint16_t>(bits));
    if (!(std::abs(scale) <= 511)) continue;
    bytes += bytes_of(static_cast<uint16_t>(bits));
    for (int k = 0; k < 32; ++k) bytes += static_cast<char>(k * 8 - 128 + (k == 31 ? 7 : 0));
    ++rows;
  }
  WeightSource source({stored("w", StoredType::q8_0, {rows, 32}, bytes)}, "memory");
  const auto w = source.take_matrix("w", rows, 32);
  EXPECT_EQ(w.type, WeightType::w8);
  expect_values(w, 0, 0, rows, defined_values(StoredType::q8_0, bytes));
}

TEST(WeightSource, RefusesScalesThatAreNotFinite) {
  const auto refuse = [](StoredType type, float scale) {
    const auto cols = static_cast<int64_t>(2 * columns_of(type));
    auto bytes = random_bytes(type, 3 * cols, 6);
    const uint16_t bits = f32_to_f16(scale);
    std::memcpy(bytes.data() + stored_bytes(type, cols / 2 * 3) + (halves_of(type).back()), &bits,
                sizeof bits);
    WeightSource source({stored("w", type, {3, cols}, bytes)}, "memory");
    expect_error([&] { source.take_matrix("w", 3, cols); },
                 {"memory: ", "'w'", "row 1", "not a finite f16 number"});
  };
  refuse(StoredType::q8_0, 512);
  refuse(StoredType::q8_0, -60000);
  refuse(StoredType::q4_0, 8192);
  refuse(StoredType::q5_0, 4096);
  refuse(StoredType::iq4_nl, 512);
  refuse(StoredType::q4_1, INFINITY);
  refuse(StoredType::q4_1, NAN);
  refuse(StoredType::q8_0, NAN);
  refuse(StoredType::q2_k, NAN);
  refuse(StoredType::q3_k, 16384);
  refuse(StoredType::q4_k, INFINITY);
  refuse(StoredType::q5_k, NAN);
  refuse(StoredType::q6_k, 2048);
  refuse(StoredType::iq4_xs, -512);
}

TEST(WeightSource, TakesVectorsOfEveryFloat) {
  for (const StoredType type : {StoredType::f32, StoredType::f16, StoredType::bf16}) {
    const auto bytes = random_bytes(type, 32, 7);
    WeightSource source({stored("v", type, {32}, bytes)}, "memory");
    const auto v = source.take_vector("v", 32);
    const auto values = defined_values(type, bytes);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(v.view().as<float>()[i], values[i]);
  }
  const auto bytes = random_bytes(StoredType::q8_0, 32, 7);
  WeightSource source({stored("v", StoredType::q8_0, {32}, bytes)}, "memory");
  expect_error([&] { source.take_vector("v", 32); },
               {"memory: ", "'v'", "Q8_0", "expected F32, F16 or BF16"});
}

TEST(WeightSource, SaysWhatDoesNotFit) {
  const std::string bytes(64, '\0');
  auto other = stored("o", StoredType::other, {4, 4}, bytes);
  other.type_name = "IQ2_XS";
  WeightSource source({stored("w", StoredType::f32, {4, 4}, bytes), other}, "here");
  EXPECT_TRUE(source.has("w"));
  EXPECT_FALSE(source.has("v"));
  expect_error([&] { source.take_matrix("v", 4, 4); }, {"here: ", "'v'", "[4, 4]", "missing"});
  expect_error([&] { source.take_matrix("w", 4, 5); },
               {"here: ", "'w' has shape [4, 4]", "expected [4, 5]"});
  expect_error([&] { source.take_vector("w", 16); }, {"'w' has shape [4, 4]", "expected [16]"});
  expect_error(
      [&] { source.take_matrix("o", 4, 4); },
      {"here: ", "'o' is of type IQ2_XS", "accepted are F32, F16 and BF16", "Q2_K to Q6_K"});
  expect_error(
      [&] {
        WeightSource({stored("w", StoredType::f32, {4, 4}, bytes),
                      stored("w", StoredType::f32, {4, 4}, bytes)},
                     "here");
      },
      {"here: ", "two tensors are named 'w'"});
}

TEST(WeightSource, ListsWhatNobodyTook) {
  const std::string bytes(4, '\0');
  std::vector<StoredTensor> tensors;
  for (int i = 0; i < 11; ++i)
    tensors.push_back(stored(fmt::format("t{}", i), StoredType::f32, {1}, bytes));
  WeightSource source(tensors, "here");
  source.take_vector("t0", 1);
  const auto text = testing::error_of([&] { source.expect_all_taken(); });
  EXPECT_NE(text.find("here: 10 tensors"), std::string::npos) << text;
  EXPECT_NE(text.find("'t1', 't2'"), std::string::npos) << text;
  EXPECT_NE(text.find("'t8' and others"), std::string::npos) << text;
  EXPECT_EQ(text.find("'t0'"), std::string::npos) << text;
  EXPECT_EQ(text.find("'t9'"), std::string::npos) << text;
  for (int i = 1; i < 10; ++i) source.take_vector(fmt::format("t{}", i), 1);
  expect_error([&] { source.expect_all_taken(); }, {"here: 1 tensor is", ": 't10';"});
  source.take_vector("t10", 1);
  source.expect_all_taken();
}

TEST(WeightSource, ReportsProgressOnTheTakingThread) {
  constexpr int64_t kRows = 2048, kCols = 24 * 1024;  // 96 MB as bf16
  const std::string bytes(static_cast<size_t>(kRows * kCols * 2), '\0'), end(4, '\0');
  WeightSource source({stored("big", StoredType::bf16, {kRows, kCols}, bytes),
                       stored("last", StoredType::f32, {1}, end)},
                      "memory");
  source.parallel = in_threads;
  std::vector<int64_t> told = {0};
  const auto self = std::this_thread::get_id();
  source.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(std::this_thread::get_id(), self);
    EXPECT_EQ(total, kRows * kCols * 2 + 4);
    EXPECT_GT(done, told.back());
    EXPECT_LE(done - told.back(), 64 << 20);
    told.push_back(done);
  };
  source.take_matrix("big", kRows, kCols);
  EXPECT_GE(told.size(), 3U);
  source.take_vector("last", 1);
  EXPECT_EQ(told.back(), kRows * kCols * 2 + 4);
}

TEST(WeightSource, OpensADirectory) {
  const testing::Scratch scratch;
  scratch.write("model.safetensors",
                testing::safetensors_file({{"v", "F32", {2}, bytes_of(std::vector<float>{3, 4})}}));
  auto source = WeightSource::open_directory(scratch.dir());
  EXPECT_EQ(source.origin(), scratch.dir().string());
  expect_error([&] { source.take_vector("v", 3); }, {"model.safetensors: tensor 'v'"});
  EXPECT_EQ(source.take_vector("v", 2).view().as<float>()[1], 4);
}

TEST(Describe, ValidatesUtf8) {
  for (const char* good : {"", "a", "\u00e9", "\u20ac", "\U0001F600", "\xf4\x8f\xbf\xbf"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xc3", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe2\x82",
                          "\xed\xa0\x80", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5", "\xff"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
  EXPECT_EQ(printable("a\nb\xff\u00e9"), "'a\\x0ab\\xff\u00e9'");
}

}  // namespace
}  // namespace sala
