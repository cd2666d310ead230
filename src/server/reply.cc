#include "server/reply.h"

#include <algorithm>
#include <utility>

namespace sala {
namespace {

/// Characters of a UTF-8 text.
int64_t length_of(std::string_view text) {
  return std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string event_of(const OrderedJson& json) { return "data: " + text_of(json) + "\n\n"; }

}  // namespace

OrderedJson error_json(int status, const std::string& message, const std::string& param,
                       const std::string& code) {
  const char* type = status == 401 || status == 403   ? "authentication_error"
                     : status == 429 || status == 503 ? "overloaded_error"
                     : status >= 500                  ? "server_error"
                                                      : "invalid_request_error";
  OrderedJson error = {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
  if (!param.empty()) error["param"] = param;
  if (!code.empty()) error["code"] = code;
  return {{"error", error}};
}

std::string text_of(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

Reply::Reply(const Tokenizer& tokenizer, Options options, std::vector<std::vector<int>> prompts)
    : tokenizer_(tokenizer), options_(std::move(options)), left_(prompts.size()) {
  for (size_t i = 0; i < prompts.size(); ++i)
    choices_.push_back({.prompt = std::move(prompts[i]),
                        .echo = i < options_.echoes.size() ? options_.echoes[i] : std::string(),
                        .splitter = ThinkingSplitter(options_.thinking),
                        .text = {},
                        .thought = {}});
}

void Reply::hear(size_t index, const ReplyEvent& event, Exchange& exchange) {
  if (over()) return;
  Choice& choice = choices_[index];
  choice.tokens.insert(choice.tokens.end(), event.tokens.begin(), event.tokens.end());
  choice.prompt_logprobs.insert(choice.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                event.prompt_logprobs.end());
  const bool ends = event.finish || !event.error.empty();
  if (ends) {
    choice.last = event;
    --left_;
  }
  if (!event.error.empty()) {
    status_ = 500;
    left_ = 0;
    const OrderedJson error = error_json(500, event.error, {}, {});
    if (!options_.stream) return exchange.respond(500, "application/json", text_of(error));
    exchange.send(event_of(error));
    return exchange.end();
  }
  if (options_.stream) {
    send_piece(index, event, exchange);
    if (over()) {
      if (options_.usage_in_stream) {
        OrderedJson frame = this->frame(true);
        frame["choices"] = OrderedJson::array();
        frame["usage"] = usage_json(usage());
        frame["timings"] = timings_json(usage());
        exchange.send(event_of(frame));
      }
      exchange.send("data: [DONE]\n\n");
      exchange.end();
    }
    return;
  }
  choice.logprobs.insert(choice.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
  choice.text += event.text;
  if (over()) send_whole(exchange);
}

Usage Reply::usage() const {
  Usage sum;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Usage& one = choices_[i].last.usage;
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

std::vector<int> Reply::tokens_of(size_t choice) const {
  std::vector<int> tokens = choices_[choice].prompt;
  const std::vector<int>& written = choices_[choice].tokens;
  tokens.insert(tokens.end(), written.begin(), written.end());
  return tokens;
}

std::string Reply::ending() const {
  const ReplyEvent& last = choices_.back().last;
  if (!last.error.empty() || !last.finish) return "error";
  return std::string(name_of(*last.finish));
}

OrderedJson Reply::frame(bool piece) const {
  const char* object = !options_.chat ? "text_completion"
                       : piece        ? "chat.completion.chunk"
                                      : "chat.completion";
  return {{"id", options_.id},
          {"object", object},
          {"created", options_.created},
          {"model", options_.model},
          {"system_fingerprint", "sala"}};
}

OrderedJson Reply::usage_json(const Usage& usage) const {
  int64_t thought = 0;
  for (const Choice& choice : choices_) thought += choice.thought_tokens;
  OrderedJson json = {{"prompt_tokens", usage.prompt},
                      {"completion_tokens", usage.generated},
                      {"total_tokens", usage.prompt + usage.generated},
                      {"prompt_tokens_details",
                       {{"cached_tokens", usage.cached}, {"read_again_tokens", usage.read_again}}}};
  if (options_.chat) json["completion_tokens_details"] = {{"reasoning_tokens", thought}};
  return json;
}

OrderedJson Reply::timings_json(const Usage& usage) const {
  const int64_t read = usage.prompt - usage.cached + usage.read_again;
  const auto rate = [](int64_t n, double seconds) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
  };
  return {{"queue_ms", 1e3 * usage.queue_seconds},
          {"cache_n", usage.cached},
          {"prompt_n", read},
          {"prompt_ms", 1e3 * usage.prompt_seconds},
          {"prompt_per_second", rate(read, usage.prompt_seconds)},
          {"predicted_n", usage.generated},
          {"predicted_ms", 1e3 * usage.reply_seconds},
          {"predicted_per_second",
           rate(std::max<int64_t>(usage.generated - 1, 0), usage.reply_seconds)},
          {"draft_n", usage.drafted},
          {"draft_n_accepted", usage.accepted}};
}

OrderedJson Reply::finish_reason(const ReplyEvent& event) const {
  if (!event.finish) return nullptr;
  return *event.finish == Finish::cancelled ? "abort" : name_of(*event.finish);
}

std::string Reply::piece_of(int token) const { return tokenizer_.decode({&token, 1}, false); }

OrderedJson Reply::chat_logprobs(const std::vector<Logprobs>& logprobs) const {
  OrderedJson content = OrderedJson::array();
  const auto one = [&](const TokenLogprob& l) {
    const std::string piece = piece_of(l.token);
    OrderedJson bytes = OrderedJson::array();
    for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
    return OrderedJson{{"token", piece}, {"logprob", l.logprob}, {"bytes", bytes}};
  };
  for (const Logprobs& l : logprobs) {
    OrderedJson entry = one(l.chosen);
    entry["top_logprobs"] = OrderedJson::array();
    for (const TokenLogprob& top : l.top) entry["top_logprobs"].push_back(one(top));
    content.push_back(entry);
  }
  return {{"content", content}};
}

OrderedJson Reply::text_logprobs(Choice& choice, const std::vector<int>& tokens,
                                 const std::vector<Logprobs>& logprobs, bool with_prompt) const {
  OrderedJson pieces = OrderedJson::array(), values = OrderedJson::array(),
              tops = OrderedJson::array(), offsets = OrderedJson::array();
  const auto add = [&](int token, const Logprobs* l) {
    const std::string piece = piece_of(token);
    pieces.push_back(piece);
    offsets.push_back(std::max<int64_t>(choice.offset, 0));
    choice.offset += length_of(piece);
    values.push_back(l != nullptr ? OrderedJson(l->chosen.logprob) : OrderedJson());
    OrderedJson top;
    if (l != nullptr) {
      top = OrderedJson::object();
      for (const TokenLogprob& t : l->top) top.emplace(piece_of(t.token), t.logprob);
      top.emplace(piece, l->chosen.logprob);
    }
    tops.push_back(top);
  };
  if (with_prompt) {
    // The text has no BOS and no documents of a session: those are before it.
    choice.offset = length_of(choice.echo);
    for (const int token : choice.prompt) choice.offset -= length_of(piece_of(token));
    for (size_t i = 0; i < choice.prompt.size(); ++i)
      add(choice.prompt[i],
          i > 0 && i <= choice.prompt_logprobs.size() ? &choice.prompt_logprobs[i - 1] : nullptr);
  }
  for (size_t i = 0; i < tokens.size(); ++i)
    add(tokens[i], i < logprobs.size() ? &logprobs[i] : nullptr);
  return {{"tokens", pieces},
          {"token_logprobs", values},
          {"top_logprobs", tops},
          {"text_offset", offsets}};
}

void Reply::send_piece(size_t index, const ReplyEvent& event, Exchange& exchange) {
  Choice& choice = choices_[index];
  const bool ends = event.finish.has_value();
  if (event.tokens.empty() && event.text.empty() && !ends) {
    // Still reading: a comment, which every client ignores and a waiting human may look at.
    exchange.send(fmt::format(": prompt {}/{}\n\n", event.prompt_read, choice.prompt.size()));
    return;
  }
  ThinkingSplitter::Part part;
  if (options_.chat) {
    part = choice.splitter.push(event.text);
    if (!part.thought.empty()) choice.thought_tokens += std::ssize(event.tokens);
    if (ends) {
      ThinkingSplitter::Part rest = choice.splitter.flush();
      part.thought += rest.thought;
      part.said += rest.said;
    }
  }
  OrderedJson one = {{"index", index}};
  if (options_.chat) {
    OrderedJson delta = OrderedJson::object();
    if (!choice.begun) delta = {{"role", "assistant"}, {"content", ""}};
    if (!part.thought.empty()) delta["reasoning_content"] = part.thought;
    if (!part.said.empty() || !choice.begun) delta["content"] = part.said;
    one["delta"] = delta;
    one["logprobs"] = options_.logprobs && !event.logprobs.empty() ? chat_logprobs(event.logprobs)
                                                                   : OrderedJson();
  } else {
    const bool with_prompt = !options_.echoes.empty() && !choice.begun;
    one["text"] = (with_prompt ? choice.echo : "") + event.text;
    one["logprobs"] = options_.logprobs
                          ? text_logprobs(choice, event.tokens, event.logprobs, with_prompt)
                          : OrderedJson();
  }
  choice.begun = true;
  one["finish_reason"] = finish_reason(event);
  OrderedJson frame = this->frame(true);
  frame["choices"] = OrderedJson::array({one});
  if (options_.usage_in_every_piece) {
    Usage usage = event.usage;
    usage.prompt = std::ssize(choice.prompt);
    frame["usage"] = usage_json(usage);
  } else if (options_.usage_in_stream) {
    frame["usage"] = nullptr;
  }
  exchange.send(event_of(frame));
}

void Reply::send_whole(Exchange& exchange) {
  OrderedJson json = frame(false);
  json["choices"] = OrderedJson::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    OrderedJson one = {{"index", i}};
    if (options_.chat) {
      ThinkingSplitter::Part part = choice.splitter.push(choice.text),
                             rest = choice.splitter.flush();
      part.thought += rest.thought;
      OrderedJson message = {{"role", "assistant"}, {"content", part.said + rest.said}};
      if (!part.thought.empty()) {
        message["reasoning_content"] = part.thought;
        choice.thought_tokens = std::ssize(tokenizer_.encode(part.thought));
      }
      one["message"] = message;
      one["logprobs"] = options_.logprobs ? chat_logprobs(choice.logprobs) : OrderedJson();
    } else {
      one["text"] = choice.echo + choice.text;
      one["logprobs"] = options_.logprobs ? text_logprobs(choice, choice.tokens, choice.logprobs,
                                                          !options_.echoes.empty())
                                          : OrderedJson();
    }
    one["finish_reason"] = finish_reason(choice.last);
    json["choices"].push_back(one);
  }
  json["usage"] = usage_json(usage());
  json["timings"] = timings_json(usage());
  exchange.respond(200, "application/json", text_of(json));
}

}  // namespace sala
