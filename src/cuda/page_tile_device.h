#pragma once

#include <bit>

#include "cuda/mma.h"
#include "cuda/pages_device.h"

/// A kv head's page of 64 tokens in shared memory, as mma.sync takes its B fragments: words of two
/// bf16, keys [channel / 2][token] and values [token / 2][channel]. bf16 pages lie like that;
/// codes are copied as they lie and decoded once for the whole block of threads.
namespace sala::cuda {

inline constexpr int kTilePage = 64;

/// Words between rows of pairs: 8 more than a multiple of 32, so that the 4 rows and 8 columns of
/// a fragment lie in 32 banks.
constexpr int pair_stride(int columns) { return columns + 8; }

/// This thread's part of kRows rows of kColumns items: always the same column, in rows kStep apart,
/// so that addresses differ by constants.
template <int kThreads, int kRows, int kColumns>
struct Share {
  static constexpr int kStep = kThreads / kColumns;
  static constexpr int kItems = (kRows + kStep - 1) / kStep;

  int first = static_cast<int>(threadIdx.x) / kColumns;
  int column = static_cast<int>(threadIdx.x) % kColumns;

  constexpr int row(int i) const { return first + i * kStep; }
  constexpr bool has(int i) const {
    return (kThreads % kColumns == 0 || first < kStep) && (kRows % kStep == 0 || row(i) < kRows);
  }
};

/// Begins to copy kRows rows of kChunks times 16 bytes, without gaps, to rows kStride words apart.
template <int kThreads, int kRows, int kChunks, int kStride>
__device__ inline void copy_rows(const void* from, uint32_t* to) {
  const Share<kThreads, kRows, kChunks> mine;
#pragma unroll
  for (int i = 0; i < mine.kItems; ++i)
    if (mine.has(i))
      copy_async(to + mine.row(i) * kStride + mine.column * 4,
                 static_cast<const std::byte*>(from) + int64_t{16} * kChunks * mine.row(i) +
                     16 * mine.column,
                 true);
}

/// What the codes of a token's group stand for, from the codes as nonnegative bytes: a byte
/// becomes the mantissa of 32768 + byte (int8) or 128 + byte (int4), and one FMA takes that off.
/// Exact for int8, whose scale times 32768 + 128 has 20 bits; of int4 off by at most 2^-17 of the
/// scale.
template <KvType kType>
struct CodeLine {
  float scale, offset;

  __device__ CodeLine(uint32_t grid_scale, uint32_t minimum)  // f16 bits
      : scale(half_to_float(grid_scale)),
        offset(kType == KvType::int8 ? -(32768.0f + 128) * scale
                                     : fmaf(-128, scale, half_to_float(minimum))) {}

  __device__ float value(uint32_t bytes, int i) const {
    const uint32_t number = kType == KvType::int8 ? __byte_perm(0x47, bytes, 0x0141 + (i << 4))
                                                  : __byte_perm(0x43, bytes, 0x0411 + (i << 8));
    return fmaf(scale, std::bit_cast<float>(number), offset);
  }
};

/// The keys of a page of codes as they lie in it, or its values, and their decoding.
template <KvType kType, int kDim, int kThreads, bool kKeys>
struct PageCodes {
  static constexpr bool kInt4 = kType == KvType::int4;
  static constexpr int kParts = kInt4 ? 2 : 1;     // codes of a byte
  static constexpr int kCodeRows = kDim / kParts;  // rows of K^T, columns of V
  static constexpr int kRows = kKeys ? kCodeRows : kTilePage;
  static constexpr int kRowWords = (kKeys ? kTilePage : kCodeRows) / 4;
  static constexpr int kGroups = kInt4 ? kDim / kInt4Group : 1;
  static constexpr int kTokenPairs = kTilePage / 2;

  alignas(16) uint32_t codes[kRows * kRowWords];
  /// Scales, then minima: [group][token / 2] pairs of f16.
  alignas(16) uint32_t grid[kParts * kGroups * kTokenPairs];

  __device__ void copy(const uint16_t* from_grid, const std::byte* from_codes) {
    copy_rows<kThreads, kParts * kGroups * kTokenPairs / 4, 1, 4>(from_grid, grid);
    copy_rows<kThreads, kRows * kRowWords / 4, 1, 4>(from_codes, codes);
  }

  /// Channel of a row of K^T, or column of V.
  static constexpr int channel(int code_row, int part) {
    return kInt4 ? code_row / 16 * kInt4Group + part * 16 + code_row % 16 : code_row;
  }

  /// Four columns of two rows, which a thread decodes at once: four tokens of two channels, or two
  /// tokens of four; and the grids of the tokens, in pairs.
  struct Item {
    uint32_t codes[2], scales[kKeys ? 2 : 1], minima[kKeys ? 2 : 1];

    __device__ CodeLine<kType> line(int token) const {
      const int shift = token % 2 * 16;
      return {scales[token / 2] >> shift & 0xFFFF, minima[token / 2] >> shift & 0xFFFF};
    }
  };

  __device__ Item load(int row, int word) const {
    const int group = kInt4 ? (kKeys ? row / 16 : word / 4) : 0;
    const int pair = group * kTokenPairs + (kKeys ? word * 2 : row / 2);
    Item item{};
    for (int i = 0; i < 2; ++i) item.codes[i] = codes[(row + i) * kRowWords + word];
    for (int i = 0; i < (kKeys ? 2 : 1); ++i) {
      item.scales[i] = grid[pair + i];
      if constexpr (kInt4) item.minima[i] = grid[kGroups * kTokenPairs + pair + i];
    }
    return item;
  }

  __device__ static void store(const Item& item, int row, int word, uint32_t* pairs) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      uint32_t bytes[2];
      for (int i = 0; i < 2; ++i)
        bytes[i] = kInt4 ? item.codes[i] >> 4 * part & 0x0F0F0F0F : item.codes[i] ^ 0x80808080;
      Words4 four;
      for (int i = 0; i < 4; ++i)
        four.at[i] = pack_bf16(item.line(kKeys ? i : 0).value(bytes[0], i),
                               item.line(kKeys ? i : 1).value(bytes[1], i));
      const int to_row = (kKeys ? channel(row, part) : row) / 2;
      const int to_column = kKeys ? word * 4 : channel(word * 4, part);
      *reinterpret_cast<Words4*>(pairs + to_row * pair_stride(kKeys ? kTilePage : kDim) +
                                 to_column) = four;
    }
  }

  /// All numbers, rounded to bf16, as pairs. Half of a thread's items are loaded before the first
  /// of them is stored, so that their latencies are one; all would be more than there are registers
  /// for.
  __device__ void decode(uint32_t* pairs) const {
    const Share<kThreads, kRows / 2, kRowWords> mine;
    constexpr int kItems = mine.kItems, kAtOnce = (kItems + 1) / 2;
#pragma unroll 1
    for (int first = 0; first < kItems; first += kAtOnce) {
      const auto has = [&](int i) {
        return (kItems % kAtOnce == 0 || first + i < kItems) && mine.has(first + i);
      };
      Item items[kAtOnce]{};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (has(i)) items[i] = load(mine.row(first + i) * 2, mine.column);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (has(i)) store(items[i], mine.row(first + i) * 2, mine.column, pairs);
    }
  }
};

/// A page of codes: keys and values are decoded to the same place, by turns.
template <KvType kType, int kDim, int kThreads>
struct PageTile {
  union {
    alignas(16) uint32_t keys[kDim / 2 * pair_stride(kTilePage)];
    alignas(16) uint32_t values[kTilePage / 2 * pair_stride(kDim)];
  };
  PageCodes<kType, kDim, kThreads, true> key_codes;
  PageCodes<kType, kDim, kThreads, false> value_codes;

  __device__ void copy_keys(const KvHead& head) { key_codes.copy(head.key_grid, head.keys); }
  __device__ void copy_values(const KvHead& head) {
    value_codes.copy(head.value_grid, head.values);
  }
  __device__ void decode_keys() { key_codes.decode(keys); }
  __device__ void decode_values() { value_codes.decode(values); }
};

/// A page of bf16.
template <int kDim, int kThreads>
struct PageTile<KvType::bf16, kDim, kThreads> {
  alignas(16) uint32_t keys[kDim / 2 * pair_stride(kTilePage)];
  alignas(16) uint32_t values[kTilePage / 2 * pair_stride(kDim)];

  __device__ void copy_keys(const KvHead& head) {
    copy_rows<kThreads, kDim / 2, kTilePage / 4, pair_stride(kTilePage)>(head.keys, keys);
  }
  __device__ void copy_values(const KvHead& head) {
    copy_rows<kThreads, kTilePage / 2, kDim / 4, pair_stride(kDim)>(head.values, values);
  }
};

}  // namespace sala::cuda
