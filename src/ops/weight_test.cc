#include "ops/weight.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "ops/math.h"

namespace sala {
namespace {

struct Shape {
  WeightType type;
  int64_t rows, cols;
  bool paired;
};

void serial(int64_t count, const std::function<void(int64_t)>& work) {
  for (int64_t i = 0; i < count; ++i) work(i);
}

/// Row n of a made-up matrix, and the values that it stands for.
WeightRow made_up(WeightType type, int64_t cols, int part, int64_t n, std::vector<float>& values) {
  std::mt19937 random(static_cast<uint32_t>(n * 2 + part));
  std::normal_distribution<float> normal;
  WeightRow row;
  values.clear();
  for (int64_t k = 0; k < cols; ++k) {
    const float x = normal(random);
    if (type == WeightType::f32) {
      row.values.push_back(x);
      values.push_back(x);
    } else if (type == WeightType::f16) {
      row.bits.push_back(f32_to_f16(x));
      values.push_back(f16_to_f32(row.bits.back()));
    } else if (type == WeightType::bf16) {
      row.bits.push_back(f32_to_bf16(x));
      values.push_back(bf16_to_f32(row.bits.back()));
    } else {
      if (k % column_unit(type) == 0) {
        row.scales.push_back(f32_to_f16(std::abs(x) / 8));
        row.mins.push_back(f32_to_f16(-std::abs(x)));
      }
      if (two_level(type) && k % group_columns(type) == 0) {
        row.scale_codes.push_back(static_cast<int8_t>(random()));
        row.min_codes.push_back(static_cast<int8_t>(random()));
      }
      row.codes.push_back(static_cast<uint8_t>(random() % (narrow(type) ? 16 : 256)));
      const double s = two_level(type) ? row.scale_codes.back() : 1;
      const double t = two_level(type) ? row.min_codes.back() : 1;
      values.push_back(static_cast<float>(static_cast<double>(f16_to_f32(row.scales.back())) * s *
                                              row.codes.back() +
                                          static_cast<double>(f16_to_f32(row.mins.back())) * t));
    }
  }
  return row;
}

class Pack : public testing::TestWithParam<Shape> {};

TEST_P(Pack, UnpacksToTheValuesThatWerePacked) {
  const auto [type, rows, cols, paired] = GetParam();
  const auto read = [&](int part, int64_t n, WeightRow& row) {
    std::vector<float> values;
    row = made_up(type, cols, part, n, values);
  };
  const Weight w = pack(type, rows, cols, paired, read, serial);
  EXPECT_EQ(w.panels(), (rows + 31) / 32 * (paired ? 2 : 1));
  std::vector<float> expected;
  std::vector<float> found(static_cast<size_t>(cols));
  for (int part = 0; part < (paired ? 2 : 1); ++part)
    for (int64_t n = 0; n < rows; ++n) {
      made_up(type, cols, part, n, expected);
      unpack_row(w, part, n, found);
      ASSERT_EQ(found, expected) << "part " << part << " row " << n;
    }
}

TEST_P(Pack, ReadsEachRowOnceOnAnyThreads) {
  const auto [type, rows, cols, paired] = GetParam();
  std::vector<std::atomic<int>> reads(static_cast<size_t>(2 * rows));
  const auto read = [&](int part, int64_t n, WeightRow& row) {
    std::vector<float> values;
    row = made_up(type, cols, part, n, values);
    ++reads[static_cast<size_t>(2 * n + part)];
  };
  const auto threads = [](int64_t count, const std::function<void(int64_t)>& work) {
    std::vector<std::jthread> all;
    for (int64_t i = count - 1; i >= 0; --i) all.emplace_back([&work, i] { work(i); });
  };
  const Weight a = pack(type, rows, cols, paired, read, threads);
  for (int64_t n = 0; n < rows; ++n) {
    EXPECT_EQ(reads[static_cast<size_t>(2 * n)], 1);
    EXPECT_EQ(reads[static_cast<size_t>(2 * n + 1)], paired ? 1 : 0);
  }
  const Weight b = pack(type, rows, cols, paired, read, serial);
  EXPECT_TRUE(std::equal(a.data, a.data + a.bytes(), b.data));
}

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const bool paired : {false, true}) {
    for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::bf16})
      for (const int64_t rows : {1, 31, 32, 33, 100})
        for (const int64_t cols : {1, 2, 7, 33, 64}) all.push_back({type, rows, cols, paired});
    for (const WeightType type : {WeightType::w8, WeightType::w4})
      for (const int64_t rows : {1, 31, 32, 33, 100})
        for (const int64_t cols : {32, 96}) all.push_back({type, rows, cols, paired});
    for (const WeightType type :
         {WeightType::w8g64, WeightType::w4g64, WeightType::w8g128, WeightType::w4g128})
      for (const int64_t rows : {1, 31, 32, 33, 100})
        for (const int64_t cols : {128, 384}) all.push_back({type, rows, cols, paired});
    for (const WeightType type : {WeightType::k8, WeightType::k4})
      for (const int64_t rows : {1, 31, 32, 33, 100})
        for (const int64_t cols : {256, 768}) all.push_back({type, rows, cols, paired});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Pack, testing::ValuesIn(shapes()), [](const auto& test) {
  const Shape& s = test.param;
  return fmt::format("{}_{}x{}{}", name_of(s.type), s.rows, s.cols, s.paired ? "_paired" : "");
});

// The layout is a contract between packer and kernels: single entries at the bytes that the header
// names.
TEST(Layout, Bf16IsInPairsOfColumns) {
  const Weight w = pack(
      WeightType::bf16, 3, 3, false,
      [](int, int64_t n, WeightRow& row) {
        for (int k = 0; k < 3; ++k) row.bits.push_back(static_cast<uint16_t>(16 * n + k + 1));
      },
      serial);
  const auto* bits = reinterpret_cast<const uint16_t*>(w.data);
  EXPECT_EQ(w.panel_bytes(), 2 * 32 * 2 * 2);
  EXPECT_EQ(bits[2 * 2 + 1], 16 * 2 + 2);             // row 2, column 1
  EXPECT_EQ(bits[(1 * 32 + 1) * 2 + 0], 16 * 1 + 3);  // row 1, column 2
  EXPECT_EQ(bits[(1 * 32 + 1) * 2 + 1], 0);           // row 1, no column 3
  EXPECT_EQ(bits[3 * 2], 0);                          // no row 3
}

TEST(Layout, CodesFollowTheirScales) {
  const auto read = [](int, int64_t n, WeightRow& row) {
    for (int k = 0; k < 64; ++k) row.codes.push_back(static_cast<uint8_t>((n + k) % 16));
    row.scales = {1, 2};
    row.mins = {3, static_cast<uint16_t>(4 + n)};
  };
  const Weight w8 = pack(WeightType::w8, 32, 64, false, read, serial);
  const Weight w4 = pack(WeightType::w4, 32, 64, false, read, serial);
  EXPECT_EQ(w8.panel_bytes(), 2 * (128 + 1024));
  EXPECT_EQ(w4.panel_bytes(), 2 * (128 + 512));
  const auto* bytes8 = reinterpret_cast<const uint8_t*>(w8.data);
  const auto* bytes4 = reinterpret_cast<const uint8_t*>(w4.data);
  // Group 1, row 5, columns 32 + 9 and 32 + 13.
  EXPECT_EQ(reinterpret_cast<const uint16_t*>(bytes8 + 1152)[5], 2);
  EXPECT_EQ(reinterpret_cast<const uint16_t*>(bytes8 + 1152)[32 + 5], 9);
  EXPECT_EQ(bytes8[1152 + 128 + (9 / 4 * 32 + 5) * 4 + 1], (5 + 41) % 16);
  EXPECT_EQ(bytes4[640 + 128 + (9 / 8 * 32 + 5) * 4 + 1], (5 + 41) % 16 | (5 + 45) % 16 << 4);
}

TEST(Layout, WiderGroupsHaveTheSameOrder) {
  const auto read = [](int, int64_t n, WeightRow& row) {
    for (int k = 0; k < 256; ++k) row.codes.push_back(static_cast<uint8_t>((n + k) % 16));
    row.scales = {1, 2};
    row.mins = {3, static_cast<uint16_t>(4 + n)};
  };
  const Weight w8 = pack(WeightType::w8g128, 32, 256, false, read, serial);
  const Weight w4 = pack(WeightType::w4g128, 32, 256, false, read, serial);
  EXPECT_EQ(w8.panel_bytes(), 2 * (128 + 4096));
  EXPECT_EQ(w4.panel_bytes(), 2 * (128 + 2048));
  const auto* bytes8 = reinterpret_cast<const uint8_t*>(w8.data);
  const auto* bytes4 = reinterpret_cast<const uint8_t*>(w4.data);
  // Group 1, row 5, columns 128 + 105 and 128 + 109.
  EXPECT_EQ(reinterpret_cast<const uint16_t*>(bytes8 + 4224)[5], 2);
  EXPECT_EQ(reinterpret_cast<const uint16_t*>(bytes4 + 2176)[32 + 5], 9);
  EXPECT_EQ(bytes8[4224 + 128 + (105 / 4 * 32 + 5) * 4 + 1], (5 + 233) % 16);
  EXPECT_EQ(bytes4[2176 + 128 + (105 / 8 * 32 + 5) * 4 + 1], (5 + 233) % 16 | (5 + 237) % 16 << 4);
}

TEST(Layout, GroupsOfTwoLevelsFollowTheirSuperblock) {
  const auto read_as = [](WeightType type) {
    return [type](int, int64_t n, WeightRow& row) {
      for (int k = 0; k < 512; ++k) row.codes.push_back(static_cast<uint8_t>((n + k) % 16));
      row.scales = {1, 2};
      row.mins = {3, static_cast<uint16_t>(4 + n)};
      for (int g = 0; g < 512 / group_columns(type); ++g) {
        row.scale_codes.push_back(static_cast<int8_t>(g - n));
        row.min_codes.push_back(static_cast<int8_t>(n - 2 * g));
      }
    };
  };
  const Weight k8 = pack(WeightType::k8, 32, 512, false, read_as(WeightType::k8), serial);
  const Weight k4 = pack(WeightType::k4, 32, 512, false, read_as(WeightType::k4), serial);
  constexpr int kBlock8 = 128 + 16 * 576, kBlock4 = 128 + 8 * 576;
  EXPECT_EQ(k8.panel_bytes(), 2 * kBlock8);
  EXPECT_EQ(k4.panel_bytes(), 2 * kBlock4);
  const auto* bytes8 = reinterpret_cast<const uint8_t*>(k8.data);
  const auto* bytes4 = reinterpret_cast<const uint8_t*>(k4.data);
  // The second 256 columns, row 5; of k8 group 3, column 48 + 9, of k4 group 2, columns 64 + 9 and
  // 64 + 13.
  EXPECT_EQ(reinterpret_cast<const uint16_t*>(bytes8 + kBlock8)[5], 2);
  EXPECT_EQ(reinterpret_cast<const uint16_t*>(bytes4 + kBlock4)[32 + 5], 9);
  const auto* group8 = bytes8 + kBlock8 + 128 + 3 * 576;
  const auto* group4 = bytes4 + kBlock4 + 128 + 2 * 576;
  EXPECT_EQ(static_cast<int8_t>(group8[5]), 16 + 3 - 5);
  EXPECT_EQ(static_cast<int8_t>(group8[32 + 5]), 5 - 2 * (16 + 3));
  EXPECT_EQ(static_cast<int8_t>(group4[5]), 8 + 2 - 5);
  EXPECT_EQ(group8[64 + (9 / 4 * 32 + 5) * 4 + 1], (5 + 57) % 16);
  EXPECT_EQ(group4[64 + (9 / 8 * 32 + 5) * 4 + 1], (5 + 73) % 16 | (5 + 77) % 16 << 4);
}

TEST(Layout, PairedPanelsAlternate) {
  const Weight w = pack(
      WeightType::f32, 40, 1, true,
      [](int part, int64_t n, WeightRow& row) {
        row.values = {static_cast<float>(100 * part + n)};
      },
      serial);
  const auto at = [&](int64_t panel, int64_t n) {
    return reinterpret_cast<const float*>(w.panel(panel))[n];
  };
  EXPECT_EQ(w.panels(), 4);
  EXPECT_EQ(at(0, 3), 3);
  EXPECT_EQ(at(1, 3), 103);
  EXPECT_EQ(at(2, 3), 35);
  EXPECT_EQ(at(3, 3), 135);
  EXPECT_EQ(at(3, 9), 0);
}

}  // namespace
}  // namespace sala
