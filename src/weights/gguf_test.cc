#include "weights/gguf.h"

#include <gtest/gtest.h>

#include <random>

#include "weights/testing.h"

namespace sala {
namespace {

using testing::as_span;
using testing::bytes_of;
using testing::expect_error;
using testing::GgufFile;

constexpr uint32_t kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ8_0 = 8, kQ6_K = 14, kIq2_xs = 17,
                   kBf16 = 30;
constexpr uint32_t kText = 8, kArray = 9;

Gguf parse(const std::string& file) { return Gguf::parse(as_span(file), "model.gguf", nullptr); }

/// Expects that a file is refused with a message that names it and contains `parts`.
void refuse(const std::string& file, std::initializer_list<std::string_view> parts) {
  expect_error([&] { parse(file); }, {"model.gguf: "});
  expect_error([&] { parse(file); }, parts);
}
void refuse(const GgufFile& file, std::initializer_list<std::string_view> parts) {
  refuse(file.file(), parts);
}

template <class T>
std::string array(uint32_t type, const std::vector<T>& values) {
  return bytes_of(type) + bytes_of(static_cast<uint64_t>(values.size())) + bytes_of(values);
}

TEST(GgufMetadata, ReadsEveryType) {
  const auto gguf = parse(
      GgufFile()
          .raw("u8", 0, bytes_of<uint8_t>(255))
          .raw("i8", 1, bytes_of<int8_t>(-128))
          .raw("u16", 2, bytes_of<uint16_t>(65535))
          .raw("i16", 3, bytes_of<int16_t>(-32768))
          .raw("u32", 4, bytes_of<uint32_t>(4294967295))
          .raw("i32", 5, bytes_of<int32_t>(-2147483647))
          .raw("f32", 6, bytes_of(0.5f))
          .raw("true", 7, bytes_of<uint8_t>(1))
          .raw("false", 7, bytes_of<uint8_t>(0))
          .add("text", "caf\u00e9")
          .raw("u64", 10, bytes_of<uint64_t>(9223372036854775807))
          .raw("i64", 11, bytes_of<int64_t>(-5))
          .raw("f64", 12, bytes_of(0.1))
          .raw("u8s", kArray, array<uint8_t>(0, {7, 255}))
          .raw("i64s", kArray, array<int64_t>(11, {-7}))
          .raw("f32s", kArray, array<float>(6, {0.25f, -1}))
          .raw("bools", kArray, array<uint8_t>(7, {1, 0}))
          .raw("texts", kArray,
               bytes_of(kText) + bytes_of<uint64_t>(2) + GgufFile::text("a") + GgufFile::text(""))
          .raw("none", kArray, array<int32_t>(5, {}))
          .file());
  EXPECT_EQ(gguf.integer("u8"), 255);
  EXPECT_EQ(gguf.integer("i8"), -128);
  EXPECT_EQ(gguf.integer("u16"), 65535);
  EXPECT_EQ(gguf.integer("i16"), -32768);
  EXPECT_EQ(gguf.integer("u32"), 4294967295);
  EXPECT_EQ(gguf.integer("i32"), -2147483647);
  EXPECT_EQ(gguf.integer("u64"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(gguf.integer("i64"), -5);
  EXPECT_EQ(gguf.real("f32"), 0.5);
  EXPECT_EQ(gguf.real("f64"), 0.1);
  EXPECT_TRUE(gguf.boolean("true", false));
  EXPECT_FALSE(gguf.boolean("false", true));
  EXPECT_EQ(gguf.text("text"), "caf\u00e9");
  EXPECT_EQ(gguf.integers("u8s"), (std::vector<int64_t>{7, 255}));
  EXPECT_EQ(gguf.integers("i64s"), std::vector<int64_t>{-7});
  EXPECT_EQ(gguf.reals("f32s"), (std::vector<double>{0.25, -1}));
  EXPECT_EQ(gguf.texts("texts"), (std::vector<std::string>{"a", ""}));
  EXPECT_TRUE(gguf.integers("none").empty());
  EXPECT_EQ(std::get<std::vector<bool>>(gguf.metadata().at("bools")),
            (std::vector<bool>{true, false}));
  EXPECT_TRUE(gguf.has("u8"));
  EXPECT_FALSE(gguf.has("u9"));
  EXPECT_EQ(gguf.integer("u9", 3), 3);
  EXPECT_EQ(gguf.real("u9", 0.5), 0.5);
  EXPECT_EQ(gguf.text("u9", "x"), "x");
  EXPECT_TRUE(gguf.boolean("u9", true));
  expect_error([&] { std::ignore = gguf.integer("u9"); }, {"model.gguf: ", "'u9'", "missing"});
  expect_error([&] { std::ignore = gguf.integer("f32"); },
               {"model.gguf: ", "'f32' is a float", "expected an integer"});
  expect_error([&] { std::ignore = gguf.integer("u8s", 1); }, {"'u8s' is an array of integers"});
  expect_error([&] { std::ignore = gguf.texts("text"); },
               {"is a string", "expected an array of strings"});
}

TEST(GgufMetadata, RefusesBadValues) {
  refuse(GgufFile().raw("a", 13, ""), {"'a'", "unknown value type 13"});
  refuse(GgufFile().raw("a", kArray, array<int64_t>(13, {})), {"'a'", "unknown value type 13"});
  refuse(GgufFile().raw("a", kArray, array<int64_t>(kArray, {1, 2})), {"'a'", "arrays of arrays"});
  refuse(GgufFile().raw("a", 7, bytes_of<uint8_t>(2)), {"'a'", "boolean is 2"});
  refuse(GgufFile().raw("a", 10, bytes_of(~uint64_t{0})), {"'a'", "18446744073709551615"});
  refuse(GgufFile().add("a", 1U).add("a", 2U), {"'a'", "twice"});
  refuse(GgufFile().add("", 1U), {"metadata key ''"});
  refuse(GgufFile().add("a\xff", 1U), {R"('a\xff')", "UTF-8"});
  refuse(GgufFile().add("a\xed\xa0\x80", 1U), {R"('a\xed\xa0\x80')", "UTF-8"});
}

TEST(GgufMetadata, RefusesLengthsThatLie) {
  const auto huge = bytes_of(~uint64_t{0});
  refuse(GgufFile().raw("a", kText, huge + "x"), {"'a'", "18446744073709551615 bytes are needed"});
  refuse(GgufFile().raw("a", kText, bytes_of<uint64_t>(1000)), {"'a'", "1000 bytes are needed"});
  for (const uint32_t type : {0U, 7U, 8U, 12U}) {
    const auto lie = bytes_of(type) + huge + "x";
    refuse(GgufFile().raw("a", kArray, lie), {"'a'", "18446744073709551615 entries do not fit"});
    const auto wrap = bytes_of(type) + bytes_of(uint64_t{1} << 61);
    refuse(GgufFile().raw("a", kArray, wrap), {"'a'", "entries do not fit"});
  }
  GgufFile many;
  many.tensor_count = ~uint64_t{0};
  refuse(many, {"number of tensors", "18446744073709551615"});
  many.tensor_count = 1;
  refuse(many, {"number of tensors", "1 entries"});
  many.tensor_count = 0;
  many.pair_count = uint64_t{1} << 60;
  refuse(many, {"number of metadata keys"});
  many.pair_count = 1;
  refuse(many, {"model.gguf"});
}

TEST(Gguf, RefusesOtherFiles) {
  GgufFile file;
  EXPECT_TRUE(parse(file.file()).tensors().empty());
  file.magic = "GGML";
  refuse(file, {"begins with 'GGML'"});
  file.magic =
      "\x7f"
      "ELF";
  refuse(file, {R"('\x7fELF')"});
  file.magic = "GGUF";
  file.version = 1;
  refuse(file, {"version 1"});
  file.version = 4;
  refuse(file, {"version 4"});
  file.version = 0x03000000;
  refuse(file, {"big-endian"});
  file.version = 2;
  EXPECT_TRUE(parse(file.file()).tensors().empty());
}

GgufFile small_file() {
  return GgufFile()
      .add("general.architecture", "llama")
      .add("llama.attention.head_count", 2U)
      .tensor("a", kF32, {3, 2}, std::string(24, 'a'))
      .tensor("b", kQ8_0, {2, 64}, std::string(136, 'b'))
      .tensor("c", kF16, {}, "cc");
}

TEST(Gguf, ReadsTensorsOutermostFirst) {
  const auto file = small_file().file();
  const auto gguf = parse(file);
  ASSERT_EQ(gguf.tensors().size(), 3U);
  const auto& [a, b, c] = std::tie(gguf.tensors()[0], gguf.tensors()[1], gguf.tensors()[2]);
  EXPECT_EQ(a.shape, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(a.type, StoredType::f32);
  EXPECT_EQ(a.bytes.size(), 24U);
  EXPECT_EQ(a.bytes.front(), std::byte{'a'});
  EXPECT_EQ(b.type, StoredType::q8_0);
  EXPECT_EQ(b.bytes.data(), a.bytes.data() + 32);
  EXPECT_EQ(b.bytes.back(), std::byte{'b'});
  EXPECT_TRUE(c.shape.empty());
  EXPECT_EQ(c.bytes.size(), 2U);
}

TEST(Gguf, KnowsTypesThatItDoesNotTake) {
  const auto file = GgufFile().tensor("a", kIq2_xs, {1, 256}, std::string(74, 'x')).file();
  EXPECT_EQ(parse(file).tensors()[0].type, StoredType::other);
  EXPECT_EQ(parse(file).tensors()[0].type_name, "IQ2_XS");
}

TEST(Gguf, RefusesEveryTruncation) {
  const auto file = small_file().file();
  EXPECT_EQ(parse(file).tensors().size(), 3U);
  for (size_t size = 0; size < file.size(); ++size)
    refuse(file.substr(0, size), {size < 4 ? "the magic number" : "obtain it again"});
}

TEST(Gguf, RefusesBadTensors) {
  const std::string data(64, 'x');
  refuse(GgufFile().tensor("a", kF32, {1, 1, 1, 1, 1}, data), {"'a'", "5 dimensions"});
  refuse(GgufFile().tensor("a", 4, {16}, data), {"'a'", "unknown type 4"});
  refuse(GgufFile().tensor("a", 4294967295U, {16}, data), {"'a'", "unknown type 4294967295"});
  refuse(GgufFile().tensor("a", kQ8_0, {2, 31}, data), {"'a'", "31 elements", "multiple of 32"});
  refuse(GgufFile().tensor("a", kQ6_K, {32}, data), {"'a'", "32 elements", "multiple of 256"});
  refuse(GgufFile().tensor("a", kF32, {-1}, data), {"'a'", "18446744073709551615"});
  refuse(GgufFile().tensor("a", kF32, {1LL << 62}, data), {"'a'", "overflows"});
  refuse(GgufFile().tensor("a", kF32, {1LL << 40, 1LL << 40}, data), {"'a'", "overflows"});
  refuse(GgufFile().tensor("a", kF32, {17}, data), {"'a'", "takes 68 bytes", "64 bytes of data"});
  refuse(GgufFile().tensor_at("a", kF32, {16}, 32, data), {"'a'", "at offset 32"});
  refuse(GgufFile().tensor_at("a", kF32, {0}, 96, data), {"'a'", "at offset 96"});
  refuse(GgufFile().tensor_at("a", kF32, {8}, 4, data), {"'a'", "alignment 32"});
  refuse(GgufFile().tensor_at("a", kF32, {8}, ~uint64_t{31}, data),
         {"'a'", "18446744073709551584"});
  refuse(GgufFile().tensor("a", kF32, {4}, data).tensor("a", kF32, {4}, data), {"two", "'a'"});
  refuse(GgufFile().tensor("", kF32, {4}, data), {"tensor name ''"});
  refuse(GgufFile().tensor("\xc0\xaf", kF32, {4}, data), {R"('\xc0\xaf')", "UTF-8"});
  refuse(GgufFile().tensor("a", kF32, {9}, data).tensor_at("b", kF32, {4}, 32, ""),
         {"'a' and 'b' overlap"});
  refuse(GgufFile().tensor("a", kF32, {4}, data).tensor_at("b", kF32, {4}, 0, ""),
         {"'a'", "'b'", "overlap"});
}

TEST(Gguf, ObeysTheAlignment) {
  GgufFile file;
  file.alignment = 128;
  file.add("general.alignment", 128U).tensor("a", kF32, {1}, "aaaa").tensor("b", kF32, {1}, "bbbb");
  const auto bytes = file.file();
  const auto gguf = parse(bytes);
  EXPECT_EQ(gguf.tensors()[1].bytes.data(), gguf.tensors()[0].bytes.data() + 128);
  EXPECT_EQ(gguf.tensors()[1].bytes[0], std::byte{'b'});
  for (const uint32_t bad : {0U, 3U, 48U, 0x80000000U})
    refuse(GgufFile().add("general.alignment", bad), {"'general.alignment'", std::to_string(bad)});
  refuse(GgufFile().add("general.alignment", "x"), {"'general.alignment' is a string"});
}

GgufFile llama(uint32_t heads, uint32_t kv_heads, uint32_t hidden) {
  return GgufFile()
      .add("general.architecture", "llama")
      .add("llama.attention.head_count", heads)
      .add("llama.attention.head_count_kv", kv_heads)
      .add("llama.embedding_length", hidden);
}

TEST(GgufModel, GivesHuggingFaceNames) {
  GgufFile file = llama(1, 1, 2);
  const std::pair<const char*, const char*> names[] = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output.weight", "lm_head.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
      {"blk.10.ffn_norm.weight", "model.layers.10.post_attention_layernorm.weight"},
      {"blk.3.attn_q.weight", "model.layers.3.self_attn.q_proj.weight"},
      {"blk.3.attn_k.weight", "model.layers.3.self_attn.k_proj.weight"},
      {"blk.3.attn_v.weight", "model.layers.3.self_attn.v_proj.weight"},
      {"blk.3.attn_output.weight", "model.layers.3.self_attn.o_proj.weight"},
      {"blk.3.ffn_gate.weight", "model.layers.3.mlp.gate_proj.weight"},
      {"blk.3.ffn_up.weight", "model.layers.3.mlp.up_proj.weight"},
      {"blk.3.ffn_down.weight", "model.layers.3.mlp.down_proj.weight"},
      {"blk.3.attn_q_norm.weight", "model.layers.3.self_attn.q_norm.weight"},
      {"blk.3.attn_k_norm.weight", "model.layers.3.self_attn.k_norm.weight"},
      {"blk.03.ffn_up.weight", "blk.03.ffn_up.weight"},
      {"blk..ffn_up.weight", "blk..ffn_up.weight"},
      {"blk.3", "blk.3"},
      {"blk.3.attn_q.bias", "blk.3.attn_q.bias"},
  };
  for (const auto& [gguf, other] : names) file.tensor(gguf, kF32, {2, 2}, std::string(16, 'x'));
  file.tensor("rope_freqs.weight", kF32, {1}, std::string("\0\0\x80?", 4));
  const auto bytes = file.file();
  const auto source = parse(bytes).model_weights();
  for (const auto& [gguf, other] : names) EXPECT_TRUE(source.has(other)) << other;
  EXPECT_FALSE(source.has("rope_freqs.weight")) << "it belongs to the configuration";
}

TEST(GgufModel, PutsRowsOfQAndKBack) {
  // Two query heads and one key head of 6 rows; a row's value says where Hugging Face has it.
  const auto interleaved = [](int heads) {
    std::vector<float> rows;
    for (int head = 0; head < heads; ++head)
      for (int i = 0; i < 3; ++i)
        for (int half = 0; half < 2; ++half)
          rows.push_back(static_cast<float>(head * 6 + half * 3 + i));
    return bytes_of(rows);
  };
  const auto bytes = llama(2, 1, 12)
                         .tensor("blk.0.attn_q.weight", kF32, {12, 1}, interleaved(2))
                         .tensor("blk.0.attn_k.weight", kF32, {6, 1}, interleaved(1))
                         .tensor("blk.0.attn_v.weight", kF32, {6, 1}, interleaved(1))
                         .file();
  auto source = parse(bytes).model_weights();
  const std::string layer = "model.layers.0.self_attn.";
  const auto check = [&](const Weight& w) {
    for (int64_t n = 0; n < w.rows; ++n) {
      float value = -1;
      unpack_row(w, 0, n, {&value, 1});
      EXPECT_EQ(value, static_cast<float>(n));
    }
  };
  check(source.take_matrix(layer + "q_proj.weight", 12, 1));
  check(source.take_matrix(layer + "k_proj.weight", 6, 1));
  const auto v = source.take_matrix(layer + "v_proj.weight", 6, 1);
  float value = -1;
  unpack_row(v, 0, 1, {&value, 1});
  EXPECT_EQ(value, 3) << "v has no rotary order";
}

TEST(GgufModel, LeavesRowsOfQwen3InOrder) {
  const auto bytes = GgufFile()
                         .add("general.architecture", "qwen3")
                         .add("qwen3.attention.head_count", 1U)
                         .add("qwen3.embedding_length", 4U)
                         .tensor("blk.0.attn_q.weight", kF32, {4, 1},
                                 bytes_of(std::vector{0.0f, 1.0f, 2.0f, 3.0f}))
                         .file();
  auto source = parse(bytes).model_weights();
  const auto q = source.take_matrix("model.layers.0.self_attn.q_proj.weight", 4, 1);
  for (int64_t n = 0; n < 4; ++n) {
    float value = -1;
    unpack_row(q, 0, n, {&value, 1});
    EXPECT_EQ(value, static_cast<float>(n));
  }
}

TEST(GgufModel, RefusesWhatContradictsItself) {
  const auto refuse_llama = [](const GgufFile& file,
                               std::initializer_list<std::string_view> parts) {
    const auto bytes = file.file();
    expect_error([&] { parse(bytes).model_weights(); }, {"model.gguf: "});
    expect_error([&] { parse(bytes).model_weights(); }, parts);
  };
  refuse_llama(GgufFile(), {"'general.architecture' is missing"});
  refuse_llama(GgufFile().add("general.architecture", "gemma"), {"'gemma'", "'llama', 'qwen3'"});
  refuse_llama(llama(2, 1, 12).add("split.count", 3U), {"3 parts"});
  refuse_llama(llama(0, 1, 12), {"'llama.attention.head_count' is 0"});
  refuse_llama(llama(2, 0, 12), {"'llama.attention.head_count_kv' is 0"});
  refuse_llama(llama(2, 1, 0), {"'llama.embedding_length' is 0"});
  refuse_llama(llama(2, 1, 6), {"heads of 3 rows", "even"});
  refuse_llama(llama(2, 1, 12).add("llama.attention.key_length", 0U), {"key_length", "is 0"});
  refuse_llama(llama(2, 1, 12).tensor("blk.0.attn_q.weight", kF32, {6, 1}, std::string(24, 'x')),
               {"'blk.0.attn_q.weight'", "[6, 1]", "12 rows"});
  refuse_llama(llama(2, 1, 12).tensor("blk.0.attn_k.weight", kF32, {6}, std::string(24, 'x')),
               {"'blk.0.attn_k.weight'", "[6]", "6 rows"});
}

TEST(GgufModel, LoadsAFileOfARealShape) {
  constexpr int64_t kHidden = 256, kFeed = 512, kVocab = 1000, kLayers = 3, kHeads = 4, kKv = 2;
  std::mt19937 random(7);
  const auto blocks = [&](uint32_t type, int64_t rows, int64_t cols) {
    const StoredType stored = type == kF32    ? StoredType::f32
                              : type == kF16  ? StoredType::f16
                              : type == kBf16 ? StoredType::bf16
                              : type == kQ4_0 ? StoredType::q4_0
                              : type == kQ4_1 ? StoredType::q4_1
                                              : StoredType::q8_0;
    std::string bytes(static_cast<size_t>(rows * stored_bytes(stored, cols)), '\0');
    for (char& c : bytes) c = static_cast<char>(random() & 0x3B);  // no scale is infinite
    return bytes;
  };
  GgufFile file = llama(kHeads, kKv, kHidden);
  const auto add = [&](const std::string& name, uint32_t type, int64_t rows, int64_t cols) {
    file.tensor(name, type, {rows, cols}, blocks(type, rows, cols));
  };
  const auto norm = [&](const std::string& name) {
    file.tensor(name, kF32, {kHidden}, blocks(kF32, 1, kHidden));
  };
  add("token_embd.weight", kQ8_0, kVocab, kHidden);
  norm("output_norm.weight");
  for (int64_t i = 0; i < kLayers; ++i) {
    const auto layer = fmt::format("blk.{}.", i);
    const uint32_t type = i == 0 ? kQ4_1 : i == 1 ? kQ4_0 : kBf16;
    norm(layer + "attn_norm.weight");
    norm(layer + "ffn_norm.weight");
    add(layer + "attn_q.weight", type, kHidden, kHidden);
    add(layer + "attn_k.weight", type, kHidden / 2, kHidden);
    add(layer + "attn_v.weight", i == 0 ? kQ8_0 : type, kHidden / 2, kHidden);
    add(layer + "attn_output.weight", kF16, kHidden, kHidden);
    add(layer + "ffn_gate.weight", type, kFeed, kHidden);
    add(layer + "ffn_up.weight", type, kFeed, kHidden);
    add(layer + "ffn_down.weight", type, kHidden, kFeed);
  }
  const testing::Scratch scratch;
  auto source = Gguf::open(scratch.write("model.gguf", file.file())).model_weights();
  int64_t told = 0;
  source.progress = [&](int64_t done, int64_t total) { told = done == total ? done : 0; };
  EXPECT_EQ(source.take_matrix("model.embed_tokens.weight", kVocab, kHidden).type, WeightType::w8);
  source.take_vector("model.norm.weight", kHidden);
  for (int64_t i = 0; i < kLayers; ++i) {
    const auto layer = fmt::format("model.layers.{}.", i);
    const std::string names[] = {layer + "self_attn.q_proj.weight",
                                 layer + "self_attn.k_proj.weight",
                                 layer + "self_attn.v_proj.weight"};
    const int64_t rows[] = {kHidden, kHidden / 2, kHidden / 2};
    const WeightType type = i == 0 ? WeightType::w8 : i == 1 ? WeightType::w4 : WeightType::bf16;
    EXPECT_EQ(source.take_stack(names, rows, kHidden).type, type);
    EXPECT_EQ(source.take_matrix(layer + "self_attn.o_proj.weight", kHidden, kHidden).type,
              WeightType::f16);
    const auto gate = source.take_pair(layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight",
                                       kFeed, kHidden);
    EXPECT_EQ(gate.type, i == 2 ? WeightType::bf16 : WeightType::w4);
    EXPECT_TRUE(gate.paired);
    source.take_matrix(layer + "mlp.down_proj.weight", kHidden, kFeed);
    source.take_vector(layer + "input_layernorm.weight", kHidden);
    expect_error([&] { source.expect_all_taken(); }, {"model.gguf: ", "not part of the model"});
    source.take_vector(layer + "post_attention_layernorm.weight", kHidden);
  }
  source.expect_all_taken();
  EXPECT_GT(told, 0);
}

}  // namespace
}  // namespace sala
