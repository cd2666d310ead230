#include "cuda/kernels.h"
#include "cuda/pages_device.h"
#include "cuda/sequences_device.h"

// kv_append and compress_keys: data movement, and bits that every backend must agree on.

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kRun = 32;  // tokens of a block where a step has as many
constexpr int kWindowThreads = 128;

/// The range of the channels [0, n) of a group by a warp; the result is lane 0's. Lanes meet in the
/// order of their channels.
__device__ inline KvRange warp_range(const float* x, int n) {
  KvRange range;
  for (int c = static_cast<int>(threadIdx.x) % kWarpThreads; c < n; c += kWarpThreads)
    range.add(x[c]);
  for (int delta = 1; delta < kWarpThreads; delta *= 2)
    range.add({__shfl_down_sync(kAllLanes, range.largest, delta),
               __shfl_down_sync(kAllLanes, range.low, delta),
               __shfl_down_sync(kAllLanes, range.high, delta)});
  return range;
}

/// Where a token of a block goes: its kv head's part of a page; null for nowhere.
struct Place {
  uint16_t* grid;
  std::byte* codes;
  int32_t in_page;
};

struct AppendShared {
  Place places[kRun];
};

/// Code row `row` of a token whose channels are x, as it lies in `to`.
template <KvType kType>
__device__ inline KvCode<kType> encode(const KvPages& pages, const Place& to, const float* x,
                                       int row) {
  if constexpr (kType == KvType::f32) {
    return x[row];
  } else if constexpr (kType == KvType::bf16) {
    return f32_to_bf16(x[row]);
  } else if constexpr (kType == KvType::int8) {
    const KvGrid grid = grid_at<kType>(pages, to.grid, 0, to.in_page);
    return static_cast<int8_t>(code_of(kType, grid, grid.inverse(), x[row]));
  } else {
    constexpr int kRows = kInt4Group / 2;  // of a group
    const KvGrid grid = grid_at<kType>(pages, to.grid, row / kRows, to.in_page);
    const float inverse = grid.inverse();
    const int c = row / kRows * kInt4Group + row % kRows;
    const int low = c < pages.head_dim ? code_of(kType, grid, inverse, x[c]) : 0;
    const int high = c + kRows < pages.head_dim ? code_of(kType, grid, inverse, x[c + kRows]) : 0;
    return static_cast<uint8_t>(low | high << 4);
  }
}

/// A block stores kTokens neighbours of a step, of kv head blockIdx.y; their keys where blockIdx.z
/// is 0, else their values. First a thread a token finds its place, then a warp a token makes its
/// grids, then the threads make codes: of keys neighbours are tokens, of values channels, as they
/// lie in a page. The grids pass through the page itself.
template <KvType kType, int kTokens>
__global__ void __launch_bounds__(kThreads)
    append_run(StepTokens step, const float* k, int64_t k_stride, const float* v, int64_t v_stride,
               KvPages pages) {
  wait_for_earlier();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int64_t total = step.starts[step.sequences];
  const int count = static_cast<int>(total - first < kTokens ? total - first : kTokens);
  const int64_t g = blockIdx.y;
  const bool keys = blockIdx.z == 0;
  const int64_t stride = keys ? k_stride : v_stride;
  const float* x = (keys ? k : v) + first * stride + g * pages.head_dim;
  Place(&places)[kRun] = shared<AppendShared>().places;
  if (const int i = static_cast<int>(threadIdx.x); i < count) {
    const int64_t t = first + i;
    const int32_t b = step.sequence_of(t);
    const int32_t p = step.positions[t];
    places[i] = {.grid = nullptr, .codes = nullptr, .in_page = p % pages.page};
    if (p >= step.kept_of(b)) {
      const KvHead head = kv_head(pages, step.pool_page(b, p / pages.page), g);
      places[i].grid = keys ? head.key_grid : head.value_grid;
      places[i].codes = keys ? head.keys : head.values;
    }
  }
  __syncthreads();
  if constexpr (kType >= KvType::int8) {
    const int groups = pages.groups(), lanes = pages.page_lanes();
    for (int i = static_cast<int>(threadIdx.x) / kWarpThreads; i < count; i += kWarps) {
      const Place to = places[i];
      if (to.codes == nullptr) continue;
      for (int group = 0; group < groups; ++group) {
        const int channel = group * pages.group();
        const int left = pages.head_dim - channel;
        const KvRange range =
            warp_range(x + i * stride + channel, left < pages.group() ? left : pages.group());
        if (threadIdx.x % kWarpThreads != 0) continue;
        const KvGrid grid = grid_of(kType, range);
        to.grid[group * lanes + to.in_page] = f32_to_f16(grid.scale);
        if constexpr (kType == KvType::int4)
          to.grid[(groups + group) * lanes + to.in_page] = f32_to_f16(grid.minimum);
      }
    }
    __syncthreads();
  }
  const int rows = pages.code_rows();
  for (int i = static_cast<int>(threadIdx.x); i < rows * kTokens; i += kThreads) {
    const int token = keys ? i % kTokens : i / rows;
    const int row = keys ? i / kTokens : i % rows;
    if (token >= count) continue;
    const Place to = places[token];
    if (to.codes == nullptr) continue;
    const int at = keys ? kv_place(kType, row, to.in_page, pages.page_lanes())
                        : kv_place(kType, to.in_page, row, rows);
    reinterpret_cast<KvCode<kType>*>(to.codes)[at] =
        encode<kType>(pages, to, x + token * stride, row);
  }
}

/// A block is one token of the step and one kv head: it makes the window that ends there, where one
/// does. A thread sums channels, token by token.
template <KvType kType>
__global__ void __launch_bounds__(kWindowThreads, 8)
    compress_window(StepTokens step, KvPages pages, CompressedKeys keys) {
  wait_for_earlier();
  const int64_t t = blockIdx.x, g = blockIdx.y;
  const int32_t last = step.positions[t];
  const int32_t begin = last + 1 - keys.size;
  if (begin < 0 || begin % keys.stride != 0) return;  // the whole block
  const int32_t b = step.sequence_of(t);
  if (last < step.kept_of(b)) return;
  const int64_t entry = begin / keys.stride - keys.first_window(last / pages.page, pages.page);
  std::byte* page_data = keys.field.data + step.pool_page(b, last / pages.page) * keys.field.stride;
  const int64_t out = (g * keys.capacity(pages.page) + entry) * pages.head_dim;
  const float inverse = 1.0f / static_cast<float>(keys.size);
  for (int c = static_cast<int>(threadIdx.x); c < pages.head_dim; c += kWindowThreads) {
    float sum = 0;
    for (int32_t page = begin / pages.page; page <= last / pages.page; ++page) {
      const KvHead head = kv_head(pages, step.pool_page(b, page), g);
      const int32_t first = page * pages.page;
      const int from = begin > first ? begin - first : 0;
      const int to = last < first + pages.page - 1 ? last - first : pages.page - 1;
#pragma unroll 4
      for (int u = from; u <= to; ++u) sum += stored<kType>(pages, head, true, u, c);
    }
    if constexpr (kType == KvType::f32) {
      reinterpret_cast<float*>(page_data)[out + c] = sum * inverse;
    } else {
      reinterpret_cast<uint16_t*>(page_data)[out + c] = f32_to_bf16(sum * inverse);
    }
  }
}

}  // namespace

void kv_append(Device& device, const Sequences& sequences, In k, In v, const KvPages& pages) {
  const int64_t tokens = sequences.tokens();
  for_kv_type(pages.type, [&]<KvType kType>() {
    const bool runs = tokens >= kRun / 2;
    launch(device, {.x = runs ? (tokens + kRun - 1) / kRun : tokens, .y = pages.kv_heads, .z = 2},
           kThreads, sizeof(AppendShared), runs ? append_run<kType, kRun> : append_run<kType, 1>,
           step_tokens(sequences), k.as<float>(), k.stride[0], v.as<float>(), v.stride[0], pages);
  });
}

void compress_keys(Device& device, const Sequences& sequences, const KvPages& pages,
                   const CompressedKeys& keys) {
  for_kv_type(pages.type, [&]<KvType kType>() {
    launch(device, {.x = sequences.tokens(), .y = pages.kv_heads}, kWindowThreads, 0,
           compress_window<kType>, step_tokens(sequences), pages, keys);
  });
}

}  // namespace sala::cuda
