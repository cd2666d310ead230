#include "engine/feedback.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cpu/device.h"
#include "ops/math.h"
#include "weights/round.h"

namespace sala {
namespace {

using Matrix = std::vector<std::vector<double>>;

void serial(int64_t count, const std::function<void(int64_t)>& work) {
  for (int64_t i = 0; i < count; ++i) work(i);
}

Matrix zeros(size_t rows, size_t cols) { return Matrix(rows, std::vector<double>(cols)); }

/// By Gauss and Jordan.
Matrix inverse(Matrix a) {
  const size_t n = a.size();
  Matrix b = zeros(n, n);
  for (size_t i = 0; i < n; ++i) b[i][i] = 1;
  for (size_t i = 0; i < n; ++i) {
    const double pivot = a[i][i];
    for (size_t k = 0; k < n; ++k) a[i][k] /= pivot, b[i][k] /= pivot;
    for (size_t j = 0; j < n; ++j) {
      if (j == i) continue;
      const double factor = a[j][i];
      for (size_t k = 0; k < n; ++k) a[j][k] -= factor * a[i][k], b[j][k] -= factor * b[i][k];
    }
  }
  return b;
}

/// a = u^T u.
Matrix upper_factor(const Matrix& a) {
  const size_t n = a.size();
  Matrix u = zeros(n, n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = i; j < n; ++j) {
      double sum = a[i][j];
      for (size_t k = 0; k < i; ++k) sum -= u[k][i] * u[k][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  return u;
}

/// GPTQ as its paper writes it, with the factor of the inverse: after each column the rest of the
/// row is changed.
std::vector<float> by_the_paper(std::vector<double> row, const Matrix& u, int64_t group) {
  const size_t n = row.size();
  std::vector<float> result;
  Grid grid;
  for (size_t k = 0; k < n; ++k) {
    if (k % static_cast<size_t>(group) == 0)
      grid = grid_of(std::vector<float>(row.begin() + static_cast<std::ptrdiff_t>(k),
                                        row.begin() + static_cast<std::ptrdiff_t>(k) + group),
                     15);
    result.push_back(grid.value(grid.code(static_cast<float>(row[k]))));
    const double error = (row[k] - static_cast<double>(result.back())) / u[k][k];
    for (size_t j = k + 1; j < n; ++j) row[j] -= error * u[k][j];
  }
  return result;
}

double loss(std::span<const float> row, std::span<const float> rounded, const Matrix& gram) {
  double sum = 0;
  for (size_t i = 0; i < row.size(); ++i)
    for (size_t j = 0; j < row.size(); ++j)
      sum += static_cast<double>(row[i] - rounded[i]) * gram[i][j] *
             static_cast<double>(row[j] - rounded[j]);
  return sum;
}

class Feedback : public ::testing::TestWithParam<WeightType> {};

TEST_P(Feedback, RoundsAsThePaperDoes) {
  constexpr int64_t kRows = 70, kCols = 256, kTokens = 600, kFirst = kCols;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const Tensor x(DType::f32, {kTokens, kCols}), gram(DType::f32, {kCols, kCols});
  for (int64_t t = 0; t < kTokens; ++t) {
    const float common = normal(random);  // columns that are alike are what feedback lives on
    for (int64_t k = 0; k < kCols; ++k)
      x.view().row<float>(t)[k] = normal(random) + common * static_cast<float>(k % 7);
  }
  std::vector<std::vector<float>> values(2 * kRows);
  for (auto& row : values)
    for (int64_t k = 0; k < kCols; ++k) row.push_back(normal(random));
  const RowReader read = [&](int part, int64_t n, WeightRow& row) {
    row.values = values[static_cast<size_t>(part * kRows + n)];
  };
  const Weight exact = pack(WeightType::f32, kRows, kCols, true, read, serial);

  const auto device = open_cpu(2);
  add_gram(*device, rows(In(x.view()), 0, 400), serial, gram.view());
  add_gram(*device, rows(In(x.view()), 400, 200), serial, gram.view());
  Matrix h = zeros(kCols, kCols);
  for (int64_t i = 0; i < kCols; ++i)
    for (int64_t j = 0; j < kCols; ++j) {
      for (int64_t t = 0; t < kTokens; ++t)
        h[i][j] += static_cast<double>(x.view().row<float>(t)[i]) *
                   static_cast<double>(x.view().row<float>(t)[j]);
      ASSERT_NEAR(gram.view().row<float>(i)[j], h[i][j], 1e-5 * 36 * kTokens);
    }
  double trace = 0;
  for (int64_t i = 0; i < kCols; ++i) trace += h[i][i];
  Matrix damped = h;
  for (int64_t i = 0; i < kCols; ++i) damped[i][i] += 0.01 * trace / kCols;

  const Matrix u = upper_factor(inverse(damped));
  const Weight got = round_with_feedback(*device, exact, GetParam(), serial, gram.view());
  EXPECT_EQ(got.type, GetParam());
  int64_t others = 0;
  double lost = 0, lost_by_paper = 0, lost_nearest = 0;
  std::vector<float> row(kCols), nearest(kCols);
  WeightRow codes;
  for (int part = 0; part < 2; ++part)
    for (int64_t n = 0; n < kRows; ++n) {
      const auto& original = values[static_cast<size_t>(part * kRows + n)];
      unpack_row(got, part, n, row);
      const auto want =
          by_the_paper({original.begin(), original.end()}, u, group_columns(GetParam()));
      for (int64_t k = 0; k < kFirst; ++k) others += std::abs(row[k] - want[k]) > 0.05f;
      lost_by_paper += loss(original, want, h);
      codes = {};
      ASSERT_TRUE(round_row(original, GetParam(), codes));
      for (int64_t k = 0; k < kCols; ++k) {
        const auto g = static_cast<size_t>(k / group_columns(GetParam()));
        nearest[k] = std::fma(f16_to_f32(codes.scales[g]), static_cast<float>(codes.codes[k]),
                              f16_to_f32(codes.mins[g]));
      }
      lost += loss(original, row, h);
      lost_nearest += loss(original, nearest, h);
    }
  // A code on the edge between two may fall the other way, and then so do more and more after it.
  EXPECT_LT(others, 2 * kRows * kFirst / 50);
  EXPECT_NEAR(lost, lost_by_paper, 0.02 * lost_by_paper);
  EXPECT_LT(lost, 0.5 * lost_nearest);
}

INSTANTIATE_TEST_SUITE_P(Types, Feedback,
                         ::testing::Values(WeightType::w4, WeightType::w4g64, WeightType::w4g128),
                         [](const auto& type) { return std::string(name_of(type.param)); });

TEST(RoundWithFeedback, ColumnsThatNothingEntersAreRoundedToNearest) {
  constexpr int64_t kCols = 64;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> values;
  for (int64_t k = 0; k < kCols; ++k) values.push_back(normal(random));
  const Weight exact = pack(
      WeightType::f32, 1, kCols, false, [&](int, int64_t, WeightRow& row) { row.values = values; },
      serial);
  const auto device = open_cpu(1);
  const Tensor gram(DType::f32, {kCols, kCols});
  const Weight got = round_with_feedback(*device, exact, WeightType::w4, serial, gram.view());
  WeightRow nearest;
  ASSERT_TRUE(round_row(values, WeightType::w4, nearest));
  std::vector<float> row(kCols);
  unpack_row(got, 0, 0, row);
  for (int64_t k = 0; k < kCols; ++k)
    EXPECT_EQ(row[k],
              std::fma(f16_to_f32(nearest.scales[k / 32]), static_cast<float>(nearest.codes[k]),
                       f16_to_f32(nearest.mins[k / 32])));
}

}  // namespace
}  // namespace sala
