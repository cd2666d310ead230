#include "cuda/attention_device.h"
#include "cuda/kernels.h"
#include "cuda/rows_device.h"

// attention for any pages, in f32, and the merge of a query's parts. 4 d flops a row and key, and
// each head group reads its keys and values once. attention_tiles.cu is the way of products of bf16
// on tensor cores.

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMergeThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kRows = 16;  // heads of one kv head and query
constexpr int kKeys = 32;  // of a tile: a lane each
constexpr int kMostDim = 256;
constexpr int kColumns = kMostDim / 128;             // of a thread, 128 channels apart
constexpr int kColumnRows = 128 * kRows / kThreads;  // of a thread
constexpr int kWarpRows = kRows / kWarps;

struct RowsShared {
  float q[kRows][kMostDim];
  float tile[kKeys][kMostDim + 1];  ///< [key][channel] of K, then of V
  float weights[kRows][kKeys];
  float rescale[kRows];
  Factors factors[kRows];
  float sums[kRows], largest[kRows];
};

/// `count` keys of a page from token `first` on, or as many values, to shared memory; threads run
/// over what lies together in the page.
template <KvType kType>
__device__ void load_tile(const KvPages& pages, const KvHead& head, bool keys, int first, int count,
                          float (&tile)[kKeys][kMostDim + 1]) {
  const int d = pages.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < d * kKeys; i += kThreads) {
    const int key = keys ? i % kKeys : i / d;
    const int c = keys ? i / kKeys : i % d;
    if (key < count) tile[key][c] = stored<kType>(pages, head, keys, first + key, c);
  }
}

/// A block of threads attends for up to 16 heads of one kv head of one query, over all of its
/// blocks or, where the call is split, over part blockIdx.z of them. A tile is 32 keys of a page:
/// a warp scores every eighth row, a lane a key; then a thread adds to its channels of half the
/// rows.
template <KvType kType>
__global__ void __launch_bounds__(kThreads, 1) attend_rows(AttentionCall call, int32_t head_tiles) {
  wait_for_earlier();
  auto& s = shared<RowsShared>();
  const KvPages& pages = call.pages;
  const int64_t t = blockIdx.x, g = blockIdx.y / head_tiles;
  const int64_t first_head = g * call.group + blockIdx.y % head_tiles * kRows;
  const int64_t heads_left = (g + 1) * call.group - first_head;
  const int rows = heads_left < kRows ? static_cast<int>(heads_left) : kRows;
  const int d = pages.head_dim, thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  const int32_t p = call.step.positions[t], b = call.step.sequence_of(t);
  Blocks blocks = all_blocks(call, t, g, p);
  if (call.parts > 0) blocks = part_blocks(call, blocks, static_cast<int32_t>(blockIdx.z));
  if (blocks.done()) return;  // the whole block: it has no such part

  for (int i = thread; i < rows * d; i += kThreads) {
    const float x = call.q[t * call.q_stride + first_head * d + i];
    s.q[i / d][i % d] = call.rounds ? bf16_to_f32(f32_to_bf16(x)) : x;
  }
  Running running[kWarpRows], total[kWarpRows];  // of rows warp, warp + 8
  float values[kColumnRows][kColumns]{},
      sums[kColumnRows][kColumns]{};  // of the segment, and merged
  const int column = thread % 128, first_row = thread / 128 * kColumnRows;
  int32_t segment = blocks.block() / kSegment;

  const auto end_segment = [&] {
    for (int i = 0; i < kWarpRows; ++i) {
      const Factors factors = merge(total[i], running[i]);
      running[i] = {};
      if (lane == 0) s.factors[warp + i * kWarps] = factors;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kColumnRows; ++r)
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        if (first_row + r < rows)
          sums[r][i] = merge_value(sums[r][i], values[r][i], s.factors[first_row + r]);
        values[r][i] = 0;
      }
  };
  for (; !blocks.done(); ++blocks.next) {
    const int32_t block = blocks.block();
    if (block / kSegment != segment) end_segment();
    segment = block / kSegment;
    const KvHead head = kv_head(pages, call.step.pool_page(b, block), g);
    const int32_t left = p - block * pages.page + 1;
    const int visible = left < pages.page ? left : pages.page;
    for (int first = 0; first < visible; first += kKeys) {
      const int count = visible - first < kKeys ? visible - first : kKeys;
      __syncthreads();  // the tile before, the queries
      load_tile<kType>(pages, head, true, first, count, s.tile);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kWarpRows; ++i) {
        const int row = warp + i * kWarps;
        if (row >= rows) break;  // the whole warp
        float product = 0;
        if (lane < count)
          for (int c = 0; c < d; ++c) product = fmaf(s.q[row][c], s.tile[lane][c], product);
        const float score = lane < count ? product * call.scale : kNegativeInfinity;
        const float largest = fmaxf(warp_max(score), running[i].largest);
        const float base = base_of(largest);
        const float weight = lane < count ? exp2f(score - base) : 0.0f;
        const float rescale = exp2f(running[i].largest - base);
        running[i] = {.largest = largest, .sum = fmaf(running[i].sum, rescale, warp_sum(weight))};
        s.weights[row][lane] = call.rounds ? bf16_to_f32(f32_to_bf16(weight)) : weight;
        if (lane == 0) s.rescale[row] = rescale;
      }
      __syncthreads();
      load_tile<kType>(pages, head, false, first, count, s.tile);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int c = column + i * 128;
        if (c >= d) break;
#pragma unroll
        for (int r = 0; r < kColumnRows; ++r)
          if (first_row + r < rows) values[r][i] *= s.rescale[first_row + r];
        for (int key = 0; key < count; ++key) {
          const float x = s.tile[key][c];
#pragma unroll
          for (int r = 0; r < kColumnRows; ++r)
            if (first_row + r < rows)
              values[r][i] = fmaf(s.weights[first_row + r][key], x, values[r][i]);
        }
      }
    }
  }
  end_segment();
  for (int i = 0; i < kWarpRows; ++i)
    if (lane == 0) {
      s.largest[warp + i * kWarps] = total[i].largest;
      s.sums[warp + i * kWarps] = total[i].sum;
    }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kColumnRows; ++r) {
    const int row = first_row + r;
    if (row >= rows) break;
    const int64_t h = first_head + row;
    float* part = call.parts > 0 ? call.part_of(t, h, blockIdx.z) : nullptr;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int c = column + i * 128;
      if (c >= d) break;
      if (part != nullptr) {
        part[c] = sums[r][i];
      } else {
        finish_value(call, t, h, c, sums[r][i], s.sums[row]);
      }
    }
    if (part != nullptr && column == 0) {
      part[d] = s.largest[row];
      part[d + 1] = s.sums[row];
    }
  }
}

/// A block of threads merges the parts of one head of one query left to right and finishes it, a
/// thread a channel.
__global__ void __launch_bounds__(kMergeThreads) merge_parts(AttentionCall call) {
  wait_for_earlier();
  const int64_t t = blockIdx.x / call.heads, h = blockIdx.x % call.heads;
  const int64_t g = h / call.group;
  const int d = call.pages.head_dim;
  const int32_t parts = count_parts(call, all_blocks(call, t, g, call.step.positions[t]));
  for (int c = static_cast<int>(threadIdx.x); c < d; c += kMergeThreads) {
    Running total;
    float value = 0;
    for (int32_t i = 0; i < parts; ++i) {
      const float* part = call.part_of(t, h, i);
      const Factors factors = merge(total, {.largest = part[d], .sum = part[d + 1]});
      value = merge_value(value, part[c], factors);
    }
    finish_value(call, t, h, c, value, total.sum);
  }
}

/// attend_rows of the pages' type.
void attend_any(Device& device, const AttentionCall& call) {
  SALA_CHECK(call.pages.head_dim <= kMostDim, "attention: heads of {} on a GPU, at most {}",
             call.pages.head_dim, kMostDim);
  const int32_t head_tiles = (call.group + kRows - 1) / kRows;
  const auto run = [&](auto* kernel) {
    launch(device,
           {.x = call.tokens,
            .y = int64_t{call.pages.kv_heads} * head_tiles,
            .z = call.parts > 0 ? call.parts : 1},
           kThreads, sizeof(RowsShared), kernel, call, head_tiles);
  };
  for_kv_type(call.pages.type, [&]<KvType kType>() { run(attend_rows<kType>); });
}

/// Into how many parts the blocks of a query are split: so many as it can have segments, where a
/// step has too few queries to keep a GPU busy. Depends on shapes alone.
int32_t parts_of(const AttentionCall& call, int64_t table_width, int64_t top) {
  constexpr int64_t kManyItems = 512, kMostBytes = int64_t{128} << 20;
  int64_t parts = (table_width + kSegment - 1) / kSegment;
  if (call.lists != nullptr) parts = std::min(parts, top);
  const int64_t bytes = call.tokens * call.heads * parts * (call.pages.head_dim + 2) * 4;
  const bool few = call.tokens * call.pages.kv_heads < kManyItems;
  return few && parts > 1 && bytes <= kMostBytes ? static_cast<int32_t>(parts) : 0;
}

}  // namespace

void attention(Device& device, const Sequences& sequences, In q, const KvPages& pages, In lists,
               In counts, float scale, Compute compute, In gate, Out o) {
  AttentionCall call{.step = step_tokens(sequences), .pages = pages};
  call.q = q.as<float>();
  call.q_stride = q.stride[0];
  if (!lists.empty()) {
    call.lists = lists.as<int32_t>();
    call.list_stride = lists.stride[0];
    call.list_head_stride = lists.stride[1];
    call.counts = counts.as<int32_t>();
    call.count_stride = counts.stride[0];
  }
  if (!gate.empty()) {
    call.gate = gate.as<float>();
    call.gate_stride = gate.stride[0];
  }
  call.o = o.as<float>();
  call.o_stride = o.stride[0];
  call.tokens = sequences.tokens();
  call.scale = scale * kLog2E;
  call.rounds = compute == Compute::bf16 && pages.type != KvType::f32;
  call.heads = static_cast<int32_t>(q.dim[1] / pages.head_dim);
  call.group = call.heads / pages.kv_heads;
  call.parts = parts_of(call, sequences.page_table.dim[1], lists.empty() ? 0 : lists.dim[2]);
  if (call.parts > 0)
    call.part = reinterpret_cast<float*>(
        self(device).scratch(0, call.tokens * call.heads * call.parts * (pages.head_dim + 2) * 4));
  if (takes_tiles(call)) {
    attend_tiles(device, call);
  } else {
    attend_any(device, call);
  }
  if (call.parts > 0)
    launch(device, {.x = call.tokens * call.heads}, kMergeThreads, 0, merge_parts, call);
}

}  // namespace sala::cuda
