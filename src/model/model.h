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
  /// The embedding and the first `host_layers` layers lie in the host's memory, wherever the source
  /// has the others.
  Model(const ModelConfig& config, WeightSource& source, int host_layers = 0);

  const ModelConfig& config() const { return config_; }
  int host_layers() const { return host_layers_; }

  /// Arena bytes that a step takes at most, the logits themselves not counted.
  int64_t workspace(const StepBounds& bounds) const;
  /// Bytes of weights in memory.
  int64_t weight_bytes() const;
  /// Bytes of weights that a step with logits reads: all but an embedding that is no head.
  int64_t step_bytes() const { return weight_bytes() - (config_.tied ? 0 : embedding_.bytes()); }
  /// The type of most weights: that of the first layer's gate and up matrices.
  WeightType type() const { return layers_.front().gate_up.type; }

  /// One step: logits [batch.wanted, vocab] of the wanted tokens of the batch, where `step` is. Its
  /// first host_layers() layers go with `host`, a step of the host that is needed where there are
  /// such. The holds behind the batch have grown; they advance when the caller says so.
  void forward(Step& step, Step* host, Cache& cache, const Batch& batch, Out logits) const;

 private:
  struct Layer {
    Tensor input_norm, post_norm;
    std::unique_ptr<Mixer> mixer;
    Weight gate_up, down;
  };

  /// Inverse frequencies of RoPE; empty where nothing is turned or scaled. q has its own where it
  /// is scaled.
  struct Frequencies {
    Tensor q, k, lightning;
  };
  /// Layers [begin, end) of a step: those of the host, or the others.
  struct Part {
    int begin, end;
    bool last;  ///< logits follow
    const Frequencies& frequencies;
  };

  Frequencies frequencies(WeightSource& source) const;
  /// Lays the batch out in the step's arena; gives its tokens.
  static In upload(Step& step, const Batch& batch);
  /// Makes the tables of RoPE.
  void turn(Step& step, const Frequencies& frequencies) const;
  /// The ops of a part; what its first layer adds to, and its last has added to, is h [T, hidden].
  void compute(Step& step, const Part& part, Cache& cache, In ids, Out h,
               std::span<const int32_t> wanted, Out logits) const;

  ModelConfig config_;
  Weight embedding_, head_;
  std::vector<Layer> layers_;
  Tensor final_norm_;  ///< divided by config_.logit_divisor
  int host_layers_;
  Frequencies host_frequencies_, frequencies_;
};

}  // namespace sala
