#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "server/api.h"
#include "server/http.h"
#include "text/thinking.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"

namespace sala {

/// A part of a reply, in the order in which the model wrote them.
struct ReplyPart {
  enum class Kind : uint8_t { thought, said, call };
  Kind kind;
  std::string text;    ///< of a call its arguments: a JSON object
  std::string name{};  ///< of a call
};

/// The answer to a completion in the making. This class hears the events of its choices and splits
/// their texts into parts; a format, which derives from it, says what goes out, at the end or piece
/// by piece. Lives on the server's thread.
class Reply {
 public:
  struct Options {
    std::string number;  ///< the ids of the reply and of its parts are made of it
    std::string model;
    int64_t created = 0;  ///< seconds since 1970
    bool stream = false, usage_in_stream = false, usage_in_every_piece = false;
    bool logprobs = false;
    std::vector<std::string> echoes{};  ///< what each choice's text begins with, where asked for
    bool chat = false;                  ///< the text may have a thought and calls
    bool thinking = false;              ///< the prompt has opened a thought
    ToolFormat tool_format = ToolFormat::none;
    OrderedJson tools{};         ///< those that the model may call
    bool one_call = false;       ///< what follows the first call is dropped
    bool keep_thoughts = false;  ///< a thought goes out for the client to send back
    OrderedJson told{};          ///< what the answer says again of its request
  };
  virtual ~Reply() = default;
  Reply(const Reply&) = delete;
  Reply& operator=(const Reply&) = delete;

  /// An event of choice i. Sends what it adds, or the whole answer when all choices are over.
  void hear(size_t choice, const ReplyEvent& event, Exchange& exchange);
  bool over() const { return left_ == 0; }
  bool streams() const { return options_.stream; }
  const std::string& id() const { return id_; }
  int status() const { return status_; }
  /// A choice's prompt and what was written behind it.
  std::vector<int> tokens_of(size_t choice) const;
  /// Of all choices together, so far.
  Usage usage() const;
  /// How the last one ended, in a word.
  std::string ending() const;

 protected:
  struct Choice {
    std::vector<int> prompt;
    std::string echo;  ///< what the text begins with
    ThinkingSplitter thinking;
    ToolCallSplitter calls;
    std::vector<ReplyPart> parts{};
    std::vector<int> tokens{};
    std::vector<Logprobs> logprobs{}, prompt_logprobs{};
    int64_t thought_tokens = 0;
    std::optional<Finish> finish{};
    std::string error{}, stopped_by{};
    Usage usage{};

    /// All that it thought, or said.
    std::string text_of(ReplyPart::Kind kind) const;
    /// It ends for its calls to be answered.
    bool calls_tools() const;
  };

  /// One choice for each prompt: the same one where a prompt has several. `kind` begins the id.
  Reply(std::string_view kind, const Tokenizer& tokenizer, Options options,
        std::vector<std::vector<int>> prompts);

  /// A stream begins; usage() knows the prompt.
  virtual void send_begin(Exchange& /*exchange*/) {}
  /// What an event has added to a choice: `added`, which is at the end of its parts too.
  virtual void send_piece(size_t choice, const ReplyEvent& event,
                          const std::vector<ReplyPart>& added, Exchange& exchange) = 0;
  /// All choices are over.
  virtual void send_end(Exchange& exchange) = 0;
  /// The answer that is no stream.
  virtual OrderedJson whole() = 0;
  /// What says that the reply could not be finished, as an answer and in a stream.
  virtual OrderedJson error(const std::string& message) const;
  virtual void send_error(const std::string& message, Exchange& exchange);
  virtual std::string event_of(const OrderedJson& json) const;

  const Options& options() const { return options_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  std::vector<Choice>& choices() { return choices_; }
  const std::vector<Choice>& choices() const { return choices_; }
  /// Of all choices together.
  int64_t thought_tokens() const;
  /// The id of a part of a choice; `kind` begins it.
  std::string id_of(std::string_view kind, size_t choice, size_t part) const;

 private:
  std::vector<ReplyPart> split(Choice& choice, const ReplyEvent& event, bool ends) const;

  const Tokenizer& tokenizer_;
  Options options_;
  std::string id_;
  std::vector<Choice> choices_;
  size_t left_;
  int status_ = 200;
  bool begun_ = false;
};

}  // namespace sala
