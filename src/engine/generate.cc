#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "engine/stop.h"

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
        sampler_(options.sampling, runner.model().config().vocab),
        detokenizer_(tokenizer),
        stops_(options.stop_strings),
        logits_(static_cast<size_t>(runner.model().config().vocab)) {}

  Generation run() {
    auto start = Clock::now();
    const bool read = read_prompt();
    result_.prompt_seconds = seconds_since(start);
    if (read) {
      start = Clock::now();
      write();
      result_.reply_seconds = seconds_since(start);
    }
    if (!stops_.found()) {
      emit(stops_.push(detokenizer_.flush()));
      if (stops_.found())
        result_.finish = Finish::stop;
      else
        emit(stops_.flush());
    }
    return std::move(result_);
  }

 private:
  void keep(In logits) { std::copy_n(logits.row<float>(0), logits_.size(), logits_.begin()); }

  bool cancelled() {
    if (!options_.cancelled || !options_.cancelled()) return false;
    result_.finish = Finish::cancelled;
    return true;
  }

  bool read_prompt() {
    sampler_.see_prompt(prompt_);
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

  /// Feeds the reply's last token.
  void feed_last() {
    Runner::Row row{.hold = hold_,
                    .tokens = {&result_.tokens.back(), 1},
                    .logits = 1,
                    .prompt = static_cast<int64_t>(prompt_.size())};
    keep(runner_.step({&row, 1}));
  }

  void write() {
    for (int64_t written = 0; written < options_.limit; ++written) {
      if (cancelled()) return;
      if (written > 0) {
        feed_last();
        ++result_.reply_steps;
      }
      const int token = sampler_.sample(logits_);
      if (std::ranges::find(options_.stop, token) != options_.stop.end()) {
        result_.finish = Finish::stop;
        return;
      }
      if (options_.logprobs >= 0)
        result_.logprobs.push_back(sampler_.logprobs(logits_, token, options_.logprobs));
      sampler_.accept(token);
      result_.tokens.push_back(token);
      emit(stops_.push(detokenizer_.push(token)));
      if (stops_.found()) {
        result_.finish = Finish::stop;
        return;
      }
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
  Sampler sampler_;
  Detokenizer detokenizer_;
  StopStrings stops_;
  std::vector<float> logits_;
  Generation result_;
};

}  // namespace

std::string_view name_of(Finish finish) {
  switch (finish) {
    case Finish::stop:
      return "stop";
    case Finish::length:
      return "length";
    case Finish::cancelled:
      return "cancelled";
  }
  panic("unknown finish", __FILE__, __LINE__);
}

Generation generate(Runner& runner, Hold& hold, const Tokenizer& tokenizer,
                    std::span<const int> prompt, const GenerateOptions& options) {
  SALA_CHECK(hold.length() < static_cast<int64_t>(prompt.size()),
             "nothing to read: {} tokens, {} of them read", prompt.size(), hold.length());
  return Reply(runner, hold, tokenizer, prompt, options).run();
}

}  // namespace sala
