#include "model/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "cache/spec.h"
#include "model/mixer.h"

namespace sala {
namespace {

/// The released configuration of MiniCPM-SALA.
Json released() {
  Json mixers = Json::array();
  for (int i = 0; i < 32; ++i) {
    const bool sparse =
        i == 0 || i == 9 || i == 16 || i == 17 || i == 22 || i == 29 || i == 30 || i == 31;
    mixers.push_back(sparse ? "minicpm4" : "lightning-attn");
  }
  return {{"model_type", "minicpm_sala"},
          {"vocab_size", 73448},
          {"hidden_size", 4096},
          {"intermediate_size", 16384},
          {"num_hidden_layers", 32},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 2},
          {"head_dim", 128},
          {"lightning_nh", 32},
          {"lightning_nkv", 32},
          {"lightning_head_dim", 128},
          {"lightning_scale", "1/sqrt(d)"},
          {"lightning_use_rope", true},
          {"attn_use_rope", false},
          {"qk_norm", true},
          {"use_output_gate", true},
          {"use_output_norm", true},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"max_position_embeddings", 524288},
          {"scale_emb", 12},
          {"scale_depth", 1.4},
          {"dim_model_base", 256},
          {"tie_word_embeddings", false},
          {"bos_token_id", 1},
          {"eos_token_id", {2, 73440}},
          {"sparse_config",
           {{"kernel_size", 32},
            {"kernel_stride", 16},
            {"init_blocks", 1},
            {"block_size", 64},
            {"window_size", 2048},
            {"topk", 64},
            {"use_nope", false},
            {"dense_len", 8192}}},
          {"mixer_types", mixers}};
}

std::string error_of(const Json& config) {
  try {
    (void)parse_config(config, "config.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Config, ReadsTheReleasedModel) {
  const ModelConfig c = parse_config(released(), "config.json");
  EXPECT_EQ(c.layers(), 32);
  EXPECT_EQ(std::ranges::count(c.mixers, MixerKind::attention), 8);
  EXPECT_FALSE(c.attention.rope);
  EXPECT_TRUE(c.attention.gate);  // the key is absent: true
  ASSERT_TRUE(c.attention.sparse.has_value());
  EXPECT_EQ(c.attention.sparse->total_blocks(), 96);
  EXPECT_EQ(c.page(), 64);
  EXPECT_FLOAT_EQ(c.residual_scale, 0.24748737341529162f);
  EXPECT_FLOAT_EQ(c.logit_divisor, 16.0f);
  EXPECT_NEAR(c.lightning.scale, 0.08838834764831845, 1e-15);
  EXPECT_EQ(c.eos, (std::vector<int>{2, 73440}));
}

// Per token and sparse layer, with bf16, 1,024 bytes of keys and values and 40 of compressed keys;
// per Lightning layer S and 32 rows.
TEST(Config, MemoryOfAMillionTokens) {
  const ModelConfig c = parse_config(released(), "config.json");
  const int64_t layer_tokens = 8 << 20;
  const auto use = [&](KvType kv) { return memory_of(cache_specs(c, kv), c.page(), 1 << 20); };
  EXPECT_EQ(use(KvType::f32).kv, 2048 * layer_tokens);
  EXPECT_EQ(use(KvType::bf16).kv, 1024 * layer_tokens);
  EXPECT_EQ(use(KvType::int8).kv, (512 + 2 * 2 * 2) * layer_tokens);      // a scale a head
  EXPECT_EQ(use(KvType::int4).kv, (256 + 2 * 2 * 4 * 4) * layer_tokens);  // two numbers a group
  EXPECT_EQ(use(KvType::f32).index, 80 * layer_tokens);
  for (const KvType kv : {KvType::bf16, KvType::int8, KvType::int4}) {
    EXPECT_EQ(use(kv).index, 40 * layer_tokens);
    EXPECT_EQ(use(kv).state, int64_t{24} * (32 * 128 * 128 * 4 + 2 * 32 * 128 * 32 * 4));
  }
  const double gib = 1 << 30;
  EXPECT_LE(static_cast<double>(use(KvType::bf16).total()), 8.4 * gib);
  EXPECT_LE(static_cast<double>(use(KvType::int8).total()), 4.6 * gib);
}

TEST(Config, ErrorsNameTheKey) {
  const auto with = [](const char* key, const Json& value) {
    Json config = released();
    config[key] = value;
    return error_of(config);
  };
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, Json>>{{"model_type", "mamba"},
                                                           {"hidden_size", 0},
                                                           {"hidden_size", -4},
                                                           {"hidden_size", 1e300},
                                                           {"hidden_size", "4096"},
                                                           {"vocab_size", int64_t{1} << 50},
                                                           {"num_key_value_heads", 3},
                                                           {"lightning_nkv", 5},
                                                           {"head_dim", 7},
                                                           {"rms_norm_eps", 0},
                                                           {"rope_theta", -1},
                                                           {"rope_scaling", {{"type", "yarn"}}},
                                                           {"hidden_act", "gelu"},
                                                           {"attention_bias", true},
                                                           {"eos_token_id", 99999999},
                                                           {"eos_token_id", "x"},
                                                           {"mixer_types", {"minicpm4"}},
                                                           {"mixer_types", nullptr},
                                                           {"tie_word_embeddings", 1}}) {
    const std::string error = with(key, value);
    EXPECT_NE(error.find("config.json"), std::string::npos) << key << ": " << error;
    EXPECT_NE(error.find(key), std::string::npos) << key << ": " << error;
  }
  Json config = released();
  config["mixer_types"][3] = "hyena";
  EXPECT_NE(error_of(config).find("mixer_types[3]"), std::string::npos);
  config = released();
  config["sparse_config"]["block_size"] = 0;
  EXPECT_NE(error_of(config).find("block_size"), std::string::npos);
  config["sparse_config"] = "x";
  EXPECT_NE(error_of(config).find("sparse_config"), std::string::npos);
  EXPECT_NE(error_of(Json::array()).find("object"), std::string::npos);
}

TEST(Config, Llama) {
  const Json json = {
      {"model_type", "llama"},    {"vocab_size", 100},      {"hidden_size", 64},
      {"intermediate_size", 96},  {"num_hidden_layers", 3}, {"num_attention_heads", 4},
      {"num_key_value_heads", 2}, {"rope_theta", 5e5},      {"tie_word_embeddings", true}};
  const ModelConfig c = parse_config(json, "config.json");
  EXPECT_EQ(c.layers(), 3);
  EXPECT_EQ(c.attention.head_dim, 16);
  EXPECT_TRUE(c.attention.rope);
  EXPECT_FALSE(c.attention.gate);
  EXPECT_FALSE(c.attention.sparse.has_value());
  EXPECT_TRUE(c.tied);
  EXPECT_EQ(c.rope.theta, 5e5);
}

}  // namespace
}  // namespace sala
