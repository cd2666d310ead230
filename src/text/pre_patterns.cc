#include "text/pre_patterns.h"

#include <map>

#include "base/error.h"

namespace sala {
namespace {

const char* const kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kMiniCpm5 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kDeepSeekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kDigit = R"(\p{N})";
const char* const kThreeDigits = R"(\p{N}{1,3})";
const char* const kCjk = "[一-龥぀-ゟ゠-ヿ]+";

std::map<std::string, PrePatterns> make_table() {
  const PrePatterns gpt2{.patterns = {kGpt2}};
  const PrePatterns digits{.patterns = {kDigit, kGpt2}};
  const PrePatterns llama3{.patterns = {kLlama3}, .ignore_merges = true, .adds_bos = true};
  const PrePatterns qwen2{.patterns = {kQwen2}, .nfc = true};
  const PrePatterns gpt4o{.patterns = {kGpt4o}};
  const PrePatterns deepseek3{.patterns = {kThreeDigits, kCjk, kDeepSeekWords}};
  std::map<std::string, PrePatterns> table;
  for (const char* name :
       {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-es",
        "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe",
        "gigachat", "a.x-4.0", "mellum", "modern-bert"})
    table[name] = gpt2;
  for (const char* name : {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone",
                           "minerva-7b", "megrez"})
    table[name] = digits;
  for (const char* name :
       {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"})
    table[name] = llama3;
  for (const char* name : {"qwen2", "deepseek-r1-qwen", "kormo"}) table[name] = qwen2;
  for (const char* name : {"gpt-4o", "llama4", "kanana2"}) table[name] = gpt4o;
  for (const char* name : {"deepseek-v3", "hunyuan-dense"}) table[name] = deepseek3;
  for (const char* name : {"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"})
    table[name] = {.patterns = {kLlama3}};
  for (const char* name : {"stablelm2", "hunyuan", "grok-2"}) table[name] = {.patterns = {kQwen2}};
  table["qwen35"] = {.patterns = {kQwen35}, .nfc = true};
  table["minicpm5"] = {.patterns = {kThreeDigits, kMiniCpm5}};
  table["tekken"] = {.patterns = {kTekken}, .ignore_merges = true, .adds_bos = true};
  return table;
}

}  // namespace

PrePatterns pre_patterns(const std::string& name, const std::string& where) {
  static const std::map<std::string, PrePatterns> table = make_table();
  const auto found = table.find(name);
  if (found != table.end()) return found->second;
  std::string known;
  for (const auto& [each, _] : table) known += (known.empty() ? "" : ", ") + each;
  fail(
      "{}: tokenizer.ggml.pre is '{}', which is not known; known are {}. Use the model's "
      "tokenizer.json instead",
      where, name, known);
}

}  // namespace sala
