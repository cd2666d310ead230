// Lightning attention: linear attention with a constant decay per head (Qin et al. 2024, arXiv
// 2401.04658), with per-head QK-norm, RoPE, output norm and output gate.
#include <algorithm>
#include <cmath>

#include "model/decay.h"
#include "model/mixers/mixers.h"
#include "model/mixers/projections.h"

namespace sala {
namespace {

// Tokens between two folds of the state: part of what a model computes, bit for bit, so fixed.
constexpr int kCell = 32;

CacheSpec lightning_memory(const ModelConfig& config, KvType /*kv*/) {
  const LightningConfig& l = config.lightning;
  const int64_t d = l.head_dim;
  const auto field = [](const char* name, Field::Growth growth, int64_t elements) {
    return Field{name, growth, Field::Role::state, DType::f32, elements};
  };
  return {.fields = {field("state", Field::Growth::state, l.heads * d * d),
                     field("keys", Field::Growth::tail, l.kv_heads * d * kCell),
                     field("values", Field::Growth::tail, l.kv_heads * kCell * d)},
          .cell = kCell};
}

class Lightning final : public Mixer {
 public:
  Lightning(const ModelConfig& config, const std::string& prefix, WeightSource& source)
      : config_(config.lightning),
        eps_(config.norm_eps),
        projections_(config,
                     {.heads = config_.heads,
                      .kv_heads = config_.kv_heads,
                      .head_dim = config_.head_dim,
                      .qk_norm = config_.qk_norm,
                      .gate = config_.gate ? "z_proj" : nullptr},
                     prefix, source) {
    if (config_.norm)
      norm_ = source.take_vector(prefix + "self_attn.o_norm.weight", projections_.q_width());
    const std::vector<double> slopes = decay_slopes(config_.heads);
    slopes_ = source.constant(std::vector<float>(slopes.begin(), slopes.end()));
  }

  int64_t weight_bytes() const override { return projections_.weight_bytes(); }

  int64_t workspace(int64_t tokens) const override {
    return projections_.workspace(tokens) +
           Arena::bytes(DType::f32, {tokens, projections_.q_width()});
  }

  void forward(Step& step, In x, LayerMemory memory, Out y) const override {
    const auto [q, k, v, gate] = projections_.in(step, x);
    const Out o = step.arena.take(DType::f32, {x.dim[0], projections_.q_width()});
    const LightningForm form = {.q_norm = projections_.q_norm(),
                                .k_norm = projections_.k_norm(),
                                .cos = step.lightning_cos,
                                .sin = step.lightning_sin,
                                .slopes = slopes_.view(),
                                .scale = static_cast<float>(config_.scale),
                                .norm = norm_.view(),
                                .eps = eps_};
    lightning(step.device, step.sequences, q, k, v, view(memory), form, gate, o);
    projections_.out(step, o, y);
  }

 private:
  LightningMemory view(LayerMemory memory) const {
    const int64_t d = config_.head_dim;
    return {.state = window(static_cast<void*>(memory[0].data), DType::f32,
                            {memory[0].entries, config_.heads, d, d}),
            .keys = window(static_cast<void*>(memory[1].data), DType::f32,
                           {memory[1].entries, config_.kv_heads, d, kCell}),
            .values = window(static_cast<void*>(memory[2].data), DType::f32,
                             {memory[2].entries, config_.kv_heads, kCell, d}),
            .cell = kCell};
  }

  LightningConfig config_;
  float eps_;
  Projections projections_;
  Tensor norm_;
  Tensor slopes_;
};

}  // namespace

const MixerType kLightning = {
    MixerKind::lightning, lightning_memory,
    [](const ModelConfig& config, int /*layer*/, const std::string& prefix, WeightSource& source) {
      return std::unique_ptr<Mixer>(std::make_unique<Lightning>(config, prefix, source));
    }};

}  // namespace sala
