#include "cpu/isa.h"

#include <hwy/targets.h>

#include <algorithm>
#include <atomic>

namespace sala::cpu {
namespace {

std::atomic<Isa> limit{Isa::avx512};
std::atomic<bool> bf16_assumed_fast{false};

#if defined(__x86_64__)
Isa detect() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return Isa::avx2;
  return Isa::baseline;
}

bool detect_vnni() { return __builtin_cpu_supports("avx512vnni"); }

/// AMD issues two vpdpbf16ps a cycle (from Zen 5; one from Zen 4), as many as f32 FMAs. Intel's
/// cores up to Emerald Rapids issue one every second cycle, which is half the speed of f32 FMAs on
/// decoded weights.
bool detect_fast_bf16() { return __builtin_cpu_is("amd"); }
bool detect_bf16() { return __builtin_cpu_supports("avx512bf16"); }
#else
Isa detect() { return Isa::baseline; }
bool detect_vnni() { return false; }
bool detect_fast_bf16() { return false; }
bool detect_bf16() { return false; }
#endif

}  // namespace

Isa isa() {
  static const Isa found = detect();
  return std::min(found, limit.load(std::memory_order_relaxed));
}

bool has_vnni() {
  static const bool found = detect_vnni();
  return found && isa() == Isa::avx512;
}

bool has_fast_bf16() {
  static const bool found = detect_bf16();
  static const bool fast = detect_fast_bf16();
  return found && isa() == Isa::avx512 &&
         (fast || bf16_assumed_fast.load(std::memory_order_relaxed));
}

void assume_fast_bf16(bool assumed) { bf16_assumed_fast = assumed; }

void limit_isa(Isa highest) {
  limit = highest;
#if defined(__x86_64__)
  int64_t allowed = HWY_SCALAR | HWY_EMU128;
  if (highest >= Isa::avx2) allowed |= HWY_SSSE3 | HWY_SSE4 | HWY_AVX2;
  hwy::SetSupportedTargetsForTest(0);
  if (highest != Isa::avx512) hwy::SetSupportedTargetsForTest(hwy::SupportedTargets() & allowed);
#endif
}

}  // namespace sala::cpu
