#include "engine/writer.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace sala {

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

Writer::Writer(const Tokenizer& tokenizer, std::span<const int> prompt, int64_t vocab,
               const ReplyOptions& options)
    : options_(options),
      sampler_(options.sampling, vocab),
      detokenizer_(tokenizer, !options.show_special),
      stops_(options.stop_strings) {
  sampler_.see_prompt(prompt);
  // A client may name tokens that this model does not have: none of them can come.
  std::erase_if(options_.stop, [&](int id) { return id < 0 || id >= vocab; });
  if (options_.constraint) matcher_.emplace(*options_.constraint, options_.stop);
  if (options_.thought_limit && options_.thought != Thought::none)
    thought_limit_.emplace(tokenizer, options_.thought, *options_.thought_limit);
  if (matcher_ && matcher_->must_end()) finish_ = Finish::stop;
  if (options_.limit <= 0) finish_ = Finish::length;
}

std::optional<SampleRow> Writer::draw(int64_t ahead) const {
  const bool limits = thought_limit_ && !thought_limit_->over();
  return options_.logprobs >= 0 || matcher_ || limits ? std::nullopt : sampler_.row(ahead);
}

Writer::Piece Writer::next(std::span<const float> logits, int drawn) {
  SALA_CHECK(!finish_, "the reply is over");
  const std::span<const uint64_t> allowed =
      matcher_ ? matcher_->allowed() : std::span<const uint64_t>();
  const std::optional<int> must = thought_limit_ ? thought_limit_->must() : std::nullopt;
  const int token = must ? *must : drawn == kNoToken ? sampler_.sample(logits, allowed) : drawn;
  if (std::ranges::find(options_.stop, token) != options_.stop.end()) {
    finish_ = Finish::stop;
    return {};
  }
  Piece piece{.token = token, .logprobs = {}, .text = {}};
  if (options_.logprobs >= 0) piece.logprobs = sampler_.logprobs(logits, token, options_.logprobs);
  sampler_.accept(token);
  if (matcher_) matcher_->accept(token);
  const std::string text = detokenizer_.push(token);
  if (thought_limit_) thought_limit_->accept(text);
  piece.text = stops_.push(text);
  if (stops_.found() || (matcher_ && matcher_->must_end()))
    finish_ = Finish::stop;
  else if (++written_ >= options_.limit)
    finish_ = Finish::length;
  return piece;
}

int64_t Writer::follow(std::span<const int> draft, In logits, int drawn,
                       const std::function<void(Piece)>& on_piece) {
  SALA_CHECK(logits.dim[0] == std::ssize(draft) + 1, "{} rows for a draft of {}", logits.dim[0],
             draft.size());
  int64_t came = 0;
  while (!finish_) {
    Piece piece = next({logits.row<float>(came), static_cast<size_t>(logits.dim[1])}, drawn);
    const bool comes = came < std::ssize(draft) && piece.token == draft[static_cast<size_t>(came)];
    on_piece(std::move(piece));
    if (!comes) break;
    ++came;
  }
  return came;
}

std::string Writer::stopped_by() const {
  return stops_.found() ? options_.stop_strings[static_cast<size_t>(stops_.matched())]
                        : std::string();
}

std::string Writer::flush() {
  if (stops_.found()) return {};
  std::string rest = detokenizer_.flush();
  // Where the reply was cut (the limit, nobody wants more), so was the character that it ends in.
  constexpr int kMostBytes = 3;  // of such a beginning, each of them shown as U+FFFD
  for (int i = 0; finish_ != Finish::stop && i < kMostBytes && rest.ends_with(kReplacement); ++i)
    rest.resize(rest.size() - kReplacement.size());
  std::string text = stops_.push(rest);
  if (stops_.found())
    finish_ = Finish::stop;
  else
    text += stops_.flush();
  return text;
}

}  // namespace sala
