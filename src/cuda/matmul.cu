#include "cuda/kernels.h"
#include "cuda/matmul_kernels.h"
#include "cuda/mma.h"
#include "cuda/rows_device.h"

// matmul: converts the activations into scratch and chooses the kernels.

namespace sala::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpThreads;

/// Activations as they come, and what becomes of them.
struct Rows {
  const float* x;
  int64_t x_stride, tokens, cols;
  int64_t padded_tokens, out_stride;
  int group;      ///< int8: columns of a scale
  int sum_group;  ///< int8: columns of a sum
};

__device__ inline float value_at(const Rows& rows, int64_t t, int64_t k) {
  return t < rows.tokens && k < rows.cols ? rows.x[t * rows.x_stride + k] : 0.0f;
}

/// A block writes one row, as it is or rounded to bf16, zeros at its end.
template <bool kRound>
__global__ void f32_row(Rows rows, float* out) {
  wait_for_earlier();
  const int64_t t = blockIdx.x;
  for (int64_t k = threadIdx.x; k < rows.out_stride; k += kThreads) {
    const float x = value_at(rows, t, k);
    out[t * rows.out_stride + k] = kRound ? bf16_to_f32(f32_to_bf16(x)) : x;
  }
}

/// A block rounds one row to bf16, its columns as they come or for products of warpgroups.
template <bool kWarpgroups>
__global__ void bf16_row(Rows rows, uint16_t* out) {
  wait_for_earlier();
  const int64_t t = blockIdx.x;
  for (int64_t k = threadIdx.x; k < rows.out_stride; k += kThreads)
    out[t * rows.out_stride + k] =
        f32_to_bf16(value_at(rows, t, kWarpgroups ? warpgroup_column(k) : k));
}

/// A warp rounds one group of one row to codes: a lane has every 32nd column. `values` takes scale
/// * code where it is given, else `codes` and `scales` take them apart.
__global__ void int8_group(Rows rows, int64_t groups, float* values, int8_t* codes, float* scales) {
  wait_for_earlier();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t row_blocks = (groups + kWarps - 1) / kWarps;
  const int64_t t = blockIdx.x / row_blocks;
  const int64_t g = blockIdx.x % row_blocks * kWarps + threadIdx.x / kWarpThreads;
  if (g >= groups) return;  // a whole warp
  // The largest among the bits of |x|, so that a NaN is the largest and stays.
  int largest = 0;
  for (int i = lane; i < rows.group; i += kWarpThreads) {
    const int bits = std::bit_cast<int>(fabsf(value_at(rows, t, g * rows.group + i)));
    largest = bits > largest ? bits : largest;
  }
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    const int other = __shfl_xor_sync(kAllLanes, largest, step);
    largest = other > largest ? other : largest;
  }
  const float scale = std::bit_cast<float>(largest) / 127;
  int sum = 0;
  for (int i = lane; i < rows.group; i += kWarpThreads) {
    const int64_t k = g * rows.group + i;
    const float code =
        scale == 0 ? 0.0f : rintf(fminf(fmaxf(value_at(rows, t, k) / scale, -127.0f), 127.0f));
    sum += static_cast<int>(code);
    if (values == nullptr)
      codes[t * rows.out_stride + k] = static_cast<int8_t>(code);
    else if (k < rows.out_stride)
      values[t * rows.out_stride + k] = scale * code;
  }
  if (values != nullptr) return;
  // Over the 16 lanes of a half, then over both: sums of half a group lie beside each other.
  for (int step = kWarpThreads / 4; step > 0; step /= 2)
    sum += __shfl_xor_sync(kAllLanes, sum, step);
  const bool halves = rows.sum_group < rows.group;
  const int other = __shfl_xor_sync(kAllLanes, sum, kWarpThreads / 2);
  if (!halves) sum += other;
  if (lane != 0 && !(halves && lane == kWarpThreads / 2)) return;
  const int64_t place = halves ? 2 * g + lane / (kWarpThreads / 2) : g;
  float* out = scales + (place * rows.padded_tokens + t) * 2;
  out[0] = scale;
  out[1] = scale * static_cast<float>(sum);
}

/// Whether codes are multiplied as integers.
bool in_codes(WeightType type, Compute compute) {
  return compute == Compute::int8 && quantised(type);
}
/// Whether weights are multiplied as bf16, codes decoded to it.
bool in_bf16(Device& device, WeightType type, Compute compute) {
  return compute == Compute::bf16 &&
         (type == WeightType::bf16 || (quantised(type) && self(device).multiplies_by_warpgroups()));
}

void convert(Device& device, In x, WeightType type, Compute compute, Product& p) {
  const bool codes = in_codes(type, compute), bf16 = in_bf16(device, type, compute);
  p.padded_tokens = round_up(p.tokens, kRowUnit);
  p.x_stride = round_up(p.cols, codes ? kCodeChunk : kValueChunk);
  const int64_t size = codes ? 1 : bf16 ? 2 : 4;
  std::byte* out = self(device).scratch(0, p.padded_tokens * p.x_stride * size);
  p.x = out;
  const Rows rows{.x = x.as<float>(),
                  .x_stride = x.stride[0],
                  .tokens = p.tokens,
                  .cols = p.cols,
                  .padded_tokens = p.padded_tokens,
                  .out_stride = p.x_stride,
                  .group = activation_columns(type),
                  .sum_group = sum_columns(type)};
  const Grid grid{.x = p.padded_tokens};
  auto* values = reinterpret_cast<float*>(out);
  if (compute == Compute::f32) {
    launch(device, grid, kThreads, 0, f32_row<false>, rows, values);
  } else if (bf16) {
    launch(device, grid, kThreads, 0, p.warpgroups ? bf16_row<true> : bf16_row<false>, rows,
           reinterpret_cast<uint16_t*>(out));
  } else if (compute == Compute::bf16) {
    launch(device, grid, kThreads, 0, f32_row<true>, rows, values);
  } else {
    // Codes end where the groups do: those of a last chunk behind it are never read.
    const int64_t groups = (codes ? p.cols : p.x_stride) / rows.group;
    float* scales = nullptr;
    if (codes)
      scales = reinterpret_cast<float*>(self(device).scratch(
          1, p.cols / rows.sum_group * p.padded_tokens * 2 * int64_t{sizeof(float)}));
    p.scales = scales;
    launch(device, {.x = p.padded_tokens * ((groups + kWarps - 1) / kWarps)}, kThreads, 0,
           int8_group, rows, groups, codes ? nullptr : values, reinterpret_cast<int8_t*>(out),
           scales);
  }
}

}  // namespace

void matmul(Device& device, In x, const Weight& w, Epilogue epilogue, Compute compute, Out y) {
  SALA_CHECK((epilogue == Epilogue::swiglu) == w.paired, "swiglu takes a paired weight");
  if (x.dim[0] == 0) return;
  const bool codes = in_codes(w.type, compute);
  Product p{.panels = w.data,
            .panel_bytes = w.panel_bytes(),
            .panel_count = w.panels(),
            .rows = w.rows,
            .cols = w.cols,
            .paired = w.paired,
            .segment = segment_columns(w.cols, quantised(w.type) ? kCodeChunk : kValueChunk),
            .tokens = x.dim[0],
            .y = y.as<float>(),
            .y_stride = y.stride[0]};
  const bool bf16 = in_bf16(device, w.type, compute);
  const bool few = p.tokens <= kDecodeRows, batch = p.tokens <= kBatchRows;
  // Codes of activations need the largest of a group, which every block would have to look for.
  p.rounds = bf16 && p.tokens <= kRoundedRows && p.cols % 8 == 0 && rows_aligned(x);
  p.warpgroups = bf16 && self(device).multiplies_by_warpgroups() &&
                 p.tokens > (quantised(w.type) ? kBatchRows : kTiledRows);
  if (p.rounds) {
    p.x = reinterpret_cast<const std::byte*>(x.as<float>());
    p.x_stride = x.stride[0];
  } else {
    convert(device, x, w.type, compute, p);
  }
  if (codes)
    (few ? matmul_decode_int8 : batch ? matmul_batch_int8 : matmul_prefill_int8)(device, w.type, p);
  else if (bf16)
    (few            ? matmul_decode_bf16
     : batch        ? matmul_batch_bf16
     : p.warpgroups ? matmul_warpgroup_bf16
                    : matmul_prefill_bf16)(device, w.type, p);
  else
    matmul_fma(device, w.type, p);
}

}  // namespace sala::cuda
