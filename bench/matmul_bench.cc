#include <benchmark/benchmark.h>

#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cpu/device.h"
#include "cpu/limits.h"
#include "ops/math.h"

// Matrix products of every weight type and compute type: processor time of one thread unless
// SALA_BENCH_THREADS says more. `of peak` is the share of what the machine can do in the compute
// type, `of read` of what it reads from memory, both measured right behind the product. For few
// tokens the weights are copies of one matrix, 1 GB in all, in turn, so that they come from memory
// as they do in a model.

namespace {

using namespace sala;

int bench_threads() {
  const char* threads = std::getenv("SALA_BENCH_THREADS");
  return threads == nullptr ? 1 : std::atoi(threads);
}

cpu::CpuDevice& device() {
  static cpu::CpuDevice device(bench_threads());
  return device;
}

/// Measured beside each product: the machine has other limits a minute later.
Limits limits() {
  static cpu::LimitProbe probe(device().pool());
  return probe.all();
}

double peak(const Limits& limits, Compute compute) {
  return compute == Compute::int8   ? limits.int8
         : compute == Compute::bf16 ? limits.bf16
                                    : limits.f32;
}

struct Matrix {
  WeightType type;
  int64_t rows, cols;
  bool paired;
  auto operator<=>(const Matrix&) const = default;
};

Weight random_weight(const Matrix& matrix) {
  std::minstd_rand engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> some(4093);
  for (float& x : some) x = normal(engine) * 0.1f;
  const bool codes = quantised(matrix.type) && !two_level(matrix.type);
  const auto read = [&](int part, int64_t n, WeightRow& row) {
    const auto count = static_cast<size_t>(matrix.cols);
    for (size_t k = 0; k < count; ++k) {
      const size_t i = static_cast<size_t>(n) * 31 + k + static_cast<size_t>(part);
      const float x = some[i % some.size()];
      if (matrix.type == WeightType::f32) row.values.push_back(x);
      if (matrix.type == WeightType::f16) row.bits.push_back(f32_to_f16(x));
      if (matrix.type == WeightType::bf16) row.bits.push_back(f32_to_bf16(x));
      if (codes) row.codes.push_back(static_cast<uint8_t>(i * 7 % 16));
      if (codes && k % static_cast<size_t>(group_columns(matrix.type)) == 0) {
        row.scales.push_back(f32_to_f16(0.01f));
        row.mins.push_back(f32_to_f16(-0.08f));
      }
    }
  };
  return pack(matrix.type, matrix.rows, matrix.cols, matrix.paired, read,
              [](int64_t count, const std::function<void(int64_t)>& work) {
                device().pool().run(count, [&](int64_t i, int) { work(i); });
              });
}

/// Copies of one matrix, `bytes` in all, at least one.
const std::vector<Weight>& weights(const Matrix& matrix, int64_t bytes) {
  static std::map<std::pair<Matrix, int64_t>, std::vector<Weight>> all;
  if (all.size() > 2) all.clear();
  std::vector<Weight>& copies = all[{matrix, bytes}];
  if (copies.empty()) {
    copies.push_back(random_weight(matrix));
    while (static_cast<int64_t>(copies.size()) * copies[0].bytes() < bytes) {
      Weight copy = copies[0];
      copy.storage = allocate(copy.bytes());
      copy.data = copy.storage.get();
      std::memcpy(copy.storage.get(), copies[0].data, static_cast<size_t>(copy.bytes()));
      copies.push_back(copy);
    }
  }
  return copies;
}

void run(benchmark::State& state, WeightType type, Compute compute) {
  const int64_t T = state.range(0);
  const Matrix matrix{type, state.range(1), state.range(2), state.range(3) != 0};
  const auto& copies = weights(matrix, T <= 16 ? int64_t{1} << 30 : 0);
  const Tensor x(DType::f32, {T, matrix.cols});
  const Tensor y(DType::f32, {T, matrix.rows});
  std::minstd_rand engine(2);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < x.view().size(); ++i) x.view().as<float>()[i] = normal(engine);
  const Epilogue epilogue = matrix.paired ? Epilogue::swiglu : Epilogue::none;
  size_t turn = 0;
  for ([[maybe_unused]] auto _ : state)
    matmul(device(), x, copies[turn++ % copies.size()], epilogue, compute, y);
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  const double flops =
      2.0 * static_cast<double>(T * matrix.rows * matrix.cols * (matrix.paired ? 2 : 1));
  const auto bytes = static_cast<double>(copies[0].bytes());
  const Limits now = limits();
  state.counters["GFLOP/s"] = Counter(1e-9 * flops, rate);
  state.counters["of peak"] = Counter(flops / peak(now, compute), rate);
  state.counters["GB/s"] = Counter(1e-9 * bytes, rate);
  state.counters["of read"] = Counter(bytes / now.read, rate);
}

void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"T", "N", "K", "paired"})->Unit(benchmark::kMillisecond);
  for (const int64_t T : {1, 2, 4, 8, 16, 32, 64, 128, 512}) bench->Args({T, 4096, 4096, 0});
  for (const int64_t T : {1, 128}) bench->Args({T, 16384, 4096, 0})->Args({T, 4096, 16384, 0});
  for (const int64_t T : {1, 128}) bench->Args({T, 8192, 4096, 1});
}

BENCHMARK_CAPTURE(run, f32_in_f32, WeightType::f32, Compute::f32)->Apply(shapes);
BENCHMARK_CAPTURE(run, bf16_in_f32, WeightType::bf16, Compute::f32)->Apply(shapes);
BENCHMARK_CAPTURE(run, bf16_in_bf16, WeightType::bf16, Compute::bf16)->Apply(shapes);
BENCHMARK_CAPTURE(run, f16_in_f32, WeightType::f16, Compute::f32)->Apply(shapes);
BENCHMARK_CAPTURE(run, w8_in_f32, WeightType::w8, Compute::f32)->Apply(shapes);
BENCHMARK_CAPTURE(run, w4_in_f32, WeightType::w4, Compute::f32)->Apply(shapes);
BENCHMARK_CAPTURE(run, w8_in_int8, WeightType::w8, Compute::int8)->Apply(shapes);
BENCHMARK_CAPTURE(run, w4_in_int8, WeightType::w4, Compute::int8)->Apply(shapes);
BENCHMARK_CAPTURE(run, w8g128_in_int8, WeightType::w8g128, Compute::int8)->Apply(shapes);
BENCHMARK_CAPTURE(run, w4g64_in_int8, WeightType::w4g64, Compute::int8)->Apply(shapes);
BENCHMARK_CAPTURE(run, w4g128_in_int8, WeightType::w4g128, Compute::int8)->Apply(shapes);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(device().threads()));
  benchmark::RunSpecifiedBenchmarks();
}
