// What this GPU allows: probes that do nothing but what they count.
#include <algorithm>

#include "cuda/mma.h"
#include "cuda/platform.h"
#include "cuda/warpgroup.h"

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;  // more than latency times issue
constexpr int kRounds = 5;

/// Adds up all words of `data` [count], 16 bytes a load.
__global__ void read_words(const std::byte* data, int64_t count, uint32_t* sink) {
  wait_for_earlier();
  uint32_t sum = 0;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += 4 * stride) {
    Words4 words[4] = {};
    for (int j = 0; j < 4; ++j)
      if (i + j * stride < count) words[j] = load_once(data + 16 * (i + j * stride));
    for (const Words4& w : words) sum += w.at[0] + w.at[1] + w.at[2] + w.at[3];
  }
  if (sum == 1) *sink = sum;  // so that the loads are not left out
}

__global__ void multiply_floats(int count, uint32_t* sink) {
  wait_for_earlier();
  float chain[kChains];
  for (int j = 0; j < kChains; ++j) chain[j] = static_cast<float>(threadIdx.x + j);
  for (int i = 0; i < count; ++i)
    for (float& x : chain) x = fmaf(x, 0.999f, 0.001f);
  float sum = 0;
  for (const float x : chain) sum += x;
  if (sum == -1.0f) *sink = 1;
}

template <bool kBytes>
__global__ void multiply_tiles(int count, uint32_t* sink) {
  wait_for_earlier();
  const uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {threadIdx.x, 5};
  float floats[kChains][4] = {};
  int32_t integers[kChains][4] = {};
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < kChains; ++j)
      if constexpr (kBytes)
        mma_bytes(integers[j], a, b);
      else
        mma_bf16(floats[j], a, b);
  float sum = 0;
  for (int j = 0; j < kChains; ++j)
    for (int i = 0; i < 4; ++i) sum += floats[j][i] + static_cast<float>(integers[j][i]);
  if (sum == -1.0f) *sink = 1;
}

/// What a warpgroup multiplies.
struct WideRows {
  uint32_t at[kWideRows][32];
};

__global__ void multiply_wide_tiles(int count, uint32_t* sink) {
#ifdef SALA_WARPGROUPS
  wait_for_earlier();
  auto& rows = shared<WideRows>();
  for (int i = static_cast<int>(threadIdx.x); i < kWideRows * 32; i += kThreads)
    rows.at[i / 32][i % 32] = pack_bf16(0.01f * static_cast<float>(i % 61), 1.0f);
  show_to_products();
  __syncthreads();
  const SwizzledRows columns(&rows);
  const uint32_t a[4] = {pack_bf16(0.3f, static_cast<float>(threadIdx.x)), 1, 2, 3};
  WideSums sums = {};
  for (int i = 0; i < count; ++i) {
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) multiply_wide(sums, a, columns.columns(step), true);
    wait_products();
  }
  float sum = 0;
  for (const float x : sums) sum += x;
  if (sum == -1.0f) *sink = 1;
#endif
}

}  // namespace

bool kernels_wait() {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(read_words)));
  return attributes.ptxVersion >= 90;
}

Limits CudaDevice::limits() {
  int processors = 0;
  bind();
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, ordinal_));
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  /// The best of a few rounds, a second, of what `work` does `amount` of.
  const auto rate = [&](double amount, const auto& work) {
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
      float milliseconds = 0;
      check(cudaEventRecord(begin, stream_));
      work();
      check(cudaEventRecord(end, stream_));
      check(cudaEventSynchronize(end));
      check(cudaEventElapsedTime(&milliseconds, begin, end));
      best = std::max(best, 1e3 * amount / static_cast<double>(milliseconds));
    }
    return best;
  };
  // Several times the largest second-level cache, where there is so much.
  const int64_t bytes = std::min(int64_t{512} << 20, available() / 4) / 16 * 16;
  const Storage data = allocate(bytes), sink_storage = allocate(4);
  auto* sink = reinterpret_cast<uint32_t*>(sink_storage.get());
  const Grid grid{.x = int64_t{8} * processors};
  constexpr int kCount = 4096;
  const double threads = static_cast<double>(grid.x) * kThreads;
  const double tiles = threads / kWarpThreads * kChains * kCount;
  // Products of 64 x 192 x 16.
  const auto multiply_bf16 = [&] {
    if (warpgroups_)
      launch(*this, grid, kThreads, sizeof(WideRows), multiply_wide_tiles, kCount / 16, sink);
    else
      launch(*this, grid, kThreads, 0, multiply_tiles<false>, kCount, sink);
  };
  const double wide = threads / kWarpgroup * (64 * kWideRows * 16) * 4 * (kCount / 16);
  const Limits limits = {
      .read =
          rate(static_cast<double>(bytes),
               [&] { launch(*this, grid, kThreads, 0, read_words, data.get(), bytes / 16, sink); }),
      .f32 = rate(2.0 * threads * kChains * kCount,
                  [&] { launch(*this, grid, kThreads, 0, multiply_floats, kCount, sink); }),
      .bf16 = rate(2.0 * (warpgroups_ ? wide : 16 * 8 * 16 * tiles), multiply_bf16),
      .int8 = rate(2.0 * 16 * 8 * 32 * tiles,
                   [&] { launch(*this, grid, kThreads, 0, multiply_tiles<true>, kCount, sink); })};
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return limits;
}

}  // namespace sala::cuda
