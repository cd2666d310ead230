#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/writer.h"

namespace sala {

class Hold;
class Runner;

/// What a request took.
struct Usage {
  int64_t prompt = 0;       ///< tokens
  int64_t cached = 0;       ///< of them, those whose memory was there already
  int64_t read_again = 0;   ///< of the cached ones, those that were read to bring the states up
  int64_t generated = 0;    ///< tokens
  int64_t drafted = 0;      ///< tokens read because they were likely to come next
  int64_t accepted = 0;     ///< of them, those that came
  int64_t preemptions = 0;  ///< how often others took its memory, which it then read again
  double queue_seconds = 0.0;
  double prompt_seconds = 0.0;  ///< from the first step to the first token
  double reply_seconds = 0.0;   ///< from the first token to the end
};

/// Something that happened to a request. Its last event has `finish` or `error`.
struct ReplyEvent {
  int64_t prompt_read = 0;  ///< tokens of the prompt that are in memory now
  std::vector<Logprobs>
      prompt_logprobs{};  ///< of the next tokens of the prompt, from the second on
  std::vector<int> tokens{};
  std::vector<Logprobs> logprobs{};  ///< of `tokens`, where asked for
  std::string text{};                ///< what has become certain
  std::optional<Finish> finish{};
  std::string stopped_by{};  ///< the stop string that ended it; empty: none did
  std::string error{};       ///< why it could not be finished; empty: nothing went wrong
  Usage usage{};             ///< so far
};

/// A prompt to be answered.
struct Request {
  std::vector<int> prompt;  ///< tokens of the vocabulary, one at least
  ReplyOptions reply{};
  std::vector<int64_t>
      marks{};  ///< lengths of the prompt, ascending, at which others may part from it
  std::vector<int> expected{};   ///< what the reply may say: drafted from, and nothing else
  std::string caller{};          ///< callers share the machine evenly
  bool prompt_logprobs = false;  ///< as `reply.logprobs` says, for the prompt too
  bool reuse = true;             ///< of what is remembered of earlier texts
  uint64_t after = 0;  ///< another request that has the same prompt and reads it first; 0: none
  /// Hears, on the engine's thread, that all of the prompt is in memory: `hold` has just read it.
  /// What it throws as Error ends the request.
  std::function<void(Runner&, Hold& hold)> on_read{};
  /// Hears what happens, on the engine's thread: it must be quick and must not throw.
  std::function<void(const ReplyEvent&)> on_event;
};

}  // namespace sala
