#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "engine/request.h"
#include "server/reply_form.h"
#include "text/chat_template.h"

namespace sala {

/// A request that cannot be answered, as OpenAI's clients want to hear it.
class ApiError : public Error {
 public:
  ApiError(int status_code, const std::string& message, std::string at = {}, std::string why = {})
      : Error(message), status(status_code), param(std::move(at)), code(std::move(why)) {}
  int status;         ///< of HTTP
  std::string param;  ///< the field at fault
  std::string code;   ///< a word for programs, such as context_length_exceeded
};

/// What the two kinds of completion have in common, read from a request's JSON and checked.
struct Completion {
  std::string model;
  ReplyOptions reply{};
  std::optional<int64_t> limit{};  ///< tokens, where the request names a number
  int n = 1;
  bool stream = false;
  bool usage_in_stream = false;
  bool usage_in_every_piece = false;
  bool ignore_eos = false;  ///< then the reply ends at stop_tokens only
  std::vector<int> stop_tokens{};
  bool logprobs = false;  ///< as reply.logprobs says
  ReplyForm form{};
  std::string session;  ///< what the client calls its conversation; may be empty
};

/// A chat, whatever API it came by.
struct ChatCompletion : Completion {
  OrderedJson messages;
  OrderedJson tools;  ///< as OpenAI's chat completions have them; null where there are none
  OrderedJson variables = OrderedJson::object();  ///< of the chat template
  std::string expected;                           ///< what the reply may say; may be empty
  bool must_call = false;  ///< the reply is calls of tools, of this one if it has a name
  std::string must_call_tool;
  bool one_call = false;       ///< of a tool, at most: what follows it is dropped
  bool keep_thoughts = false;  ///< a response carries its thought for the client to send back
  OrderedJson told;            ///< what a response says again of its request
};

/// POST /v1/completions.
struct TextCompletion : Completion {
  struct Prompt {
    std::string text;         ///< either this
    std::vector<int> tokens;  ///< or these
  };
  std::vector<Prompt> prompts;
  bool echo = false;
};

/// Bounds of what a request may ask for.
inline constexpr int kMostChoices = 8, kMostStops = 16, kMostLogprobs = 20, kMostPrompts = 128;

/// Begins what a response gives its client to keep as a thought's `encrypted_content`.
inline constexpr std::string_view kKeptThought = "sala-thought:";

/// Parse a body of POST /v1/chat/completions, /v1/messages (Anthropic's), /v1/responses and
/// /v1/completions. `defaults` is how the model's authors sample. Throw ApiError.
ChatCompletion parse_chat(const std::string& body, const SamplingParams& defaults);
ChatCompletion parse_messages(const std::string& body, const SamplingParams& defaults);
ChatCompletion parse_responses(const std::string& body, const SamplingParams& defaults);
TextCompletion parse_text(const std::string& body, const SamplingParams& defaults);

/// A body that must be a JSON object. Throws ApiError.
OrderedJson parse_body(const std::string& body);

}  // namespace sala
