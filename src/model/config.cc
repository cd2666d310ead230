#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/json.h"
#include "ops/sample.h"

namespace sala {
namespace {

// Larger numbers than any model's, small enough that no product of three of them overflows 64 bits.
constexpr int64_t kMaxExtent = 1 << 20;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxLength = int64_t{1} << 40;

/// The keys of one JSON object, read with types and bounds; every error names the file and the key.
class Keys {
 public:
  Keys(const Json& json, std::string name) : json_(json), name_(std::move(name)) {
    if (!json_.is_object()) fail("{}: expected a JSON object, found {}", name_, json_.type_name());
  }

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    if (!has(key)) fail("{}: key \"{}\" is missing; expected an integer", name_, key);
    const Json& value = json_[key];
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX))
      fail("{}: key \"{}\" is {}; expected an integer", name_, key, value.dump());
    const auto number = value.get<int64_t>();
    if (number < low || number > high)
      fail("{}: key \"{}\" is {}; expected {} to {}", name_, key, number, low, high);
    return number;
  }
  int64_t integer_or(const char* key, int64_t otherwise, int64_t low, int64_t high) const {
    return has(key) ? integer(key, low, high) : otherwise;
  }
  int extent(const char* key) const { return static_cast<int>(integer(key, 1, kMaxExtent)); }
  int extent_or(const char* key, int otherwise) const {
    return static_cast<int>(integer_or(key, otherwise, 1, kMaxExtent));
  }
  double real_or(const char* key, double otherwise) const {
    if (!has(key)) return otherwise;
    const Json& value = json_[key];
    if (!value.is_number())
      fail("{}: key \"{}\" is {}; expected a number", name_, key, value.dump());
    const auto number = value.get<double>();
    if (!(number > 0) || !std::isfinite(number))
      fail("{}: key \"{}\" is {}; expected a positive number", name_, key, number);
    return number;
  }
  bool flag_or(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    const Json& value = json_[key];
    if (!value.is_boolean())
      fail("{}: key \"{}\" is {}; expected true or false", name_, key, value.dump());
    return value.get<bool>();
  }
  std::string text_or(const char* key, std::string otherwise) const {
    if (!has(key)) return otherwise;
    const Json& value = json_[key];
    if (!value.is_string())
      fail("{}: key \"{}\" is {}; expected a string", name_, key, value.dump());
    return value.get<std::string>();
  }
  /// An id or a list of ids.
  std::vector<int> ids(const char* key) const {
    std::vector<int> ids;
    if (!has(key)) return ids;
    const Json& value = json_[key];
    for (const Json& id : value.is_array() ? value : Json::array({value})) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
        fail("{}: key \"{}\" is {}; expected token ids", name_, key, value.dump());
      ids.push_back(id.get<int>());
    }
    return ids;
  }
  const Json& operator[](const char* key) const { return json_[key]; }
  const std::string& name() const { return name_; }

  /// Refuses a key whose value would change the maths in a way this engine does not compute.
  void expect_off(const char* key) const {
    if (has(key) && json_[key] != Json(false))
      fail("{}: key \"{}\" is {}; only false is supported", name_, key, json_[key].dump());
  }

 private:
  const Json& json_;
  std::string name_;
};

void divides(const Keys& keys, const char* small, int64_t divisor, const char* large,
             int64_t number) {
  if (divisor <= 0 || number % divisor != 0)
    fail("{}: {} ({}) is not a multiple of {} ({})", keys.name(), large, number, small, divisor);
}

/// longrope's lists: the one for the stretched model where it is stretched. Chosen by the
/// configuration alone, not by the length so far as in Transformers, so that a prefix means the
/// same in every run (released models have equal lists).
void read_longrope(const Keys& keys, int64_t max_positions, RopeConfig& rope) {
  const int64_t original =
      keys.integer_or("original_max_position_embeddings", max_positions, 2, kMaxLength);
  const char* key = max_positions > original ? "long_factor" : "short_factor";
  if (!keys.has(key) || !keys[key].is_array())
    fail("{}: key \"{}\" is missing; expected a list of numbers", keys.name(), key);
  for (const Json& value : keys[key]) {
    if (!value.is_number() || !(value.get<double>() > 0))
      fail("{}: key \"{}\" holds {}; expected positive numbers", keys.name(), key, value.dump());
    rope.factors.push_back(value.get<double>());
  }
  rope.type = RopeConfig::Type::factors;
  const double stretch = static_cast<double>(max_positions) / static_cast<double>(original);
  rope.magnitude = static_cast<float>(
      stretch > 1.0 ? std::sqrt(1.0 + std::log(stretch) / std::log(static_cast<double>(original)))
                    : 1.0);
}

void read_rope_scaling(const Keys& keys, int64_t max_positions, RopeConfig& rope) {
  const std::string type = keys.text_or("rope_type", keys.text_or("type", "default"));
  if (type == "default") return;
  if (type == "llama3") {
    rope.type = RopeConfig::Type::llama3;
    rope.factor = keys.real_or("factor", 8.0);
    rope.low = keys.real_or("low_freq_factor", 1.0);
    rope.high = keys.real_or("high_freq_factor", 4.0);
    rope.original_context = keys.real_or("original_max_position_embeddings", 8192.0);
    if (rope.high <= rope.low)
      fail("{}: high_freq_factor ({}) is not above low_freq_factor ({})", keys.name(), rope.high,
           rope.low);
  } else if (type == "longrope") {
    read_longrope(keys, max_positions, rope);
  } else {
    fail("{}: key \"rope_type\" is \"{}\"; supported are \"default\", \"llama3\" and \"longrope\"",
         keys.name(), type);
  }
}

ModelConfig common(const Keys& keys) {
  ModelConfig c;
  c.vocab = keys.integer("vocab_size", 1, kMostVocabulary);
  c.hidden = keys.extent("hidden_size");
  c.intermediate = keys.extent("intermediate_size");
  c.norm_eps = static_cast<float>(keys.real_or("rms_norm_eps", 1e-6));
  c.rope.theta = keys.real_or("rope_theta", 10000.0);
  c.tied = keys.flag_or("tie_word_embeddings", false);
  c.trained_context = keys.integer_or("max_position_embeddings", 0, 0, kMaxLength);
  if (const auto ids = keys.ids("bos_token_id"); !ids.empty()) c.bos = ids.front();
  c.eos = keys.ids("eos_token_id");
  if (const std::string act = keys.text_or("hidden_act", "silu"); act != "silu" && act != "swish")
    fail("{}: key \"hidden_act\" is \"{}\"; only \"silu\" is supported", keys.name(), act);
  for (const char* key :
       {"attention_bias", "mlp_bias", "use_sliding_window", "lightning_use_short_conv"})
    keys.expect_off(key);
  if (keys.has("rope_scaling"))
    read_rope_scaling(Keys(keys["rope_scaling"], keys.name() + ": rope_scaling"), c.trained_context,
                      c.rope);
  if (keys.has("rope_parameters")) {  // where Transformers 5 keeps theta and scaling
    const Keys rope(keys["rope_parameters"], keys.name() + ": rope_parameters");
    c.rope.theta = rope.real_or("rope_theta", c.rope.theta);
    read_rope_scaling(rope, c.trained_context, c.rope);
  }
  return c;
}

AttentionConfig attention_heads(const Keys& keys, int64_t hidden) {
  AttentionConfig a;
  a.heads = keys.extent("num_attention_heads");
  a.kv_heads = keys.extent_or("num_key_value_heads", a.heads);
  divides(keys, "num_key_value_heads", a.kv_heads, "num_attention_heads", a.heads);
  if (!keys.has("head_dim")) divides(keys, "num_attention_heads", a.heads, "hidden_size", hidden);
  a.head_dim = keys.extent_or("head_dim", static_cast<int>(hidden / a.heads));
  divides(keys, "2", 2, "head_dim", a.head_dim);
  return a;
}

/// HypeNet names the switches otherwise than MiniCPM-SALA.
LightningConfig lightning_heads(const Keys& keys, const AttentionConfig& attention, bool hypenet) {
  LightningConfig l;
  l.heads = keys.extent_or("lightning_nh", attention.heads);
  l.kv_heads = keys.extent_or("lightning_nkv", attention.kv_heads);
  l.head_dim = keys.extent_or("lightning_head_dim", attention.head_dim);
  divides(keys, "lightning_nkv", l.kv_heads, "lightning_nh", l.heads);
  divides(keys, "2", 2, "lightning_head_dim", l.head_dim);
  const std::string scale = keys.text_or("lightning_scale", "1/sqrt(d)");
  l.scale = scale == "1/sqrt(d)" ? 1.0 / std::sqrt(l.head_dim)
            : scale == "1/d"     ? 1.0 / l.head_dim
                                 : 1.0;
  l.rope = keys.flag_or("lightning_use_rope", true);
  // HypeNet's configuration class has its switches off.
  l.qk_norm =
      hypenet ? keys.flag_or("lightning_use_qk_norm", false) : keys.flag_or("qk_norm", true);
  l.norm = hypenet ? keys.flag_or("lightning_use_output_norm", false)
                   : keys.flag_or("use_output_norm", true);
  l.gate = hypenet ? keys.flag_or("lightning_use_output_gate", false)
                   : keys.flag_or("use_output_gate", true);
  return l;
}

SparseConfig sparse_config(const Keys& keys) {
  constexpr int64_t kTokens = 1 << 20;
  SparseConfig s;
  const auto read = [&](const char* key, int& value, int64_t low) {
    value = static_cast<int>(keys.integer_or(key, value, low, kTokens));
  };
  read("kernel_size", s.kernel_size, 1);
  read("kernel_stride", s.kernel_stride, 1);
  read("block_size", s.block_size, 1);
  read("init_blocks", s.init_blocks, 0);
  read("window_size", s.window_size, 0);
  read("topk", s.topk, 0);
  // -1 ("always sparse" in MiniCPM4's documentation) and 0 mean the same.
  s.dense_len = static_cast<int>(
      std::max<int64_t>(0, keys.integer_or("dense_len", s.dense_len, -1, INT32_MAX)));
  keys.expect_off("use_nope");
  if (s.block_size > 4096)
    fail("{}: key \"block_size\" is {}; expected 1 to 4096", keys.name(), s.block_size);
  divides(keys, "kernel_stride", s.kernel_stride, "block_size", s.block_size);
  if (s.total_blocks() < 1)
    fail("{}: topk ({}) and window_size ({}) choose no block at all", keys.name(), s.topk,
         s.window_size);
  return s;
}

std::vector<MixerKind> mixer_types(const Keys& keys, int64_t layers) {
  if (!keys.has("mixer_types") || !keys["mixer_types"].is_array())
    fail("{}: key \"mixer_types\" is missing; expected a list of {} names", keys.name(), layers);
  std::vector<MixerKind> kinds;
  for (const Json& value : keys["mixer_types"]) {
    const std::string kind = value.is_string() ? value.get<std::string>() : value.dump();
    if (kind == "lightning-attn" || kind == "lightning_attn" || kind == "lightning") {
      kinds.push_back(MixerKind::lightning);
    } else if (kind == "minicpm4" || kind == "minicpm" || kind == "standard" ||
               kind == "attention" || kind == "attn") {
      kinds.push_back(MixerKind::attention);
    } else {
      fail(
          "{}: mixer_types[{}] is \"{}\"; known are \"minicpm4\" (softmax attention) and "
          "\"lightning-attn\"",
          keys.name(), kinds.size(), kind);
    }
  }
  if (static_cast<int64_t>(kinds.size()) != layers)
    fail("{}: mixer_types has {} entries; num_hidden_layers is {}", keys.name(), kinds.size(),
         layers);
  return kinds;
}

/// muP's scalings (Hu et al. 2024, MiniCPM): absent keys leave everything as it is.
void read_mup(const Keys& keys, ModelConfig& c) {
  const double layers = c.layers();
  c.embed_scale = static_cast<float>(keys.real_or("scale_emb", 1.0));
  c.residual_scale =
      static_cast<float>(keys.real_or("scale_depth", std::sqrt(layers)) / std::sqrt(layers));
  const auto hidden = static_cast<double>(c.hidden);
  c.logit_divisor = static_cast<float>(hidden / keys.real_or("dim_model_base", hidden));
}

void read_sparse(const Keys& keys, ModelConfig& c) {
  if (keys.has("sparse_config"))
    c.attention.sparse =
        sparse_config(Keys(keys["sparse_config"], keys.name() + ": sparse_config"));
}

/// Attention in every layer.
ModelConfig attention_only(const Keys& keys) {
  ModelConfig c = common(keys);
  c.mixers.assign(static_cast<size_t>(keys.integer("num_hidden_layers", 1, kMaxLayers)),
                  MixerKind::attention);
  c.attention = attention_heads(keys, c.hidden);
  return c;
}

ModelConfig hybrid(const Keys& keys, bool hypenet) {
  ModelConfig c = common(keys);
  c.mixers = mixer_types(keys, keys.integer("num_hidden_layers", 1, kMaxLayers));
  c.attention = attention_heads(keys, c.hidden);
  c.attention.rope = keys.flag_or("attn_use_rope", hypenet);
  c.attention.gate = keys.flag_or("attn_use_output_gate", !hypenet);
  c.lightning = lightning_heads(keys, c.attention, hypenet);
  return c;
}

ModelConfig minicpm_sala(const Keys& keys) {
  ModelConfig c = hybrid(keys, false);
  read_sparse(keys, c);
  read_mup(keys, c);
  return c;
}

/// MiniCPM4 and 4.1.
ModelConfig minicpm(const Keys& keys) {
  ModelConfig c = attention_only(keys);
  read_sparse(keys, c);
  read_mup(keys, c);
  return c;
}

ModelConfig qwen3(const Keys& keys) {
  ModelConfig c = attention_only(keys);
  c.attention.qk_norm = true;
  return c;
}

/// `attn_logits_scaling` is null, a number, or "hype a".
ModelConfig hypenet(const Keys& keys) {
  ModelConfig c = hybrid(keys, true);
  c.attention.qk_norm = true;
  if (!keys.has("attn_logits_scaling")) return c;
  if (keys["attn_logits_scaling"].is_number()) {
    c.attention.q_factor = keys.real_or("attn_logits_scaling", 1.0);
    return c;
  }
  const std::string text = keys.text_or("attn_logits_scaling", "");
  constexpr double kDefault = 362.0;  // of the published code
  const size_t space = text.find(' ');
  c.attention.log_base =
      space == std::string::npos ? kDefault : std::strtod(text.c_str() + space, nullptr);
  if (!text.starts_with("hype") || !(c.attention.log_base > 1.0) ||
      !std::isfinite(c.attention.log_base))
    fail(
        "{}: key \"attn_logits_scaling\" is \"{}\"; expected null, a number, or \"hype a\" with a "
        "above 1",
        keys.name(), text);
  return c;
}

struct Family {
  std::string_view model_type;
  ModelConfig (*read)(const Keys& keys);
};

constexpr Family kFamilies[] = {{"minicpm_sala", minicpm_sala},
                                {"llama", attention_only},
                                {"minicpm", minicpm},
                                {"qwen3", qwen3},
                                {"hypenet", hypenet}};

}  // namespace

std::string_view name_of(MixerKind kind) {
  return kind == MixerKind::attention ? std::string_view("attention")
                                      : std::string_view("lightning");
}

ModelConfig parse_config(const Json& config, const std::string& name) {
  const Keys keys(config, name);
  const std::string type = keys.text_or("model_type", "");
  const auto known = std::ranges::find(kFamilies, type, &Family::model_type);
  if (known == std::end(kFamilies)) {
    std::string names;
    for (const Family& family : kFamilies)
      names += (names.empty() ? "" : ", ") + std::string(family.model_type);
    fail("{}: key \"model_type\" is \"{}\"; supported are {}", name, type, names);
  }
  ModelConfig c = known->read(keys);
  c.family = type;
  for (const int head_dim :
       {c.attention.rope ? c.attention.head_dim : 0, c.lightning.rope ? c.lightning.head_dim : 0})
    if (c.rope.type == RopeConfig::Type::factors && head_dim > 0 &&
        c.rope.factors.size() != static_cast<size_t>(head_dim / 2))
      fail("{}: rope_scaling has {} factors; expected {}, half the head size", name,
           c.rope.factors.size(), head_dim / 2);
  for (const int id : c.eos)
    if (id >= c.vocab)
      fail("{}: key \"eos_token_id\" holds {}; the vocabulary has {} tokens", name, id, c.vocab);
  return c;
}

ModelConfig read_config(const std::filesystem::path& path) {
  return parse_config(read_json(path), path.string());
}

}  // namespace sala
