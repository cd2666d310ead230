#pragma once

#include <cstdint>

namespace sala {

/// Number `index` of the stream `seed`: 64 uniform bits, the same on every machine (SplitMix64,
/// Steele et al. 2014).
inline uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// A stream of such numbers.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  /// A stream of its own for every pair (seed, stream).
  Random(uint64_t seed, uint64_t stream) : seed_(random_bits(random_bits(seed, 0), stream)) {}

  uint64_t bits() { return random_bits(seed_, index_++); }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  /// Uniform in [0, n), n >= 1; the bias is below n / 2^64.
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

 private:
  uint64_t seed_;
  uint64_t index_ = 0;
};

}  // namespace sala
