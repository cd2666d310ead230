#include "model/model.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ops/math.h"

namespace sala {
namespace {

/// Tensors of a step that the host writes: laid out in the arena, sent all at once.
class Upload {
 public:
  explicit Upload(Arena& arena) : arena_(arena) {}
  template <class T>
  Out add(std::span<const T> values, std::initializer_list<int64_t> dims) {
    const Out tensor = arena_.take(dtype_of<T>(), dims);
    auto* to = reinterpret_cast<std::byte*>(tensor.as<T>());
    if (begin_ == nullptr) begin_ = to;
    bytes_.resize(static_cast<size_t>(to - begin_) + values.size_bytes());
    std::memcpy(bytes_.data() + (to - begin_), values.data(), values.size_bytes());
    return tensor;
  }
  void send(Memory& memory) const { memory.write(begin_, bytes_); }

 private:
  Arena& arena_;
  std::byte* begin_ = nullptr;
  std::vector<std::byte> bytes_;
};

/// Columns of a page table for `pages` pages: few different numbers, so that few steps differ in
/// shape.
int64_t page_columns(int64_t pages) {
  const auto unit = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(pages)) / 8);
  return unit <= 1 ? std::max<int64_t>(pages, 1) : (pages + unit - 1) / unit * unit;
}

bool uses(const ModelConfig& config, MixerKind kind) {
  return std::ranges::count(config.mixers, kind) > 0;
}

}  // namespace

Model::Model(const ModelConfig& config, WeightSource& source, int host_layers)
    : config_(config), host_layers_(host_layers) {
  Memory* const memory = source.memory;
  if (host_layers > 0) {
    source.memory = nullptr;
    host_frequencies_ = frequencies(source);
  }
  embedding_ = source.take_matrix("model.embed_tokens.weight", config.vocab, config.hidden);
  for (int i = 0; i < config.layers(); ++i) {
    if (i == host_layers) source.memory = memory;
    const std::string prefix = fmt::format("model.layers.{}.", i);
    Layer& layer = layers_.emplace_back();
    layer.input_norm = source.take_vector(prefix + "input_layernorm.weight", config.hidden);
    layer.post_norm = source.take_vector(prefix + "post_attention_layernorm.weight", config.hidden);
    layer.mixer = mixer_type(config.mixers[static_cast<size_t>(i)]).make(config, i, prefix, source);
    layer.gate_up = source.take_pair(prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight",
                                     config.intermediate, config.hidden);
    layer.down =
        source.take_matrix(prefix + "mlp.down_proj.weight", config.hidden, config.intermediate);
  }
  source.memory = memory;
  final_norm_ = source.take_vector("model.norm.weight", config.hidden, config.logit_divisor);
  if (!config.tied)
    head_ = source.take_matrix("lm_head.weight", config.vocab, config.hidden);
  else
    head_ = host_layers > 0 ? source.placed(embedding_) : embedding_;
  source.expect_all_taken();
  frequencies_ = frequencies(source);
}

Model::Frequencies Model::frequencies(WeightSource& source) const {
  Frequencies made;
  if (uses(config_, MixerKind::attention)) {
    const AttentionConfig& attention = config_.attention;
    const auto half = static_cast<size_t>(attention.head_dim / 2);
    if (attention.rope)
      made.k = source.constant(inverse_frequencies(config_.rope, attention.head_dim));
    if (attention.log_base > 0.0 || attention.q_factor != 1.0)  // zero frequencies turn nothing
      made.q = attention.rope ? made.k : source.constant(std::vector<float>(half));
  }
  if (uses(config_, MixerKind::lightning) && config_.lightning.rope)
    made.lightning = source.constant(inverse_frequencies(config_.rope, config_.lightning.head_dim));
  return made;
}

int64_t Model::weight_bytes() const {
  int64_t bytes = embedding_.bytes() + (config_.tied ? 0 : head_.bytes());
  for (const Layer& layer : layers_)
    bytes += layer.gate_up.bytes() + layer.down.bytes() + layer.mixer->weight_bytes();
  return bytes;
}

int64_t Model::workspace(const StepBounds& bounds) const {
  const int64_t tokens = bounds.tokens;
  int64_t mixer = 0;
  for (const Layer& layer : layers_) mixer = std::max(mixer, layer.mixer->workspace(tokens));
  const int64_t mlp = Arena::bytes(DType::f32, {tokens, config_.intermediate});
  int64_t rope = 0;
  for (const Tensor* inverse : {&frequencies_.k, &frequencies_.q, &frequencies_.lightning})
    if (!inverse->empty()) rope += 2 * Arena::bytes(DType::f32, {tokens, inverse->view().dim[0]});
  const int64_t rows = 3 * Arena::bytes(DType::i32, {tokens}) +
                       4 * Arena::bytes(DType::i32, {bounds.sequences + 1}) +
                       Arena::bytes(DType::i32, {bounds.sequences, page_columns(bounds.pages)});
  return std::max(mixer, mlp) + 3 * Arena::bytes(DType::f32, {tokens, config_.hidden}) +
         Arena::bytes(DType::f32, {bounds.logits, config_.hidden}) + rope + rows;
}

In Model::upload(Step& step, const Batch& batch) {
  Upload upload(step.arena);
  const int64_t tokens = batch.count();
  const auto sequences = static_cast<int64_t>(batch.slots.size());
  step.sequences.positions = upload.add<int32_t>(batch.positions, {tokens});
  step.sequences.starts = upload.add<int32_t>(batch.starts, {sequences + 1});
  step.sequences.slots = upload.add<int32_t>(batch.slots, {sequences});
  step.sequences.kept = upload.add<int32_t>(batch.kept, {sequences});
  step.sparse = upload.add<uint8_t>(batch.sparse, {tokens});

  size_t most = 0;
  for (const auto& pages : batch.pages) most = std::max(most, pages.size());
  const int64_t columns = page_columns(static_cast<int64_t>(most));
  std::vector<int32_t> page_table(static_cast<size_t>(sequences * columns), 0);
  for (int64_t b = 0; b < sequences; ++b)
    std::ranges::copy(batch.pages[static_cast<size_t>(b)], page_table.begin() + b * columns);
  step.sequences.page_table = upload.add<int32_t>(page_table, {sequences, columns});
  const In ids = upload.add<int32_t>(batch.tokens, {tokens});
  upload.send(step.device);
  return ids;
}

void Model::turn(Step& step, const Frequencies& frequencies) const {
  Arena& arena = step.arena;
  const int64_t tokens = step.sequences.tokens();
  const auto table = [&](const Tensor& inverse, RopeFactor factor, In& cos, In& sin) {
    if (inverse.empty()) return;
    const int64_t half = inverse.view().dim[0];
    const Out c = arena.take(DType::f32, {tokens, half}),
              s = arena.take(DType::f32, {tokens, half});
    rope_table(step.device, step.sequences.positions, inverse.view(), factor, c, s);
    cos = c;
    sin = s;
  };
  const AttentionConfig& attention = config_.attention;
  const float magnitude = attention.rope ? config_.rope.magnitude : 1.0f;
  table(frequencies.k, {.scale = magnitude}, step.k_cos, step.k_sin);
  step.q_cos = step.k_cos;
  step.q_sin = step.k_sin;
  table(frequencies.q,
        {.scale = magnitude * static_cast<float>(attention.q_factor),
         .log_base = static_cast<float>(attention.log_base)},
        step.q_cos, step.q_sin);
  table(frequencies.lightning, {.scale = config_.rope.magnitude}, step.lightning_cos,
        step.lightning_sin);
}

void Model::forward(Step& step, Step* host, Cache& cache, const Batch& batch, Out logits) const {
  SALA_CHECK(cache.page() == config_.page(), "pages of {} tokens, the model has {}", cache.page(),
             config_.page());
  SALA_CHECK((host != nullptr) == (host_layers_ > 0), "{} layers of the host", host_layers_);
  const auto run = [&](Step& at, const Part& part, In before) {
    const In ids = upload(at, batch);
    const Out h = at.arena.take(DType::f32, {batch.count(), config_.hidden});
    if (!before.empty())
      at.device.write(reinterpret_cast<std::byte*>(h.as<float>()),
                      std::as_bytes(std::span(before.as<float>(), static_cast<size_t>(h.size()))));
    const auto work = [&] { compute(at, part, cache, ids, h, batch.wanted, logits); };
    // Where the host does nothing between two ops, a step is its shape and what was uploaded.
    const auto wanted = static_cast<int64_t>(batch.wanted.size());
    const bool repeats = (wanted == 0 || wanted == batch.count()) && !cache.managed();
    if (at.recordings != nullptr && repeats && !at.on_blocks)
      at.recordings->run({.tokens = batch.count(),
                          .sequences = at.sequences.count(),
                          .pages = at.sequences.page_table.dim[1],
                          .logits = wanted},
                         work);
    else
      work();
    return h;
  };
  In before;
  const int64_t start = step.arena.used(), host_start = host == nullptr ? 0 : host->arena.used();
  if (host != nullptr) before = run(*host, {0, host_layers_, false, host_frequencies_}, {});
  run(step, {host_layers_, config_.layers(), true, frequencies_}, before);
  step.arena.rewind(start);
  if (host != nullptr) host->arena.rewind(host_start);
}

void Model::compute(Step& step, const Part& part, Cache& cache, In ids, Out h,
                    std::span<const int32_t> wanted, Out logits) const {
  Device& device = step.device;
  Arena& arena = step.arena;
  const int64_t tokens = ids.dim[0];
  turn(step, part.frequencies);
  const Out x = arena.take(DType::f32, {tokens, config_.hidden});
  const Out y = arena.take(DType::f32, {tokens, config_.hidden});

  if (part.begin == 0) embed(device, ids, step.drawn, embedding_, config_.embed_scale, h);
  In branch{};  // the previous branch's output, added to h by the next norm
  for (int i = part.begin; i < part.end; ++i) {
    const Layer& layer = layers_[static_cast<size_t>(i)];
    const int64_t mark = arena.used();
    residual_norm(device, h, branch, config_.residual_scale, layer.input_norm.view(),
                  config_.norm_eps, x);
    layer.mixer->forward(step, x, cache.layer(i), y);
    arena.rewind(mark);
    residual_norm(device, h, y, config_.residual_scale, layer.post_norm.view(), config_.norm_eps,
                  x);
    const Out wide = arena.take(DType::f32, {tokens, config_.intermediate});
    matmul(device, x, layer.gate_up, Epilogue::swiglu, step.compute_for(layer.gate_up), wide);
    matmul(device, wide, layer.down, Epilogue::none, step.compute_for(layer.down), y);
    arena.rewind(mark);
    branch = y;
  }
  if (part.last && wanted.empty()) return;
  // What only adds to h makes a norm, too.
  residual_norm(device, h, branch, config_.residual_scale,
                (part.last ? final_norm_ : layers_.front().input_norm).view(), config_.norm_eps, x);
  if (!part.last) return;
  const auto count = static_cast<int64_t>(wanted.size());
  In last;
  if (wanted.back() - wanted.front() + 1 == count) {
    last = rows(In(x), wanted.front(), count);
  } else {  // of several sequences
    const Out gathered = arena.take(DType::f32, {count, config_.hidden});
    for (int64_t i = 0; i < count; ++i)
      device.copy(reinterpret_cast<std::byte*>(gathered.row<float>(i)),
                  reinterpret_cast<const std::byte*>(x.row<float>(wanted[static_cast<size_t>(i)])),
                  config_.hidden * int64_t{sizeof(float)});
    last = gathered;
  }
  matmul(device, last, head_, Epilogue::none, step.compute_for(head_), logits);
}

}  // namespace sala
