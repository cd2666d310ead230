#pragma once

#include <memory>
#include <vector>

#include "model/mixer.h"

namespace sala {

/// The largest step that there will be.
struct StepBounds {
  int64_t tokens = 0;
  int64_t sequences = 1;
  int64_t pages = 0;   ///< of one sequence
  int64_t logits = 1;  ///< rows
};

/// A decoder: embedding, layers of {norm, mixer, norm, gated MLP}, norm, head. Immutable after
/// loading.
class Model {
 public:
  /// Takes every tensor of `source`; throws Error for one that is missing, misshapen or left over.
  Model(const ModelConfig& config, WeightSource& source);

  const ModelConfig& config() const { return config_; }

  /// Arena bytes that a step takes at most, the logits themselves not counted.
  int64_t workspace(const StepBounds& bounds) const;
  /// Bytes of weights in memory.
  int64_t weight_bytes() const;
  /// Bytes of weights that a step with logits reads: all but an embedding that is no head.
  int64_t step_bytes() const { return weight_bytes() - (config_.tied ? 0 : embedding_.bytes()); }
  /// The type of most weights: that of the first layer's gate and up matrices.
  WeightType type() const { return layers_.front().gate_up.type; }

  /// One step: logits [batch.wanted, vocab] of the wanted tokens of the batch. The holds behind the
  /// batch have grown; they advance when the caller says so.
  void forward(Step& step, Cache& cache, const Batch& batch, Out logits) const;

 private:
  struct Layer {
    Tensor input_norm, post_norm;
    std::unique_ptr<Mixer> mixer;
    Weight gate_up, down;
  };

  /// Lays the batch out in the step's arena; gives its tokens.
  static In upload(Step& step, const Batch& batch);
  /// Makes the tables of RoPE.
  void turn(Step& step) const;
  /// The ops of a step.
  void compute(Step& step, Cache& cache, In ids, std::span<const int32_t> wanted, Out logits) const;

  ModelConfig config_;
  Weight embedding_, head_;
  std::vector<Layer> layers_;
  Tensor final_norm_;  ///< divided by config_.logit_divisor
  // Inverse frequencies of RoPE; empty where nothing is turned or scaled. q has its own where it is
  // scaled.
  Tensor q_frequencies_, k_frequencies_, lightning_frequencies_;
};

}  // namespace sala
