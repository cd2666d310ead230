#pragma once

#include <cstdint>

namespace sala::cpu {

/// Instruction sets with kernels of their own, lowest first.
enum class Isa : uint8_t { baseline, avx2, avx512 };

/// The highest set that this machine has and that limit_isa allows.
Isa isa();

/// Forbids every set above `highest`, in Highway's dispatch and in ours; Isa::avx512 forbids
/// nothing. For tests: call it while no op runs.
void limit_isa(Isa highest);

/// Byte dot products (vpdpbusd on 512 bits) are there and allowed.
bool has_vnni();

/// vpdpbf16ps on 512 bits is there, allowed, and faster than two f32 FMAs.
bool has_fast_bf16();

/// Has vpdpbf16ps count as fast wherever it is there, so that a test reaches its kernels on
/// machines that would rather not run them.
void assume_fast_bf16(bool assumed);

}  // namespace sala::cpu
