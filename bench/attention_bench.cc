#include <benchmark/benchmark.h>

#include <numeric>
#include <random>
#include <vector>

#include "cpu/device.h"
#include "ops/math.h"
#include "peak.h"

// Attention and block selection over random keys: processor time of one thread unless
// SALA_BENCH_THREADS says more. `of peak` is the share of the machine's fused multiply-adds,
// measured in this program.

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

bench::Peak peak() {
  static const bench::Peak peak = bench::measure_peak(device().pool());
  return peak;
}

struct Shape {
  int heads, kv_heads, head_dim;
};
constexpr Shape kSala{32, 2, 128};
constexpr Shape kSmol{9, 3, 64};

/// The last `tokens` of a sequence of `context`, all of whose keys are random.
struct Scene {
  Scene(Shape shape, DType type, int64_t tokens, int64_t context);

  KvPages pages;
  CompressedKeys fine{.field = {}, .size = 32, .stride = 16};
  CompressedKeys coarse{.field = {}, .size = 128, .stride = 64};
  Selection selection;
  Tensor positions, starts, page_table, slots, q, gate, o, sparse, lists, counts;
  std::vector<Storage> pools;

  Sequences sequences() const {
    return {.positions = positions, .starts = starts, .page_table = page_table, .slots = slots};
  }
  void select() {
    block_select(device(), sequences(), q, pages, fine, coarse, selection, sparse, lists, counts);
  }
};

void fill(Paged& field, DType type, int64_t elements, int64_t count, std::vector<Storage>& pools) {
  std::minstd_rand engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> some(4093);
  for (float& x : some) x = normal(engine);
  field = {.data = nullptr, .stride = elements * size_of(type), .type = type};
  pools.push_back(allocate(field.stride * count));
  field.data = pools.back().get();
  for (int64_t i = 0; i < elements * count; ++i) {
    const float x = some[static_cast<size_t>(i) % some.size()];
    if (type == DType::f32) {
      reinterpret_cast<float*>(field.data)[i] = x;
    } else {
      reinterpret_cast<uint16_t*>(field.data)[i] = f32_to_bf16(x);
    }
  }
}

Scene::Scene(Shape shape, DType type, int64_t tokens, int64_t context) {
  pages.kv_heads = shape.kv_heads;
  pages.head_dim = shape.head_dim;
  const int64_t blocks = (context + pages.page - 1) / pages.page;
  const int64_t key = static_cast<int64_t>(shape.kv_heads) * shape.head_dim;
  fill(pages.field, type, pages.page_elements(), blocks, pools);
  fill(fine.field, type, key * fine.capacity(pages.page), blocks, pools);
  fill(coarse.field, type, key * coarse.capacity(pages.page), blocks, pools);
  positions = Tensor(DType::i32, {tokens});
  std::iota(positions.view().as<int32_t>(), positions.view().as<int32_t>() + tokens,
            static_cast<int32_t>(context - tokens));
  starts = Tensor(DType::i32, {2});
  starts.view().as<int32_t>()[1] = static_cast<int32_t>(tokens);
  page_table = Tensor(DType::i32, {1, blocks});
  std::iota(page_table.view().as<int32_t>(), page_table.view().as<int32_t>() + blocks, 0);
  slots = Tensor(DType::i32, {1});
  const int64_t width = static_cast<int64_t>(shape.heads) * shape.head_dim;
  q = Tensor(DType::f32, {tokens, width});
  gate = Tensor(DType::f32, {tokens, width});
  o = Tensor(DType::f32, {tokens, width});
  std::minstd_rand engine(2);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < tokens * width; ++i) q.view().as<float>()[i] = normal(engine);
  sparse = Tensor(DType::u8, {tokens});
  std::fill_n(sparse.view().as<uint8_t>(), tokens, uint8_t{1});
  lists = Tensor(DType::i32, {tokens, shape.kv_heads, selection.top});
  counts = Tensor(DType::i32, {tokens, shape.kv_heads});
}

void report(benchmark::State& state, double flops, double bytes) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, rate);
  state.counters["of peak"] = Counter(flops * 1e-9 / peak().gflops, rate);
  state.counters["GB/s"] = Counter(bytes * 1e-9, rate);
  state.counters["of read"] = Counter(bytes * 1e-9 / peak().gigabytes, rate);
}

void run_dense(benchmark::State& state, Shape shape, DType type) {
  const int64_t tokens = state.range(0), context = state.range(1);
  Scene scene(shape, type, tokens, context);
  for ([[maybe_unused]] auto _ : state)
    attention(device(), scene.sequences(), scene.q, scene.pages, {}, {}, 0.1f, scene.gate, scene.o);
  const double keys =
      static_cast<double>(tokens) * static_cast<double>(2 * context - tokens + 1) / 2;
  const double read =
      2.0 * static_cast<double>(context * shape.kv_heads * shape.head_dim * size_of(type));
  report(state, 4.0 * keys * shape.heads * shape.head_dim, read);
}

void run_sparse(benchmark::State& state, Shape shape, DType type) {
  const int64_t tokens = state.range(0), context = state.range(1);
  Scene scene(shape, type, tokens, context);
  scene.select();
  for ([[maybe_unused]] auto _ : state)
    attention(device(), scene.sequences(), scene.q, scene.pages, scene.lists, scene.counts, 0.1f,
              scene.gate, scene.o);
  const double keys = static_cast<double>(tokens * scene.selection.top * scene.pages.page);
  const double read = 2.0 * static_cast<double>(size_of(type) * shape.kv_heads * shape.head_dim *
                                                scene.selection.top * scene.pages.page);
  report(state, 4.0 * keys * shape.heads * shape.head_dim, tokens == 1 ? read : 0);
}

void run_select(benchmark::State& state, Shape shape, DType type) {
  const int64_t tokens = state.range(0), context = state.range(1);
  Scene scene(shape, type, tokens, context);
  for ([[maybe_unused]] auto _ : state) scene.select();
  const double keys = static_cast<double>(context) * (1.0 / 16 + 1.0 / 64);
  const double width = static_cast<double>(shape.heads) * shape.head_dim;
  report(state, 2.0 * keys * width * static_cast<double>(tokens),
         keys * static_cast<double>(shape.kv_heads * shape.head_dim * size_of(type)));
}

BENCHMARK_CAPTURE(run_dense, smol_prefill_f32, kSmol, DType::f32)->Args({512, 2048});
BENCHMARK_CAPTURE(run_dense, smol_prefill_bf16, kSmol, DType::bf16)
    ->Args({512, 512})
    ->Args({512, 2048});
BENCHMARK_CAPTURE(run_dense, smol_decode_bf16, kSmol, DType::bf16)->Args({1, 512})->Args({1, 8192});
BENCHMARK_CAPTURE(run_dense, smol_decode_f32, kSmol, DType::f32)->Args({1, 512})->Args({1, 8192});
BENCHMARK_CAPTURE(run_dense, sala_prefill_bf16, kSala, DType::bf16)->Args({64, 4096});
BENCHMARK_CAPTURE(run_dense, sala_decode_bf16, kSala, DType::bf16)
    ->Args({1, 6144})
    ->Args({1, 65536});
BENCHMARK_CAPTURE(run_sparse, sala_prefill_bf16, kSala, DType::bf16)->Args({64, 65536});
BENCHMARK_CAPTURE(run_sparse, sala_prefill_f32, kSala, DType::f32)->Args({64, 65536});
BENCHMARK_CAPTURE(run_sparse, sala_decode_bf16, kSala, DType::bf16)->Args({1, 65536});
BENCHMARK_CAPTURE(run_select, sala_prefill_bf16, kSala, DType::bf16)->Args({64, 65536});
BENCHMARK_CAPTURE(run_select, sala_decode_bf16, kSala, DType::bf16)->Args({1, 65536});

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(device().threads()));
  benchmark::AddCustomContext("peak GFLOP/s", std::to_string(peak().gflops));
  benchmark::AddCustomContext("read GB/s", std::to_string(peak().gigabytes));
  benchmark::RunSpecifiedBenchmarks();
}
