#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/open.h"
#include "engine/runner.h"
#include "weights/source.h"

namespace sala {

/// Runs a model over a text one layer at a time and rounds each layer's matrices for the rows that
/// enter them (feedback.h). The text goes on through the layer as it was rounded, so that later
/// layers make up for earlier ones. In memory are one layer, its gram matrices and the text's
/// hidden states.
class Calibration {
 public:
  /// Tokens of the text that are read, in sequences of kSequence.
  static constexpr int64_t kTokens = 16384, kSequence = 2048;

  /// `files` has a tokenizer; refers to `parallel`. Throws Error when `text` has no token.
  Calibration(ModelFiles files, std::string_view text, int threads, const ParallelFor& parallel);
  ~Calibration();

  /// Matrix `matrix`, which `nearest` is rounded to nearest, rounded for the text. Comes with every
  /// matrix of the model in the order in which it takes them; those outside layers, those that are
  /// not quantised and those that lie on the wanted grid already stay as they are.
  Weight round(const PackedMatrix& matrix, const Weight& nearest);

 private:
  class Recorder;

  /// A model of layer `layer_` alone, with these matrices, which are all that are not vectors, or
  /// null: with its own. Its embedding is the hidden states.
  std::unique_ptr<Model> layer_model(const std::vector<StoredTensor>* matrices);
  /// Lets the hidden states go through a model of one layer. Either collects what enters its
  /// matrices or leaves the hidden states as they come out.
  void run(const Model& model, bool collects);
  void begin_layer(int layer);

  ModelFiles files_;
  const ParallelFor& parallel_;
  RunOptions options_;
  std::unique_ptr<Device> device_;
  std::vector<int64_t> sequences_;  ///< their lengths
  Tensor hidden_;                   ///< [tokens, hidden]
  int layer_ = -1;
  std::vector<Weight> exact_;         ///< the layer's matrices, in order
  std::vector<Tensor> grams_;         ///< of what enters them
  std::vector<Weight> rounded_;       ///< those that are rounded already
  std::vector<StoredTensor> packed_;  ///< the same as tensors
};

}  // namespace sala
