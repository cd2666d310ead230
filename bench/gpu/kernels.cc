#include "kernels.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <vector>

#include "base/json.h"
#include "base/random.h"
#include "cuda/device.h"
#include "ops/math.h"
#include "weights/random.h"

// Everything lies in the GPU's memory. Weights and keys are random numbers, never zeros (a GPU that
// multiplies zeros runs faster); what a kernel reads again is larger than its caches.

namespace {

using namespace sala;

constexpr int64_t kHidden = 4096, kIntermediate = 16384, kHead = 128, kHeads = 32, kKvHeads = 2;
constexpr int64_t kBeyondCaches = int64_t{300} << 20;  // bytes
constexpr double kLeastSeconds = 0.02;
constexpr int kSamples = 5;

/// What a kernel must move and do at least.
struct Work {
  double bytes = 0;
  double operations = 0;
  double Limits::* rate = &Limits::bf16;
};

class Timer {
 public:
  Timer(cuda::CudaDevice& device, const Limits& limits) : device_(device), limits_(limits) {
    cuda::check(cudaEventCreate(&begin_));
    cuda::check(cudaEventCreate(&end_));
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  /// The median time of run(i), i ascending, by the GPU's clock.
  template <class Run>
  void add(const std::string& kernel, const std::string& shape, const Work& work, const Run& run) {
    int64_t done = 0;
    const auto seconds_of = [&](int64_t times) {
      float milliseconds = 0;
      cuda::check(cudaEventRecord(begin_, device_.stream()));
      for (int64_t i = 0; i < times; ++i) run(done++);
      cuda::check(cudaEventRecord(end_, device_.stream()));
      cuda::check(cudaEventSynchronize(end_));
      cuda::check(cudaEventElapsedTime(&milliseconds, begin_, end_));
      return 1e-3 * static_cast<double>(milliseconds) / static_cast<double>(times);
    };
    seconds_of(2);  // scratch grows, clocks rise
    const auto times = static_cast<int64_t>(kLeastSeconds / seconds_of(2)) + 1;
    std::vector<double> samples(kSamples);
    for (double& sample : samples) sample = seconds_of(times);
    std::ranges::nth_element(samples, samples.begin() + kSamples / 2);
    const double seconds = samples[kSamples / 2];
    const double memory = work.bytes / limits_.read,
                 arithmetic = work.operations / (limits_.*work.rate);
    const double share = std::max(memory, arithmetic) / seconds;
    fmt::print("{:<22} {:<34} {:>9.1f} us {:>8.1f} GB/s {:>8.2f} TFLOP/s {:>5.0f} % of {}\n",
               kernel, shape, 1e6 * seconds, 1e-9 * work.bytes / seconds,
               1e-12 * work.operations / seconds, 100 * share,
               memory > arithmetic ? "memory" : "arithmetic");
    std::fflush(stdout);
    rows.push_back({{"kernel", kernel},
                    {"shape", shape},
                    {"us", 1e6 * seconds},
                    {"gb_s", 1e-9 * work.bytes / seconds},
                    {"tflop_s", 1e-12 * work.operations / seconds},
                    {"share", share},
                    {"limit", memory > arithmetic ? "memory" : "arithmetic"}});
  }

  Json rows = Json::array();

 private:
  cuda::CudaDevice& device_;
  Limits limits_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

double number(int64_t x) { return static_cast<double>(x); }

Tensor random_tensor(Device& device, int64_t rows, int64_t columns, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(rows * columns));
  for (float& x : values)
    x = static_cast<float>(3.4 * random.uniform() - 1.7);  // of variance about 1
  return {device, std::span<const float>(values), {rows, columns}};
}

Tensor integers(Device& device, const std::vector<int32_t>& values,
                std::initializer_list<int64_t> dims) {
  return {device, std::span<const int32_t>(values), dims};
}

/// Copies of a random matrix in the GPU's memory, so many that caches do not hold them.
std::vector<Weight> matrices(Device& device, WeightType type, int64_t rows, int64_t cols,
                             bool paired) {
  const Weight host = random_weight(type, rows, cols, paired, [](int64_t count, const auto& work) {
    for (int64_t i = 0; i < count; ++i) work(i);
  });
  std::vector<Weight> all;
  for (int64_t bytes = 0; bytes < kBeyondCaches; bytes += host.bytes()) {
    Weight& copy = all.emplace_back(host);
    copy.storage = device.allocate(host.bytes());
    copy.data = copy.storage.get();
    device.write(copy.storage.get(), {host.data, static_cast<size_t>(host.bytes())});
  }
  return all;
}

void time_matmul(cuda::CudaDevice& device, Timer& timer) {
  struct Matrix {
    const char* name;
    int64_t rows, cols;
    bool paired;
  };
  for (const Matrix& m :
       {Matrix{"qkvz", 4 * kHidden, kHidden, false}, Matrix{"o", kHidden, kHidden, false},
        Matrix{"gate_up", kIntermediate, kHidden, true},
        Matrix{"down", kHidden, kIntermediate, false}})
    for (const WeightType type : {WeightType::bf16, WeightType::w8, WeightType::w4}) {
      const std::vector<Weight> weights = matrices(device, type, m.rows, m.cols, m.paired);
      for (const int64_t tokens : {1, 8, 32, 4096}) {
        const Tensor x = random_tensor(device, tokens, m.cols, 1);
        const Tensor y(device, DType::f32, {tokens, m.rows});
        const double operations = 2.0 * number(tokens) * number(m.rows) * number(m.cols);
        for (const Compute compute : {Compute::bf16, Compute::int8}) {
          const bool bytes = compute == Compute::int8;
          // bf16 has no codes of activations, and codes are bf16 only where that is as fast.
          if (quantised(type) ? !bytes && !device.decodes_to_bf16() : bytes) continue;
          timer.add(tokens > 32 ? "matmul, prefill" : "matmul, decode",
                    fmt::format("{} {}{} {} x {}, {} tokens", m.name, name_of(type),
                                quantised(type) && !bytes ? " as bf16" : "",
                                m.rows * (m.paired ? 2 : 1), m.cols, tokens),
                    {.bytes = number(weights[0].bytes()) + 4.0 * number(tokens * (m.cols + m.rows)),
                     .operations = m.paired ? 2 * operations : operations,
                     .rate = bytes ? &Limits::int8 : &Limits::bf16},
                    [&](int64_t i) {
                      matmul(device, x, weights[static_cast<size_t>(i) % weights.size()],
                             m.paired ? Epilogue::swiglu : Epilogue::none, compute, y);
                    });
        }
      }
    }
}

/// The last `tokens` of one text of `context`, whose keys and values are random.
struct Scene {
  Scene(Device& device, KvType type, int64_t tokens, int64_t context) : blocks(context / 64) {
    pages = {.type = type, .kv_heads = kKvHeads, .head_dim = kHead};
    fill(device, pages.field, pages.page_bytes(), type);
    fill(device, fine.field, page_bytes(fine, pages), KvType::bf16);
    fill(device, coarse.field, page_bytes(coarse, pages), KvType::bf16);
    std::vector<int32_t> at(static_cast<size_t>(tokens)), table(static_cast<size_t>(blocks));
    std::iota(at.begin(), at.end(), static_cast<int32_t>(context - tokens));
    std::iota(table.begin(), table.end(), 0);
    positions = integers(device, at, {tokens});
    page_table = integers(device, table, {1, blocks});
    starts = integers(device, {0, static_cast<int32_t>(tokens)}, {2});
    slots = integers(device, {0}, {1});
    // Neighbours ask for much the same: eight tokens in a row share most of their query.
    Random random(7);
    std::vector<float> values(static_cast<size_t>(tokens * kHeads * kHead));
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t width = static_cast<size_t>(kHeads * kHead), t = i / width;
      const auto own = static_cast<float>(3.4 * random.uniform() - 1.7);
      values[i] = t % 8 == 0 ? own : 0.95f * values[i - t % 8 * width] + 0.3f * own;
    }
    q = Tensor(device, std::span<const float>(values), {tokens, kHeads * kHead});
    gate = random_tensor(device, tokens, kHeads * kHead, 8);
    o = Tensor(device, DType::f32, {tokens, kHeads * kHead});
    sparse = Tensor(device,
                    std::span<const uint8_t>(std::vector<uint8_t>(static_cast<size_t>(tokens), 1)),
                    {tokens});
    lists = Tensor(device, DType::i32, {tokens, kKvHeads, selection.top});
    counts = Tensor(device, DType::i32, {tokens, kKvHeads});
  }

  void fill(Device& device, Paged& field, int64_t stride, KvType type) {
    pools.push_back(device.allocate(blocks * stride));
    field = {.data = pools.back().get(), .stride = stride};
    Random random(5);
    std::vector<std::byte> noise(static_cast<size_t>(std::min<int64_t>(blocks, 256) * stride));
    for (size_t i = 0; i + 2 <= noise.size(); i += 2) {
      const uint16_t number = f32_to_bf16(static_cast<float>(3.4 * random.uniform() - 1.7));
      // Two codes, or a scale: without its second bit no byte begins an f16 beyond 2.
      const auto codes = static_cast<uint16_t>(random.bits() & 0xBFBF);
      const uint16_t two = type == KvType::bf16 ? number : codes;
      std::memcpy(noise.data() + i, &two, 2);
    }
    for (int64_t p = 0; p < blocks; p += 256)
      device.write(
          field.data + p * stride,
          std::span(noise).first(static_cast<size_t>(std::min<int64_t>(256, blocks - p) * stride)));
  }

  Sequences sequences() const {
    return {.positions = positions, .starts = starts, .page_table = page_table, .slots = slots};
  }
  void select(Device& device) {
    block_select(device, sequences(), q, pages, fine, coarse, selection, sparse, lists, counts);
  }
  /// The share of a token's blocks, beside those that it always has, that its neighbour has too.
  double overlap(Device& device) {
    const Tensor host = on_host(device, lists);
    const Out all = host.view();
    int64_t same = 0, count = 0;
    for (int64_t t = 1; t < all.dim[0]; ++t)
      for (int64_t g = 0; g < kKvHeads; ++g) {
        const int32_t* a = all.as<int32_t>() + t * all.stride[0] + g * all.stride[1];
        const int32_t* b = a - all.stride[0];
        const int64_t chosen = selection.top - 34;
        same += std::count_if(a + 1, a + 1 + chosen, [&](int32_t block) {
          return std::find(b, b + selection.top, block) != b + selection.top;
        });
        count += chosen;
      }
    return count == 0 ? 1 : number(same) / number(count);
  }

  int64_t blocks;
  KvPages pages;
  CompressedKeys fine{.size = 32, .stride = 16};
  CompressedKeys coarse{.size = 128, .stride = 64};
  Selection selection{.compute = Compute::bf16};
  Tensor positions, starts, page_table, slots, q, gate, o, sparse, lists, counts;
  std::vector<Storage> pools;
};

void time_attention(cuda::CudaDevice& device, Timer& timer) {
  for (const KvType type : {KvType::bf16, KvType::int8})
    for (const int64_t context : {int64_t{4096}, int64_t{131072}, int64_t{1048576}})
      for (const int64_t tokens : {int64_t{1}, int64_t{2048}}) {
        Scene scene(device, type, tokens, context);
        const std::string shape = fmt::format("{} keys, {} of {}", name_of(type), tokens, context);
        const double windows = number(context) / 16 + number(context) / 64;
        timer.add("block_select", shape,
                  {.bytes = 2.0 * windows * kKvHeads * kHead,
                   .operations = 2.0 * windows * kHeads * kHead * number(tokens)},
                  [&](int64_t) { scene.select(device); });
        const double overlap = scene.overlap(device);
        const double read =
            std::min(96.0 + (tokens > 1 ? number(tokens) / 64 : 0), number(scene.blocks));
        const double keys = std::min(96.0 * 64, number(context));
        timer.add(
            "attention, sparse", fmt::format("{}, {:.0f} % shared", shape, 100 * overlap),
            {.bytes = read * number(scene.pages.page_bytes()) + 12.0 * number(tokens) * kHidden,
             .operations = 4.0 * keys * kHeads * kHead * number(tokens)},
            [&](int64_t) {
              attention(device, scene.sequences(), scene.q, scene.pages, scene.lists, scene.counts,
                        0.0884f, Compute::bf16, scene.gate, scene.o);
            });
        if (context > 131072) continue;
        timer.add("attention, dense", shape,
                  {.bytes = number(scene.blocks * scene.pages.page_bytes()),
                   .operations = 4.0 * (number(context) - number(tokens) / 2) * kHeads * kHead *
                                 number(tokens)},
                  [&](int64_t) {
                    attention(device, scene.sequences(), scene.q, scene.pages, {}, {}, 0.0884f,
                              Compute::bf16, scene.gate, scene.o);
                  });
      }
}

void time_lightning(cuda::CudaDevice& device, Timer& timer) {
  constexpr int kCell = 32;
  for (const auto& [sequences, tokens] :
       {std::pair<int64_t, int64_t>{1, 1}, {8, 1}, {32, 1}, {1, 4096}}) {
    const int64_t all = sequences * tokens, width = kHeads * kHead;
    std::vector<int32_t> at(static_cast<size_t>(all)), begins, slot(static_cast<size_t>(sequences));
    for (int64_t i = 0; i < all; ++i) at[static_cast<size_t>(i)] = static_cast<int32_t>(i % tokens);
    for (int64_t b = 0; b <= sequences; ++b) begins.push_back(static_cast<int32_t>(b * tokens));
    std::iota(slot.begin(), slot.end(), 0);
    const Tensor positions = integers(device, at, {all}),
                 starts = integers(device, begins, {sequences + 1}),
                 slots = integers(device, slot, {sequences}),
                 q = random_tensor(device, all, width, 1), k = random_tensor(device, all, width, 2),
                 v = random_tensor(device, all, width, 3),
                 gate = random_tensor(device, all, width, 4),
                 norm = random_tensor(device, 1, width, 5),
                 slopes = random_tensor(device, 1, kHeads, 6),
                 head = random_tensor(device, 1, kHead, 7),
                 turn = random_tensor(device, all, kHead / 2, 8),
                 o(device, DType::f32, {all, width}),
                 state(device, DType::f32, {sequences, kHeads, kHead, kHead}),
                 keys(device, DType::f32, {sequences, kHeads, kHead, kCell}),
                 values(device, DType::f32, {sequences, kHeads, kCell, kHead});
    In slope = slopes.view(), weight = norm.view(), head_weight = head.view();
    slope.rank = weight.rank = head_weight.rank = 1;
    slope.dim[0] = kHeads, weight.dim[0] = width, head_weight.dim[0] = kHead;
    const LightningMemory memory{.state = state, .keys = keys, .values = values, .cell = kCell};
    const LightningForm form{.q_norm = head_weight,
                             .k_norm = head_weight,
                             .cos = turn,
                             .sin = turn,
                             .slopes = slope,
                             .scale = 0.0884f,
                             .norm = weight};
    const double states = number(sequences) * kHeads * kHead * kHead * 4;
    timer.add("lightning", fmt::format("{} sequences of {} tokens", sequences, tokens),
              {.bytes = (tokens > 1 ? 2 : 1) * states + 20.0 * number(all) * number(width),
               .operations = number(all) * kHeads * 2.0 * kHead * (2.0 * kHead + 2.0 * kCell)},
              [&](int64_t) {
                lightning(
                    device,
                    {.positions = positions, .starts = starts, .page_table = {}, .slots = slots}, q,
                    k, v, memory, form, gate, o);
              });
  }
}

void time_rows(cuda::CudaDevice& device, Timer& timer) {
  for (const int64_t tokens : {1, 32, 4096}) {
    const Tensor h = random_tensor(device, tokens, kHidden, 1),
                 a = random_tensor(device, tokens, kHidden, 2),
                 w = random_tensor(device, 1, kHidden, 3), x(device, DType::f32, {tokens, kHidden}),
                 turn = random_tensor(device, tokens, kHead / 2, 4),
                 head = random_tensor(device, 1, kHead, 5);
    In weight = w.view(), head_weight = head.view();
    weight.rank = head_weight.rank = 1;
    weight.dim[0] = kHidden, head_weight.dim[0] = kHead;
    timer.add("residual_norm", fmt::format("{} tokens", tokens),
              {.bytes = 16.0 * number(tokens) * kHidden, .rate = &Limits::f32},
              [&](int64_t) { residual_norm(device, h, a, 0.0f, weight, 1e-6f, x); });
    timer.add("qk_norm_rope", fmt::format("{} tokens, {} heads", tokens, kHeads),
              {.bytes = 8.0 * number(tokens) * kHidden, .rate = &Limits::f32},
              [&](int64_t) { qk_norm_rope(device, x, kHeads, head_weight, 1e-6f, turn, turn); });
  }
}

}  // namespace

void time_kernels(const std::string& json) {
  cuda::CudaDevice device(0);
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, 0));
  int driver = 0;
  cuda::check(cudaDriverGetVersion(&driver));
  const Limits limits = device.limits();
  fmt::print("{}: {:.0f} GB/s, bf16 {:.0f} TFLOP/s, int8 {:.0f} TOP/s, f32 {:.0f} TFLOP/s\n",
             properties.name, 1e-9 * limits.read, 1e-12 * limits.bf16, 1e-12 * limits.int8,
             1e-12 * limits.f32);
  Timer timer(device, limits);
  time_rows(device, timer);
  time_lightning(device, timer);
  time_attention(device, timer);
  time_matmul(device, timer);
  if (json.empty()) return;
  std::ofstream file(json);
  file << Json{{"machine",
                {{"device", properties.name},
                 {"driver", driver},
                 {"copy_gbs", 1e-9 * limits.read},
                 {"bf16_tflops", 1e-12 * limits.bf16},
                 {"int8_tops", 1e-12 * limits.int8},
                 {"f32_tflops", 1e-12 * limits.f32}}},
               {"rows", timer.rows}}
              .dump(1)
       << "\n";
  if (!file) fail("{}: cannot be written", json);
}
