#include "cuda/kernels.h"
#include "cuda/rows_device.h"

// sample. Three launches: the largest logit; the weights of all tokens, added up in bins of nearby
// logits; then a block a row finds the places of the cuts and of the draw, each in its bin. A
// token's weight takes about 30 operations on doubles: the second launch does V of them, the last
// only those of the bins that it looks into. Logits are read three to five times (once where the
// largest is taken), from the cache but for the first. Sums are of whole numbers, so that the order
// of atomics does not matter.

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;  // of a block that looks at a chunk
constexpr int kChunk = 2048;   // tokens
constexpr int kChooseThreads = 512;
constexpr int kChooseWarps = kChooseThreads / kWarpThreads;
constexpr int kBins = 1024;
constexpr int kListed = 2048;  // tokens of a bin that shared memory holds; more are read again

/// What atomics and shuffles take for 64 bits.
using Whole = unsigned long long;

struct SampleCall {
  const float* logits;  ///< [B][V]
  const uint8_t* rows;  ///< [B] of SampleRow
  int32_t* tokens;      ///< [B]
  int64_t stride;       ///< of logits
  int64_t row_stride;   ///< bytes
  int32_t vocab;
  int32_t chunks;
  bool aligned;               ///< rows of logits begin at multiples of 16 bytes
  Whole* firsts = nullptr;    ///< [B][chunks]: the first key of the order
  Whole* masses = nullptr;    ///< [B][kBins]: sums of weights
  Whole* likely = nullptr;    ///< [B]: the sum of weights that min_p keeps
  uint32_t* sizes = nullptr;  ///< [B][kBins]: tokens of a weight above 0, where top_k counts
};

/// Greater in falling order of logits, the lower id first among equals. NaN is above all.
__device__ inline Whole key_of(float logit, int32_t token) {
  const uint32_t rank = logit != logit ? 0xFFFFFFFFU : rank_of(logit + 0.0f);  // -0 is 0
  return Whole{rank} << 32 | static_cast<uint32_t>(~token);
}
__device__ inline int32_t token_of(Whole key) { return static_cast<int32_t>(~key); }

template <class Merge>
__device__ inline Whole warp_merged(Whole x, const Merge& merge) {
  for (int mask = kWarpThreads / 2; mask > 0; mask /= 2)
    x = merge(x, __shfl_xor_sync(kAllLanes, x, mask));
  return x;
}

__device__ inline Whole larger(Whole x, Whole y) { return x < y ? y : x; }

/// One row, once its largest logit is known.
struct Row {
  const float* logits = nullptr;
  SampleRow how{};
  TokenWeights weight{};
  int32_t token = kNoToken;  ///< without a draw
  bool draws = false;
  float largest = 0, bins_per_logit = 0;

  /// Never falls where logits do.
  __device__ int bin(float logit) const {
    return static_cast<int>(fminf((largest - logit) * bins_per_logit, kBins - 1.0f));
  }
};

/// Row b of the call; whole warps.
__device__ inline Row row_of(const SampleCall& call, int64_t b) {
  constexpr Whole kInfinite = 0xFF800000, kNone = 0x007FFFFF;  // ranks of the infinities
  constexpr double kReach = 28.5;                              // weights beyond are 0
  Whole first = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarpThreads; i < call.chunks; i += kWarpThreads)
    first = larger(first, call.firsts[b * call.chunks + i]);
  first = warp_merged(first, larger);
  Row row{.logits = call.logits + b * call.stride,
          .how = *reinterpret_cast<const SampleRow*>(call.rows + b * call.row_stride)};
  if (first >> 32 >= kInfinite || first >> 32 <= kNone) return row;
  row.token = token_of(first);
  row.draws = !(row.how.temperature < kGreedyBelow);
  row.largest = row.logits[row.token];
  row.weight = {.largest = row.largest, .scale = 1.0 / row.how.temperature};
  row.bins_per_logit = static_cast<float>(row.weight.scale * (kBins / kReach));
  return row;
}

/// visit(logit, token) for the tokens of [begin, end), begin a multiple of 4, whose logits are
/// wanted(logit); each by one of `threads` threads.
template <class Wanted, class Visit>
__device__ inline void for_tokens(const SampleCall& call, const float* logits, int32_t begin,
                                  int32_t end, int threads, const Wanted& wanted,
                                  const Visit& visit) {
  constexpr int kAhead = 4;  // fours that are read together
  const int32_t step = 4 * threads;
  for (int32_t first = begin + 4 * static_cast<int32_t>(threadIdx.x); first < end;
       first += kAhead * step) {
    float4 v[kAhead];
    unsigned hits = 0;
#pragma unroll
    for (int j = 0; j < kAhead; ++j)
      if (first + j * step < end) v[j] = load_four(logits, first + j * step, end, call.aligned);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int32_t i = first + j * step;
      hits |= (i < end && wanted(v[j].x) ? 1U : 0U) << (4 * j);
      hits |= (i + 1 < end && wanted(v[j].y) ? 2U : 0U) << (4 * j);
      hits |= (i + 2 < end && wanted(v[j].z) ? 4U : 0U) << (4 * j);
      hits |= (i + 3 < end && wanted(v[j].w) ? 8U : 0U) << (4 * j);
    }
    while (hits != 0) {
      const int n = 31 - __clz(static_cast<int>(hits));
      hits ^= 1U << n;
      const int32_t token = first + n / 4 * step + n % 4;
      visit(logits[token], token);
    }
  }
}

/// The tokens of this block's chunk.
template <class Visit>
__device__ inline void for_chunk(const SampleCall& call, const Visit& visit) {
  const auto begin = static_cast<int32_t>(blockIdx.x) * kChunk;
  const int32_t end = call.vocab - begin < kChunk ? call.vocab : begin + kChunk;
  for_tokens(
      call, call.logits + blockIdx.y * call.stride, begin, end, kThreads,
      [](float) { return true; }, visit);
}

struct FirstShared {
  Whole firsts[kThreads / kWarpThreads];
};

/// A block takes chunk blockIdx.x of row blockIdx.y, here and in weigh_chunk.
__global__ void __launch_bounds__(kThreads) find_first(SampleCall call) {
  wait_for_earlier();
  auto& s = shared<FirstShared>();
  const int64_t b = blockIdx.y;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = static_cast<int>(blockIdx.x) * kThreads + thread; i < kBins;
       i += call.chunks * kThreads) {
    call.masses[b * kBins + i] = 0;
    call.sizes[b * kBins + i] = 0;
    if (i == 0) call.likely[b] = 0;
  }
  Whole first = 0;
  for_chunk(call, [&](float logit, int32_t token) { first = larger(first, key_of(logit, token)); });
  first = warp_merged(first, larger);
  if (thread % kWarpThreads == 0) s.firsts[thread / kWarpThreads] = first;
  __syncthreads();
  if (thread > 0) return;
  for (const Whole other : s.firsts) first = larger(first, other);
  call.firsts[b * call.chunks + blockIdx.x] = first;
}

__global__ void __launch_bounds__(kThreads) weigh_chunk(SampleCall call) {
  wait_for_earlier();
  const int64_t b = blockIdx.y;
  const Row row = row_of(call, b);
  if (!row.draws) return;  // the whole block
  const bool counts = row.how.top_k > 0;
  const Whole least = weight_of_min_p(row.how.min_p);
  Whole likely = 0;
  for_chunk(call, [&](float logit, int32_t) {
    const Whole weight = row.weight(logit);
    if (weight == 0) return;
    const int64_t bin = b * kBins + row.bin(logit);
    atomicAdd(call.masses + bin, weight);
    if (counts) atomicAdd(call.sizes + bin, 1U);
    if (weight >= least) likely += weight;
  });
  if (!(row.how.min_p > 0)) return;  // the whole block
  likely = warp_merged(likely, [](Whole x, Whole y) { return x + y; });
  if (threadIdx.x % kWarpThreads == 0 && likely > 0) atomicAdd(call.likely + b, likely);
}

struct Sum {
  Whole mass, count;
};

struct Item {
  Whole key, weight;
};

/// A token and the weight of all tokens up to it.
struct Found {
  Whole mass;
  int32_t token;
};

struct ChooseShared {
  Whole masses[kBins];    ///< of the bins up to each
  uint32_t sizes[kBins];  ///< the same
  Item list[kListed];     ///< the tokens of one bin
  Sum sums[kChooseWarps];
  Whole mass_totals[kChooseWarps];
  uint32_t size_totals[kChooseWarps];
  Found found;
  int bin, listed;
};

/// through[i] = the sum of bins up to i.
template <class T>
__device__ inline void add_up(const T* bins, T (&through)[kBins], T (&totals)[kChooseWarps]) {
  constexpr int kMine = kBins / kChooseThreads;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads, lane = thread % kWarpThreads;
  T mine[kMine], sum = 0;
  for (int i = 0; i < kMine; ++i) mine[i] = sum += bins[thread * kMine + i];
  T before = sum;
  for (int delta = 1; delta < kWarpThreads; delta *= 2) {
    const T other = __shfl_up_sync(kAllLanes, before, delta);
    if (lane >= delta) before += other;
  }
  if (lane == kWarpThreads - 1) totals[warp] = before;
  __syncthreads();
  before -= sum;
  for (int w = 0; w < warp; ++w) before += totals[w];
  for (int i = 0; i < kMine; ++i) through[thread * kMine + i] = before + mine[i];
  __syncthreads();
}

__device__ inline Sum warp_added(Sum sum) {
  const auto add = [](Whole x, Whole y) { return x + y; };
  return {warp_merged(sum.mass, add), warp_merged(sum.count, add)};
}

__device__ inline Sum block_added(Sum sum, Sum (&sums)[kChooseWarps]) {
  sum = warp_added(sum);
  if (threadIdx.x % kWarpThreads == 0) sums[threadIdx.x / kWarpThreads] = sum;
  __syncthreads();
  sum = {0, 0};
  for (const Sum& other : sums) sum = {sum.mass + other.mass, sum.count + other.count};
  __syncthreads();
  return sum;
}

/// The item at which the order's sum of weights (or its length, where `counts`) reaches `target`,
/// bit by bit of its key, the highest first, until one is left. for_items(visit) shows a thread its
/// share of the `inside` items, whose keys differ below bit `bits` only and are `known` above;
/// `add` gives every thread the sum.
template <class ForItems, class Add>
__device__ inline Found bisect(Whole inside, Whole known, int bits, Whole target, bool counts,
                               const ForItems& for_items, const Add& add) {
  Whole before = 0;
  while (inside > 1) {
    --bits;
    const Whole upper = known | Whole{1} << bits;
    Sum sum{0, 0};
    for_items([&](Whole key, const auto& weight) {
      if ((key ^ upper) >> bits == 0) sum = {sum.mass + weight(), sum.count + 1};
    });
    sum = add(sum);
    const Whole reached = counts ? sum.count : sum.mass;
    if (target <= reached) {
      known = upper;
      inside = sum.count;
    } else {
      target -= reached;
      before += sum.mass;
      inside -= sum.count;
    }
  }
  Sum last{0, 0};  // the item's weight and key
  for_items([&](Whole key, const auto& weight) {
    if ((key ^ known) >> bits == 0) last = {weight(), key};
  });
  last = add(last);
  return {before + last.mass, token_of(last.count)};
}

/// The token of the row at which the sum of weights (or the number of tokens, where `counts`)
/// reaches `target`.
__device__ Found find(ChooseShared& s, const SampleCall& call, const Row& row, Whole target,
                      bool counts) {
  const int thread = static_cast<int>(threadIdx.x);
  const auto reached = [&](int bins) -> Whole {
    return bins == 0 ? 0 : counts ? s.sizes[bins - 1] : s.masses[bins - 1];
  };
  for (int i = thread; i < kBins; i += kChooseThreads)
    if (reached(i) < target && target <= reached(i + 1)) s.bin = i;
  if (thread == 0) s.listed = 0;
  __syncthreads();
  const int bin = s.bin;
  const auto for_bin = [&](const auto& visit) {
    for_tokens(
        call, row.logits, 0, call.vocab, kChooseThreads,
        [&](float logit) { return row.bin(logit) == bin; }, visit);
  };
  for_bin([&](float logit, int32_t token) {
    const Whole weight = row.weight(logit);
    if (weight == 0) return;
    const int at = atomicAdd(&s.listed, 1);
    if (at < kListed) s.list[at] = {key_of(logit, token), weight};
  });
  __syncthreads();
  const int listed = s.listed;
  const Whole before = bin == 0 ? 0 : s.masses[bin - 1];
  target -= reached(bin);
  Found found{};
  if (listed > kListed) {
    found = bisect(
        static_cast<Whole>(listed), 0, 64, target, counts,
        [&](const auto& visit) {
          for_bin([&](float logit, int32_t token) {
            visit(key_of(logit, token), [&] { return Whole{row.weight(logit)}; });
          });
        },
        [&](Sum sum) { return block_added(sum, s.sums); });
  } else {
    if (thread < kWarpThreads) {
      const auto for_list = [&](const auto& visit) {
        for (int i = thread; i < listed; i += kWarpThreads)
          visit(s.list[i].key, [&] { return s.list[i].weight; });
      };
      const Whole one = s.list[0].key;
      Whole differing = 0;
      for_list([&](Whole key, const auto&) { differing |= key ^ one; });
      differing = warp_merged(differing, [](Whole x, Whole y) { return x | y; });
      const auto high = static_cast<int>(differing >> 32), low = static_cast<int>(differing);
      const int bits = high != 0 ? 64 - __clz(high) : 32 - __clz(low);
      found = bisect(static_cast<Whole>(listed), bits == 64 ? 0 : one >> bits << bits, bits, target,
                     counts, for_list, warp_added);
      if (thread == 0) s.found = found;
    }
    __syncthreads();
    found = s.found;
  }
  __syncthreads();  // before the next search writes
  found.mass += before;
  return found;
}

/// A block is a row.
__global__ void __launch_bounds__(kChooseThreads, 1) choose_token(SampleCall call) {
  wait_for_earlier();
  auto& s = shared<ChooseShared>();
  const int64_t b = blockIdx.x;
  const Row row = row_of(call, b);
  if (!row.draws) {
    if (threadIdx.x == 0) call.tokens[b] = row.token;
    return;  // the whole block
  }
  add_up(call.masses + b * kBins, s.masses, s.mass_totals);
  Whole mass = s.masses[kBins - 1];
  if (row.how.top_k > 0) {
    add_up(call.sizes + b * kBins, s.sizes, s.size_totals);
    const auto most = static_cast<Whole>(row.how.top_k);
    if (most < s.sizes[kBins - 1]) mass = find(s, call, row, most, true).mass;
  }
  if (row.how.top_p < 1) mass = find(s, call, row, mass_of_top_p(row.how.top_p, mass), false).mass;
  if (row.how.min_p > 0 && call.likely[b] < mass) mass = call.likely[b];
  const int32_t token = find(s, call, row, place_of_draw(row.how.draw, mass) + 1, false).token;
  if (threadIdx.x == 0) call.tokens[b] = token;
}

}  // namespace

void sample(Device& device, In logits, In rows, Out tokens) {
  const int64_t B = logits.dim[0], V = logits.dim[1];
  const int64_t chunks = (V + kChunk - 1) / kChunk;
  CudaDevice& self_device = self(device);
  const auto wholes = [&](int lane, int64_t count) {
    return reinterpret_cast<Whole*>(
        self_device.scratch(lane, count * static_cast<int64_t>(sizeof(Whole))));
  };
  SampleCall call{.logits = logits.as<float>(),
                  .rows = rows.as<uint8_t>(),
                  .tokens = tokens.as<int32_t>(),
                  .stride = logits.stride[0],
                  .row_stride = rows.stride[0],
                  .vocab = static_cast<int32_t>(V),
                  .chunks = static_cast<int32_t>(chunks),
                  .aligned = rows_aligned(logits)};
  if (B == 0) return;
  call.firsts = wholes(0, B * chunks);
  call.masses = wholes(1, B * kBins);
  call.likely = wholes(2, B);
  call.sizes = reinterpret_cast<uint32_t*>(wholes(3, B * kBins / 2));
  launch(device, {.x = chunks, .y = B}, kThreads, sizeof(FirstShared), find_first, call);
  launch(device, {.x = chunks, .y = B}, kThreads, 0, weigh_chunk, call);
  launch(device, {.x = B}, kChooseThreads, sizeof(ChooseShared), choose_token, call);
}

}  // namespace sala::cuda
