#include "weights/packed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "ops/math.h"
#include "weights/round.h"

namespace sala {
namespace {

constexpr WeightType kTypes[] = {WeightType::f32,   WeightType::f16,    WeightType::bf16,
                                 WeightType::w8,    WeightType::w4,     WeightType::w8g64,
                                 WeightType::w4g64, WeightType::w8g128, WeightType::w4g128};

StoredTensor named(std::string name) {
  StoredTensor tensor;
  tensor.name = std::move(name);
  tensor.type = StoredType::other;
  tensor.type_name = "U8";
  return tensor;
}

void serial(int64_t count, const std::function<void(int64_t)>& work) {
  for (int64_t i = 0; i < count; ++i) work(i);
}

TEST(PackedName, SaysWhatWasPacked) {
  for (const WeightType type : kTypes)
    for (const char* parts : {"lm_head.weight", "a.weight+b.weight", "a|b", "x@y:3"}) {
      const PackedMatrix matrix{.parts = parts, .type = type, .rows = 73448, .cols = 4096};
      const auto read = parse_packed(named(matrix.name()));
      ASSERT_TRUE(read.has_value()) << matrix.name();
      EXPECT_EQ(read->parts, matrix.parts);
      EXPECT_EQ(read->type, type);
      EXPECT_EQ(read->rows, 73448);
      EXPECT_EQ(read->cols, 4096);
      EXPECT_EQ(read->elements(), int64_t{73448} * 4096 * (std::string(parts) == "a|b" ? 2 : 1));
    }
}

TEST(PackedName, IsNotEveryName) {
  for (const char* name :
       {"", "lm_head.weight", "a@w4", "a@w4:", "a@w4:1", "a@w4:1x", "a@w4:x1", "a@w4:0x32",
        "a@w4:-1x32", "a@w4:1x32x", "a@w4:1x32 ", "a@w4:1x99999999999999999999",
        "a@w4:4294967296x32", "a@w5:1x32", "a@k4:1x256", "a@:1x32", "@x:"})
    EXPECT_FALSE(parse_packed(named(name)).has_value()) << name;
  StoredTensor floats = named("a@w4:1x32");
  floats.type_name = "F32";
  EXPECT_FALSE(parse_packed(floats).has_value());
}

// A number lies at most half a scale from its code's value, and as far again as f16 rounds.
TEST(Round, IsToTheNearestCode) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const WeightType type : kTypes) {
    if (!quantised(type)) continue;
    const auto group = static_cast<size_t>(group_columns(type));
    std::vector<float> values(256);
    for (float& x : values) x = normal(random) + 0.5f;
    const auto read = [&](int, int64_t, WeightRow& row) {
      ASSERT_TRUE(round_row(values, type, row));
    };
    const Weight w = pack(type, 1, 256, false, read, serial);
    std::vector<float> found(values.size());
    unpack_row(w, 0, 0, found);
    for (size_t first = 0; first < values.size(); first += group) {
      const auto part = std::span(values).subspan(first, group);
      const auto [low, high] = std::ranges::minmax(part);
      const float scale = (high - low) / (narrow(type) ? 15.0f : 255.0f);
      const float slack = (high - low) / 1024 + std::abs(low) / 1024;
      for (size_t k = first; k < first + group; ++k)
        ASSERT_NEAR(found[k], values[k], scale / 2 + slack) << name_of(type) << " " << k;
    }
    EXPECT_TRUE(sound_panel(w, 0));
  }
}

TEST(Round, KeepsConstantGroups) {
  std::vector<float> values(128, -0.375f);
  const auto read = [&](int, int64_t, WeightRow& row) {
    ASSERT_TRUE(round_row(values, WeightType::w4g128, row));
  };
  std::vector<float> found(values.size());
  unpack_row(pack(WeightType::w4g128, 1, 128, false, read, serial), 0, 0, found);
  EXPECT_EQ(found, values);
}

TEST(Round, RefusesWhatHasNoCode) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const WeightType type : kTypes)
    for (const float x : {infinity, -infinity, std::nanf(""), 1e6f, -1e6f})
      for (const size_t place : {0, 77}) {
        const bool holds =
            std::isfinite(x) && (type == WeightType::f32 || type == WeightType::bf16);

        std::vector<float> values(128, 0.25f);
        values[place] = x;
        WeightRow row;
        const bool sound = round_row(values, type, row);
        // 1e6 above a minimum may fit a group of 8 bits, whose scale is a 255th of it.
        if (quantised(type) && !narrow(type) && x == 1e6f) continue;
        EXPECT_EQ(sound, holds) << name_of(type) << " " << x;
      }
}

TEST(SoundPanel, SeesEveryScaleAndMinimum) {
  const std::vector<float> values(256, 1.0f);
  for (const WeightType type : {WeightType::w8, WeightType::w4g64, WeightType::w4g128}) {
    Weight w = pack(
        type, 40, 256, false, [&](int, int64_t, WeightRow& row) { round_row(values, type, row); },
        serial);
    const int64_t groups = 256 / group_columns(type);
    for (int64_t g = 0; g < groups; ++g)
      for (const int64_t n : {0, 31, 32, 63}) {
        std::byte* place = w.storage.get() + w.panel_bytes() + group_place(type, g) + 2 * n;
        const std::byte kept = place[1];
        place[1] = std::byte{0x7C};
        EXPECT_FALSE(sound_panel(w, 1));
        EXPECT_TRUE(sound_panel(w, 0));
        place[1] = kept;
      }
    EXPECT_TRUE(sound_panel(w, 1));
  }
}

}  // namespace
}  // namespace sala
