// Lightning attention: linear attention with a constant decay per head (Qin et al. 2024, arXiv
// 2401.04658), with per-head QK-norm, RoPE, output norm and output gate.
#include <bit>
#include <cmath>

#include "model/mixers/mixers.h"

namespace sala {
namespace {

// Tokens between two folds of the state: part of what a model computes, bit for bit, so fixed.
constexpr int kCell = 32;

/// Log-decays of n heads, positive: the ALiBi slopes (Press et al. 2022), the same in every layer.
std::vector<double> decay_slopes(int n) {
  std::vector<double> slopes;
  const int power = static_cast<int>(std::bit_floor(static_cast<unsigned>(n)));
  for (int h = 0; h < power; ++h) slopes.push_back(std::exp2(-8.0 * (h + 1) / power));
  if (power < n) {
    const std::vector<double> finer = decay_slopes(2 * power);
    for (int h = 0; power + h < n; ++h) slopes.push_back(finer[static_cast<size_t>(2 * h)]);
  }
  return slopes;
}

CacheSpec lightning_memory(const ModelConfig& config, DType /*kv*/) {
  const LightningConfig& l = config.lightning;
  const int64_t d = l.head_dim;
  const auto field = [](const char* name, int64_t elements) {
    return Field{name, Field::Growth::state, Field::Role::state, DType::f32, elements};
  };
  return {field("state", l.heads * d * d), field("keys", l.kv_heads * d * kCell),
          field("values", l.kv_heads * kCell * d)};
}

class Lightning final : public Mixer {
 public:
  Lightning(const ModelConfig& config, const std::string& prefix, WeightSource& source)
      : config_(config.lightning), eps_(config.norm_eps) {
    const std::string at = prefix + "self_attn.";
    std::vector<std::string> names = {at + "q_proj.weight", at + "k_proj.weight",
                                      at + "v_proj.weight"};
    std::vector<int64_t> rows = {q_width(), kv_width(), kv_width()};
    if (config_.gate) {
      names.push_back(at + "z_proj.weight");
      rows.push_back(q_width());
    }
    in_ = source.take_stack(names, rows, config.hidden);
    out_ = source.take_matrix(at + "o_proj.weight", config.hidden, q_width());
    if (config_.qk_norm) {
      q_norm_ = source.take_vector(at + "q_norm.weight", config_.head_dim);
      k_norm_ = source.take_vector(at + "k_norm.weight", config_.head_dim);
    }
    if (config_.norm) norm_ = source.take_vector(at + "o_norm.weight", q_width());
    slopes_ = Tensor(DType::f32, {config_.heads});
    const std::vector<double> slopes = decay_slopes(config_.heads);
    for (size_t h = 0; h < slopes.size(); ++h)
      slopes_.view().as<float>()[h] = static_cast<float>(slopes[h]);
  }

  int64_t workspace(int64_t tokens) const override {
    return Arena::bytes(DType::f32, {tokens, in_.rows}) +
           Arena::bytes(DType::f32, {tokens, q_width()});
  }

  int64_t weight_bytes() const override { return in_.bytes() + out_.bytes(); }

  void forward(Step& step, In x, LayerMemory memory, Out y) const override {
    Device& device = step.device;
    const int64_t tokens = x.dim[0];
    const Out mixed = step.arena.take(DType::f32, {tokens, in_.rows});
    matmul(device, x, in_, Epilogue::none, step.compute_for(in_), mixed);
    const Out q = columns(mixed, 0, q_width());
    const Out k = columns(mixed, q_width(), kv_width());
    const Out v = columns(mixed, q_width() + kv_width(), kv_width());
    const In gate = config_.gate ? In(columns(mixed, q_width() + 2 * kv_width(), q_width())) : In{};
    if (config_.qk_norm || config_.rope) {
      qk_norm_rope(device, q, config_.heads, q_norm_.view(), eps_, step.lightning_cos,
                   step.lightning_sin);
      qk_norm_rope(device, k, config_.kv_heads, k_norm_.view(), eps_, step.lightning_cos,
                   step.lightning_sin);
    }

    const Out o = step.arena.take(DType::f32, {tokens, q_width()});
    const LightningForm form = {.slopes = slopes_.view(),
                                .scale = static_cast<float>(config_.scale),
                                .norm = norm_.view(),
                                .eps = eps_};
    lightning(device, step.sequences, q, k, v, view(memory), form, gate, o);
    matmul(device, o, out_, Epilogue::none, step.compute_for(out_), y);
  }

 private:
  int64_t q_width() const { return int64_t{config_.heads} * config_.head_dim; }
  int64_t kv_width() const { return int64_t{config_.kv_heads} * config_.head_dim; }

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
  Weight in_;  ///< q, k, v and the gate, one under the other
  Weight out_;
  Tensor q_norm_, k_norm_, norm_;
  Tensor slopes_;
};

}  // namespace

const MixerType kLightning = {
    MixerKind::lightning, lightning_memory,
    [](const ModelConfig& config, int /*layer*/, const std::string& prefix, WeightSource& source) {
      return std::unique_ptr<Mixer>(std::make_unique<Lightning>(config, prefix, source));
    }};

}  // namespace sala
