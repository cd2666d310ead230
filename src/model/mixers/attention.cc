// Softmax attention with grouped heads, dense or block-sparse (InfLLM-V2, arXiv 2509.24663), with
// or without RoPE (HyPE leaves it out) and output gate.
#include <cmath>

#include "model/mixers/kv_blocks.h"
#include "model/mixers/mixers.h"
#include "model/mixers/projections.h"

namespace sala {
namespace {

KvPages kv_layout(const ModelConfig& config, KvType type) {
  return {.type = type,
          .kv_heads = config.attention.kv_heads,
          .head_dim = config.attention.head_dim,
          .page = config.page()};
}

CompressedKeys fine_layout(const SparseConfig& s) {
  return {.size = s.kernel_size, .stride = s.kernel_stride};
}
CompressedKeys coarse_layout(const SparseConfig& s) {
  return {.size = 4 * s.kernel_size, .stride = 4 * s.kernel_stride};
}

Paged paged(const FieldView& view) { return {.data = view.data, .stride = view.stride}; }

CacheSpec attention_memory(const ModelConfig& config, KvType kv) {
  const KvPages pages = kv_layout(config, kv);
  CacheSpec spec = {
      .fields = {{"kv", Field::Growth::paged, Field::Role::kv, DType::u8, pages.page_bytes()}}};
  if (const auto& sparse = config.attention.sparse) {
    const auto keys = [&](const char* name, const CompressedKeys& level) {
      spec.fields.push_back(
          {name, Field::Growth::paged, Field::Role::index, DType::u8, page_bytes(level, pages)});
    };
    keys("fine_keys", fine_layout(*sparse));
    keys("coarse_keys", coarse_layout(*sparse));
  }
  return spec;
}

class Attention final : public Mixer {
 public:
  Attention(const ModelConfig& config, int layer, const std::string& prefix, WeightSource& source)
      : config_(config.attention),
        page_(config.page()),
        layer_(layer),
        projections_(config,
                     {.heads = config_.heads,
                      .kv_heads = config_.kv_heads,
                      .head_dim = config_.head_dim,
                      .qk_norm = config_.qk_norm,
                      .gate = config_.gate ? "o_gate" : nullptr},
                     prefix, source) {}

  int64_t weight_bytes() const override { return projections_.weight_bytes(); }

  int64_t workspace(int64_t tokens) const override {
    return projections_.workspace(tokens) +
           Arena::bytes(DType::f32, {tokens, projections_.q_width()}) +
           Arena::bytes(DType::i32, {tokens, config_.kv_heads, blocks()}) +
           Arena::bytes(DType::i32, {tokens, config_.kv_heads});
  }

  void forward(Step& step, In x, LayerMemory memory, Out y) const override {
    const int64_t tokens = x.dim[0];
    const Projections::Heads heads = projections_.in(step, x);
    projections_.norm_and_turn(step, heads, {step.q_cos, step.q_sin}, {step.k_cos, step.k_sin});
    const auto& [q, k, v, gate] = heads;
    const KvPages pages = {.field = paged(memory[0]),
                           .frames = memory.frames(),
                           .type = step.kv,
                           .kv_heads = config_.kv_heads,
                           .head_dim = config_.head_dim,
                           .page = page_};
    if (memory.managed()) use_written_pages(step.sequences, pages.page, window(), memory);
    kv_append(step.device, step.sequences, k, v, pages);

    In lists, counts;
    if (config_.sparse) {
      const Out chosen = step.arena.take(DType::i32, {tokens, config_.kv_heads, blocks()});
      const Out chosen_counts = step.arena.take(DType::i32, {tokens, config_.kv_heads});
      select(step, q, pages, memory, chosen, chosen_counts);
      lists = chosen;
      counts = chosen_counts;
      if (step.on_blocks)
        step.on_blocks(layer_, on_host(step.device, lists).view(),
                       on_host(step.device, counts).view());
    }
    const Out o = step.arena.take(DType::f32, {tokens, projections_.q_width()});
    const auto scale = static_cast<float>(1.0 / std::sqrt(config_.head_dim));
    if (memory.managed())
      attention_over_blocks(step, q, pages, lists, counts, scale, gate, o, memory);
    else
      attention(step.device, step.sequences, q, pages, lists, counts, scale,
                step.attention_compute(), gate, o);
    projections_.out(step, o, y);
  }

 private:
  /// Tokens of the longest window of compressed keys.
  int64_t window() const { return config_.sparse ? coarse_layout(*config_.sparse).size : 0; }
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
                                 .top = config_.sparse->total_blocks(),
                                 .compute = step.attention_compute()};
    block_select(step.device, step.sequences, q, pages, fine, coarse, selection, step.sparse, lists,
                 counts);
  }

  AttentionConfig config_;
  int page_;  ///< tokens
  int layer_;
  Projections projections_;
};

}  // namespace

const MixerType kAttention = {
    MixerKind::attention, attention_memory,
    [](const ModelConfig& config, int layer, const std::string& prefix, WeightSource& source) {
      return std::unique_ptr<Mixer>(std::make_unique<Attention>(config, layer, prefix, source));
    }};

}  // namespace sala
