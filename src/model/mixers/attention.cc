// Softmax attention with grouped heads, dense or block-sparse (InfLLM-V2, arXiv 2509.24663), with
// or without RoPE (HyPE leaves it out) and output gate.
#include <cmath>

#include "model/mixers/mixers.h"

namespace sala {
namespace {

KvPages kv_layout(const ModelConfig& config) {
  return {.field = {},
          .kv_heads = config.attention.kv_heads,
          .head_dim = config.attention.head_dim,
          .page = config.page()};
}

CompressedKeys fine_layout(const SparseConfig& s) {
  return {.field = {}, .size = s.kernel_size, .stride = s.kernel_stride};
}
CompressedKeys coarse_layout(const SparseConfig& s) {
  return {.field = {}, .size = 4 * s.kernel_size, .stride = 4 * s.kernel_stride};
}

Paged paged(const FieldView& view) {
  return {.data = view.data, .stride = view.stride, .type = view.type};
}

CacheSpec attention_memory(const ModelConfig& config, DType kv) {
  const KvPages pages = kv_layout(config);
  CacheSpec spec = {{"kv", Field::Growth::paged, Field::Role::kv, kv, pages.page_elements()}};
  if (const auto& sparse = config.attention.sparse) {
    const auto keys = [&](const char* name, const CompressedKeys& level) {
      spec.push_back({name, Field::Growth::paged, Field::Role::index, kv,
                      int64_t{pages.kv_heads} * level.capacity(pages.page) * pages.head_dim});
    };
    keys("fine_keys", fine_layout(*sparse));
    keys("coarse_keys", coarse_layout(*sparse));
  }
  return spec;
}

class Attention final : public Mixer {
 public:
  Attention(const ModelConfig& config, int layer, const std::string& prefix, WeightSource& source)
      : config_(config.attention), pages_(kv_layout(config)), eps_(config.norm_eps), layer_(layer) {
    const std::string at = prefix + "self_attn.";
    std::vector<std::string> names = {at + "q_proj.weight", at + "k_proj.weight",
                                      at + "v_proj.weight"};
    std::vector<int64_t> rows = {q_width(), kv_width(), kv_width()};
    if (config_.gate) {
      names.push_back(at + "o_gate.weight");
      rows.push_back(q_width());
    }
    in_ = source.take_stack(names, rows, config.hidden);
    out_ = source.take_matrix(at + "o_proj.weight", config.hidden, q_width());
    if (config_.qk_norm) {
      q_norm_ = source.take_vector(at + "q_norm.weight", config_.head_dim);
      k_norm_ = source.take_vector(at + "k_norm.weight", config_.head_dim);
    }
  }

  int64_t workspace(int64_t tokens) const override {
    return Arena::bytes(DType::f32, {tokens, in_.rows}) +
           Arena::bytes(DType::f32, {tokens, q_width()}) +
           Arena::bytes(DType::i32, {tokens, config_.kv_heads, blocks()}) +
           Arena::bytes(DType::i32, {tokens, config_.kv_heads});
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
    if (config_.qk_norm || !step.q_cos.empty()) {
      qk_norm_rope(device, q, config_.heads, q_norm_.view(), eps_, step.q_cos, step.q_sin);
      qk_norm_rope(device, k, config_.kv_heads, k_norm_.view(), eps_, step.k_cos, step.k_sin);
    }

    KvPages pages = pages_;
    pages.field = paged(memory[0]);
    kv_append(device, step.sequences, k, v, pages);

    In lists, counts;
    if (config_.sparse) {
      const Out chosen = step.arena.take(DType::i32, {tokens, config_.kv_heads, blocks()});
      const Out chosen_counts = step.arena.take(DType::i32, {tokens, config_.kv_heads});
      select(step, q, pages, memory, chosen, chosen_counts);
      lists = chosen;
      counts = chosen_counts;
      if (step.on_blocks) step.on_blocks(layer_, lists, counts);
    }
    const Out o = step.arena.take(DType::f32, {tokens, q_width()});
    const auto scale = static_cast<float>(1.0 / std::sqrt(config_.head_dim));
    attention(device, step.sequences, q, pages, lists, counts, scale, gate, o);
    matmul(device, o, out_, Epilogue::none, step.compute_for(out_), y);
  }

 private:
  int64_t q_width() const { return int64_t{config_.heads} * config_.head_dim; }
  int64_t kv_width() const { return int64_t{config_.kv_heads} * config_.head_dim; }
  int64_t blocks() const { return config_.sparse ? config_.sparse->total_blocks() : 0; }

  void select(Step& step, In q, const KvPages& pages, LayerMemory memory, Out lists,
              Out counts) const {
    CompressedKeys fine = fine_layout(*config_.sparse);
    CompressedKeys coarse = coarse_layout(*config_.sparse);
    fine.field = paged(memory[1]);
    coarse.field = paged(memory[2]);
    // Also where this step attends densely: later tokens may not.
    compress_keys(step.device, step.sequences, pages, fine);
    compress_keys(step.device, step.sequences, pages, coarse);
    const Selection selection = {.init_blocks = config_.sparse->init_blocks,
                                 .local_blocks = config_.sparse->local_blocks(),
                                 .top = config_.sparse->total_blocks()};
    block_select(step.device, step.sequences, q, pages, fine, coarse, selection, step.sparse, lists,
                 counts);
  }

  AttentionConfig config_;
  KvPages pages_;  ///< layout; the field is the memory's
  float eps_;
  int layer_;
  Weight in_;  ///< q, k, v and the gate, one under the other
  Weight out_;
  Tensor q_norm_, k_norm_;
};

}  // namespace

const MixerType kAttention = {
    MixerKind::attention, attention_memory,
    [](const ModelConfig& config, int layer, const std::string& prefix, WeightSource& source) {
      return std::unique_ptr<Mixer>(std::make_unique<Attention>(config, layer, prefix, source));
    }};

}  // namespace sala
