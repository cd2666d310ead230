#include "ops/testing.h"

namespace sala::test {
namespace {

class NormRope : public OnDevice {};

TEST_P(NormRope, EmbedTakesScaledRows) {
  Random random(1);
  for (const WeightType type :
       {WeightType::f32, WeightType::f16, WeightType::bf16, WeightType::w8, WeightType::w4})
    for (const int64_t D : {32, 37, 96, 160}) {
      if (D % column_unit(type) != 0) continue;
      const Weight table = random.weight(type, 61, D);
      const Tensor ids = integers({0, 60, 31, 32, 33, 33, 7}, {7});
      const Strided h(7, D, 8);
      embed(device(), ids, {}, table, 12.25f, h.view);
      std::vector<float> row(static_cast<size_t>(D));
      for (int64_t t = 0; t < 7; ++t) {
        unpack_row(table, 0, ids.view().as<int32_t>()[t], row);
        for (int64_t i = 0; i < D; ++i)
          ASSERT_EQ(h.view.row<float>(t)[i], 12.25f * row[i]) << name_of(type) << t << ", " << i;
        ASSERT_TRUE(std::isnan(h.view.row<float>(t)[D])) << "behind the end of row " << t;
      }
    }
}

TEST_P(NormRope, EmbedTakesTokensThatWereDrawn) {
  Random random(1);
  const Weight table = random.weight(WeightType::f32, 61, 40);
  const Tensor ids = integers({drawn_id(2), 7, drawn_id(0), drawn_id(1), drawn_id(2)}, {5});
  const Tensor drawn = integers({33, kNoToken, 60}, {3});
  const Tensor h(DType::f32, {5, 40});
  embed(device(), ids, drawn, table, 2.0f, h);
  const int expected[] = {60, 7, 33, kNoToken, 60};
  std::vector<float> row(40);
  for (int64_t t = 0; t < 5; ++t) {
    std::ranges::fill(row, 0.0f);
    if (expected[t] != kNoToken) unpack_row(table, 0, expected[t], row);
    for (size_t i = 0; i < row.size(); ++i)
      ASSERT_EQ(h.view().row<float>(t)[i], 2.0f * row[i]) << t << ", " << i;
  }
}

TEST_P(NormRope, ResidualNormAddsThenNormalises) {
  Random random(2);
  for (const int64_t T : {1, 2, 7, 33})
    for (const int64_t D : {1, 7, 16, 33, 257, 4096, 6203}) {
      SCOPED_TRACE(fmt::format("{} x {}", T, D));
      const Tensor w = random.tensor({D});
      const Strided a(random.tensor({T, D}), 3);
      const Tensor start = random.tensor({T, D}, 5);
      const Tensor expected_h = copy_of(start);
      const Tensor expected(DType::f32, {T, D});
      const Strided h(start, 2);
      const Strided x(T, D, 7);
      residual_norm(reference(), expected_h, a.view, 0.37f, w, 1e-5f, expected);
      residual_norm(device(), h.view, a.view, 0.37f, w, 1e-5f, x.view);
      EXPECT_TRUE(close(h.view, expected_h.view(), 4 * kEpsilon * 25));
      EXPECT_TRUE(close(x.view, expected.view(), 8 * kEpsilon * 16));

      residual_norm(device(), expected_h, {}, 1, w, 1e-5f, x.view);
      EXPECT_TRUE(close(x.view, expected.view(), 8 * kEpsilon * 16)) << "without a";
      residual_norm(device(), expected_h, {}, 1, w, 1e-5f, expected_h);
      EXPECT_TRUE(close(expected_h.view(), expected.view(), 8 * kEpsilon * 16)) << "in place";
    }
}

// Rows on a boundary of 16 bytes whose last four elements are not all theirs.
TEST_P(NormRope, ResidualNormOfAlignedRowsEndsWithThem) {
  Random random(6);
  const Tensor w = random.tensor({7});
  const Tensor start = random.tensor({5, 7});
  const Tensor expected_h = copy_of(start), expected(DType::f32, {5, 7});
  const Strided h(start, 9), a(random.tensor({5, 7}), 9), x(5, 7, 9);
  residual_norm(reference(), expected_h, a.view, 0.4f, w, 1e-5f, expected);
  residual_norm(device(), h.view, a.view, 0.4f, w, 1e-5f, x.view);
  EXPECT_TRUE(close(h.view, expected_h.view(), 4 * kEpsilon * 4));
  EXPECT_TRUE(close(x.view, expected.view(), 8 * kEpsilon * 4));
  for (int64_t i = 0; i < x.all.view().size(); ++i)
    if (i % 16 < 4 || i % 16 >= 11) {
      EXPECT_TRUE(std::isnan(x.all.view().as<float>()[i])) << i;
    }
}

TEST_P(NormRope, NormsOfZeroAndOfSmallRowsFollowEpsilon) {
  Tensor x(DType::f32, {2, 40});
  std::fill_n(x.view().as<float>() + 40, 40, 1e-3f);
  Tensor w(DType::f32, {40});
  std::fill_n(w.view().as<float>(), 40, 2.0f);
  residual_norm(device(), x, {}, 1, w, 3e-6f, x);
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(x.view().row<float>(0)[i], 0);
    EXPECT_NEAR(x.view().row<float>(1)[i], 1.0, 1e-6);  // 2e-3 / sqrt(1e-6 + 3e-6)
  }
}

TEST_P(NormRope, RopeTableIsExactAtLargePositions) {
  for (const int64_t half : {1, 4, 37, 64}) {
    Tensor inverse(DType::f32, {half});
    for (int64_t i = 0; i < half; ++i)
      inverse.view().as<float>()[i] =
          rope_inverse_frequency(10000, static_cast<int>(i), static_cast<int>(2 * half));
    const Tensor positions = integers({0, 1, 63, 4097, 524287, 1048575, 16777217}, {7});
    const Tensor cos(DType::f32, {7, half});
    const Tensor sin(DType::f32, {7, half});
    rope_table(device(), positions, inverse, {.scale = 1.5f}, cos, sin);
    for (int64_t t = 0; t < 7; ++t)
      for (int64_t i = 0; i < half; ++i) {
        const float angle =
            static_cast<float>(positions.view().as<int32_t>()[t]) * inverse.view().as<float>()[i];
        EXPECT_NEAR(cos.view().row<float>(t)[i], 1.5 * std::cos(static_cast<double>(angle)), 3e-7);
        EXPECT_NEAR(sin.view().row<float>(t)[i], 1.5 * std::sin(static_cast<double>(angle)), 3e-7);
      }
  }
}

// HypeNet's attention does not turn q but multiplies it by ln(p + a) / ln(a): a table of zero
// frequencies.
TEST_P(NormRope, RopeTableWithALogFactorScales) {
  const Tensor inverse(DType::f32, {4});
  const Tensor positions = integers({0, 1, 5000, 1048575}, {4});
  const Tensor cos(DType::f32, {4, 4});
  const Tensor sin(DType::f32, {4, 4});
  rope_table(device(), positions, inverse, {.scale = 2.0f, .log_base = 500.0f}, cos, sin);
  for (int64_t t = 0; t < 4; ++t) {
    const double p = positions.view().as<int32_t>()[t];
    for (int64_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(cos.view().row<float>(t)[i], 2.0 * std::log(p + 500.0) / std::log(500.0), 1e-6);
      EXPECT_EQ(sin.view().row<float>(t)[i], 0.0f);
    }
  }
}

struct Heads {
  int heads;
  int64_t d;
};

TEST_P(NormRope, QkNormRopeNormalisesThenTurns) {
  Random random(3);
  for (const auto [heads, d] : {Heads{4, 8}, Heads{3, 64}, Heads{2, 128}, Heads{1, 36}, Heads{5, 2},
                                Heads{2, 182}, Heads{2, 37}})
    for (const int64_t T : {1, 2, 7, 33})
      for (const bool norm : {false, true})
        for (const bool turn : {false, true}) {
          if (turn && d % 2 != 0) continue;
          SCOPED_TRACE(
              fmt::format("{} tokens, {} heads of {}, norm {}, rope {}", T, heads, d, norm, turn));
          const Tensor w = random.tensor({d});
          const Tensor start = random.tensor({T, heads * d}, 3);
          const Tensor cos = random.tensor({T, d / 2});
          const Tensor sin = random.tensor({T, d / 2});
          const Tensor expected = copy_of(start);
          const Strided x(start, 10);
          const auto run = [&](Device& device, const Out& out) {
            qk_norm_rope(device, out, heads, norm ? w.view() : In{}, 1e-6f,
                         turn ? cos.view() : Out{}, turn ? sin.view() : Out{});
          };
          run(reference(), expected);
          run(device(), x.view);
          EXPECT_TRUE(close(x.view, expected.view(), 16 * kEpsilon * 30));
        }
}

TEST_P(NormRope, RotationKeepsRelativePositions) {
  // The product of a query at m and a key at n depends on m - n alone.
  Random random(4);
  Tensor inverse(DType::f32, {16});
  for (int i = 0; i < 16; ++i) inverse.view().as<float>()[i] = rope_inverse_frequency(100, i, 32);
  const Tensor positions = integers({3, 10, 503, 510}, {4});
  const Tensor cos(DType::f32, {4, 16});
  const Tensor sin(DType::f32, {4, 16});
  rope_table(device(), positions, inverse, {}, cos, sin);
  Tensor x = random.tensor({4, 32});
  for (const int64_t t : {0, 1})
    std::copy_n(x.view().row<float>(t), 32, x.view().row<float>(t + 2));
  qk_norm_rope(device(), x, 1, {}, 0, cos, sin);
  const auto product = [&](int64_t a, int64_t b) {
    return std::inner_product(x.view().row<float>(a), x.view().row<float>(a) + 32,
                              x.view().row<float>(b), 0.0);
  };
  EXPECT_NEAR(product(0, 1), product(2, 3), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Devices, NormRope, testing::ValuesIn(targets()), name_of_target);

class NormRopeRows : public OnDevice {};

TEST_P(NormRopeRows, DependOnThemselvesAlone) {
  Random random(5);
  constexpr int64_t T = 67;
  constexpr int64_t D = 6 * 40;
  const bool cuda = GetParam().threads == kCuda;
  const std::unique_ptr<Device> alone = cuda ? cuda_target().open() : open_cpu(1);
  const Tensor w = random.tensor({D});
  const Tensor head_w = random.tensor({40});
  const Tensor a = random.tensor({T, D});
  const Tensor start = random.tensor({T, D});
  std::vector<int32_t> positions(T);
  for (int32_t& p : positions) p = random.between(0, 1 << 20);
  const Tensor at = integers(positions, {T});
  const Tensor inverse = random.tensor({20});
  const auto run = [&](Device& device, int64_t first, int64_t count, int64_t gap) {
    const Strided h(count, D, gap);
    for (int64_t t = 0; t < count; ++t)
      std::copy_n(start.view().row<float>(first + t), D, h.view.row<float>(t));
    Strided x(count, D, gap + 1);
    const Tensor cos(DType::f32, {count, 20});
    const Tensor sin(DType::f32, {count, 20});
    residual_norm(device, h.view, rows(a.view(), first, count), 0.3f, w, 1e-6f, x.view);
    rope_table(device, rows(at.view(), first, count), inverse, {}, cos, sin);
    qk_norm_rope(device, x.view, 6, head_w, 1e-6f, cos, sin);
    return x;
  };
  const Strided all = run(device(), 0, T, 0);
  for (int64_t t = 0; t < T; ++t)
    ASSERT_TRUE(same_bits(run(*alone, t, 1, 8).view, rows(all.view, t, 1))) << "row " << t;
  for (int64_t first = 0; first < T;) {
    const int64_t count = std::min<int64_t>(T - first, random.between(2, 20));
    ASSERT_TRUE(same_bits(run(device(), first, count, 3).view, rows(all.view, first, count)));
    first += count;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, NormRopeRows, testing::ValuesIn(fast_targets()), name_of_target);

}  // namespace
}  // namespace sala::test
