#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "engine/drafter.h"

namespace sala {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// One reply in the making.
class Reply {
 public:
  Reply(Runner& runner, Hold& hold, const Tokenizer& tokenizer, std::span<const int> prompt,
        const GenerateOptions& options)
      : runner_(runner),
        hold_(hold),
        prompt_(prompt),
        options_(options),
        writer_(tokenizer, prompt, runner.model().config().vocab,
                {.limit = options.limit,
                 .sampling = options.sampling,
                 .stop = {options.stop.begin(), options.stop.end()},
                 .stop_strings = options.stop_strings,
                 .logprobs = options.logprobs,
                 .thought = options.thought,
                 .thought_limit = options.thought_limit,
                 .constraint = options.constraint}),
        logits_(static_cast<size_t>(runner.model().config().vocab)),
        text_(prompt.begin(), prompt.end()),
        drafter_(runner.options().draft) {}

  ~Reply() { runner_.forget_launched(); }
  Reply(const Reply&) = delete;
  Reply& operator=(const Reply&) = delete;

  Generation run() {
    auto start = Clock::now();
    const bool read = read_prompt();
    result_.prompt_seconds = seconds_since(start);
    if (read) {
      start = Clock::now();
      write();
      result_.reply_seconds = seconds_since(start);
    }
    emit(writer_.flush());
    // A stop token that was fed is no part of the reply.
    const auto end = std::ssize(prompt_) + std::ssize(result_.tokens);
    if (hold_.length() > end) runner_.cache().roll_back(hold_, end);
    result_.finish = writer_.finish().value_or(Finish::cancelled);
    return std::move(result_);
  }

 private:
  void keep(In logits) { std::copy_n(logits.row<float>(0), logits_.size(), logits_.begin()); }

  bool cancelled() { return options_.cancelled && options_.cancelled(); }

  bool read_prompt() {
    if (cancelled()) return false;
    std::vector<int64_t> marks(options_.marks.begin(), options_.marks.end());
    marks.push_back(static_cast<int64_t>(prompt_.size()));
    return runner_.read(hold_, prompt_,
                        {.wanted = 1,
                         .on_logits = [&](In logits) { keep(logits); },
                         .on_progress =
                             [&](int64_t read) {
                               result_.prompt_read = read;
                               if (options_.on_prompt_progress) options_.on_prompt_progress(read);
                               return !cancelled();
                             },
                         .marks = marks});
  }

  void launch(std::span<const int> tokens, int64_t ahead) {
    Runner::Row row{.hold = hold_,
                    .tokens = tokens,
                    .logits = std::ssize(tokens),
                    .prompt = static_cast<int64_t>(prompt_.size()),
                    .draw = writer_.draw(ahead)};
    runner_.launch({&row, 1});
  }

  void take(Writer::Piece piece) {
    if (piece.token) {
      result_.tokens.push_back(*piece.token);
      text_.push_back(*piece.token);
    }
    if (piece.logprobs) result_.logprobs.push_back(std::move(*piece.logprobs));
    emit(piece.text);
  }

  /// Takes the tokens of a step, some of which were drafted: how many of these came.
  int64_t finish(std::span<const int> draft) {
    const In logits = runner_.finish();
    return writer_.follow(draft, logits, draft.empty() ? runner_.drawn()[0] : kNoToken,
                          [&](Writer::Piece piece) {
                            ++result_.stepped;
                            take(std::move(piece));
                          });
  }

  /// Feeds the reply's last token, and the one behind it before it is known where the device can
  /// and nothing is drafted.
  void feed_last(bool goes_ahead) {
    if (runner_.launched() == 0) launch({&text_.back(), 1}, 0);
    const int ahead = drawn_id(0);
    if (goes_ahead && runner_.can_go_ahead() && std::ssize(result_.tokens) + 1 < options_.limit &&
        runner_.cache().undoable(hold_.length()) > 0)
      launch({&ahead, 1}, 1);
    finish({});
  }

  /// Feeds the reply's last token with the tokens of a draft, and takes as many as are right and
  /// the one behind them.
  void feed_draft(std::span<const int> draft) {
    const int64_t before = hold_.length() + 1;
    std::vector<int> tokens = {text_.back()};
    tokens.insert(tokens.end(), draft.begin(), draft.end());
    launch(tokens, 0);
    const int64_t came = finish(draft);
    runner_.cache().roll_back(hold_, before + came);
    result_.drafted += std::ssize(draft);
    result_.accepted += came;
  }

  /// Tokens that may be drafted: so many can be taken back, fit the step, and are still wanted.
  int64_t room() const {
    return std::min({runner_.cache().undoable(hold_.length() + 1),
                     static_cast<int64_t>(runner_.options().chunk) - 1,
                     options_.limit - std::ssize(result_.tokens) - 1});
  }

  void write() {
    if (!writer_.finish() && !cancelled()) take(writer_.next(logits_));
    while (!writer_.finish() && !cancelled()) {
      const std::vector<int> draft = drafter_.draft(text_, room());
      if (draft.empty() || runner_.launched() > 0)
        feed_last(draft.empty());
      else
        feed_draft(draft);
    }
  }

  void emit(const std::string& text) {
    if (text.empty()) return;
    result_.text += text;
    if (options_.on_text) options_.on_text(text);
  }

  Runner& runner_;
  Hold& hold_;
  std::span<const int> prompt_;
  const GenerateOptions& options_;
  Writer writer_;
  std::vector<float> logits_;  ///< of the reply's first token
  std::vector<int> text_;      ///< the prompt and the reply
  Drafter drafter_;
  Generation result_;
};

}  // namespace

Generation generate(Runner& runner, Hold& hold, const Tokenizer& tokenizer,
                    std::span<const int> prompt, const GenerateOptions& options) {
  SALA_CHECK(hold.length() < static_cast<int64_t>(prompt.size()),
             "nothing to read: {} tokens, {} of them read", prompt.size(), hold.length());
  return Reply(runner, hold, tokenizer, prompt, options).run();
}

}  // namespace sala
