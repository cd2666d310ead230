#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/model.h"
#include "ops/math.h"
#include "text/tokenizer.h"

namespace sala::testing {

/// A small MiniCPM-SALA with every part in it: grouped heads in both kinds of layer, gates, norms,
/// and blocks few enough that selection matters from position 112 on.
inline ModelConfig tiny_sala() {
  ModelConfig c;
  c.family = "minicpm_sala";
  c.vocab = 61;
  c.hidden = 64;
  c.intermediate = 96;
  c.mixers = {MixerKind::attention, MixerKind::lightning, MixerKind::lightning,
              MixerKind::attention};
  c.attention = {.heads = 4,
                 .kv_heads = 2,
                 .head_dim = 16,
                 .rope = false,
                 .gate = true,
                 .sparse = SparseConfig{}};
  c.attention.sparse = {.kernel_size = 8,
                        .kernel_stride = 4,
                        .block_size = 16,
                        .init_blocks = 1,
                        .window_size = 32,
                        .topk = 3,
                        .dense_len = 112};
  c.lightning = {.heads = 6, .kv_heads = 2, .head_dim = 16, .scale = 0.25};
  c.embed_scale = 2.0f;
  c.residual_scale = 0.7f;
  c.logit_divisor = 8.0f;
  c.eos = {2};
  return c;
}

/// A tokenizer of `vocab` tokens, a character each from "0" on.
inline std::unique_ptr<Tokenizer> letters(int64_t vocab) {
  GgufVocab letters;
  letters.model = "llama";
  for (int64_t i = 0; i < vocab; ++i)
    letters.tokens.push_back(std::string(1, static_cast<char>('0' + i)));
  letters.scores.assign(letters.tokens.size(), 0.0f);
  return Tokenizer::from_gguf(letters, "letters");
}

/// Random weights for `config`, in memory, as the files of its family name them.
class RandomWeights {
 public:
  /// Matrices as f32 or bf16, or as Q8_0 or Q4_1 blocks (columns must then be multiples of 32).
  RandomWeights(const ModelConfig& config, StoredType matrices, uint32_t seed)
      : random_(seed), type_(matrices) {
    matrix("model.embed_tokens.weight", config.vocab, config.hidden, 1.0);
    vector("model.norm.weight", config.hidden);
    if (!config.tied) matrix("lm_head.weight", config.vocab, config.hidden, 1.0);
    for (int i = 0; i < config.layers(); ++i) layer(config, i);
  }

  WeightSource source() const { return WeightSource(tensors_, "random weights"); }

 private:
  void layer(const ModelConfig& c, int i) {
    const std::string p = fmt::format("model.layers.{}.", i), a = p + "self_attn.";
    vector(p + "input_layernorm.weight", c.hidden);
    vector(p + "post_attention_layernorm.weight", c.hidden);
    matrix(p + "mlp.gate_proj.weight", c.intermediate, c.hidden, 1.0);
    matrix(p + "mlp.up_proj.weight", c.intermediate, c.hidden, 1.0);
    matrix(p + "mlp.down_proj.weight", c.hidden, c.intermediate, 1.0);
    const bool lightning = c.mixers[static_cast<size_t>(i)] == MixerKind::lightning;
    const int64_t d = lightning ? c.lightning.head_dim : c.attention.head_dim;
    const int64_t q = d * (lightning ? c.lightning.heads : c.attention.heads);
    const int64_t kv = d * (lightning ? c.lightning.kv_heads : c.attention.kv_heads);
    constexpr double kPeaked = 2.5;  // so that attention prefers some keys
    matrix(a + "q_proj.weight", q, c.hidden, kPeaked);
    matrix(a + "k_proj.weight", kv, c.hidden, kPeaked);
    matrix(a + "v_proj.weight", kv, c.hidden, 1.0);
    matrix(a + "o_proj.weight", c.hidden, q, 1.0);
    if (lightning) {
      if (c.lightning.qk_norm) vector(a + "q_norm.weight", d), vector(a + "k_norm.weight", d);
      if (c.lightning.norm) vector(a + "o_norm.weight", q);
      if (c.lightning.gate) matrix(a + "z_proj.weight", q, c.hidden, 1.0);
    } else if (c.attention.gate) {
      matrix(a + "o_gate.weight", q, c.hidden, 1.0);
    }
  }

  void vector(const std::string& name, int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = 1.0f + 0.2f * static_cast<float>(normal_(random_));
    add(name, StoredType::f32, {n}, values.data(), values.size() * sizeof(float));
  }

  void matrix(const std::string& name, int64_t rows, int64_t columns, double gain) {
    std::vector<std::byte> bytes;
    const auto put = [&](auto value) {
      const auto* p = reinterpret_cast<const std::byte*>(&value);
      bytes.insert(bytes.end(), p, p + sizeof value);
    };
    const auto scale = static_cast<float>(gain / std::sqrt(static_cast<double>(columns)));
    const auto draw = [&] { return scale * static_cast<float>(normal_(random_)); };
    for (int64_t r = 0; r < rows; ++r) {
      if (type_ == StoredType::f32) {
        for (int64_t k = 0; k < columns; ++k) put(draw());
      } else if (type_ == StoredType::bf16) {
        for (int64_t k = 0; k < columns; ++k) put(f32_to_bf16(draw()));
      } else {
        for (int64_t k = 0; k < columns; k += 32) {
          const bool four = type_ == StoredType::q4_1;
          put(f32_to_f16(scale / (four ? 5.0f : 60.0f)));
          if (four) put(f32_to_f16(-1.5f * scale));
          for (int i = 0; i < (four ? 16 : 32); ++i) put(static_cast<uint8_t>(random_() & 0xFF));
        }
      }
    }
    add(name, type_, {rows, columns}, bytes.data(), bytes.size());
  }

  void add(const std::string& name, StoredType type, std::vector<int64_t> shape, const void* data,
           size_t size) {
    auto& copy = *owned_.emplace_back(std::make_unique<std::vector<std::byte>>(size));
    std::memcpy(copy.data(), data, size);
    StoredTensor tensor;
    tensor.name = name;
    tensor.type = type;
    tensor.shape = std::move(shape);
    tensor.bytes = copy;
    tensors_.push_back(std::move(tensor));
  }

  std::mt19937 random_;
  std::normal_distribution<double> normal_;
  StoredType type_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> owned_;
  std::vector<StoredTensor> tensors_;
};

/// A model of random weights, in `memory` (null: the host's).
inline std::unique_ptr<Model> random_model(const ModelConfig& config, StoredType matrices,
                                           Memory* memory = nullptr, uint32_t seed = 5) {
  const RandomWeights weights(config, matrices, seed);
  WeightSource source = weights.source();
  source.memory = memory;
  return std::make_unique<Model>(config, source);
}

/// `tokens` random tokens of tiny_sala's vocabulary.
inline std::vector<int> random_text(int64_t tokens, uint32_t seed = 3) {
  std::mt19937 random(seed);
  std::vector<int> text(static_cast<size_t>(tokens));
  for (int& token : text) token = static_cast<int>(random() % 61);
  return text;
}

/// How a model is run.
struct Mode {
  StoredType weights;
  ComputeMode compute;
  KvType kv;
  SparsePolicy policy;

  std::string name() const {
    constexpr const char* computes[] = {"auto", "f32", "bf16", "int8"};
    constexpr const char* policies[] = {"always", "perquery", "hf", "dense"};
    return fmt::format("{}_{}_{}_{}", name_of(weights), computes[static_cast<int>(compute)],
                       name_of(kv), policies[static_cast<int>(policy)]);
  }
};

}  // namespace sala::testing
