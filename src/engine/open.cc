#include "engine/open.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "weights/gguf.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

/// Published sampling defaults of the families whose files carry none.
SamplingParams family_defaults(const std::string& family) {
  if (family == "minicpm_sala") return {.temperature = 0.9, .top_p = 1.0};
  return {};
}

void read_generation_config(const fs::path& path, ModelFiles& files) {
  if (!fs::exists(path)) return;
  const Json json = read_json(path);
  if (!json.is_object())
    fail("{}: expected a JSON object, found {}", path.string(), json.type_name());
  const auto number = [&](const char* key, double low, double high, double& value) {
    if (!json.contains(key) || json[key].is_null()) return;
    if (!json[key].is_number() || json[key].get<double>() < low || json[key].get<double>() > high)
      fail("{}: key \"{}\" is {}; expected a number from {} to {}", path.string(), key,
           json[key].dump(), low, high);
    value = json[key].get<double>();
  };
  number("temperature", 0.0, 100.0, files.sampling.temperature);
  number("top_p", 0.0, 1.0, files.sampling.top_p);
  number("min_p", 0.0, 1.0, files.sampling.min_p);
  number("repetition_penalty", 1e-4, 1e4, files.sampling.repetition_penalty);
  auto top_k = static_cast<double>(files.sampling.top_k);
  number("top_k", 0.0, 1e9, top_k);
  files.sampling.top_k = static_cast<int64_t>(top_k);
  if (json.contains("do_sample") && json["do_sample"] == Json(false))
    files.sampling.temperature = 0.0;
  if (json.contains("eos_token_id") && !json["eos_token_id"].is_null()) {
    const Json& eos = json["eos_token_id"];
    for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
          id.get<int64_t>() >= files.config.vocab)
        fail("{}: key \"eos_token_id\" is {}; expected ids below the vocabulary size {}",
             path.string(), eos.dump(), files.config.vocab);
      files.stop.push_back(id.get<int>());
    }
  }
}

ModelFiles open_directory(const fs::path& path, OpenText text) {
  const fs::path config = path / "config.json";
  if (!fs::exists(config)) {
    fail("{}: has no config.json; give a Hugging Face model directory or a .gguf file",
         path.string());
  }
  ModelFiles files{
      .path = path, .config = read_config(config), .weights = WeightSource::open_directory(path)};
  files.sampling = family_defaults(files.config.family);
  files.stop = files.config.eos;
  read_generation_config(path / "generation_config.json", files);
  if (text == OpenText::yes) {
    files.tokenizer = Tokenizer::from_directory(path);
    files.chat_template = load_chat_template(path);
  }
  return files;
}

GgufVocab gguf_vocab(const Gguf& gguf) {
  const auto id = [&](const char* key) { return static_cast<int>(gguf.integer(key, -1)); };
  GgufVocab v;
  v.model = gguf.text("tokenizer.ggml.model");
  v.pre = gguf.text("tokenizer.ggml.pre", "default");
  v.tokens = gguf.texts("tokenizer.ggml.tokens");
  if (gguf.has("tokenizer.ggml.scores")) {
    for (const double score : gguf.reals("tokenizer.ggml.scores"))
      v.scores.push_back(static_cast<float>(score));
  }
  if (gguf.has("tokenizer.ggml.token_type")) {
    for (const int64_t type : gguf.integers("tokenizer.ggml.token_type"))
      v.types.push_back(static_cast<int>(type));
  }
  if (gguf.has("tokenizer.ggml.merges")) v.merges = gguf.texts("tokenizer.ggml.merges");
  v.bos = id("tokenizer.ggml.bos_token_id");
  v.eos = id("tokenizer.ggml.eos_token_id");
  v.unk = id("tokenizer.ggml.unknown_token_id");
  v.pad = id("tokenizer.ggml.padding_token_id");
  v.eot = id("tokenizer.ggml.eot_token_id");
  // Where the flag is absent the kind of vocabulary decides.
  if (gguf.has("tokenizer.ggml.add_bos_token"))
    v.add_bos = gguf.boolean("tokenizer.ggml.add_bos_token", false);
  v.add_eos = gguf.boolean("tokenizer.ggml.add_eos_token", false);
  v.add_space_prefix = gguf.boolean("tokenizer.ggml.add_space_prefix", true);
  return v;
}

ModelFiles open_gguf(const fs::path& path, OpenText text) {
  const Gguf gguf = Gguf::open(path);
  ModelFiles files{.path = path, .config = gguf_config(gguf), .weights = gguf.model_weights()};
  files.sampling = family_defaults(files.config.family);
  files.stop = files.config.eos;
  if (text == OpenText::yes && gguf.has("tokenizer.ggml.model")) {
    files.tokenizer = Tokenizer::from_gguf(gguf_vocab(gguf), path.string());
    const auto piece = [&](std::optional<int> id) {
      return id ? std::string(files.tokenizer->piece(*id)) : "";
    };
    if (gguf.has("tokenizer.chat_template"))
      files.chat_template.emplace(
          gguf.text("tokenizer.chat_template"), path.string() + ": tokenizer.chat_template",
          ChatTemplate::SpecialTokens{{"bos_token", piece(files.tokenizer->bos())},
                                      {"eos_token", piece(files.tokenizer->eos())}});
  }
  return files;
}

}  // namespace

const Tokenizer& ModelFiles::require_tokenizer() const {
  if (tokenizer == nullptr)
    fail("{}: has no tokenizer (tokenizer.json or tokenizer.model); this command needs one",
         path.string());
  return *tokenizer;
}

Thought ModelFiles::thought_behind(std::span<const int> prompt) const {
  if (!chat_template) return Thought::none;
  constexpr size_t kEnd = 16;  // tokens that may open a thought
  return chat_template->thought_behind(
      tokenizer->decode(prompt.last(std::min(kEnd, prompt.size())), false));
}

std::vector<int> ModelFiles::raw_prefix() const {
  const Tokenizer& t = require_tokenizer();
  return t.adds_bos() && t.bos() ? std::vector<int>{*t.bos()} : std::vector<int>{};
}

ModelFiles open_model(const fs::path& path, OpenText text) {
  if (!fs::exists(path))
    fail("{}: no such file or directory; give a model directory or a .gguf file", path.string());
  ModelFiles files = fs::is_directory(path) ? open_directory(path, text) : open_gguf(path, text);
  if (files.tokenizer != nullptr) {
    if (files.tokenizer->size() > files.config.vocab)
      fail("{}: the tokenizer has {} tokens; the model's vocabulary has {}", path.string(),
           files.tokenizer->size(), files.config.vocab);
    if (const auto eos = files.tokenizer->eos()) files.stop.push_back(*eos);
  }
  std::ranges::sort(files.stop);
  files.stop.erase(std::ranges::unique(files.stop).begin(), files.stop.end());
  return files;
}

}  // namespace sala
