#include "ops/reference.h"
#include "ops/testing.h"

namespace sala::test {
namespace {

constexpr WeightType kTypes[] = {WeightType::f32,   WeightType::f16,    WeightType::bf16,
                                 WeightType::w8,    WeightType::w4,     WeightType::w8g64,
                                 WeightType::w4g64, WeightType::w8g128, WeightType::w4g128,
                                 WeightType::k8,    WeightType::k4};
constexpr Compute kComputes[] = {Compute::f32, Compute::bf16, Compute::int8};

struct Shape {
  int64_t rows, cols;
};

std::vector<Shape> shapes(WeightType type) {
  if (two_level(type)) return {{1, 256}, {33, 512}, {64, 1280}};
  const int64_t group = group_columns(type);
  if (quantised(type))
    return {
        {1, group}, {33, 3 * group}, {100, 5 * group}, {64, std::max<int64_t>(1024, 9 * group)}};
  return {{1, 1}, {31, 2}, {33, 7}, {100, 33}, {70, 250}, {65, 1023}};
}

std::string name_of(WeightType type, Compute compute, bool paired, Shape shape, int64_t T) {
  constexpr const char* computes[] = {"f32", "bf16", "int8"};
  return fmt::format("{} in {}{}, {} tokens, {} x {}", sala::name_of(type),
                     computes[static_cast<int>(compute)], paired ? " with swiglu" : "", T,
                     shape.rows, shape.cols);
}

template <class T>
double length(const std::vector<T>& x) {
  double sum = 0;
  for (const T value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

/// How far an output of matmul may be from the reference: a chain of K roundings walks randomly, in
/// each of the two sums of a pair; and so do the errors of weights that are rounded to bf16 first,
/// or their scales and minima are.
struct Bounds {
  Bounds(const In& x, const Weight& w, Compute compute, bool rounds_weights)
      : tolerance(static_cast<size_t>(x.dim[0] * w.rows)) {
    std::vector<std::vector<double>> inputs;
    std::vector<double> lengths;
    for (int64_t t = 0; t < x.dim[0]; ++t) {
      inputs.push_back(
          reference::activations(x.row<float>(t), w.cols, compute, activation_columns(w.type)));
      lengths.push_back(length(inputs.back()));
    }
    // How far a sum of products with a row of length one may be.
    const auto error = [&](const std::vector<float>& weights) {
      const auto [low, high] = std::ranges::minmax(weights);
      return 8 * kEpsilon * length(weights) + (rounds_weights ? 0x1p-6 * std::max(-low, high) : 0);
    };
    std::vector<float> first(static_cast<size_t>(w.cols));
    std::vector<float> second(first.size());
    for (int64_t n = 0; n < w.rows; ++n) {
      unpack_row(w, 0, n, first);
      if (w.paired) unpack_row(w, 1, n, second);
      const double first_error = error(first);
      const double second_error = error(second);
      for (int64_t t = 0; t < x.dim[0]; ++t) {
        const std::vector<double>& row = inputs[static_cast<size_t>(t)];
        const double row_length = lengths[static_cast<size_t>(t)];
        double& bound = tolerance[t * w.rows + n];
        bound = row_length * first_error;
        if (!w.paired) continue;
        const double a = std::inner_product(row.begin(), row.end(), first.begin(), 0.0);
        const double b = std::inner_product(row.begin(), row.end(), second.begin(), 0.0);
        bound = 1.1 * bound * std::abs(b) + (std::abs(a) + bound) * row_length * second_error +
                16 * kEpsilon * std::abs(a * b);
      }
    }
  }
  std::vector<double> tolerance;
};

class MatmulOf : public testing::TestWithParam<WeightType> {};

std::string name_of_param(const testing::TestParamInfo<WeightType>& info) {
  return std::string(sala::name_of(info.param));
}

INSTANTIATE_TEST_SUITE_P(Types, MatmulOf, testing::ValuesIn(kTypes), name_of_param);

TEST_P(MatmulOf, IsTheProductOfTheRoundedActivations) {
  const WeightType type = GetParam();
  Random random(1);
  const auto reference = open_reference();
  for (const bool paired : {false, true})
    for (const Shape shape : shapes(type)) {
      const Weight w = random.weight(type, shape.rows, shape.cols, paired);
      const auto epilogue = paired ? Epilogue::swiglu : Epilogue::none;
      for (const Compute compute : kComputes)
        for (const int64_t T : {1, 2, 7, 25, 33, 130}) {
          if (T == 130 && shape.rows * shape.cols > 10000) continue;
          const Strided x(random.tensor({T, shape.cols}), 5);
          const Tensor expected(DType::f32, {T, shape.rows});
          matmul(*reference, x.view, w, epilogue, compute, expected);
          const Bounds exact(x.view, w, compute, false);
          // GPUs with products of warpgroups make bf16 of codes.
          const bool rounds = quantised(type) && compute == Compute::bf16;
          const Bounds rounded(x.view, w, compute, rounds);
          for (const Target& target : fast_targets()) {
            SCOPED_TRACE(target.name + ": " + name_of(type, compute, paired, shape, T));
            Opened opened(target);
            const Bounds& bounds = target.threads == kCuda ? rounded : exact;
            const Strided y(T, shape.rows, 3);
            matmul(opened.device(), x.view, w, epilogue, compute, y.view);
            for (int64_t t = 0; t < T; ++t)
              for (int64_t n = 0; n < shape.rows; ++n)
                ASSERT_NEAR(y.view.row<float>(t)[n], expected.view().row<float>(t)[n],
                            bounds.tolerance[t * shape.rows + n])
                    << t << ", " << n;
          }
        }
    }
}

class Matmul : public OnDevice {};

TEST_P(Matmul, WritesNothingBesidesItsOutput) {
  Random random(2);
  for (const WeightType type : kTypes)
    for (const bool paired : {false, true}) {
      const int64_t cols = std::max(64, column_unit(type));
      const Weight w = random.weight(type, 37, cols, paired);
      const auto epilogue = paired ? Epilogue::swiglu : Epilogue::none;
      for (const Compute compute : kComputes)
        for (const int64_t T : {1, 9, 25, 41}) {
          SCOPED_TRACE(name_of(type, compute, paired, {37, cols}, T));
          const Tensor x = random.tensor({T, cols});
          const Strided y(T + 1, 37, 6);
          matmul(device(), x, w, epilogue, compute, rows(y.view, 0, T));
          for (int64_t t = 0; t <= T; ++t)
            for (int64_t i = 0; i < 43; ++i)
              EXPECT_EQ(std::isnan(y.all.view().row<float>(t)[i]), i < 3 || i >= 40 || t == T)
                  << t << ", " << i;
        }
    }
}

TEST_P(Matmul, RoundsActivationsWithOneScalePerGroup) {
  // Group 0 is zero, group 1 has one large number and many that are half a code away from it, group
  // 2 is tiny.
  Tensor x(DType::f32, {1, 256});
  float* row = x.view().as<float>();
  row[40] = -127;
  for (int k = 41; k < 64; ++k) row[k] = static_cast<float>(k) - 50.5f;
  for (int k = 64; k < 96; ++k) row[k] = 1e-30f * static_cast<float>(k % 7 - 3);
  Random random(3);
  for (const WeightType type : kTypes) {
    if (!quantised(type) || group_columns(type) > kGroup) continue;
    const Weight w = random.weight(type, 40, 256);
    const Tensor expected(DType::f32, {1, 40});
    const Tensor y(DType::f32, {1, 40});
    matmul(reference(), x, w, Epilogue::none, Compute::int8, expected);
    matmul(device(), x, w, Epilogue::none, Compute::int8, y);
    EXPECT_TRUE(close(y.view(), expected.view(), 1e-3));  // outputs are up to 1100
    float nearest_even = 0;
    std::vector<float> weights(256);
    unpack_row(w, 0, 11, weights);
    for (int k = 0; k < 256; ++k)
      nearest_even += (k < 64 ? std::nearbyint(row[k]) : 0.0f) * weights[k];
    EXPECT_NEAR(y.view().as<float>()[11], nearest_even, 1e-3);
  }
}

// The largest sums that codes can make, and the scale of a group over all its columns.
TEST_P(Matmul, SumsWholeGroupsOfExtremeCodesExactly) {
  for (const WeightType type : {WeightType::w8, WeightType::w4, WeightType::w8g64,
                                WeightType::w4g64, WeightType::w8g128, WeightType::w4g128}) {
    SCOPED_TRACE(sala::name_of(type));
    const int64_t group = group_columns(type), cols = 2 * group;
    const int largest = narrow(type) ? 15 : 255;
    const Weight w = pack(
        type, 33, cols, false,
        [&](int, int64_t n, WeightRow& row) {
          row.codes.assign(static_cast<size_t>(cols), static_cast<uint8_t>(largest));
          row.codes[static_cast<size_t>(n) % row.codes.size()] = 0;
          row.scales.assign(2, f32_to_f16(1));
          row.mins.assign(2, f32_to_f16(0));
        },
        [](int64_t count, const std::function<void(int64_t)>& work) {
          for (int64_t i = 0; i < count; ++i) work(i);
        });
    for (const int64_t T : {1, 5, 40})
      for (const float sign : {1.0f, -1.0f}) {
        const Tensor x(DType::f32, {T, cols});
        std::fill_n(x.view().as<float>(), T * cols, 127 * sign);
        // The last column of the second group makes its scale 2: codes of 63.5 round to 64.
        for (int64_t t = 0; t < T; ++t) x.view().row<float>(t)[cols - 1] = 254 * sign;
        const Tensor y(DType::f32, {T, 33});
        matmul(device(), x, w, Epilogue::none, Compute::int8, y);
        for (int64_t t = 0; t < T; ++t)
          for (int64_t n = 0; n < 33; ++n) {
            const int64_t missing = n < group ? 127 : 128;
            const int64_t sum = (127 * group + 128 * (group - 1) + 254 - missing) * largest;
            ASSERT_EQ(y.view().row<float>(t)[n], sign * static_cast<float>(sum)) << t << ", " << n;
          }
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, Matmul, testing::ValuesIn(targets()), name_of_target);

class MatmulRows : public OnDevice {};

// A row's bits depend on that row alone.
TEST_P(MatmulRows, DependOnThemselvesAlone) {
  Random random(4);
  constexpr int64_t T = 67;
  const std::unique_ptr<Device> alone = open_cpu(1);
  for (const WeightType type : kTypes)
    for (const bool paired : {false, true})
      for (const Shape shape : {two_level(type)   ? Shape{300, 768}
                                : quantised(type) ? Shape{300, 640}
                                                  : Shape{300, 577}})
        for (const Compute compute : kComputes) {
          SCOPED_TRACE(name_of(type, compute, paired, shape, T));
          const Weight w = random.weight(type, shape.rows, shape.cols, paired);
          const auto epilogue = paired ? Epilogue::swiglu : Epilogue::none;
          const Tensor x = random.tensor({T, shape.cols});
          const Tensor y(DType::f32, {T, shape.rows});
          matmul(device(), x, w, epilogue, compute, y);
          const Tensor one(DType::f32, {1, shape.rows});
          for (int64_t t = 0; t < T; ++t) {
            matmul(*alone, rows(x.view(), t, 1), w, epilogue, compute, one);
            ASSERT_EQ(bits_of_row(one.view(), 0), bits_of_row(y.view(), t)) << "row " << t;
          }
          for (int64_t first = 0; first < T;) {
            const int64_t count = std::min<int64_t>(T - first, random.between(2, 20));
            const Strided part(count, shape.rows, 8);
            matmul(device(), rows(x.view(), first, count), w, epilogue, compute, part.view);
            ASSERT_TRUE(same_bits(part.view, rows(y.view(), first, count)))
                << "rows from " << first;
            first += count;
          }
          // The same rows in another order, with strangers of wild sizes between.
          const Tensor mixed = random.tensor({2 * T, shape.cols}, 1e6f);
          for (int64_t t = 0; t < T; ++t)
            std::copy_n(x.view().row<float>(t), shape.cols,
                        mixed.view().row<float>(2 * (T - 1 - t) + 1));
          const Tensor z(DType::f32, {2 * T, shape.rows});
          matmul(device(), mixed, w, epilogue, compute, z);
          for (int64_t t = 0; t < T; ++t)
            ASSERT_EQ(bits_of_row(z.view(), 2 * (T - 1 - t) + 1), bits_of_row(y.view(), t))
                << "row " << t;
        }
}

// Threads divide outputs, never sums; a matrix large enough to be divided every way.
TEST_P(MatmulRows, DoNotDependOnThreads) {
  Random random(5);
  const std::unique_ptr<Device> alone = open_cpu(1);
  for (const WeightType type : kTypes) {
    const Weight w = random.weight(type, 600, 512);
    for (const Compute compute : kComputes)
      for (const int64_t T : {1, 5, 400}) {
        SCOPED_TRACE(name_of(type, compute, false, {600, 512}, T));
        const Tensor x = random.tensor({T, 512});
        const Tensor a(DType::f32, {T, 600});
        const Tensor b(DType::f32, {T, 600});
        matmul(*alone, x, w, Epilogue::none, compute, a);
        for (int repeat = 0; repeat < 2; ++repeat) {
          matmul(device(), x, w, Epilogue::none, compute, b);
          ASSERT_TRUE(same_bits(a.view(), b.view()));
        }
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, MatmulRows, testing::ValuesIn(cpu_targets()), name_of_target);

// The same of the CUDA backend, whose kernels for few and for many rows add in one order.
class MatmulRowsCuda : public MatmulOf {};

INSTANTIATE_TEST_SUITE_P(Types, MatmulRowsCuda, testing::ValuesIn(kTypes), name_of_param);

TEST_P(MatmulRowsCuda, DependOnThemselvesAlone) {
  const WeightType type = GetParam();
  Random random(6);
  Opened cuda(cuda_target());
  const auto check = [&](bool paired, Compute compute, Shape shape) {
    constexpr int64_t T = 35;
    const auto [outputs, cols] = shape;
    SCOPED_TRACE(name_of(type, compute, paired, shape, T));
    const Weight w = random.weight(type, outputs, cols, paired);
    const auto epilogue = paired ? Epilogue::swiglu : Epilogue::none;
    const Tensor x = random.tensor({T, cols});
    const Tensor y(DType::f32, {T, outputs});
    matmul(cuda.device(), x, w, epilogue, compute, y);
    for (const auto& [first, count] :
         {std::pair<int64_t, int64_t>{T - 1, 1}, {9, 4}, {3, 7}, {5, 13}, {2, 30}}) {
      const Strided part(count, outputs, 8);
      matmul(cuda.device(), rows(x.view(), first, count), w, epilogue, compute, part.view);
      ASSERT_TRUE(same_bits(part.view, rows(y.view(), first, count))) << "from row " << first;
    }
    // Among strangers of wild sizes, in another place.
    const Tensor mixed = random.tensor({40, cols}, 1e6f);
    std::copy_n(x.view().row<float>(5), cols, mixed.view().row<float>(39));
    const Tensor z(DType::f32, {40, outputs});
    matmul(cuda.device(), mixed, w, epilogue, compute, z);
    ASSERT_EQ(bits_of_row(z.view(), 39), bits_of_row(y.view(), 5));
  };
  for (const bool paired : {false, true}) {
    for (const Compute compute : kComputes)
      check(paired, compute, {33, two_level(type) ? 2304 : quantised(type) ? 2432 : 1187});
    // Of whole eights of columns few rows are rounded where they are multiplied.
    if (type == WeightType::bf16) check(paired, Compute::bf16, {33, 1192});
  }
  // Segments of 384 columns, which begin amid 256.
  if (two_level(type)) check(false, Compute::int8, {33, 4352});
  // So many outputs that panels go by fours without being paired, one or two behind the last four.
  if (type == WeightType::bf16) check(false, Compute::bf16, {12330, 33});
  if (type == WeightType::w4) check(false, Compute::int8, {12330, 96});
  if (type == WeightType::w8) check(true, Compute::int8, {65, 2432});
}

// So many rows that warpgroups multiply them: a tile and a few, one panel behind the last four.
TEST(MatmulWarpgroups, GiveTheSameRows) {
  Random random(7);
  Opened cuda(cuda_target());
  const auto check = [&](WeightType type, bool paired, int64_t T, Shape shape) {
    const auto [outputs, cols] = shape;
    SCOPED_TRACE(name_of(type, Compute::bf16, paired, shape, T));
    const Weight w = random.weight(type, outputs, cols, paired);
    const auto epilogue = paired ? Epilogue::swiglu : Epilogue::none;
    const Tensor x = random.tensor({T, cols});
    const Strided y(T, outputs, 8);
    matmul(cuda.device(), x, w, epilogue, Compute::bf16, y.view);
    for (const auto& [first, count] :
         {std::pair<int64_t, int64_t>{0, 100}, {T - 20, 20}, {17, 8}, {3, 1}}) {
      if (first + count > T) continue;
      const Tensor part(DType::f32, {count, outputs});
      matmul(cuda.device(), rows(x.view(), first, count), w, epilogue, Compute::bf16, part);
      ASSERT_TRUE(same_bits(part.view(), rows(y.view, first, count))) << "from row " << first;
    }
#ifdef SALA_CUDA_EMULATION
    if (quantised(type)) return;
    const std::unique_ptr<Device> older = open_cuda(1);
    const Tensor z(DType::f32, {T, outputs});
    matmul(*older, x, w, epilogue, Compute::bf16, z);
    older->wait();
    ASSERT_TRUE(same_bits(z.view(), y.view));
#endif
  };
  check(WeightType::bf16, false, 197, {130, 1187});
  check(WeightType::bf16, true, 197, {33, 192});
  for (const WeightType type : kTypes)
    if (quantised(type)) check(type, false, 37, {33, two_level(type) ? 2304 : 2432});
  check(WeightType::w4, true, 37, {70, 96});
}

}  // namespace
}  // namespace sala::test
