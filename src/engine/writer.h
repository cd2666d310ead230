#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/stop.h"
#include "engine/thought_limit.h"
#include "grammar/matcher.h"
#include "tensor/tensor.h"
#include "text/tokenizer.h"

namespace sala {

/// Why a reply ended: at a stop token or stop string, at the limit of tokens, or because the caller
/// did not want more.
enum class Finish : uint8_t { stop, length, cancelled };

std::string_view name_of(Finish finish);

/// How a reply is written.
struct ReplyOptions {
  int64_t limit = 512;  ///< tokens, at most
  SamplingParams sampling{};
  std::vector<int> stop{};                  ///< tokens that end the reply
  std::vector<std::string> stop_strings{};  ///< texts that end it
  bool show_special = false;  ///< special tokens are text too: some models mark calls by them
  int64_t logprobs = -1;  ///< how many of the most likely tokens to tell at each place; -1: nothing
  Thought thought = Thought::none;         ///< in front of what it says
  std::optional<int64_t> thought_limit{};  ///< tokens of it; then </think> follows
  std::optional<Constraint> constraint{};  ///< what the reply may be; it ends where it must
};

/// Writes one reply: chooses each token from its logits, and says which text has become certain and
/// whether the reply is over. A function of the prompt, the logits and the options: of nothing else
/// in the program. One thread at a time.
class Writer {
 public:
  /// Throws Error that names the option which is out of its range. The tokenizer must outlive it.
  Writer(const Tokenizer& tokenizer, std::span<const int> prompt, int64_t vocab,
         const ReplyOptions& options);

  /// What one token has added.
  struct Piece {
    std::optional<int> token;          ///< none at a stop token
    std::optional<Logprobs> logprobs;  ///< of the token, where asked for
    std::string text;                  ///< whole characters that no stop string can take back
  };
  /// How the next token, or the one `ahead` tokens behind it, is to be drawn by who has the logits;
  /// nothing where the writer wants them.
  std::optional<SampleRow> draw(int64_t ahead = 0) const;
  /// The next token: `drawn` as draw() said, or kNoToken and then from its logits [vocab]. The
  /// reply must not be over. Throws Error for logits that are no numbers.
  Piece next(std::span<const float> logits, int drawn = kNoToken);

  /// Takes tokens as long as they are those of `draft`, and the one behind them: row i of `logits`
  /// [1 + draft, vocab] was computed behind i tokens of it. Tells each; `drawn` is for a single
  /// row. How many tokens of the draft came.
  int64_t follow(std::span<const int> draft, In logits, int drawn,
                 const std::function<void(Piece)>& on_piece);

  /// Why the reply is over, once it is.
  std::optional<Finish> finish() const { return finish_; }
  /// The stop string that ended it; empty where none did.
  std::string stopped_by() const;
  /// Text that was still waiting, to be asked for once at the end; may find a stop string.
  std::string flush();

 private:
  ReplyOptions options_;
  Sampler sampler_;
  Detokenizer detokenizer_;
  StopStrings stops_;
  std::optional<Matcher> matcher_;
  std::optional<ThoughtLimit> thought_limit_;
  int64_t written_ = 0;
  std::optional<Finish> finish_;
};

}  // namespace sala
