#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "engine/sampler.h"

namespace sala {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::string_view name_of(Finish finish) {
  return finish == Finish::stop ? std::string_view("stop") : std::string_view("length");
}

Generation generate(Runner& runner, const Tokenizer& tokenizer, std::span<const int> prompt,
                    const GenerateOptions& options) {
  Generation result;
  Hold hold = runner.open();
  std::vector<float> logits(static_cast<size_t>(runner.model().config().vocab));
  const auto keep = [&](In row) { std::copy_n(row.row<float>(0), logits.size(), logits.begin()); };

  auto start = std::chrono::steady_clock::now();
  runner.prefill(hold, prompt, 1, keep, options.on_prompt_progress);
  result.prompt_seconds = seconds_since(start);

  Detokenizer detokenizer(tokenizer);
  const auto emit = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (options.on_text) options.on_text(text);
  };
  start = std::chrono::steady_clock::now();
  while (static_cast<int64_t>(result.tokens.size()) < options.limit) {
    const int token = sample(logits, options.sampling, result.tokens.size());
    if (std::ranges::find(options.stop, token) != options.stop.end()) {
      result.finish = Finish::stop;
      break;
    }
    result.tokens.push_back(token);
    emit(detokenizer.push(token));
    if (static_cast<int64_t>(result.tokens.size()) == options.limit) break;
    Runner::Row row{.hold = hold,
                    .tokens = {&token, 1},
                    .logits = 1,
                    .prompt = static_cast<int64_t>(prompt.size())};
    keep(runner.step({&row, 1}));
    ++result.reply_steps;
  }
  result.reply_seconds = seconds_since(start);
  emit(detokenizer.flush());
  return result;
}

}  // namespace sala
