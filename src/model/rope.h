#pragma once

#include <cstdint>
#include <vector>

namespace sala {

/// Rotary position embedding (Su et al. 2021) and the ways in which models stretch it.
///   plain    inv_i = theta^(-2i/d)
///   llama3   long wavelengths divided by `factor`, a smooth passage between `low` and `high`
///            (Llama 3.1, `rope_type` llama3)
///   factors  inv_i / factors_i, cos and sin times `magnitude`: longrope (Ding et al. 2024, arXiv
///            2402.13753), and every scaling of GGUF files
struct RopeConfig {
  enum class Type : uint8_t { plain, llama3, factors };

  Type type = Type::plain;
  double theta = 10000.0;
  double factor = 1.0, low = 1.0, high = 4.0;  ///< llama3
  double original_context = 0.0;               ///< llama3: tokens of the unstretched model
  std::vector<double> factors{};               ///< [head_dim / 2]
  float magnitude = 1.0f;
};

/// The inverse frequencies [head_dim / 2], every step rounded to f32 in the order of the released
/// models' code: an ulp here is a hundredth of a radian at position 500,000.
std::vector<float> inverse_frequencies(const RopeConfig& rope, int head_dim);

}  // namespace sala
