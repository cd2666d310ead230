#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "model/config.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "weights/source.h"

namespace sala {

/// How to choose the next token.
struct SamplingParams {
  double temperature = 0.8;  ///< 0: the most likely token
  double top_p = 0.95;  ///< sample among the most likely tokens that together have this probability
  uint64_t seed = 0;
};

/// What a model path holds, before any weight is in memory.
struct ModelFiles {
  std::filesystem::path path;
  ModelConfig config;
  WeightSource weights;
  std::unique_ptr<Tokenizer> tokenizer{};       ///< null when the path has none
  std::optional<ChatTemplate> chat_template{};  ///< empty when the path has none
  SamplingParams sampling{};                    ///< the authors' defaults
  std::vector<int> stop{};                      ///< tokens that end a reply

  /// The tokenizer, or an Error that names the path.
  const Tokenizer& require_tokenizer() const;
  /// BOS where the model wants it in front of a raw text, else nothing.
  std::vector<int> raw_prefix() const;
};

/// Whether the text side is wanted too. `logits` and `inspect` work on directories without
/// tokenizer files.
enum class OpenText : uint8_t { no, yes };

/// Opens a Hugging Face directory or a .gguf file. Nothing in it is run. Throws Error naming file
/// and field.
ModelFiles open_model(const std::filesystem::path& path, OpenText text);

}  // namespace sala
