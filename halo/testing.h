#pragma once

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "checkpoint.h"

namespace sala::halo {

/// A small Llama: `layers` layers of 4 heads of 8 over 2 key heads.
inline ModelConfig small_llama(int layers) {
  ModelConfig c;
  c.family = "llama";
  c.vocab = 61;
  c.hidden = 32;
  c.intermediate = 48;
  c.mixers.assign(static_cast<size_t>(layers), MixerKind::attention);
  c.attention.heads = 4;
  c.attention.kv_heads = 2;
  c.attention.head_dim = 8;
  c.eos = {2};
  c.trained_context = 64;
  return c;
}

/// Weights of the engine's parity tests: every matrix of variance 1 / columns, attention peaked.
inline Weights random_weights(const ModelConfig& config) {
  Weights weights;
  for (const auto& [name, shape] : tensor_shapes(config)) {
    const bool peaked =
        name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos;
    weights[name] = shape.size() == 1
                        ? torch::randn(shape) * 0.2 + 1.0
                        : torch::randn(shape) *
                              ((peaked ? 2.5 : 1.0) / std::sqrt(static_cast<double>(shape[1])));
  }
  return weights;
}

/// A folder that is gone after the test.
class Scratch {
 public:
  explicit Scratch(const std::string& name)
      : path_(std::filesystem::temp_directory_path() /
              ("halo_" + name + "_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace sala::halo
