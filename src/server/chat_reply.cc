// OpenAI's chat completions.
#include "server/completion_reply.h"
#include "server/reply_formats.h"

namespace sala {
namespace {

class ChatReply : public CompletionReply {
 public:
  ChatReply(const Tokenizer& tokenizer, Options options, std::vector<std::vector<int>> prompts)
      : CompletionReply("chatcmpl-", tokenizer, std::move(options), std::move(prompts)),
        told_(choices().size()),
        called_(choices().size()) {}

 private:
  const char* object(bool piece) const override {
    return piece ? "chat.completion.chunk" : "chat.completion";
  }
  void fill_piece(size_t index, const ReplyEvent& event, const std::vector<ReplyPart>& added,
                  OrderedJson& json) override {
    OrderedJson delta = OrderedJson::object();
    if (!told_[index]) delta = {{"role", "assistant"}, {"content", ""}};
    told_[index] = true;
    for (const ReplyPart& part : added) {
      if (part.kind == ReplyPart::Kind::call) {
        const int64_t number = called_[index]++;
        OrderedJson call = {{"index", number}};
        call.update(call_json(index, static_cast<size_t>(number), part));
        if (!delta.contains("tool_calls")) delta["tool_calls"] = OrderedJson::array();
        delta["tool_calls"].push_back(call);
      } else {
        OrderedJson& text =
            delta[part.kind == ReplyPart::Kind::thought ? "reasoning_content" : "content"];
        text = (text.is_null() ? std::string() : text.get<std::string>()) + part.text;
      }
    }
    json["delta"] = delta;
    json["logprobs"] = options().logprobs && !event.logprobs.empty() ? logprobs_json(event.logprobs)
                                                                     : OrderedJson();
  }
  void fill_whole(size_t index, OrderedJson& json) override {
    const Choice& choice = choices()[index];
    const std::string thought = choice.text_of(ReplyPart::Kind::thought);
    OrderedJson message = {{"role", "assistant"},
                           {"content", choice.text_of(ReplyPart::Kind::said)}};
    if (!thought.empty()) message["reasoning_content"] = thought;
    OrderedJson calls = OrderedJson::array();
    for (const ReplyPart& part : choice.parts)
      if (part.kind == ReplyPart::Kind::call) calls.push_back(call_json(index, calls.size(), part));
    if (!calls.empty()) {
      if (message["content"] == "") message["content"] = nullptr;
      message["tool_calls"] = calls;
    }
    json["message"] = message;
    json["logprobs"] = options().logprobs ? logprobs_json(choice.logprobs) : OrderedJson();
  }

  OrderedJson finish_reason(const Choice& choice) const override {
    return choice.calls_tools() ? "tool_calls" : CompletionReply::finish_reason(choice);
  }

  OrderedJson call_json(size_t choice, size_t number, const ReplyPart& call) const {
    return {{"id", id_of("call_", choice, number)},
            {"type", "function"},
            {"function", {{"name", call.name}, {"arguments", call.text}}}};
  }

  OrderedJson logprobs_json(const std::vector<Logprobs>& logprobs) const {
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

  // Of each choice: its first piece is out; its calls that are.
  std::vector<bool> told_;
  std::vector<int64_t> called_;
};

}  // namespace

std::unique_ptr<Reply> chat_reply(const Tokenizer& tokenizer, Reply::Options options,
                                  std::vector<std::vector<int>> prompts) {
  return std::make_unique<ChatReply>(tokenizer, std::move(options), std::move(prompts));
}

}  // namespace sala
