#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/open.h"
#include "engine/runner.h"
#include "engine/writer.h"

namespace sala {

/// A finished reply.
struct Generation {
  std::vector<int> tokens;         ///< without the stop token, with those that wrote a stop string
  std::string text;                ///< up to the stop string
  std::vector<Logprobs> logprobs;  ///< one for each of `tokens`, where asked for
  Finish finish = Finish::length;
  int64_t prompt_read = 0;  ///< tokens of the prompt that were not in the sequence yet
  double prompt_seconds = 0.0;
  double reply_seconds = 0.0;  ///< from the first token on, which came with the prompt
  int64_t stepped = 0;   ///< tokens that steps have given in reply_seconds, also one that ended it
  int64_t drafted = 0;   ///< tokens read because they were likely to come next
  int64_t accepted = 0;  ///< of them, those that came
};

/// What to generate and whom to tell.
struct GenerateOptions {
  int64_t limit = 512;  ///< tokens, at most
  SamplingParams sampling{};
  std::span<const int> stop{};              ///< tokens that end the reply
  std::vector<std::string> stop_strings{};  ///< texts that end it
  int64_t logprobs = -1;  ///< how many of the most likely tokens to tell at each place; -1: nothing
  Thought thought = Thought::none;         ///< in front of what the reply says
  std::optional<int64_t> thought_limit{};  ///< tokens of it
  std::optional<Constraint> constraint{};  ///< what the reply may be
  std::span<const int64_t>
      marks{};  ///< lengths of the prompt at which a later one may part from it
  std::function<void(const std::string& text)> on_text{};  ///< whole characters, as they come
  std::function<void(int64_t done)> on_prompt_progress{};  ///< of prompt_read
  std::function<bool()> cancelled{};  ///< asked before every token and every piece of the prompt
};

/// Generates a reply to `prompt` in `hold`, which has read less than all of it: its first
/// hold.length() tokens. The prompt's tokens are in the vocabulary. Afterwards the hold has read
/// hold.length() tokens of the prompt with the reply's tokens behind it.
Generation generate(Runner& runner, Hold& hold, const Tokenizer& tokenizer,
                    std::span<const int> prompt, const GenerateOptions& options);

}  // namespace sala
