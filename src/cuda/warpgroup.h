#pragma once

#include "cuda/mma.h"

/// The instructions of a warpgroup (four warps, the first a multiple of four) that compute
/// capability 9.0 alone has, each as PTX and as its emulation. Kernels that use them have a body
/// where SALA_WARPGROUPS is defined.
#if defined(SALA_CUDA_EMULATION) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SALA_WARPGROUPS
#endif

namespace sala::cuda {

inline constexpr int kWarpgroup = 128;  // threads
inline constexpr int kWideRows = 192;

/// What a thread has of 64 x 192 sums: lane 4 g + t of warp i has, of eight columns from 8 j on,
/// at 4 j those of row 16 i + g and columns 2 t, 2 t + 1, then those of row 16 i + g + 8.
using WideSums = float[kWideRows / 2];

#ifdef SALA_WARPGROUPS

/// A barrier in shared memory that some threads arrive at and others wait for: its phases are told
/// apart by their parity, 0 first.
class Barrier {
 public:
  /// One thread sets it up, for phases of `arrivals`; the block meets before it is used.
  __device__ void init(int arrivals) {
#ifdef SALA_CUDA_EMULATION
    state_ = {static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0};
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(place()), "r"(arrivals));
#endif
  }
  __device__ void arrive() {
#ifdef SALA_CUDA_EMULATION
    emulation::arrive(state_);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(place()) : "memory");
#endif
  }
  /// Waits for the end of the phase of this parity.
  __device__ void wait(int parity) {
#ifdef SALA_CUDA_EMULATION
    emulation::wait_phase(state_, static_cast<uint32_t>(parity));
#else
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
        "@!ended bra again;\n"
        "}"
        :
        : "r"(place()), "r"(parity)
        : "memory");
#endif
  }

 private:
#ifdef SALA_CUDA_EMULATION
  emulation::Barrier state_;
#else
  __device__ unsigned place() { return static_cast<unsigned>(__cvta_generic_to_shared(&state_)); }
  uint64_t state_;
#endif
};

/// Lets the products of a warpgroup see what this thread has written to shared memory, or what its
/// copies have that it waited for.
__device__ inline void show_to_products() {
#ifndef SALA_CUDA_EMULATION
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
#endif
}

/// Gives registers of a warpgroup back, or takes some.
template <int kRegisters>
__device__ inline void keep_registers() {
#ifndef SALA_CUDA_EMULATION
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ inline void take_registers() {
#ifndef SALA_CUDA_EMULATION
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(kRegisters));
#endif
}

/// Rows of 128 bytes in shared memory as products take them: the 16-byte piece c of row r lies at
/// c ^ r % 8, and the first row on a boundary of 1024 bytes. (PTX ISA 9.7.15.5, "matrix
/// descriptor": 128-byte swizzle, eight rows each 1024 bytes from the next.)
__device__ constexpr int swizzled_piece(int row, int c) { return c ^ row % 8; }

class SwizzledRows {
 public:
  __device__ explicit SwizzledRows(const void* first_row) {
#ifdef SALA_CUDA_EMULATION
    const auto place = static_cast<uint64_t>(static_cast<const std::byte*>(first_row) -
                                             emulation::shared_memory());
#else
    const auto place = static_cast<uint64_t>(__cvta_generic_to_shared(first_row));
#endif
    bits_ =
        uint64_t{1} << 62 | uint64_t{1024 / 16} << 32 | uint64_t{1} << 16 | (place & 0x3FFFF) / 16;
  }
  /// From columns of 16 bf16 numbers each, number `step` of a row's four.
  __device__ uint64_t columns(int step) const { return bits_ + 2 * static_cast<unsigned>(step); }

 private:
  uint64_t bits_;
};

/// Comes before the first product of a warpgroup, and before one of registers that were touched.
__device__ inline void begin_products() {
#ifndef SALA_CUDA_EMULATION
  asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
#endif
}
/// Waits until they are done. Until then neither their sums nor the registers and rows that they
/// read may be touched.
__device__ inline void wait_products() {
#ifdef SALA_CUDA_EMULATION
  emulation::wait_work();
  __syncwarp();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" : : : "memory");
#endif
}

#ifdef SALA_CUDA_EMULATION
namespace emulation {

/// B[word, column] of a descriptor.
inline uint32_t described_word(uint64_t descriptor, int word, int column) {
  const uint64_t eight_rows = (descriptor >> 32 & 0x3FFF) * 16;
  const uint64_t at = (descriptor & 0x3FFF) * 16 + static_cast<uint64_t>(column / 8) * eight_rows +
                      static_cast<uint64_t>(column % 8 * 128 + word * 4);
  uint32_t value;
  std::memcpy(&value, shared_memory() + (at ^ (at >> 7 & 7) << 4), sizeof value);
  return value;
}

inline void multiply_wide(float* sums, const uint32_t* a, uint64_t columns, bool adds) {
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {0, 0}};
  const std::byte* gifts = exchange(&mine, sizeof mine);
  for (int j = 0; j < kWideRows / 8; ++j)
    for (int i = 0; i < 4; ++i) {
      double sum = adds ? static_cast<double>(sums[4 * j + i]) : 0.0;
      for (int word = 0; word < 8; ++word)
        sum += bf16_product(word_a(gifts, lane() / 4 + i / 2 * 8, word),
                            described_word(columns, word, 8 * j + lane() % 4 * 2 + i % 2));
      sums[4 * j + i] = toward_zero(sum);
    }
}

}  // namespace emulation
#endif

/// sums [64, 192] = (adds ? sums : 0) + a [64, 16] b [16, 192] of bf16, a warpgroup together and
/// asynchronously: warp i has rows 16 i .. 16 i + 15 of a, as mma_bf16 takes them; `columns`
/// describes the 192 rows of b's transpose.
__device__ inline void multiply_wide(WideSums& sums, const uint32_t (&a)[4], uint64_t columns,
                                     bool adds) {
#ifdef SALA_CUDA_EMULATION
  emulation::work_later(
      [&sums, &a, columns, adds] { emulation::multiply_wide(sums, a, columns, adds); });
#else
#define SALA_SUMS_8(i)                                                                       \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), \
      "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
  asm volatile(
      "{\n"
      ".reg .pred adds;\n"
      "setp.ne.b32 adds, %101, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
      "{%96, %97, %98, %99}, %100, adds, 1, 1, 0;\n"
      "}"
      : SALA_SUMS_8(0), SALA_SUMS_8(8), SALA_SUMS_8(16), SALA_SUMS_8(24), SALA_SUMS_8(32),
        SALA_SUMS_8(40), SALA_SUMS_8(48), SALA_SUMS_8(56), SALA_SUMS_8(64), SALA_SUMS_8(72),
        SALA_SUMS_8(80), SALA_SUMS_8(88)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(columns), "r"(static_cast<int>(adds)));
#undef SALA_SUMS_8
#endif
}

#endif  // SALA_WARPGROUPS

}  // namespace sala::cuda
