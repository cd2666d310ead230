#include "decoder.h"

#include <fmt/ranges.h>

#include <cmath>

#include "attention.h"
#include "base/error.h"
#include "lightning.h"
#include "model/decay.h"

namespace sala::halo {
namespace {

using Shapes = std::vector<std::pair<std::string, std::vector<int64_t>>>;

struct Heads {
  int heads, kv_heads, head_dim;
  bool qk_norm;
  const char* gate;  ///< or null
};

Heads heads_of(const ModelConfig& c, int layer) {
  if (c.mixers[static_cast<size_t>(layer)] == MixerKind::lightning)
    return {c.lightning.heads, c.lightning.kv_heads, c.lightning.head_dim, c.lightning.qk_norm,
            c.lightning.gate ? "z_proj" : nullptr};
  return {c.attention.heads, c.attention.kv_heads, c.attention.head_dim, c.attention.qk_norm,
          c.attention.gate ? "o_gate" : nullptr};
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

std::string layer_tensor(int layer, const std::string& name) {
  return fmt::format("model.layers.{}.{}.weight", layer, name);
}

Shapes mixer_shapes(const ModelConfig& c, int layer) {
  const Heads h = heads_of(c, layer);
  const int64_t q = int64_t{h.heads} * h.head_dim, kv = int64_t{h.kv_heads} * h.head_dim;
  Shapes shapes;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    shapes.emplace_back(layer_tensor(layer, "self_attn." + name), std::move(shape));
  };
  add("q_proj", {q, c.hidden});
  add("k_proj", {kv, c.hidden});
  add("v_proj", {kv, c.hidden});
  add("o_proj", {c.hidden, q});
  if (h.gate != nullptr) add(h.gate, {q, c.hidden});
  if (h.qk_norm) {
    add("q_norm", {h.head_dim});
    add("k_norm", {h.head_dim});
  }
  if (c.mixers[static_cast<size_t>(layer)] == MixerKind::lightning && c.lightning.norm)
    add("o_norm", {q});
  return shapes;
}

Shapes tensor_shapes(const ModelConfig& c) {
  Shapes shapes = {{"model.embed_tokens.weight", {c.vocab, c.hidden}},
                   {"model.norm.weight", {c.hidden}}};
  if (!c.tied) shapes.emplace_back("lm_head.weight", std::vector<int64_t>{c.vocab, c.hidden});
  for (int i = 0; i < c.layers(); ++i) {
    shapes.emplace_back(layer_tensor(i, "input_layernorm"), std::vector<int64_t>{c.hidden});
    shapes.emplace_back(layer_tensor(i, "post_attention_layernorm"),
                        std::vector<int64_t>{c.hidden});
    for (const char* name : {"gate_proj", "up_proj"})
      shapes.emplace_back(layer_tensor(i, std::string("mlp.") + name),
                          std::vector<int64_t>{c.intermediate, c.hidden});
    shapes.emplace_back(layer_tensor(i, "mlp.down_proj"),
                        std::vector<int64_t>{c.hidden, c.intermediate});
    for (auto& shape : mixer_shapes(c, i)) shapes.push_back(std::move(shape));
  }
  return shapes;
}

Decoder::Decoder(ModelConfig config, const Weights& weights) : config_(std::move(config)) {
  for (const auto& [name, shape] : tensor_shapes(config_)) {
    const auto found = weights.find(name);
    if (found == weights.end())
      fail("tensor {} is missing; expected shape {}", name, shape_text(shape));
    if (found->second.sizes().vec() != shape)
      fail("tensor {} has shape {}; expected {}", name, shape_text(found->second.sizes().vec()),
           shape_text(shape));
    weights_.insert(*found);
  }
}

const Tensor& Decoder::of(int layer, const std::string& name) const {
  return weights_.at(layer_tensor(layer, name));
}

Tensor Decoder::embed(const Tensor& ids) const {
  const Tensor h = torch::embedding(weights_.at("model.embed_tokens.weight"), ids);
  return config_.embed_scale == 1.0f ? h : h * static_cast<double>(config_.embed_scale);
}

Tensor Decoder::mixer_input(const Tensor& h, int layer) const {
  return rms_norm(h, of(layer, "input_layernorm"), config_.norm_eps);
}

Tensor Decoder::turn(const Tensor& x) const {
  const auto on = x.options();
  const std::vector<float> inverse = inverse_frequencies(config_.rope, static_cast<int>(x.size(3)));
  const Tensor frequencies = torch::tensor(inverse, torch::kFloat).to(on.device());
  // The angle's rounding to f32 is part of the model.
  const Tensor angle = torch::arange(x.size(1), frequencies.options()).unsqueeze(1) * frequencies;
  const Tensor exact = angle.to(torch::kDouble);
  const double magnitude = config_.rope.magnitude;
  return rope(x, (exact.cos() * magnitude).to(on), (exact.sin() * magnitude).to(on));
}

/// Heads [B, T, count, head_dim] of one of the projections, normed where the layer does so.
Tensor Decoder::heads(const Tensor& x, int layer, const char* part, int count, int head_dim,
                      const char* norm, const Pass& pass) const {
  const Tensor y = linear(x, of(layer, std::string("self_attn.") + part), pass.type)
                       .view({x.size(0), x.size(1), count, head_dim});
  return norm == nullptr
             ? y
             : rms_norm(y, of(layer, std::string("self_attn.") + norm), config_.norm_eps);
}

Tensor Decoder::attend(const Tensor& x, int layer, const Pass& pass) const {
  const AttentionConfig& a = config_.attention;
  const auto norm = [&](const char* name) { return a.qk_norm ? name : nullptr; };
  Tensor q = heads(x, layer, "q_proj", a.heads, a.head_dim, norm("q_norm"), pass);
  Tensor k = heads(x, layer, "k_proj", a.kv_heads, a.head_dim, norm("k_norm"), pass);
  const Tensor v = heads(x, layer, "v_proj", a.kv_heads, a.head_dim, nullptr, pass);
  if (a.rope) {
    q = turn(q);
    k = turn(k);
  }
  if (a.q_factor != 1.0) q = q * a.q_factor;
  if (a.log_base > 0.0) {
    const Tensor p = torch::arange(x.size(1), x.options()).view({-1, 1, 1});
    q = q * ((p + a.log_base).log() / std::log(a.log_base));
  }
  if (pass.looked != nullptr && a.sparse) pass.looked->push_back({q, k});
  const BlockChoice blocks =
      a.sparse && pass.sparse ? choose_blocks(q.detach(), k.detach(), *a.sparse) : BlockChoice{};
  return attention(q, k, v, blocks, pass.type).flatten(2);
}

Tensor Decoder::lightning_mix(const Tensor& x, int layer, const Pass& pass) const {
  const LightningConfig& l = config_.lightning;
  const auto norm = [&](const char* name) { return l.qk_norm ? name : nullptr; };
  Tensor q = heads(x, layer, "q_proj", l.heads, l.head_dim, norm("q_norm"), pass);
  Tensor k = heads(x, layer, "k_proj", l.kv_heads, l.head_dim, norm("k_norm"), pass);
  Tensor v = heads(x, layer, "v_proj", l.kv_heads, l.head_dim, nullptr, pass);
  if (l.rope) {
    q = turn(q);
    k = turn(k);
  }
  if (l.kv_heads < l.heads) {
    k = k.repeat_interleave(l.heads / l.kv_heads, 2);
    v = v.repeat_interleave(l.heads / l.kv_heads, 2);
  }
  const Tensor o = lightning(q, k, v, decay_slopes(l.heads), l.scale, pass.type).flatten(2);
  return l.norm ? rms_norm(o, of(layer, "self_attn.o_norm"), config_.norm_eps) : o;
}

Tensor Decoder::mix(const Tensor& x, int layer, const Pass& pass) const {
  const bool is_lightning = config_.mixers[static_cast<size_t>(layer)] == MixerKind::lightning;
  Tensor o = is_lightning ? lightning_mix(x, layer, pass) : attend(x, layer, pass);
  if (const char* gate = heads_of(config_, layer).gate; gate != nullptr)
    o = o * torch::sigmoid(linear(x, of(layer, std::string("self_attn.") + gate), pass.type));
  return linear(o, of(layer, "self_attn.o_proj"), pass.type);
}

Tensor Decoder::after(const Tensor& h, const Tensor& y, int layer, const Pass& pass) const {
  const double scale = config_.residual_scale;
  const Tensor middle = h.add(y, scale);
  const Tensor x = rms_norm(middle, of(layer, "post_attention_layernorm"), config_.norm_eps);
  const Tensor inner = torch::silu(linear(x, of(layer, "mlp.gate_proj"), pass.type)) *
                       linear(x, of(layer, "mlp.up_proj"), pass.type);
  return middle.add(linear(inner, of(layer, "mlp.down_proj"), pass.type), scale);
}

Tensor Decoder::head(const Tensor& h, const Pass& pass) const {
  const Tensor x = rms_norm(h, weights_.at("model.norm.weight"), config_.norm_eps) /
                   static_cast<double>(config_.logit_divisor);
  return linear(x, weights_.at(config_.tied ? "model.embed_tokens.weight" : "lm_head.weight"),
                pass.type);
}

Tensor Decoder::logits(const Tensor& ids, const Pass& pass) const {
  Tensor h = embed(ids);
  for (int layer = 0; layer < config_.layers(); ++layer)
    h = after(h, mix(mixer_input(h, layer), layer, pass), layer, pass);
  return head(h, pass);
}

}  // namespace sala::halo
