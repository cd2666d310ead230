#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/platform.h"
#include "ops/math.h"

/// The instructions that the toolkit has no plain name for, each as PTX and as its emulation.
namespace sala::cuda {

/// What one load or store moves.
struct alignas(16) Words4 {
  uint32_t at[4];
};
struct alignas(16) Floats4 {
  float at[4];
};
struct alignas(8) Words2 {
  uint32_t at[2];
};

inline constexpr int kLine = 128;  // bytes of memory that come together

/// Has a line come to L2.
__device__ inline void prefetch(const std::byte* at) {
#ifdef SALA_CUDA_EMULATION
  static_cast<void>(*static_cast<const volatile std::byte*>(at));  // it must be there
#else
  asm volatile("prefetch.global.L2 [%0];" : : "l"(at));
#endif
}

/// 16 bytes that this kernel reads once, on a 16-byte boundary.
__device__ inline Words4 load_once(const void* from) {
#ifdef SALA_CUDA_EMULATION
  return *static_cast<const Words4*>(from);
#else
  Words4 w;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w.at[0]), "=r"(w.at[1]), "=r"(w.at[2]), "=r"(w.at[3])
               : "l"(from));
  return w;
#endif
}

/// f16 bits -> f32, exactly.
__device__ inline float half_to_float(uint32_t bits) {
#ifdef SALA_CUDA_EMULATION
  return f16_to_f32(static_cast<uint16_t>(bits));
#else
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<unsigned short>(bits)));
  return x;
#endif
}

/// Two numbers rounded to bf16, `low` in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
#ifdef SALA_CUDA_EMULATION
  return static_cast<uint32_t>(f32_to_bf16(high)) << 16 | f32_to_bf16(low);
#else
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#endif
}

/// a * b + c of two numbers of bf16 each.
__device__ inline uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
#ifdef SALA_CUDA_EMULATION
  const auto low = [](uint32_t x) { return std::bit_cast<float>(x << 16); };
  const auto high = [](uint32_t x) { return std::bit_cast<float>(x & 0xFFFF0000); };
  return pack_bf16(std::fmaf(low(a), low(b), low(c)), std::fmaf(high(a), high(b), high(c)));
#else
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#endif
}

#ifdef SALA_CUDA_EMULATION
namespace emulation {

/// The fragments of a lane in mma.sync. Register r of lane 4 g + t holds, for four-byte registers
/// of `kEach` elements: of A the row g + 8 (r % 2) and the columns kEach * (t + 4 (r / 2)) + i; of
/// B the column g and the rows kEach * (t + 4 r) + i; of C register i the row g + 8 (i / 2) and
/// the column 2 t + i % 2.
struct Fragments {
  uint32_t a[4], b[2];
};

/// The register that holds A[row, k] for the k of four-byte word `word`, and that of B[k, column].
inline uint32_t word_a(const std::byte* gifts, int row, int word) {
  return from_lane<uint32_t>(gifts + 4 * (row / 8 + word / 4 * 2), row % 8 * 4 + word % 4);
}
inline uint32_t word_b(const std::byte* gifts, int word, int column) {
  return from_lane<uint32_t>(gifts + 4 * (4 + word / 4), column * 4 + word % 4);
}

/// Tensor cores cut the sum off towards zero.
inline float toward_zero(double x) {
  const auto near = static_cast<float>(x);
  return std::abs(static_cast<double>(near)) > std::abs(x) ? std::nextafterf(near, 0.0f) : near;
}

inline double bf16_product(uint32_t a, uint32_t b) {
  return static_cast<double>(std::bit_cast<float>(a << 16)) * std::bit_cast<float>(b << 16) +
         static_cast<double>(std::bit_cast<float>(a & 0xFFFF0000)) *
             std::bit_cast<float>(b & 0xFFFF0000);
}

inline void mma_bytes(int32_t (&c)[4], const Fragments& mine, int words) {
  const std::byte* gifts = exchange(&mine, sizeof mine);
  for (int i = 0; i < 4; ++i)
    for (int word = 0; word < words; ++word) {
      const uint32_t a = word_a(gifts, lane() / 4 + i / 2 * 8, word);
      const uint32_t b = word_b(gifts, word, lane() % 4 * 2 + i % 2);
      for (int shift = 0; shift < 32; shift += 8)
        c[i] += static_cast<uint8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
    }
}

}  // namespace emulation
#endif

/// c [16, 8] += a [16, 16] b [16, 8], a warp together: exact products of bf16 pairs, sums in f32.
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SALA_CUDA_EMULATION
  using namespace emulation;
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const std::byte* gifts = exchange(&mine, sizeof mine);
  for (int i = 0; i < 4; ++i) {
    double sum = static_cast<double>(c[i]);
    for (int word = 0; word < 8; ++word)
      sum += bf16_product(word_a(gifts, lane() / 4 + i / 2 * 8, word),
                          word_b(gifts, word, lane() % 4 * 2 + i % 2));
    c[i] = toward_zero(sum);
  }
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// c [16, 8] += a [16, 32] b [32, 8] of unsigned times signed bytes, a warp together; exact.
__device__ inline void mma_bytes(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef SALA_CUDA_EMULATION
  emulation::mma_bytes(c, {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, 8);
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// The same of 16 columns: a [16, 16] b [16, 8].
__device__ inline void mma_bytes(int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b) {
#ifdef SALA_CUDA_EMULATION
  emulation::mma_bytes(c, {{a[0], a[1], 0, 0}, {b, 0}}, 4);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}

/// Copies 16 bytes from global to shared memory while the thread goes on; zeros where not `valid`.
__device__ inline void copy_async(void* shared, const void* global, bool valid) {
#ifdef SALA_CUDA_EMULATION
  static constexpr Words4 kZeros{};
  emulation::copy_later(shared, valid ? global : &kZeros, 16);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(valid ? 16 : 0)
               : "memory");
#endif
}

/// The same of 4 bytes, anywhere.
__device__ inline void copy_async_word(void* shared, const void* global, bool valid) {
#ifdef SALA_CUDA_EMULATION
  static constexpr uint32_t kZero = 0;
  emulation::copy_later(shared, valid ? global : &kZero, 4);
#else
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(valid ? 4 : 0)
               : "memory");
#endif
}

/// Ends a group of this thread's copies.
__device__ inline void commit_copies() {
#ifdef SALA_CUDA_EMULATION
  emulation::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until all but the last `kLeft` of this thread's groups are there.
template <int kLeft>
__device__ inline void wait_copies() {
#ifdef SALA_CUDA_EMULATION
  emulation::wait_copies(kLeft);
#else
  asm volatile("cp.async.wait_group %0;" : : "n"(kLeft) : "memory");
#endif
}

}  // namespace sala::cuda
