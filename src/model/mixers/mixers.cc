#include "model/mixers/mixers.h"

namespace sala {

const MixerType& mixer_type(MixerKind kind) {
  for (const MixerType* type : {&kAttention, &kLightning})
    if (type->kind == kind) return *type;
  SALA_CHECK(false, "no mixer of kind {}", name_of(kind));
}

std::vector<CacheSpec> cache_specs(const ModelConfig& config, KvType kv) {
  std::vector<CacheSpec> specs;
  for (const MixerKind kind : config.mixers) specs.push_back(mixer_type(kind).memory(config, kv));
  return specs;
}

}  // namespace sala
