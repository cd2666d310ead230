#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"
#include "ops.h"

namespace sala::halo {

/// The tensors of a model by their Hugging Face names, on one device. A Tensor is a handle: whoever
/// changes one in place changes the model.
using Weights = std::map<std::string, Tensor>;

/// The name of layer i's tensor, e.g. layer_tensor(3, "mlp.up_proj") for
/// "model.layers.3.mlp.up_proj.weight".
std::string layer_tensor(int layer, const std::string& name);

/// Every tensor of a model with its shape; `layer` alone gives those of one layer's mixer.
std::vector<std::pair<std::string, std::vector<int64_t>>> tensor_shapes(const ModelConfig& config);
std::vector<std::pair<std::string, std::vector<int64_t>>> mixer_shapes(const ModelConfig& config,
                                                                       int layer);

/// Queries [B, T, H, d] and keys [B, T, G, d] of an attention layer.
struct Looked {
  Tensor q, k;
};

/// How a forward is computed.
struct Pass {
  torch::ScalarType type = torch::kFloat;  ///< of operands in matrix products
  bool sparse = true;  ///< attention layers with a sparse_config read chosen blocks only
  std::vector<Looked>* looked =
      nullptr;  ///< takes those of every attention layer that has an index
};

/// The forward of every model that the engine runs: embedding, pre-norm layers of a mixer and a
/// SwiGLU MLP, final norm, head, with muP's scalings. It computes what src/model computes.
class Decoder {
 public:
  /// Takes handles of the tensors that `config` asks for. Throws Error naming a tensor that is
  /// missing or has another shape.
  Decoder(ModelConfig config, const Weights& weights);

  const ModelConfig& config() const { return config_; }

  /// Logits [B, T, vocab] of ids [B, T] (int64).
  Tensor logits(const Tensor& ids, const Pass& pass) const;

  /// The parts, for those who train layers one by one. h, x, y are [B, T, hidden].
  Tensor embed(const Tensor& ids) const;
  Tensor mixer_input(const Tensor& h, int layer) const;
  /// What the mixer of a layer makes of its normed input, output projection included.
  Tensor mix(const Tensor& x, int layer, const Pass& pass) const;
  /// The residual stream behind a layer whose mixer gave y.
  Tensor after(const Tensor& h, const Tensor& y, int layer, const Pass& pass) const;
  Tensor head(const Tensor& h, const Pass& pass) const;

 private:
  const Tensor& of(int layer, const std::string& name) const;
  Tensor heads(const Tensor& x, int layer, const char* part, int count, int head_dim,
               const char* norm, const Pass& pass) const;
  Tensor attend(const Tensor& x, int layer, const Pass& pass) const;
  Tensor lightning_mix(const Tensor& x, int layer, const Pass& pass) const;
  Tensor turn(const Tensor& x) const;

  ModelConfig config_;
  Weights weights_;
};

}  // namespace sala::halo
