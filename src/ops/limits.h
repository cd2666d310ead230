#pragma once

namespace sala {

/// What a device allows all of its units together, a second: bytes from memory, and operations in
/// registers, a multiply-add being two. 0 where nobody knows.
struct Limits {
  double read = 0;
  double f32 = 0;
  double bf16 = 0;  ///< products of bf16 pairs where the device has fast ones, else f32
  /// Products of bytes in fours (VNNI, tensor cores) or, without these, in pairs (AVX2), else f32.
  double int8 = 0;
};

}  // namespace sala
