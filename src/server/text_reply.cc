// OpenAI's text completions.
#include <algorithm>

#include "server/completion_reply.h"
#include "server/reply_formats.h"

namespace sala {
namespace {

/// Characters of a UTF-8 text.
int64_t length_of(std::string_view text) {
  return std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

class TextReply : public CompletionReply {
 public:
  TextReply(const Tokenizer& tokenizer, Options options, std::vector<std::vector<int>> prompts)
      : CompletionReply("cmpl-", tokenizer, std::move(options), std::move(prompts)),
        told_(choices().size()) {}

 private:
  const char* object(bool /*piece*/) const override { return "text_completion"; }

  void fill_piece(size_t index, const ReplyEvent& event, const std::vector<ReplyPart>& /*added*/,
                  OrderedJson& json) override {
    fill(index, event.text, event.tokens, event.logprobs, json);
  }
  void fill_whole(size_t index, OrderedJson& json) override {
    const Choice& choice = choices()[index];
    fill(index, choice.text_of(ReplyPart::Kind::said), choice.tokens, choice.logprobs, json);
  }

  void fill(size_t index, const std::string& text, const std::vector<int>& tokens,
            const std::vector<Logprobs>& logprobs, OrderedJson& json) {
    const bool with_prompt = !options().echoes.empty() && !told_[index].begun;
    json["text"] = (with_prompt ? choices()[index].echo : "") + text;
    json["logprobs"] =
        options().logprobs ? logprobs_json(index, tokens, logprobs, with_prompt) : OrderedJson();
    told_[index].begun = true;
  }

  OrderedJson logprobs_json(size_t index, const std::vector<int>& tokens,
                            const std::vector<Logprobs>& logprobs, bool with_prompt) {
    const Choice& choice = choices()[index];
    int64_t& offset = told_[index].offset;
    OrderedJson pieces = OrderedJson::array(), values = OrderedJson::array(),
                tops = OrderedJson::array(), offsets = OrderedJson::array();
    const auto add = [&](int token, const Logprobs* l) {
      const std::string piece = piece_of(token);
      pieces.push_back(piece);
      offsets.push_back(std::max<int64_t>(offset, 0));
      offset += length_of(piece);
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
      offset = length_of(choice.echo);
      for (const int token : choice.prompt) offset -= length_of(piece_of(token));
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

  struct Told {
    bool begun = false;  ///< the first piece is out
    int64_t offset = 0;  ///< characters of text that logprobs have told so far
  };
  std::vector<Told> told_;  ///< of each choice
};

}  // namespace

std::unique_ptr<Reply> text_reply(const Tokenizer& tokenizer, Reply::Options options,
                                  std::vector<std::vector<int>> prompts) {
  return std::make_unique<TextReply>(tokenizer, std::move(options), std::move(prompts));
}

}  // namespace sala
