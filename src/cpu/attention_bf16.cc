#include <algorithm>

#include "cpu/attention_block.h"

#if defined(__x86_64__)
#include <immintrin.h>

// The two products of attention in pairs of bf16, over the rows and blocks of attention.cc. bf16
// pages hold their rows in pairs and are read where they lie; int8 and int4 are decoded to pairs
// block by block.

#define SALA_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512bf16")

namespace sala::cpu {
namespace {

constexpr int kLanes = 16;
constexpr __mmask16 kAll = 0xFFFF;

/// 16 f16 numbers.
[[gnu::always_inline, SALA_TARGET]] inline __m512 load_halves(const uint16_t* p) {
  return _mm512_maskz_cvtph_ps(  // the plain form warns in g++ 12
      kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

/// Pairs (first[i], second[i]) in bf16.
[[gnu::always_inline, SALA_TARGET]] inline __m512i pair_up(__m512 first, __m512 second) {
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

[[gnu::always_inline, SALA_TARGET]] inline __m512i load_bytes(const uint8_t* codes) {
  return _mm512_maskz_cvtepu8_epi32(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}

[[gnu::always_inline, SALA_TARGET]] inline __m512 int8_value(const int8_t* codes, __mmask16 mask,
                                                             __m512 scale) {
  const __m512i code = _mm512_maskz_cvtepi8_epi32(mask, _mm_maskz_loadu_epi8(mask, codes));
  return _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(kAll, code), scale);
}

[[gnu::always_inline, SALA_TARGET]] inline __m512 int4_value(__m512i bytes, bool high, __m512 scale,
                                                             __m512 minimum) {
  const __m512i code = high ? _mm512_maskz_srli_epi32(kAll, bytes, 4)
                            : _mm512_and_si512(bytes, _mm512_set1_epi32(15));
  return _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(kAll, code), scale, minimum);
}

[[SALA_TARGET]] void int8_keys(const AttendedBlock& block, int64_t columns, uint32_t* to) {
  const KvPages& pages = *block.pages;
  const int64_t width = pages.page_lanes();
  const auto* codes = reinterpret_cast<const int8_t*>(block.head.keys);
  for (int64_t j = 0; j < columns; j += kLanes) {
    const __m512 scale = load_halves(block.head.key_grid + j);
    for (int64_t c = 0; c < pages.head_dim; c += 2) {
      const __m512 first = int8_value(codes + c * width + j, kAll, scale);
      const __m512 second = c + 1 < pages.head_dim
                                ? int8_value(codes + (c + 1) * width + j, kAll, scale)
                                : _mm512_setzero_ps();
      _mm512_storeu_si512(to + c / 2 * width + j, pair_up(first, second));
    }
  }
}

[[SALA_TARGET]] void int4_keys(const AttendedBlock& block, int64_t columns, uint32_t* to) {
  const KvPages& pages = *block.pages;
  const int64_t width = pages.page_lanes();
  const auto* codes = reinterpret_cast<const uint8_t*>(block.head.keys);
  for (int64_t g = 0; g < pages.groups(); ++g)
    for (int64_t j = 0; j < columns; j += kLanes) {
      const __m512 scale = load_halves(block.head.key_grid + g * width + j);
      const __m512 minimum = load_halves(block.head.key_grid + (pages.groups() + g) * width + j);
      for (int64_t i = 0; i < kInt4Group / 2; i += 2) {
        const uint8_t* row = codes + (g * kInt4Group / 2 + i) * width + j;
        const __m512i first = load_bytes(row);
        const __m512i second = load_bytes(row + width);
        for (const bool high : {false, true}) {
          const int64_t c = g * kInt4Group + i + (high ? kInt4Group / 2 : 0);
          if (c >= pages.head_dim) continue;
          const __m512 partner = c + 1 < pages.head_dim ? int4_value(second, high, scale, minimum)
                                                        : _mm512_setzero_ps();
          _mm512_storeu_si512(to + c / 2 * width + j,
                              pair_up(int4_value(first, high, scale, minimum), partner));
        }
      }
    }
}

/// The numbers of a token in a grid of values: row `row`, for all lanes.
[[gnu::always_inline, SALA_TARGET]] inline __m512 broadcast_half(const uint16_t* grid) {
  return _mm512_maskz_cvtph_ps(kAll, _mm256_set1_epi16(static_cast<short>(*grid)));
}

[[SALA_TARGET]] void int8_values(const AttendedBlock& block, int64_t tokens, uint32_t* to) {
  const int64_t d = block.pages->head_dim;
  const auto* codes = reinterpret_cast<const int8_t*>(block.head.values);
  for (int64_t t = 0; t < tokens; t += 2, to += d) {
    const bool paired = t + 1 < tokens;
    const __m512 first = broadcast_half(block.head.value_grid + t);
    const __m512 second =
        paired ? broadcast_half(block.head.value_grid + t + 1) : _mm512_setzero_ps();
    const int8_t* row = codes + t * d;
    const int8_t* partner = paired ? row + d : row;
    for (int64_t c = 0; c < d; c += kLanes) {
      const auto mask = static_cast<__mmask16>((1U << std::min<int64_t>(kLanes, d - c)) - 1);
      _mm512_mask_storeu_epi32(
          to + c, mask,
          pair_up(int8_value(row + c, mask, first), int8_value(partner + c, mask, second)));
    }
  }
}

[[SALA_TARGET]] void int4_values(const AttendedBlock& block, int64_t tokens, uint32_t* to) {
  const KvPages& pages = *block.pages;
  const int64_t width = pages.page_lanes(), d = pages.head_dim, rows = pages.code_rows();
  const auto* codes = reinterpret_cast<const uint8_t*>(block.head.values);
  for (int64_t t = 0; t < tokens; t += 2, to += d) {
    const int64_t partner = t + 1 < tokens ? t + 1 : t;  // whose numbers nobody reads if it is t
    for (int64_t g = 0; g < pages.groups(); ++g) {
      const uint16_t* scales = block.head.value_grid + g * width;
      const uint16_t* minima = scales + pages.groups() * width;
      const __m512i first = load_bytes(codes + t * rows + g * kInt4Group / 2);
      const __m512i second = load_bytes(codes + partner * rows + g * kInt4Group / 2);
      for (const bool high : {false, true}) {
        const int64_t c = g * kInt4Group + (high ? kInt4Group / 2 : 0);
        if (c >= d) continue;
        const auto mask = static_cast<__mmask16>((1U << std::min<int64_t>(kLanes, d - c)) - 1);
        const __m512 a =
            int4_value(first, high, broadcast_half(scales + t), broadcast_half(minima + t));
        const __m512 b = int4_value(second, high, broadcast_half(scales + partner),
                                    broadcast_half(minima + partner));
        _mm512_mask_storeu_epi32(to + c, mask, pair_up(a, b));
      }
    }
  }
}

/// The keys of a block, and the values, in pairs.
const uint32_t* key_pairs(const AttendedBlock& block, int64_t columns) {
  auto* decoded = reinterpret_cast<uint32_t*>(block.wide);
  if (block.pages->type == KvType::bf16) return reinterpret_cast<const uint32_t*>(block.head.keys);
  if (block.pages->type == KvType::int8) {
    int8_keys(block, columns, decoded);
  } else {
    int4_keys(block, columns, decoded);
  }
  return decoded;
}
const uint32_t* value_pairs(const AttendedBlock& block, int64_t tokens) {
  auto* decoded = reinterpret_cast<uint32_t*>(block.wide);
  if (block.pages->type == KvType::bf16)
    return reinterpret_cast<const uint32_t*>(block.head.values);
  if (block.pages->type == KvType::int8) {
    int8_values(block, tokens, decoded);
  } else {
    int4_values(block, tokens, decoded);
  }
  return decoded;
}

int64_t most_visible(const AttendedBlock& block) {
  return *std::max_element(block.visible, block.visible + block.rows);
}

/// The half of the next block that lies `part` halves from its beginning.
Lines lines_of(const AttendedBlock& block, int part) {
  const int64_t half = block.pages->head_bytes() / 2;
  if (block.next == nullptr) return {nullptr, nullptr};
  return {block.next + part * half, block.next + (part + 1) * half};
}

}  // namespace

void bf16_scores(const AttendedBlock& block) {
  const int64_t width = block.pages->page_lanes();
  const int64_t columns = (most_visible(block) + kLanes - 1) / kLanes * kLanes;
  const PairMatrix keys{key_pairs(block, columns), width, columns};
  const PairSpan span{0, (block.pages->head_dim + 1) / 2, false};
  Lines lines = lines_of(block, 0);
  for (int64_t first = 0; first < block.rows; first += kPairRows) {
    const int count = static_cast<int>(std::min<int64_t>(kPairRows, block.rows - first));
    PairRows rows;
    for (int r = 0; r < count; ++r) {
      rows.a[r] = reinterpret_cast<const uint32_t*>(block.q[first + r]);
      rows.c[r] = block.scores + (first + r) * width;
    }
    multiply_pairs(true, count, rows, span, keys, lines);
  }
}

void bf16_values(const AttendedBlock& block) {
  const int64_t d = block.pages->head_dim, width = block.pages->page_lanes();
  const PairMatrix values{value_pairs(block, most_visible(block)), d, d};
  Lines lines = lines_of(block, 1);
  for (int64_t first = 0; first < block.rows; first += kPairRows) {
    const int count = static_cast<int>(std::min<int64_t>(kPairRows, block.rows - first));
    const int64_t* visible = block.visible + first;
    const int64_t common = *std::min_element(visible, visible + count) / 2;
    PairRows rows;
    for (int r = 0; r < count; ++r) {
      float* weights = block.scores + (first + r) * width;  // the pairs lie where they were
      round_to_pairs(weights, width, reinterpret_cast<uint32_t*>(weights));
      rows.a[r] = reinterpret_cast<const uint32_t*>(weights);
      rows.c[r] = block.softmax.values + block.state[first + r] * d;
      rows.start[r] = block.rescale[first + r];
    }
    multiply_pairs(false, count, rows, {0, common, false}, values, lines);
    for (int r = 0; r < count; ++r) {
      if (visible[r] == 2 * common) continue;
      const PairRows rest{.a = {rows.a[r]}, .c = {rows.c[r]}, .start = {1.0f}};
      multiply_pairs(false, 1, rest, {common, visible[r] / 2, visible[r] % 2 != 0}, values, lines);
    }
  }
}

}  // namespace sala::cpu
#else
namespace sala::cpu {

void bf16_scores(const AttendedBlock&) { SALA_CHECK(false, "no pairs of bf16 on this machine"); }
void bf16_values(const AttendedBlock&) { SALA_CHECK(false, "no pairs of bf16 on this machine"); }

}  // namespace sala::cpu
#endif
