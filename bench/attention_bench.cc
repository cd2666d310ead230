#include <benchmark/benchmark.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/device.h"
#include "cpu/limits.h"
#include "ops/math.h"

// Attention and block selection over random keys: processor time of one thread unless
// SALA_BENCH_THREADS says more. `of peak` is the share of the machine's multiply-adds of the keys'
// type and `of read` that of reading its memory, both measured in this program; the larger is `of
// limit`.

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

Limits limits() {
  static const Limits limits = cpu::LimitProbe(device().pool()).all();
  return limits;
}

struct Shape {
  int heads, kv_heads, head_dim;
};
constexpr Shape kSala{32, 2, 128};
constexpr Shape kSmol{9, 3, 64};

Tensor random_tensor(int64_t rows, int64_t columns, unsigned seed) {
  std::minstd_rand engine(seed);
  std::normal_distribution<float> normal;
  Tensor x(DType::f32, {rows, columns});
  for (int64_t i = 0; i < rows * columns; ++i) x.view().as<float>()[i] = normal(engine);
  return x;
}

/// The last `tokens` of a sequence of `context`, all of whose keys are random.
struct Scene {
  Scene(Shape shape, KvType type, int64_t tokens, int64_t context);

  KvPages pages;
  CompressedKeys fine{.size = 32, .stride = 16};
  CompressedKeys coarse{.size = 128, .stride = 64};
  Selection selection{.compute = Compute::bf16};
  Tensor positions, starts, page_table, slots, q, gate, o, sparse, lists, counts;
  std::vector<Storage> pools;

  Sequences sequences() const {
    return {.positions = positions, .starts = starts, .page_table = page_table, .slots = slots};
  }
  void select() {
    block_select(device(), sequences(), q, pages, fine, coarse, selection, sparse, lists, counts);
  }

 private:
  /// The step is tokens [first, first + count) of the sequence.
  void move_to(int64_t first, int64_t count);
  void take_pages(Paged& field, int64_t bytes, int64_t count);
};

void Scene::move_to(int64_t first, int64_t count) {
  positions = Tensor(DType::i32, {count});
  std::iota(positions.view().as<int32_t>(), positions.view().as<int32_t>() + count,
            static_cast<int32_t>(first));
  starts.view().as<int32_t>()[1] = static_cast<int32_t>(count);
}

void Scene::take_pages(Paged& field, int64_t bytes, int64_t count) {
  pools.push_back(allocate(bytes * count));
  field = {.data = pools.back().get(), .stride = bytes};
}

Scene::Scene(Shape shape, KvType type, int64_t tokens, int64_t context) {
  pages.type = type;
  pages.kv_heads = shape.kv_heads;
  pages.head_dim = shape.head_dim;
  const int64_t blocks = (context + pages.page - 1) / pages.page;
  take_pages(pages.field, pages.page_bytes(), blocks);
  take_pages(fine.field, page_bytes(fine, pages), blocks);
  take_pages(coarse.field, page_bytes(coarse, pages), blocks);
  starts = Tensor(DType::i32, {2});
  page_table = Tensor(DType::i32, {1, blocks});
  std::iota(page_table.view().as<int32_t>(), page_table.view().as<int32_t>() + blocks, 0);
  slots = Tensor(DType::i32, {1});
  constexpr int64_t kChunk = 4096;
  const Tensor k = random_tensor(kChunk, int64_t{shape.kv_heads} * shape.head_dim, 1);
  const Tensor v = random_tensor(kChunk, int64_t{shape.kv_heads} * shape.head_dim, 2);
  for (int64_t first = 0; first < context; first += kChunk) {
    const int64_t count = std::min(kChunk, context - first);
    move_to(first, count);
    kv_append(device(), sequences(), rows(k.view(), 0, count), rows(v.view(), 0, count), pages);
    compress_keys(device(), sequences(), pages, fine);
    compress_keys(device(), sequences(), pages, coarse);
  }
  move_to(context - tokens, tokens);
  const int64_t width = static_cast<int64_t>(shape.heads) * shape.head_dim;
  q = random_tensor(tokens, width, 3);
  gate = Tensor(DType::f32, {tokens, width});
  o = Tensor(DType::f32, {tokens, width});
  sparse = Tensor(DType::u8, {tokens});
  std::fill_n(sparse.view().as<uint8_t>(), tokens, uint8_t{1});
  lists = Tensor(DType::i32, {tokens, shape.kv_heads, selection.top});
  counts = Tensor(DType::i32, {tokens, shape.kv_heads});
}

/// `type` is the keys': products are of bf16 pairs where they are not f32 (and the machine has
/// such).
void report(benchmark::State& state, KvType type, double flops, double bytes) {
  using benchmark::Counter;
  const auto rate = Counter::kIsIterationInvariantRate;
  const double peak = type == KvType::f32 ? limits().f32 : limits().bf16;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, rate);
  state.counters["of peak"] = Counter(flops / peak, rate);
  state.counters["GB/s"] = Counter(bytes * 1e-9, rate);
  state.counters["of read"] = Counter(bytes / limits().read, rate);
  state.counters["of limit"] = Counter(std::max(flops / peak, bytes / limits().read), rate);
}

void run_dense(benchmark::State& state, Shape shape, KvType type) {
  const int64_t tokens = state.range(0), context = state.range(1);
  Scene scene(shape, type, tokens, context);
  for ([[maybe_unused]] auto _ : state)
    attention(device(), scene.sequences(), scene.q, scene.pages, {}, {}, 0.1f, Compute::bf16,
              scene.gate, scene.o);
  const double keys =
      static_cast<double>(tokens) * static_cast<double>(2 * context - tokens + 1) / 2;
  const double read = static_cast<double>(context * scene.pages.page_bytes() / scene.pages.page);
  report(state, type, 4.0 * keys * shape.heads * shape.head_dim, read);
}

void run_sparse(benchmark::State& state, Shape shape, KvType type) {
  const int64_t tokens = state.range(0), context = state.range(1);
  Scene scene(shape, type, tokens, context);
  scene.select();
  for ([[maybe_unused]] auto _ : state)
    attention(device(), scene.sequences(), scene.q, scene.pages, scene.lists, scene.counts, 0.1f,
              Compute::bf16, scene.gate, scene.o);
  const double keys = static_cast<double>(tokens * scene.selection.top * scene.pages.page);
  const auto read = static_cast<double>(scene.pages.page_bytes() * scene.selection.top);
  report(state, type, 4.0 * keys * shape.heads * shape.head_dim, tokens == 1 ? read : 0);
}

void run_select(benchmark::State& state, Shape shape, KvType type) {
  const int64_t tokens = state.range(0), context = state.range(1);
  Scene scene(shape, type, tokens, context);
  for ([[maybe_unused]] auto _ : state) scene.select();
  const double keys = static_cast<double>(context) * (1.0 / 16 + 1.0 / 64);
  const double width = static_cast<double>(shape.heads) * shape.head_dim;
  report(state, type, 2.0 * keys * width * static_cast<double>(tokens),
         keys * static_cast<double>(shape.kv_heads * shape.head_dim) *
             static_cast<double>(size_of(index_type(type))));
}

#define KV_BENCHMARKS(type)                                                                   \
  BENCHMARK_CAPTURE(run_dense, smol_prefill_##type, kSmol, KvType::type)->Args({512, 2048});  \
  BENCHMARK_CAPTURE(run_dense, smol_decode_##type, kSmol, KvType::type)->Args({1, 8192});     \
  BENCHMARK_CAPTURE(run_dense, sala_prefill_##type, kSala, KvType::type)->Args({64, 4096});   \
  BENCHMARK_CAPTURE(run_dense, sala_decode_##type, kSala, KvType::type)                       \
      ->Args({1, 6144})                                                                       \
      ->Args({1, 65536});                                                                     \
  BENCHMARK_CAPTURE(run_sparse, sala_prefill_##type, kSala, KvType::type)->Args({64, 65536}); \
  BENCHMARK_CAPTURE(run_sparse, sala_decode_##type, kSala, KvType::type)->Args({1, 65536})
KV_BENCHMARKS(f32);
KV_BENCHMARKS(bf16);
KV_BENCHMARKS(int8);
KV_BENCHMARKS(int4);
BENCHMARK_CAPTURE(run_select, sala_prefill_bf16, kSala, KvType::bf16)->Args({64, 65536});
BENCHMARK_CAPTURE(run_select, sala_decode_bf16, kSala, KvType::bf16)->Args({1, 65536});

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(device().threads()));
  benchmark::AddCustomContext("f32 GFLOP/s", std::to_string(1e-9 * limits().f32));
  benchmark::AddCustomContext("bf16 GFLOP/s", std::to_string(1e-9 * limits().bf16));
  benchmark::AddCustomContext("read GB/s", std::to_string(1e-9 * limits().read));
  benchmark::RunSpecifiedBenchmarks();
}
