#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/api.h"
#include "server/http.h"
#include "server/thinking.h"
#include "text/tokenizer.h"

namespace sala {

/// The answer to a completion in the making: the events of its choices become JSON, at the end or
/// piece by piece. Lives on the server's thread.
class Reply {
 public:
  struct Options {
    std::string id;  ///< chatcmpl-..., cmpl-...
    std::string model;
    int64_t created = 0;  ///< seconds since 1970
    bool chat = false;
    bool stream = false, usage_in_stream = false, usage_in_every_piece = false;
    bool logprobs = false;
    std::vector<std::string> echoes{};  ///< what each choice's text begins with, where asked for
    bool thinking = false;              ///< the prompt has opened a thought
  };
  /// One choice for each prompt: the same one where a prompt has several.
  Reply(const Tokenizer& tokenizer, Options options, std::vector<std::vector<int>> prompts);

  /// An event of choice i. Sends what it adds, or the whole answer when all choices are over.
  void hear(size_t choice, const ReplyEvent& event, Exchange& exchange);
  bool over() const { return left_ == 0; }
  bool streams() const { return options_.stream; }
  const std::string& id() const { return options_.id; }
  int status() const { return status_; }
  /// A choice's prompt and what was written behind it.
  std::vector<int> tokens_of(size_t choice) const;
  /// Of all choices together.
  Usage usage() const;
  /// How the last one ended, in a word.
  std::string ending() const;

 private:
  struct Choice {
    std::vector<int> prompt;
    std::string echo;  ///< what the text begins with
    ThinkingSplitter splitter;
    std::string text, thought;
    std::vector<int> tokens{};
    std::vector<Logprobs> logprobs{}, prompt_logprobs{};
    int64_t thought_tokens = 0;
    int64_t offset = 0;  ///< characters of text that logprobs have told so far
    bool begun = false;
    ReplyEvent last{};
  };

  OrderedJson frame(bool piece) const;
  OrderedJson usage_json(const Usage& usage) const;
  OrderedJson timings_json(const Usage& usage) const;
  OrderedJson chat_logprobs(const std::vector<Logprobs>& logprobs) const;
  OrderedJson text_logprobs(Choice& choice, const std::vector<int>& tokens,
                            const std::vector<Logprobs>& logprobs, bool with_prompt) const;
  OrderedJson finish_reason(const ReplyEvent& event) const;
  void send_piece(size_t index, const ReplyEvent& event, Exchange& exchange);
  void send_whole(Exchange& exchange);
  std::string piece_of(int token) const;

  const Tokenizer& tokenizer_;
  Options options_;
  std::vector<Choice> choices_;
  size_t left_;
  int status_ = 200;
};

/// An error as OpenAI's clients read it.
OrderedJson error_json(int status, const std::string& message, const std::string& param,
                       const std::string& code);
/// JSON as it goes out: bytes that are not UTF-8 become U+FFFD.
std::string text_of(const OrderedJson& json);

}  // namespace sala
