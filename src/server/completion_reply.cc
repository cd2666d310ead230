#include "server/completion_reply.h"

#include <algorithm>

namespace sala {
namespace {

OrderedJson timings_json(const Usage& usage) {
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

}  // namespace

OrderedJson CompletionReply::frame(bool piece) const {
  return {{"id", id()},
          {"object", object(piece)},
          {"created", options().created},
          {"model", options().model},
          {"system_fingerprint", "sala"}};
}

OrderedJson CompletionReply::usage_json(const Usage& usage) const {
  OrderedJson json = {{"prompt_tokens", usage.prompt},
                      {"completion_tokens", usage.generated},
                      {"total_tokens", usage.prompt + usage.generated},
                      {"prompt_tokens_details",
                       {{"cached_tokens", usage.cached}, {"read_again_tokens", usage.read_again}}}};
  if (options().chat) json["completion_tokens_details"] = {{"reasoning_tokens", thought_tokens()}};
  return json;
}

OrderedJson CompletionReply::finish_reason(const Choice& choice) const {
  if (!choice.finish) return nullptr;
  return *choice.finish == Finish::cancelled ? "abort" : name_of(*choice.finish);
}

std::string CompletionReply::piece_of(int token) const {
  return tokenizer().decode({&token, 1}, false);
}

void CompletionReply::send_piece(size_t index, const ReplyEvent& event,
                                 const std::vector<ReplyPart>& added, Exchange& exchange) {
  const Choice& choice = choices()[index];
  OrderedJson one = {{"index", index}};
  fill_piece(index, event, added, one);
  one["finish_reason"] = finish_reason(choice);
  OrderedJson frame = this->frame(true);
  frame["choices"] = OrderedJson::array({one});
  if (options().usage_in_every_piece) {
    Usage usage = event.usage;
    usage.prompt = std::ssize(choice.prompt);
    frame["usage"] = usage_json(usage);
  } else if (options().usage_in_stream) {
    frame["usage"] = nullptr;
  }
  exchange.send(event_of(frame));
}

void CompletionReply::send_end(Exchange& exchange) {
  if (options().usage_in_stream) {
    OrderedJson frame = this->frame(true);
    frame["choices"] = OrderedJson::array();
    frame["usage"] = usage_json(usage());
    frame["timings"] = timings_json(usage());
    exchange.send(event_of(frame));
  }
  exchange.send("data: [DONE]\n\n");
}

OrderedJson CompletionReply::whole() {
  OrderedJson json = frame(false);
  json["choices"] = OrderedJson::array();
  for (size_t i = 0; i < choices().size(); ++i) {
    OrderedJson one = {{"index", i}};
    fill_whole(i, one);
    one["finish_reason"] = finish_reason(choices()[i]);
    json["choices"].push_back(one);
  }
  json["usage"] = usage_json(usage());
  json["timings"] = timings_json(usage());
  return json;
}

}  // namespace sala
