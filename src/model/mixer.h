#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cache/cache.h"
#include "model/config.h"
#include "model/step.h"
#include "ops/kv_type.h"
#include "weights/source.h"

namespace sala {

/// Mixes across tokens; the only part of a layer with memory. Immutable after construction.
class Mixer {
 public:
  virtual ~Mixer() = default;
  /// y [T, hidden] = the mixer's output for the normed layer input x [T, hidden], reading and
  /// advancing `memory`, whose fields are those that the kind declares (MixerType::memory), in that
  /// order.
  virtual void forward(Step& step, In x, LayerMemory memory, Out y) const = 0;
  /// Arena bytes that forward takes for a step of `tokens` tokens.
  virtual int64_t workspace(int64_t tokens) const = 0;
  /// Bytes of weights in memory.
  virtual int64_t weight_bytes() const = 0;
};

/// A kind of mixer: what a layer of it remembers, and how it is made from its weights. `prefix` is
/// the layer's name in the checkpoint, e.g. "model.layers.3.".
struct MixerType {
  MixerKind kind;
  CacheSpec (*memory)(const ModelConfig& config, KvType kv);
  std::unique_ptr<Mixer> (*make)(const ModelConfig& config, int layer, const std::string& prefix,
                                 WeightSource& source);
};

/// The kinds there are; each is one file of mixers/ and one line of mixers.cc.
const MixerType& mixer_type(MixerKind kind);

/// What every layer of a model remembers, with keys and values stored as `kv`.
std::vector<CacheSpec> cache_specs(const ModelConfig& config, KvType kv);

}  // namespace sala
