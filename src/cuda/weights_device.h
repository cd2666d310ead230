#pragma once

#include "cuda/mma.h"
#include "ops/weight.h"

/// How kernels read packed weights (the layout is in ops/weight.h).
namespace sala::cuda {

/// The places of a panel of quantised weights, in bytes.
template <WeightType kType>
struct Layout {
  static constexpr int kColumns = group_columns(kType);
  static constexpr int kHeader = two_level(kType) ? 2 * kPanel : 4 * kPanel;
  static constexpr int kCodes = kColumns * kPanel / (narrow(kType) ? 2 : 1);
  static constexpr int kGroupBytes = kHeader + kCodes;
  static constexpr int kSuperHeader = two_level(kType) ? 4 * kPanel : 0;
  static constexpr int kSuperColumns = two_level(kType) ? kSuper : kColumns;
  static constexpr int kSuperGroups = kSuperColumns / kColumns;
  static constexpr int kSuperBytes = kSuperHeader + kSuperGroups * kGroupBytes;

  /// Of the super-block that holds group g (a group alone where there is none), and of the group.
  __device__ static int64_t super_place(int64_t g) { return g / kSuperGroups * kSuperBytes; }
  __device__ static int64_t group_place(int64_t g) {
    return super_place(g) + kSuperHeader + g % kSuperGroups * kGroupBytes;
  }
};

/// The scale and the minimum of output row n of a group.
struct Scaling {
  float scale, minimum;
};

template <WeightType kType>
__device__ inline Scaling scaling(const std::byte* super, const std::byte* group, int n) {
  const auto* level = reinterpret_cast<const uint16_t*>(two_level(kType) ? super : group);
  Scaling s{half_to_float(level[n]), half_to_float(level[kPanel + n])};
  if constexpr (two_level(kType)) {
    s.scale *= static_cast<float>(reinterpret_cast<const int8_t*>(group)[n]);
    s.minimum *= static_cast<float>(reinterpret_cast<const int8_t*>(group)[kPanel + n]);
  }
  return s;
}

/// The scales and minima of the output rows [first, first + 4) of a group as they lie, first a
/// multiple of 4, in global or shared memory.
struct RawScalings {
  Words2 scales, minima;
  uint32_t scale_codes, min_codes;
};

template <WeightType kType>
__device__ inline RawScalings raw_scalings(const std::byte* super, const std::byte* group,
                                           int first) {
  const std::byte* level = two_level(kType) ? super : group;
  RawScalings raw{*reinterpret_cast<const Words2*>(level + 2 * first),
                  *reinterpret_cast<const Words2*>(level + 2 * (kPanel + first)), 0, 0};
  if constexpr (two_level(kType)) {
    raw.scale_codes = *reinterpret_cast<const uint32_t*>(group + first);
    raw.min_codes = *reinterpret_cast<const uint32_t*>(group + kPanel + first);
  }
  return raw;
}

/// Those of output row first + i.
template <WeightType kType>
__device__ inline Scaling scaling(const RawScalings& raw, int i) {
  const int shift = 16 * (i % 2);
  Scaling s{half_to_float(raw.scales.at[i / 2] >> shift & 0xFFFF),
            half_to_float(raw.minima.at[i / 2] >> shift & 0xFFFF)};
  if constexpr (two_level(kType)) {
    s.scale *= static_cast<float>(static_cast<int8_t>(raw.scale_codes >> 8 * i));
    s.minimum *= static_cast<float>(static_cast<int8_t>(raw.min_codes >> 8 * i));
  }
  return s;
}

/// How tensor cores take a panel: lane 4 g + t of a warp reads 16 bytes at a time, the words of
/// output rows 4 g .. 4 g + 3 in one row of words. Words 2 j and 2 j + 1 are the rows g and g + 8
/// of tile j of 16 output rows, so that tile j of 0 and 1 has the output rows 4 g + 2 j + h.
inline constexpr int kRowTiles = 2;

/// The steps of a group of codes: of 32 columns (16 for k8) of one mma each. Lane 4 g + t has the
/// eight columns from 8 t on (four from 4 t on) in two loads, of four bits in one.
template <WeightType kType>
struct Steps {
  static constexpr int kColumns = group_columns(kType) < 32 ? group_columns(kType) : 32;
  static constexpr int kLoads = narrow(kType) || kColumns < 32 ? 1 : 2;
  static constexpr int kCount = group_columns(kType) / kColumns;

  /// The row of words of load l of step `step`.
  __device__ static constexpr int row(int step, int l, int t) {
    return (step * 4 + t) * kLoads + l;
  }
  /// The t of the lanes that load a row of words.
  __device__ static constexpr int lane_of(int row) { return row / kLoads % 4; }

  /// Where the activations of a step are, in bytes from those of the group.
  __device__ static constexpr int activations(int step, int t) {
    return step * kColumns + t * (kColumns / 4);
  }

  /// sum += tile j of the weights times 8 rows of activations.
  __device__ static void add(int32_t (&sum)[4], const Words4 (&raw)[kLoads], int j,
                             const Words2& x) {
    const uint32_t first = raw[0].at[2 * j], second = raw[0].at[2 * j + 1];
    const uint32_t b[2] = {x.at[0], x.at[1]};
    if constexpr (kColumns < 32) {
      const uint32_t a[2] = {first, second};
      mma_bytes(sum, a, b[0]);
    } else if constexpr (narrow(kType)) {
      const uint32_t a[4] = {first & 0x0F0F0F0F, second & 0x0F0F0F0F, first >> 4 & 0x0F0F0F0F,
                             second >> 4 & 0x0F0F0F0F};
      mma_bytes(sum, a, b);
    } else {
      const uint32_t a[4] = {first, second, raw[1].at[2 * j], raw[1].at[2 * j + 1]};
      mma_bytes(sum, a, b);
    }
  }

  /// The lane's activations of a step.
  __device__ static Words2 load_activations(const std::byte* from) {
    if constexpr (kColumns < 32) return {{*reinterpret_cast<const uint32_t*>(from), 0}};
    return *reinterpret_cast<const Words2*>(from);
  }
};

/// In shared memory the 16-byte pieces of a line of 128 bytes are permuted by an exclusive or with
/// what tells the lanes of a quarter warp apart, so that their loads fall into different banks.
inline constexpr int kPieces = 8;

/// The places of piece c of a row of pairs of a bf16 panel, and of a row of words of codes that
/// lanes t load.
__device__ constexpr int pair_piece(int row, int c) { return c ^ row / 4 % 4 * 2; }
__device__ constexpr int code_piece(int t, int c) { return c ^ t * 2; }

/// { scale, scale * sum of the codes } of two rows of activations.
struct alignas(16) PairScales {
  float at[2][2];
};

/// Adds a group: sum i of a fragment is of output row 2 j + i / 2 of the lane's four and of row
/// i % 2 of its two rows of activations.
template <WeightType kType>
__device__ inline void add_group(float (&chain)[4], const int32_t (&sum)[4], const RawScalings& raw,
                                 int j, const PairScales& x) {
  for (int i = 0; i < 4; ++i) {
    const Scaling s = scaling<kType>(raw, 2 * j + i / 2);
    chain[i] = fmaf(static_cast<float>(sum[i]), x.at[i % 2][0] * s.scale, chain[i]);
    chain[i] = fmaf(x.at[i % 2][1], s.minimum, chain[i]);
  }
}

/// Columns [32 * half, 32 * half + 32) of a panel of bf16 in two steps: lane 4 g + t has the pairs
/// of columns 4 t .. 4 t + 3, in rows of words or a row of activations.
__device__ inline void add_bf16(float (&sum)[4], const Words4 (&rows)[4], int j, int step,
                                const Words4& x) {
  const Words4& first = rows[2 * step];
  const Words4& second = rows[2 * step + 1];
  const uint32_t a[4] = {first.at[2 * j], first.at[2 * j + 1], second.at[2 * j],
                         second.at[2 * j + 1]};
  const uint32_t b[2] = {x.at[2 * step], x.at[2 * step + 1]};
  mma_bf16(sum, a, b);
}

/// Codes as bf16: eight columns of an output are one row of words of four bits, two of eight.
template <WeightType kType>
struct Decoding {
  static constexpr int kWords = narrow(kType) ? 1 : 2;
  static constexpr int kLineColumns = 8 / kWords;  ///< of a row of words

  /// Where those from a column of a chunk of kCodeChunk or fewer on are, in bytes from the chunk's
  /// first group: its group, and the words. Groups divide the chunk.
  struct Place {
    int group, words;
  };
  __device__ static Place place(int column) {
    using L = Layout<kType>;
    const int group = column / L::kColumns * L::kGroupBytes;
    return {group, group + L::kHeader + column % L::kColumns / kLineColumns * (4 * kPanel)};
  }

  /// Codes of four bits are decoded in bf16, two at a time, so that few rows of activations do not
  /// wait for it; scale and minimum are rounded to bf16, which errs least where codes lie around
  /// zero. Those of eight are not whole numbers of bf16 when they come, and are decoded in f32.
  explicit __device__ Decoding(const Scaling& s) {
    if constexpr (narrow(kType)) {
      scale = pack_bf16(s.scale, s.scale);
      const float middle = fmaf(8.0f, s.scale, s.minimum);
      minimum = pack_bf16(middle, middle);
    } else {
      scale = std::bit_cast<uint32_t>(s.scale);
      minimum = std::bit_cast<uint32_t>(fmaf(-32768.0f, s.scale, s.minimum));
    }
  }

  /// The four pairs of the eight columns.
  __device__ void pairs(const uint32_t (&words)[kWords], uint32_t (&out)[4]) const {
    if constexpr (narrow(kType)) {
      const uint32_t codes[2] = {words[0] & 0x0F0F0F0F, words[0] >> 4 & 0x0F0F0F0F};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // In the last bits of 128 a code adds itself; 136 is taken off.
        const uint32_t biased = __byte_perm(codes[i / 2], 0x43434343, i % 2 == 0 ? 0x4140 : 0x4342);
        out[i] = fma_bf16(fma_bf16(biased, 0x3F803F80, 0xC308C308), scale, minimum);
      }
    } else {
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) {
        // Of 32768 the second byte counts ones. So many times the scale is in `minimum`, which is
        // inexact by at most 1/512 of the scale.
        const auto value = [&](unsigned byte) {
          const uint32_t biased = __byte_perm(words[i / 2], 0x47000000, 0x7404 | byte << 4);
          return fmaf(std::bit_cast<float>(scale), std::bit_cast<float>(biased),
                      std::bit_cast<float>(minimum));
        };
        out[i] = pack_bf16(value(i % 2 * 2), value(i % 2 * 2 + 1));
      }
    }
  }

  uint32_t scale, minimum;  ///< a pair of bf16, or f32
};

/// The rows of words of 32 columns that a lane has, of four outputs, as those of a bf16 panel.
template <WeightType kType>
__device__ inline void decode_rows(const Words4 (&raw)[Decoding<kType>::kWords],
                                   const RawScalings& scales, Words4 (&rows)[4]) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    uint32_t words[Decoding<kType>::kWords], pairs[4];
    for (int i = 0; i < Decoding<kType>::kWords; ++i) words[i] = raw[i].at[n];
    Decoding<kType>(scaling<kType>(scales, n)).pairs(words, pairs);
    for (int i = 0; i < 4; ++i) rows[i].at[n] = pairs[i];
  }
}

/// Columns [k, k + 8) of output row n of a panel as f32, k a multiple of 8; zeros past the end.
template <WeightType kType>
__device__ inline void eight_columns(const std::byte* panel, int64_t cols, int64_t k, int n,
                                     float (&w)[8]) {
  if constexpr (kType == WeightType::f32) {
    const float* from = reinterpret_cast<const float*>(panel) + k * kPanel + n;
    for (int i = 0; i < 8; ++i) w[i] = k + i < cols ? from[i * kPanel] : 0.0f;
  } else if constexpr (kType == WeightType::f16) {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(panel) + k * kPanel + n;
    for (int i = 0; i < 8; ++i) w[i] = k + i < cols ? half_to_float(from[i * kPanel]) : 0.0f;
  } else if constexpr (kType == WeightType::bf16) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(panel) + k / 2 * kPanel + n;
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = k + 2 * i < cols ? from[i * kPanel] : 0;
      w[2 * i] = std::bit_cast<float>(pair << 16);
      w[2 * i + 1] = std::bit_cast<float>(pair & 0xFFFF0000);
    }
  } else {
    using L = Layout<kType>;
    if (k >= cols) {
      for (int i = 0; i < 8; ++i) w[i] = 0;
      return;
    }
    const int64_t g = k / L::kColumns;
    const std::byte* group = panel + L::group_place(g);
    const Scaling s = scaling<kType>(panel + L::super_place(g), group, n);
    const int column = static_cast<int>(k % L::kColumns);
    const auto* words = reinterpret_cast<const uint32_t*>(group + L::kHeader) + n;
    uint32_t low, high;
    if constexpr (narrow(kType)) {
      const uint32_t word = words[column / 8 * kPanel];
      low = word & 0x0F0F0F0F;
      high = word >> 4 & 0x0F0F0F0F;
    } else {
      low = words[column / 4 * kPanel];
      high = words[(column / 4 + 1) * kPanel];
    }
    for (int i = 0; i < 4; ++i) {
      w[i] = fmaf(s.scale, static_cast<float>(low >> 8 * i & 255), s.minimum);
      w[4 + i] = fmaf(s.scale, static_cast<float>(high >> 8 * i & 255), s.minimum);
    }
  }
}

/// Calls `work.operator()<type>()` for the type of a weight.
template <class Work>
void for_type(WeightType type, const Work& work) {
  switch (type) {
    case WeightType::f32:
      return work.template operator()<WeightType::f32>();
    case WeightType::f16:
      return work.template operator()<WeightType::f16>();
    case WeightType::bf16:
      return work.template operator()<WeightType::bf16>();
    case WeightType::w8:
      return work.template operator()<WeightType::w8>();
    case WeightType::w4:
      return work.template operator()<WeightType::w4>();
    case WeightType::w8g64:
      return work.template operator()<WeightType::w8g64>();
    case WeightType::w4g64:
      return work.template operator()<WeightType::w4g64>();
    case WeightType::w8g128:
      return work.template operator()<WeightType::w8g128>();
    case WeightType::w4g128:
      return work.template operator()<WeightType::w4g128>();
    case WeightType::k8:
      return work.template operator()<WeightType::k8>();
    case WeightType::k4:
      return work.template operator()<WeightType::k4>();
  }
}

}  // namespace sala::cuda
