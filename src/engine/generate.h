#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/open.h"
#include "engine/runner.h"

namespace sala {

/// Why a reply ended.
enum class Finish : uint8_t { stop, length };

std::string_view name_of(Finish finish);

/// A finished reply.
struct Generation {
  std::vector<int> tokens;  ///< the stop token not included
  std::string text;
  Finish finish = Finish::length;
  double prompt_seconds = 0.0;
  double reply_seconds =
      0.0;                  ///< from the first token on; it covers tokens.size() - 1 steps at least
  int64_t reply_steps = 0;  ///< steps of one token in reply_seconds
};

/// What to generate and whom to tell.
struct GenerateOptions {
  int64_t limit = 512;  ///< tokens, at most
  SamplingParams sampling{};
  std::span<const int> stop{};
  std::function<void(const std::string& text)> on_text{};  ///< whole characters, as they come
  std::function<void(int64_t done)> on_prompt_progress{};
};

/// Reads the prompt and generates a reply with a new sequence of `runner`. The prompt has at least
/// one token, all of them in the vocabulary.
Generation generate(Runner& runner, const Tokenizer& tokenizer, std::span<const int> prompt,
                    const GenerateOptions& options);

}  // namespace sala
