#include "cuda/matmul_kernels.h"
#include "cuda/warpgroup.h"
#include "cuda/weights_device.h"

// matmul for at most eight rows of activations: bound by the reading of the weights, which go from
// global memory straight into the registers that tensor cores multiply from, 16 bytes a lane, whole
// lines of 128 bytes a load. A block makes 32 outputs (of both parts of a pair), a warp one segment
// of the columns of each part, lane 4 g + t as in weights_device.h.

namespace sala::cuda {
namespace {

constexpr int kThreads = kSegments * kWarpThreads;
constexpr int kRows = static_cast<int>(kDecodeRows);
constexpr int kPitch = kPanel + 4;  // the stores of a warp fall into different banks

template <int kParts>
struct Shared {
  float sums[kSegments][kParts][kRows][kPitch];
};

/// The columns of segment i.
struct Segment {
  __device__ Segment(const Product& p, int i)
      : begin(i * p.segment), end(begin + p.segment < p.cols ? begin + p.segment : p.cols) {}
  int64_t begin, end;
};

using Sums = float[kRowTiles][4];

/// The whole of a kernel: `sum_segment(p, lane, panel, segment, sum)` adds a segment of a part;
/// then the segments are added in order. A panel's columns begin at `bytes_before(column)`.
template <int kParts, class BytesBefore, class SumSegment>
__device__ inline void decode(const Product& p, const BytesBefore& bytes_before,
                              const SumSegment& sum_segment) {
  auto& s = shared<Shared<kParts>>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int g = lane / 4, t = lane % 4;
  const Segment own(p, warp);
  const std::byte* panels = p.panels + int64_t{blockIdx.x} * kParts * p.panel_bytes;
  // The first of the weights come while activations are made.
  if (const int64_t place = bytes_before(own.begin) + kLine * lane; place < p.panel_bytes)
    prefetch(panels + place);
  wait_for_earlier();
#pragma unroll 1
  for (int part = 0; part < kParts; ++part) {
    Sums sum = {};
    sum_segment(p, lane, panels + part * p.panel_bytes, own, sum);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<Floats4*>(&s.sums[warp][part][2 * t + i][4 * g]) = {
          {sum[0][i], sum[0][2 + i], sum[1][i], sum[1][2 + i]}};
  }
  __syncthreads();
  const int64_t out = int64_t{blockIdx.x} * kPanel + lane;
  if (warp >= p.tokens || out >= p.rows) return;
  float total[kParts] = {};
  for (int segment = 0; segment < kSegments; ++segment)
    for (int part = 0; part < kParts; ++part) total[part] += s.sums[segment][part][warp][lane];
  p.y[warp * p.y_stride + out] = kParts == 2 ? swiglu(total[0], total[kParts - 1]) : total[0];
}
static_assert(kRows <= kSegments);  // a warp writes a row

/// Columns [k, k + 8) of a row of activations, which has a multiple of eight, rounded to bf16;
/// zeros past its end and where there is none.
__device__ inline Words4 eight_rounded(const float* row, int64_t k, int64_t cols) {
  if (row == nullptr || k >= cols) return {};
  const auto a = *reinterpret_cast<const Floats4*>(row + k);
  const auto b = *reinterpret_cast<const Floats4*>(row + k + 4);
  return {{pack_bf16(a.at[0], a.at[1]), pack_bf16(a.at[2], a.at[3]), pack_bf16(b.at[0], b.at[1]),
           pack_bf16(b.at[2], b.at[3])}};
}

/// bf16 weights times bf16 activations, or f32 ones rounded on their way: 4 KB of weights under way
/// a warp.
template <bool kRounds>
__device__ void sum_bf16(const Product& p, int lane, const std::byte* panel, const Segment& segment,
                         Sums& sum) {
  const int g = lane / 4, t = lane % 4;
  const int64_t pairs = (p.cols + 1) / 2;
  const std::byte* x = p.x + (g * p.x_stride + 8 * t) * (kRounds ? 4 : 2);
  const float* row = g < p.tokens ? reinterpret_cast<const float*>(x) : nullptr;

  for (int64_t k = segment.begin; k < segment.end; k += kValueChunk) {
    Words4 w[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t pair = k / 2 + 16 * half + 4 * t + i;
        w[half][i] = pair < pairs ? load_once(panel + pair * 4 * kPanel + 16 * g) : Words4{};
      }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Words4 b = kRounds ? eight_rounded(row, k + 32 * half, p.cols - 8 * t)
                               : *reinterpret_cast<const Words4*>(x + (k + 32 * half) * 2);
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j) add_bf16(sum[j], w[half], j, step, b);
    }
  }
}

template <int kParts, bool kRounds>
__global__ void __launch_bounds__(kThreads, 1) bf16_decode(Product p) {
  decode<kParts>(
      p, [](int64_t column) { return column * 2 * kPanel; },
      [](auto&&... all) { sum_bf16<kRounds>(all...); });
}

/// Codes of weights, decoded to bf16, times bf16 activations or f32 ones rounded on their way:
/// weights of 128 columns under way a warp, or of 64 where they take more registers.
template <WeightType kType, bool kRounds>
__device__ void sum_decoded(const Product& p, int lane, const std::byte* panel,
                            const Segment& segment, Sums& sum) {
  using D = Decoding<kType>;
  using L = Layout<kType>;
  const int g = lane / 4, t = lane % 4;
  constexpr int kParts = two_level(kType) && !narrow(kType) ? 2 : 4;
  const std::byte* x = p.x + (g * p.x_stride + 8 * t) * (kRounds ? 4 : 2);
  const float* row = g < p.tokens ? reinterpret_cast<const float*>(x) : nullptr;

  for (int64_t k = segment.begin; k < segment.end; k += 32 * kParts) {
    Words4 raw[kParts][D::kWords] = {};
    RawScalings scales[kParts] = {};
    const std::byte* super = panel + L::super_place(k / L::kColumns);
    const std::byte* first = panel + L::group_place(k / L::kColumns);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (k + 32 * part >= segment.end) continue;
      const typename D::Place place = D::place(32 * part + 8 * t);
      scales[part] = raw_scalings<kType>(super, first + place.group, 4 * g);
#pragma unroll
      for (int i = 0; i < D::kWords; ++i)
        raw[part][i] = load_once(first + place.words + i * 4 * kPanel + 16 * g);
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (k + 32 * part >= segment.end) continue;
      Words4 w[4];
      decode_rows<kType>(raw[part], scales[part], w);
      const Words4 b = kRounds ? eight_rounded(row, k + 32 * part, p.cols - 8 * t)
                               : *reinterpret_cast<const Words4*>(x + (k + 32 * part) * 2);
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j) add_bf16(sum[j], w, j, step, b);
    }
  }
}

template <WeightType kType, int kParts, bool kRounds>
__global__ void __launch_bounds__(kThreads, 1) decoded_decode(Product p) {
#ifdef SALA_WARPGROUPS  // others multiply codes
  using L = Layout<kType>;
  decode<kParts>(
      p, [](int64_t column) { return L::super_place(column / L::kColumns); },
      [](auto&&... all) { sum_decoded<kType, kRounds>(all...); });
#endif
}

/// Groups whose weights a lane holds in registers: as many as take about 48 of them, 2 to 4 KB a
/// warp.
template <WeightType kType>
__device__ constexpr int groups_at_once() {
  const int registers = Layout<kType>::kCodes / (4 * kWarpThreads) + (two_level(kType) ? 6 : 4);
  int groups = 1;
  while (2 * groups * registers <= 48) groups *= 2;
  return groups;
}

/// Codes of weights times codes of activations.
template <WeightType kType>
__device__ void sum_codes(const Product& p, int lane, const std::byte* panel,
                          const Segment& segment, Sums& chain) {
  using L = Layout<kType>;
  using S = Steps<kType>;
  const int g = lane / 4, t = lane % 4;
  constexpr int kAtOnce = groups_at_once<kType>();
  const std::byte* x = p.x + g * p.x_stride;
  const float* scales = p.scales + 2 * t * 2;
  const int last = static_cast<int>(segment.end / L::kColumns);

  for (int first = static_cast<int>(segment.begin / L::kColumns); first < last; first += kAtOnce) {
    Words4 raw[kAtOnce][S::kCount][S::kLoads] = {};
    RawScalings header[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= last) continue;
      const std::byte* group = panel + L::group_place(first + i);
      header[i] = raw_scalings<kType>(panel + L::super_place(first + i), group, 4 * g);
#pragma unroll
      for (int step = 0; step < S::kCount; ++step)
#pragma unroll
        for (int l = 0; l < S::kLoads; ++l)
          raw[i][step][l] =
              load_once(group + L::kHeader + S::row(step, l, t) * 4 * kPanel + 16 * g);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= last) continue;
      const std::byte* codes = x + int64_t{first + i} * L::kColumns;
      const auto pair =
          *reinterpret_cast<const PairScales*>(scales + (first + i) * p.padded_tokens * 2);
      int32_t sum[kRowTiles][4] = {};
#pragma unroll
      for (int step = 0; step < S::kCount; ++step) {
        const Words2 b = S::load_activations(codes + S::activations(step, t));
#pragma unroll
        for (int j = 0; j < kRowTiles; ++j) S::add(sum[j], raw[i][step], j, b);
      }
#pragma unroll
      for (int j = 0; j < kRowTiles; ++j) add_group<kType>(chain[j], sum[j], header[i], j, pair);
    }
  }
}

template <WeightType kType, int kParts>
__global__ void __launch_bounds__(kThreads, 1) int8_decode(Product p) {
  using L = Layout<kType>;
  decode<kParts>(
      p, [](int64_t column) { return L::group_place(column / L::kColumns); },
      [](auto&&... all) { sum_codes<kType>(all...); });
}

template <void kOne(Product), void kPaired(Product)>
void run(Device& device, const Product& p) {
  if (p.paired)
    launch(device, {.x = p.panel_count / 2}, kThreads, sizeof(Shared<2>), kPaired, p);
  else
    launch(device, {.x = p.panel_count}, kThreads, sizeof(Shared<1>), kOne, p);
}

}  // namespace

void matmul_decode_bf16(Device& device, WeightType type, const Product& p) {
  if (type == WeightType::bf16)
    p.rounds ? run<bf16_decode<1, true>, bf16_decode<2, true>>(device, p)
             : run<bf16_decode<1, false>, bf16_decode<2, false>>(device, p);
  else
    for_type(type, [&]<WeightType kType>() {
      if constexpr (quantised(kType))
        p.rounds ? run<decoded_decode<kType, 1, true>, decoded_decode<kType, 2, true>>(device, p)
                 : run<decoded_decode<kType, 1, false>, decoded_decode<kType, 2, false>>(device, p);
    });
}

void matmul_decode_int8(Device& device, WeightType type, const Product& p) {
  for_type(type, [&]<WeightType kType>() {
    if constexpr (quantised(kType)) run<int8_decode<kType, 1>, int8_decode<kType, 2>>(device, p);
  });
}

}  // namespace sala::cuda
