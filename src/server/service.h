#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/open.h"
#include "grammar/constraints.h"
#include "server/api.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/openapi.h"
#include "server/reply_formats.h"
#include "server/sessions.h"

namespace sala {

struct ServiceOptions {
  std::string name;  ///< of the model, as clients call it
  std::vector<std::string>
      keys;           ///< one of them must come with a request; empty: none is asked for
  bool reuse = true;  ///< of what is remembered of earlier texts
  /// Tokens that a prompt and its reply may have together, where the engine has room for more.
  int64_t context = std::numeric_limits<int64_t>::max();
  std::optional<int64_t> thought_limit{};  ///< tokens, where a request does not say
  bool loopback = true;  ///< only this machine is served: other names in Host are somebody's trick
  std::function<void(const std::string&)> log;  ///< hears a line for each request
};

/// The session that a request is bound to.
struct Bound {
  std::string name;
  NamedText text;
};

/// The endpoints: HTTP requests in, requests to the engine out, and its events back as JSON.
/// docs/serving.md describes them. Any thread.
class Service {
 public:
  /// The tokenizer is there; files, engine and sessions must outlive the service. The engine's
  /// runner has a slot more than its scheduler uses.
  Service(const ModelFiles& files, Engine& engine, Sessions& sessions, ServiceOptions options);

  /// Answers a request. Throws nothing.
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  /// From now on /ready says no.
  void drain() { draining_ = true; }

 private:
  struct Route {
    Operation about;
    void (Service::*answer)(const HttpRequest&, const std::shared_ptr<Exchange>&);
  };
  static const std::vector<Route>& routes();

  static int64_t now_seconds();  ///< since 1970
  void check_access(const HttpRequest& request) const;
  void check_model(const std::string& name) const;
  /// Tokens that a prompt and its reply may have together.
  int64_t longest() const { return std::min(options_.context, engine_.longest()); }
  OrderedJson model_json() const;
  std::string caller_of(const HttpRequest& request, const std::string& session) const;

  void document(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void health(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void ready(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void version(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void models(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void show_model(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void metrics(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void tokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void detokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void tokenizer_info(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void apply_template(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void chat(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void completions(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void messages(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void count_messages(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void responses(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void count_responses(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);

  // session_api.cc
  void list_sessions(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void create_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void show_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void delete_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void ingest_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void fork_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void roll_back_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void save_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void load_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  /// The session `name`, brought from the disk where memory has none. Throws ApiError.
  NamedText session(const std::string& name);
  void load(const std::string& name);
  /// The session that a request names, where there is one of this name.
  std::optional<Bound> bound(const std::string& name);
  OrderedJson session_json(const Sessions::Entry& entry) const;
  /// Reads a session's text; `then` follows when it is in memory, on the engine's thread, and
  /// `done` says whether the answer is a success.
  void read_session(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange,
                    const std::vector<int>& tokens, bool stream,
                    std::function<void(Runner&, Hold&)> then, std::function<bool()> done);

  void respond(const std::shared_ptr<Exchange>& exchange, int status, const OrderedJson& json,
               HttpHeaders headers = {});
  /// An array of the vocabulary's token ids. Throws ApiError.
  std::vector<int> ids_in(const OrderedJson& json, const char* field) const;
  /// The model's. Throws ApiError where it has none.
  const ChatTemplate& chat_template() const;
  /// Throws ApiError where tools are given and the template does not use them.
  void require_tools_seen(const ChatCompletion& chat) const;
  /// A prompt for the tokenizer to encode with parse_special.
  std::string render(const ChatCompletion& chat, const OrderedJson& messages,
                     bool generation) const;
  std::vector<int64_t> marks_of(const ChatCompletion& chat, const std::vector<int>& prompt) const;
  /// A prompt behind the documents of a session, with one BOS; marks move along.
  std::vector<int> behind_documents(const NamedText& text, std::span<const int> prompt,
                                    std::vector<int64_t>& marks) const;
  /// A chat as the engine reads it.
  struct ChatPrompt {
    std::vector<int> tokens;
    std::vector<int64_t> marks{};
    std::string called;  ///< the session that the request names; may be empty, or be none
    std::optional<Bound> bound{};
    Thought thought = Thought::none;
  };
  ChatPrompt prompt_of(const HttpRequest& request, const ChatCompletion& chat);
  /// A request to /v1/messages. Throws ApiError.
  ChatCompletion anthropic_chat(const HttpRequest& request) const;
  Reply::Options options_of(const Completion& completion);
  void answer(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange,
              const ChatCompletion& chat, ReplyFormat& format);
  /// The constraint of a language, which `param` of a request has said. Throws ApiError.
  Constraint compiled(const std::string& param, const Language& language, const Rules& rules) const;
  /// What a reply may be, where the request says it. Throws ApiError.
  std::optional<Constraint> constraint_of(const ChatCompletion& chat, Thought thought) const;
  Request request_of(const Completion& completion, std::vector<int> prompt,
                     const std::string& caller) const;
  void submit(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange,
              const std::shared_ptr<Reply>& reply, std::vector<Request> requests,
              const std::optional<Bound>& bound);
  /// Throws ApiError where the engine has refused.
  static void require_taken(const Engine::Submitted& submitted);

  const ModelFiles& files_;
  Engine& engine_;
  Sessions& sessions_;
  ServiceOptions options_;
  Metrics metrics_;
  std::atomic<bool> draining_ = false;
  std::atomic<uint64_t> next_ = 1;
  uint64_t process_;                           ///< a number of this process, for ids
  int64_t started_;                            ///< seconds since 1970
  ToolFormat tool_format_ = ToolFormat::none;  ///< in which the model calls tools
  Constraints constraints_;
};

}  // namespace sala
