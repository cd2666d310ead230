#include <benchmark/benchmark.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/device.h"
#include "cpu/limits.h"

// Lightning and the norms around it in the released shape (32 heads of 128). Processor time of one
// thread unless SALA_BENCH_THREADS says more.

namespace {

using namespace sala;

constexpr int kHeads = 32;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kWidth = kHeads * kHeadDim;

int bench_threads() {
  const char* threads = std::getenv("SALA_BENCH_THREADS");
  return threads == nullptr ? 1 : std::atoi(threads);
}

cpu::CpuDevice& device() {
  static cpu::CpuDevice device(bench_threads());
  return device;
}

Limits limits() {
  static const Limits limits = cpu::LimitProbe(device().pool()).all();
  return limits;
}

Tensor random(std::initializer_list<int64_t> dims) {
  Tensor x(DType::f32, dims);
  std::minstd_rand engine(3);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < x.view().size(); ++i) x.view().as<float>()[i] = normal(engine);
  return x;
}

void report(benchmark::State& state, double flops, double bytes) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, rate);
  state.counters["of peak"] = Counter(flops / limits().f32, rate);
  state.counters["GB/s"] = Counter(bytes * 1e-9, rate);
  state.counters["of read"] = Counter(bytes / limits().read, rate);
}

/// `layers` memories in turn, as in a forward pass, so that the state does not stay in cache.
void run_lightning(benchmark::State& state) {
  constexpr int kCell = 64;
  constexpr int64_t kLayers = 24;
  const int64_t tokens = state.range(0), offset = state.range(1);
  const Tensor memory = random({kLayers, kHeads, kHeadDim, kHeadDim});
  const Tensor keys = random({kLayers, kHeads, kHeadDim, kCell});
  const Tensor values = random({kLayers, kHeads, kCell, kHeadDim});
  const Tensor q = random({tokens, kWidth}), k = random({tokens, kWidth}),
               v = random({tokens, kWidth});
  const Tensor gate = random({tokens, kWidth}), norm = random({kWidth}), slopes = random({kHeads});
  const Tensor o(DType::f32, {tokens, kWidth});
  for (int h = 0; h < kHeads; ++h)
    slopes.view().as<float>()[h] =
        std::exp2(-8.0f * static_cast<float>(h + 1) / static_cast<float>(kHeads));
  const Tensor positions(DType::i32, {tokens}), starts(DType::i32, {2}), slots(DType::i32, {1});
  std::iota(positions.view().as<int32_t>(), positions.view().as<int32_t>() + tokens,
            static_cast<int32_t>(offset));
  starts.view().as<int32_t>()[1] = static_cast<int32_t>(tokens);
  const Sequences sequences{
      .positions = positions, .starts = starts, .page_table = {}, .slots = slots};
  const LightningForm form{.slopes = slopes, .scale = 0.088f, .norm = norm, .eps = 1e-6f};
  const LightningMemory place{.state = memory, .keys = keys, .values = values, .cell = kCell};
  for ([[maybe_unused]] auto _ : state) {
    int32_t& slot = slots.view().as<int32_t>()[0];
    slot = (slot + 1) % kLayers;
    lightning(device(), sequences, q, k, v, place, form, gate, o);
  }
  const double folds = std::floor(static_cast<double>(offset + tokens) / kCell);
  const double a_head =
      kHeadDim * kHeadDim * (2.0 * static_cast<double>(tokens) + 2.0 * kCell * folds) +
      4.0 * kHeadDim * static_cast<double>(tokens) *
          (tokens == 1 ? static_cast<double>(offset + 1) : kCell / 2.0);
  const double rows = tokens == 1 ? 2.0 * kHeadDim * static_cast<double>(offset + 1) : 0;
  report(state, kHeads * a_head, tokens == 1 ? 4.0 * kHeads * (kHeadDim * kHeadDim + rows) : 0);
}

void run_residual_norm(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Tensor h = random({tokens, kWidth}), a = random({tokens, kWidth}), w = random({kWidth});
  const Tensor x(DType::f32, {tokens, kWidth});
  for ([[maybe_unused]] auto _ : state) residual_norm(device(), h, a, 1e-6f, w, 1e-6f, x);
  const double elements = static_cast<double>(tokens * kWidth);
  report(state, 5 * elements, 16 * elements);
}

void run_qk_norm_rope(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const Tensor x = random({tokens, kWidth}), w(DType::f32, {kHeadDim});
  std::fill_n(w.view().as<float>(), kHeadDim,
              1.0f);  // in place, again and again: others would leave the range of floats
  const Tensor cos(DType::f32, {tokens, kHeadDim / 2}), sin(DType::f32, {tokens, kHeadDim / 2});
  std::fill_n(cos.view().as<float>(), cos.view().size(), 0.6f);
  std::fill_n(sin.view().as<float>(), sin.view().size(), 0.8f);
  for ([[maybe_unused]] auto _ : state) qk_norm_rope(device(), x, kHeads, w, 1e-6f, cos, sin);
  const double elements = static_cast<double>(tokens * kWidth);
  report(state, 7 * elements, 8 * elements);
}

BENCHMARK(run_lightning)->Args({1, 0})->Args({1, 31})->Args({1, 62})->Args({512, 0});
BENCHMARK(run_residual_norm)->Arg(1)->Arg(512);
BENCHMARK(run_qk_norm_rope)->Arg(1)->Arg(512);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(device().threads()));
  benchmark::AddCustomContext("peak GFLOP/s", std::to_string(1e-9 * limits().f32));
  benchmark::AddCustomContext("read GB/s", std::to_string(1e-9 * limits().read));
  benchmark::RunSpecifiedBenchmarks();
}
