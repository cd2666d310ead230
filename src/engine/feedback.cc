#include "engine/feedback.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "weights/round.h"

namespace sala {
namespace {

constexpr int64_t kBlock = 128;  // columns; a multiple of every group
constexpr int64_t kSlice = 512;  // rows of a product that is added to something
/// Added to the diagonal, as a share of its mean: GPTQ's own.
constexpr double kDamping = 0.01;

/// The product of x [T, k] and w [N, k]^T, a slice of rows at a time: use(first row, product).
template <class Use>
void multiply(Device& device, In x, const Weight& w, const Use& use) {
  const Tensor product(DType::f32, {std::min(kSlice, x.dim[0]), w.rows});
  for (int64_t first = 0; first < x.dim[0]; first += kSlice) {
    const int64_t count = std::min(kSlice, x.dim[0] - first);
    const Out y = rows(product.view(), 0, count);
    matmul(device, rows(x, first, count), w, Epilogue::none, Compute::f32, y);
    use(first, y);
  }
}

/// The rows of x [N, k] as a weight.
Weight as_weight(In x, const ParallelFor& parallel) {
  const RowReader read = [&](int, int64_t n, WeightRow& row) {
    const auto* values = x.row<float>(n);
    row.values.assign(values, values + x.dim[1]);
  };
  return pack(WeightType::f32, x.dim[0], x.dim[1], false, read, parallel);
}

/// The block's own columns of R.
void factor_block(Out gram, int64_t first, int64_t end, float least) {
  for (int64_t j = end; j-- > first;) {
    const float pivot = std::sqrt(std::max(gram.row<float>(j)[j], least));
    gram.row<float>(j)[j] = pivot;
    for (int64_t i = first; i < j; ++i) gram.row<float>(i)[j] /= pivot;
    for (int64_t i = first; i < j; ++i)
      for (int64_t k = i; k < j; ++k)
        gram.row<float>(i)[k] -= gram.row<float>(i)[j] * gram.row<float>(k)[j];
  }
}

/// What the rows above the block have in its columns of R.
void factor_row(Out gram, int64_t row, int64_t first, int64_t end) {
  auto* values = gram.row<float>(row);
  for (int64_t j = end; j-- > first;) {
    double value = values[j];
    const auto* of = gram.row<float>(j);
    for (int64_t k = j + 1; k < end; ++k) value -= static_cast<double>(values[k]) * of[k];
    values[j] = static_cast<float>(value / of[j]);
  }
}

/// gram = R R^T with R upper triangular, from the last block of columns to the first. R comes to
/// lie in the upper triangle.
void factor(Device& device, const ParallelFor& parallel, Out gram) {
  const int64_t n = gram.dim[0];
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += gram.row<float>(i)[i];
  const auto damping =
      static_cast<float>(trace > 0 ? kDamping * trace / static_cast<double>(n) : 1);
  for (int64_t i = 0; i < n; ++i) gram.row<float>(i)[i] += damping;
  for (int64_t end = n; end > 0;) {
    const int64_t first = (end - 1) / kBlock * kBlock;
    factor_block(gram, first, end, damping);
    if (first > 0) {
      parallel(first, [&](int64_t row) { factor_row(gram, row, first, end); });
      const In above = columns(rows(In(gram), 0, first), first, end - first);
      multiply(device, above, as_weight(above, parallel), [&](int64_t at, In product) {
        parallel(product.dim[0], [&](int64_t i) {
          for (int64_t k = 0; k < first; ++k)
            gram.row<float>(at + i)[k] -= product.row<float>(i)[k];
        });
      });
    }
    end = first;
  }
}

/// What one column's error adds to another: R with columns divided by their diagonal.
float share(In r, int64_t from, int64_t to) {
  return r.row<float>(from)[to] / r.row<float>(to)[to];
}

/// A matrix that is being rounded, one row after the other.
struct Rounded {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales, mins;
};

class FeedbackRounder {
 public:
  FeedbackRounder(Device& device, WeightType type, const ParallelFor& parallel, In r)
      : device_(device), type_(type), parallel_(parallel), r_(r) {}

  /// Rounds `left` [N, n], which becomes what is lost.
  Rounded round(Out left) const {
    const int64_t n = left.dim[1];
    Rounded result;
    result.codes.resize(static_cast<size_t>(left.size()));
    result.scales.resize(result.codes.size() / static_cast<size_t>(group_columns(type_)));
    result.mins.resize(result.scales.size());
    for (int64_t first = 0; first < n; first += kBlock) {
      const int64_t end = std::min(n, first + kBlock);
      Tensor made_up(DType::f32, {left.dim[0], end - first});  // zeros
      if (first > 0)
        multiply(
            device_, columns(In(left), 0, first), shares(first, end), [&](int64_t at, In product) {
              for (int64_t i = 0; i < product.dim[0]; ++i)
                std::copy_n(product.row<float>(i), end - first, made_up.view().row<float>(at + i));
            });
      std::vector<float> inner(static_cast<size_t>((end - first) * (end - first)));
      for (int64_t j = first; j < end; ++j)
        for (int64_t k = j + 1; k < end; ++k)
          inner[(j - first) * (end - first) + k - first] = share(r_, j, k);
      parallel_(left.dim[0], [&](int64_t row) {
        round_block(row, first, {made_up.view().row<float>(row), static_cast<size_t>(end - first)},
                    inner, left, result);
      });
    }
    return result;
  }

 private:
  /// Shares of the columns before a block in its columns, [columns of the block, columns before].
  Weight shares(int64_t first, int64_t end) const {
    const RowReader read = [&](int, int64_t k, WeightRow& row) {
      for (int64_t j = 0; j < first; ++j) row.values.push_back(share(r_, j, first + k));
    };
    return pack(WeightType::f32, end - first, first, false, read, parallel_);
  }

  /// The numbers that a group would have if it were not rounded itself: what its grid is for.
  static std::span<const float> ideal(size_t first, size_t count, std::span<const float> values,
                                      std::span<const float> wanted, std::span<const float> inner) {
    thread_local std::vector<float> result;
    result.assign(wanted.begin() + static_cast<std::ptrdiff_t>(first),
                  wanted.begin() + static_cast<std::ptrdiff_t>(first + count));
    for (size_t k = 0; k < count; ++k)
      for (size_t j = k + 1; j < count; ++j)
        result[j] +=
            (values[first + k] - result[k]) * inner[(first + k) * wanted.size() + first + j];
    return result;
  }

  /// `wanted` comes with what is to be made up for.
  void round_block(int64_t row, int64_t first, std::span<float> wanted,
                   std::span<const float> inner, Out left, Rounded& result) const {
    auto* values = left.row<float>(row) + first;
    const size_t columns = wanted.size(), group = static_cast<size_t>(group_columns(type_));
    const auto place = static_cast<size_t>(row * left.dim[1] + first);
    for (size_t k = 0; k < columns; ++k) wanted[k] += values[k];
    Grid grid;
    for (size_t k = 0; k < columns; ++k) {
      if (k % group == 0) {
        grid = grid_of(ideal(k, group, {values, columns}, wanted, inner),
                       narrow(type_) ? 15.0f : 255.0f);
        result.scales[(place + k) / group] = grid.scale;
        result.mins[(place + k) / group] = grid.min;
      }
      const uint8_t code = grid.code(wanted[k]);
      result.codes[place + k] = code;
      values[k] -= grid.value(code);
      for (size_t j = k + 1; j < columns; ++j) wanted[j] += values[k] * inner[k * columns + j];
    }
  }

  Device& device_;
  WeightType type_;
  const ParallelFor& parallel_;
  In r_;
};

}  // namespace

void add_gram(Device& device, In x, const ParallelFor& parallel, Out gram) {
  const int64_t n = x.dim[1], count = x.dim[0];
  const Tensor turned(DType::f32, {n, count});
  parallel((n + kPanel - 1) / kPanel, [&](int64_t panel) {
    const int64_t last = std::min(n, (panel + 1) * kPanel);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t k = panel * kPanel; k < last; ++k)
        turned.view().row<float>(k)[t] = x.row<float>(t)[k];
  });
  multiply(device, turned.view(), as_weight(turned.view(), parallel),
           [&](int64_t first, In product) {
             parallel(product.dim[0], [&](int64_t i) {
               for (int64_t k = 0; k < n; ++k)
                 gram.row<float>(first + i)[k] += product.row<float>(i)[k];
             });
           });
}

Weight round_with_feedback(Device& device, const Weight& matrix, WeightType type,
                           const ParallelFor& parallel, Out gram) {
  SALA_CHECK(quantised(type) && !two_level(type), "rounding to {}", name_of(type));
  factor(device, parallel, gram);
  const FeedbackRounder rounder(device, type, parallel, gram);
  std::vector<Rounded> parts;
  for (int part = 0; part < (matrix.paired ? 2 : 1); ++part) {
    const Tensor left(DType::f32, {matrix.rows, matrix.cols});
    parallel(matrix.rows, [&](int64_t n) {
      unpack_row(matrix, part, n, {left.view().row<float>(n), static_cast<size_t>(matrix.cols)});
    });
    parts.push_back(rounder.round(left.view()));
  }
  const auto cols = static_cast<size_t>(matrix.cols);
  const size_t groups = cols / static_cast<size_t>(group_columns(type));
  const RowReader read = [&](int part, int64_t n, WeightRow& row) {
    const Rounded& of = parts[static_cast<size_t>(part)];
    const auto at = static_cast<size_t>(n);
    row.codes.assign(&of.codes[at * cols], &of.codes[at * cols] + cols);
    row.scales.assign(&of.scales[at * groups], &of.scales[at * groups] + groups);
    row.mins.assign(&of.mins[at * groups], &of.mins[at * groups] + groups);
  };
  return pack(type, matrix.rows, matrix.cols, matrix.paired, read, parallel);
}

}  // namespace sala
