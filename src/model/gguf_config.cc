// The configuration of a model in a GGUF file: metadata under the names of its architecture, and
// the RoPE factors that converters store as a tensor.
#include "base/error.h"
#include "model/config.h"
#include "ops/sample.h"
#include "weights/decode.h"
#include "weights/gguf.h"

namespace sala {
namespace {

// Larger numbers than any model's, small enough that no product of three of them overflows 64 bits.
constexpr int64_t kMaxExtent = 1 << 20;
constexpr int64_t kMaxLayers = 4096;

/// The metadata under "<architecture>." with bounds.
class Keys {
 public:
  explicit Keys(const Gguf& gguf)
      : gguf_(gguf), prefix_(std::string(gguf.architecture().name) + ".") {}

  std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key) const { return gguf_.has(name(key)); }
  int extent(std::string_view key) const { return checked(key, gguf_.integer(name(key))); }
  int extent_or(std::string_view key, int64_t otherwise) const {
    return checked(key, gguf_.integer(name(key), otherwise));
  }
  double positive(std::string_view key, double value) const {
    if (value > 0.0 && value < 1e12) return value;
    fail("{}: metadata key \"{}\" is {}; expected a positive number", file(), name(key), value);
  }
  double real(std::string_view key) const { return positive(key, gguf_.real(name(key))); }
  double real_or(std::string_view key, double otherwise) const {
    return positive(key, gguf_.real(name(key), otherwise));
  }
  std::string text_or(std::string_view key, const char* otherwise) const {
    return gguf_.text(name(key), otherwise);
  }
  std::string file() const { return gguf_.path().string(); }

 private:
  int checked(std::string_view key, int64_t value) const {
    if (value < 1 || value > kMaxExtent)
      fail("{}: metadata key \"{}\" is {}; expected 1 to {}", file(), name(key), value, kMaxExtent);
    return static_cast<int>(value);
  }

  const Gguf& gguf_;
  std::string prefix_;
};

AttentionConfig attention_heads(const Gguf& gguf, const Keys& keys, int64_t hidden) {
  AttentionConfig a;
  a.heads = keys.extent("attention.head_count");
  a.kv_heads = keys.extent_or("attention.head_count_kv", a.heads);
  if (a.heads % a.kv_heads != 0)
    fail("{}: {} ({}) is not a multiple of head_count_kv ({})", keys.file(),
         keys.name("attention.head_count"), a.heads, a.kv_heads);
  a.head_dim = keys.extent_or("attention.key_length", hidden / a.heads);
  for (const char* key : {"attention.value_length", "rope.dimension_count"})
    if (keys.extent_or(key, a.head_dim) != a.head_dim || a.head_dim % 2 != 0)
      fail(
          "{}: heads have {} columns and {} is {}; expected an even number, the same in both "
          "(partial RoPE and values of another width are not supported)",
          keys.file(), a.head_dim, keys.name(key), keys.extent_or(key, a.head_dim));
  a.qk_norm = gguf.architecture().qk_norm;
  return a;
}

/// What frequencies are divided by: the tensor that holds Llama 3's scaling, times linear scaling.
std::vector<double> rope_factors(const Gguf& gguf, const Keys& keys, int head_dim) {
  const std::string type = keys.text_or("rope.scaling.type", "none");
  if (type != "none" && type != "linear")
    fail(
        "{}: metadata key \"{}\" is \"{}\"; supported are \"none\", \"linear\", and Llama 3's "
        "scaling as tensor {}",
        keys.file(), keys.name("rope.scaling.type"), type, kGgufRopeFactors);
  const auto half = static_cast<size_t>(head_dim) / 2;
  const bool linear = type == "linear";
  const StoredTensor* stored = gguf.find_tensor(kGgufRopeFactors);
  if (stored == nullptr && !linear) return {};
  std::vector<double> factors(half, linear ? keys.real("rope.scaling.factor") : 1.0);
  if (stored == nullptr) return factors;
  if (stored->type != StoredType::f32 || stored->shape.size() != 1 ||
      stored->elements() != static_cast<int64_t>(half))
    fail("{}: tensor {} is not {} numbers of type F32, half the head size; the file is damaged",
         keys.file(), kGgufRopeFactors, half);
  std::vector<float> values(half);
  decode_floats(*stored, values);
  for (size_t i = 0; i < half; ++i) {
    if (!(values[i] > 0.0f) || !(values[i] < 1e12f))
      fail("{}: tensor {} holds {}; expected positive numbers", keys.file(), kGgufRopeFactors,
           values[i]);
    factors[i] *= static_cast<double>(values[i]);
  }
  return factors;
}

}  // namespace

ModelConfig gguf_config(const Gguf& gguf) {
  const Keys keys(gguf);
  ModelConfig c;
  c.family = gguf.architecture().name;
  c.hidden = keys.extent("embedding_length");
  c.intermediate = keys.extent("feed_forward_length");
  const int layers = keys.extent("block_count");
  if (layers > kMaxLayers)
    fail("{}: {} is {}; expected 1 to {}", keys.file(), keys.name("block_count"), layers,
         kMaxLayers);
  if (keys.has("expert_count"))
    fail("{}: metadata key \"{}\" says that it is a mixture of experts, which is not supported",
         keys.file(), keys.name("expert_count"));
  c.mixers.assign(static_cast<size_t>(layers), MixerKind::attention);
  c.attention = attention_heads(gguf, keys, c.hidden);
  c.norm_eps = static_cast<float>(keys.real("attention.layer_norm_rms_epsilon"));
  c.rope.theta = keys.real_or("rope.freq_base", 10000.0);
  c.rope.factors = rope_factors(gguf, keys, c.attention.head_dim);
  if (!c.rope.factors.empty()) c.rope.type = RopeConfig::Type::factors;
  c.trained_context = gguf.integer(keys.name("context_length"), 0);
  const StoredTensor* embedding = gguf.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    fail("{}: tensor token_embd.weight is missing or not a matrix", keys.file());
  c.vocab = embedding->shape[0];
  if (c.vocab > kMostVocabulary)
    fail("{}: tensor token_embd.weight has {} rows; expected at most {} tokens", keys.file(),
         c.vocab, kMostVocabulary);
  c.tied = gguf.find_tensor("output.weight") == nullptr;
  if (gguf.has("tokenizer.ggml.bos_token_id"))
    c.bos = static_cast<int>(gguf.integer("tokenizer.ggml.bos_token_id"));
  for (const char* key : {"eos", "eot", "eom"}) {
    const std::string name = fmt::format("tokenizer.ggml.{}_token_id", key);
    if (gguf.has(name)) c.eos.push_back(static_cast<int>(gguf.integer(name)));
  }
  return c;
}

}  // namespace sala
