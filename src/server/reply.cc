#include "server/reply.h"

#include <algorithm>
#include <utility>

#include "server/errors.h"

namespace sala {

Reply::Reply(std::string_view kind, const Tokenizer& tokenizer, Options options,
             std::vector<std::vector<int>> prompts)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      id_(std::string(kind) + options_.number),
      left_(prompts.size()) {
  for (size_t i = 0; i < prompts.size(); ++i)
    choices_.push_back({.prompt = std::move(prompts[i]),
                        .echo = i < options_.echoes.size() ? options_.echoes[i] : std::string(),
                        .thinking = ThinkingSplitter(options_.thinking),
                        .calls = ToolCallSplitter(options_.tool_format, options_.tools)});
}

std::string Reply::Choice::text_of(ReplyPart::Kind kind) const {
  std::string text;
  for (const ReplyPart& part : parts)
    if (part.kind == kind) text += part.text;
  return text;
}

bool Reply::Choice::calls_tools() const {
  return finish == Finish::stop && std::ranges::any_of(parts, [](const ReplyPart& part) {
           return part.kind == ReplyPart::Kind::call;
         });
}

std::string Reply::id_of(std::string_view kind, size_t choice, size_t part) const {
  return fmt::format("{}{}{:x}{:02x}", kind, options_.number, choice, part);
}

OrderedJson Reply::error(const std::string& message) const { return openai_error(500, message); }

void Reply::send_error(const std::string& message, Exchange& exchange) {
  exchange.send(event_of(error(message)));
}

std::string Reply::event_of(const OrderedJson& json) const {
  return "data: " + text_of(json) + "\n\n";
}

void Reply::hear(size_t index, const ReplyEvent& event, Exchange& exchange) {
  if (over()) return;
  Choice& choice = choices_[index];
  choice.tokens.insert(choice.tokens.end(), event.tokens.begin(), event.tokens.end());
  choice.prompt_logprobs.insert(choice.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                event.prompt_logprobs.end());
  choice.finish = event.finish;
  choice.error = event.error;
  choice.stopped_by = event.stopped_by;
  choice.usage = event.usage;
  const bool ends = event.finish || !event.error.empty();
  if (ends) --left_;
  if (options_.stream && !std::exchange(begun_, true)) send_begin(exchange);
  if (!event.error.empty()) {
    status_ = 500;
    left_ = 0;
    if (!options_.stream)
      return exchange.respond(500, "application/json", text_of(error(event.error)));
    send_error(event.error, exchange);
    return exchange.end();
  }
  const std::vector<ReplyPart> added = split(choice, event, ends);
  if (!options_.stream) {
    choice.logprobs.insert(choice.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    if (over()) exchange.respond(200, "application/json", text_of(whole()));
    return;
  }
  if (event.tokens.empty() && event.text.empty() && !ends)
    // Still reading: a comment, which every client ignores and a waiting human may look at.
    exchange.send(fmt::format(": prompt {}/{}\n\n", event.prompt_read, choice.prompt.size()));
  else
    send_piece(index, event, added, exchange);
  if (over()) {
    send_end(exchange);
    exchange.end();
  }
}

std::vector<ReplyPart> Reply::split(Choice& choice, const ReplyEvent& event, bool ends) const {
  using Kind = ReplyPart::Kind;
  std::vector<ReplyPart> added;
  const auto add = [&](ReplyPart part) {
    const bool call = part.kind == Kind::call;
    if (part.text.empty() && !call) return;
    if (options_.one_call && !choice.parts.empty() && choice.parts.back().kind == Kind::call)
      return;
    for (std::vector<ReplyPart>* parts : {&choice.parts, &added})
      if (!call && !parts->empty() && parts->back().kind == part.kind)
        parts->back().text += part.text;
      else
        parts->push_back(part);
  };
  if (!options_.chat) {
    add({.kind = Kind::said, .text = event.text});
    return added;
  }
  ThinkingSplitter::Part text = choice.thinking.push(event.text);
  if (ends) {
    ThinkingSplitter::Part rest = choice.thinking.flush();
    text.thought += rest.thought;
    text.said += rest.said;
  }
  if (!text.thought.empty())
    // Where the thought ends inside a step of several tokens, its text tells how many were its own.
    choice.thought_tokens +=
        std::ssize(text.said.empty() ? event.tokens : tokenizer_.encode(text.thought));
  add({.kind = Kind::thought, .text = std::move(text.thought)});
  const auto take = [&](ToolCallSplitter::Part part) {
    add({.kind = Kind::said, .text = std::move(part.said)});
    for (ToolCall& call : part.calls)
      add({.kind = Kind::call, .text = std::move(call.arguments), .name = std::move(call.name)});
  };
  // One byte at a time, since a piece's text and calls come apart.
  for (const char& byte : text.said) take(choice.calls.push({&byte, 1}));
  if (ends) take(choice.calls.flush());
  return added;
}

Usage Reply::usage() const {
  Usage sum;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Usage& one = choices_[i].usage;
    // Choices of one prompt are next to each other; it counts once.
    if (i == 0 || choices_[i].prompt != choices_[i - 1].prompt) {
      sum.prompt += std::ssize(choices_[i].prompt);
      sum.cached += one.cached;
      sum.read_again += one.read_again;
    }
    sum.generated += one.generated;
    sum.drafted += one.drafted;
    sum.accepted += one.accepted;
    sum.preemptions += one.preemptions;
    sum.queue_seconds = std::max(sum.queue_seconds, one.queue_seconds);
    sum.prompt_seconds = std::max(sum.prompt_seconds, one.prompt_seconds);
    sum.reply_seconds = std::max(sum.reply_seconds, one.reply_seconds);
  }
  return sum;
}

int64_t Reply::thought_tokens() const {
  int64_t sum = 0;
  for (const Choice& choice : choices_) sum += choice.thought_tokens;
  return sum;
}

std::vector<int> Reply::tokens_of(size_t choice) const {
  std::vector<int> tokens = choices_[choice].prompt;
  const std::vector<int>& written = choices_[choice].tokens;
  tokens.insert(tokens.end(), written.begin(), written.end());
  return tokens;
}

std::string Reply::ending() const {
  const Choice& last = choices_.back();
  if (!last.error.empty() || !last.finish) return "error";
  return std::string(name_of(*last.finish));
}

}  // namespace sala
