#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ops/weight.h"
#include "weights/source.h"

namespace sala {

/// How a checkpoint is quantised.
struct QuantizeOptions {
  bool narrow = true;  ///< 4 bits, else 8
  int group = 128;     ///< columns of a group: 32, 64 or 128
  /// Matrices with a type of their own: the last part of a module's name ("lm_head", "o_proj") and
  /// f32, f16, bf16, w8 or w4. Matrices that are packed as one have one type.
  std::map<std::string, std::string> keep;
  std::filesystem::path calibrate{};  ///< a text for which to round (calibrate.h); empty: none
  int threads = 0;                    ///< that read this text; 0: every core
  ParallelFor parallel{};
  std::function<void(int64_t done, int64_t total)> progress{};  ///< bytes
};

/// What was written.
struct QuantizeResult {
  int64_t bytes = 0;                     ///< of weights
  std::map<std::string, int64_t> types;  ///< bytes of matrices by type
  /// Matrices whose columns the wanted group does not divide, and the type that they got.
  std::map<std::string, std::string> others;
};

/// Writes the Hugging Face directory `in` anew as `out`, with matrices rounded to nearest or for a
/// text in groups (weights/round.h, calibrate.h) and packed as the kernels read them
/// (weights/packed.h), so that they are used where they lie. The embedding stays as it is stored,
/// and so do vectors. One matrix is in memory at a time. `out` appears whole or not at all: until
/// then everything lies in `out` + ".partial", which loads nowhere. Throws Error, after removing
/// that, when `out` exists, `in` is quantised already, a name of `keep` is of no matrix, or the
/// disk is too small.
QuantizeResult quantize(const std::filesystem::path& in, const std::filesystem::path& out,
                        const QuantizeOptions& options);

}  // namespace sala
