#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/sampler.h"
#include "model/config.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "weights/source.h"

namespace sala {

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
  /// What the reply to a prompt of the chat template begins with.
  Thought thought_behind(std::span<const int> prompt) const;
};

/// Whether the text side is wanted too. `logits` and `inspect` work on directories without
/// tokenizer files.
enum class OpenText : uint8_t { no, yes };

/// Opens a Hugging Face directory or a .gguf file. Nothing in it is run. Throws Error naming file
/// and field.
ModelFiles open_model(const std::filesystem::path& path, OpenText text);

}  // namespace sala
