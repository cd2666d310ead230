#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

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
                 .logprobs = options.logprobs}),
        logits_(static_cast<size_t>(runner.model().config().vocab)) {}

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

  void launch(int token, int64_t ahead) {
    Runner::Row row{.hold = hold_,
                    .tokens = {&token, 1},
                    .logits = 1,
                    .prompt = static_cast<int64_t>(prompt_.size()),
                    .draw = writer_.draw(ahead)};
    runner_.launch({&row, 1});
  }

  /// Feeds the reply's last token, and the one behind it before it is known where the device can.
  void feed_last() {
    if (runner_.launched() == 0) launch(result_.tokens.back(), 0);
    // Not with the token that fills a cell: it could not be taken back.
    if (runner_.can_go_ahead() && std::ssize(result_.tokens) + 1 < options_.limit &&
        (hold_.length() + 1) % runner_.cache().cell() != 0)
      launch(drawn_id(0), 1);
    const In logits = runner_.finish();
    drawn_ = runner_.drawn()[0];
    if (drawn_ == kNoToken) keep(logits);
    ++result_.reply_steps;
  }

  void write() {
    while (!writer_.finish()) {
      if (cancelled()) return;
      if (!result_.tokens.empty()) feed_last();
      Writer::Piece piece = writer_.next(logits_, drawn_);
      if (piece.token) result_.tokens.push_back(*piece.token);
      if (piece.logprobs) result_.logprobs.push_back(std::move(*piece.logprobs));
      emit(piece.text);
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
  std::vector<float> logits_;  ///< of the next token, unless it is drawn
  int drawn_ = kNoToken;
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
