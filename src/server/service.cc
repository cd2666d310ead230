#include "server/service.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <span>

#include "base/json.h"

namespace sala {
namespace {

int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// Whether two texts are equal, in a time that does not tell where they differ.
bool equal_secrets(const std::string& a, const std::string& b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i] ^ b[b.empty() ? 0 : i % b.size()]);
  return difference == 0;
}

/// The key that a request brings: OpenAI's way, or Anthropic's.
std::string key_of(const HttpRequest& request) {
  const std::string bearer = request.header("authorization");
  if (bearer.size() > 7 && (bearer.starts_with("Bearer ") || bearer.starts_with("bearer ")))
    return bearer.substr(7);
  return request.header("x-api-key");
}

/// Whether a Host header names this machine.
bool names_loopback(std::string host) {
  if (host.empty()) return true;  // HTTP/1.0
  if (host.starts_with('['))
    host = host.substr(0, host.find(']') + 1);
  else
    host = host.substr(0, host.rfind(':'));
  std::ranges::transform(host, host.begin(), [](unsigned char c) { return std::tolower(c); });
  return host == "localhost" || host == "[::1]" || host.ends_with(".localhost") ||
         host.starts_with("127.");
}

/// What `path` has where `pattern` has {id}, nothing in particular where it has none; no value when
/// they do not match.
std::optional<std::string> match(std::string_view pattern, std::string_view path) {
  const size_t open = pattern.find("{id}");
  if (open == std::string_view::npos)
    return path == pattern ? std::optional<std::string>("") : std::nullopt;
  const std::string_view before = pattern.substr(0, open), behind = pattern.substr(open + 4);
  if (path.size() <= before.size() + behind.size() || !path.starts_with(before) ||
      !path.ends_with(behind))
    return {};
  path.remove_prefix(before.size());
  path.remove_suffix(behind.size());
  if (path.find('/') != std::string_view::npos) return {};
  return std::string(path);
}

/// Tokens that two texts have in common at their beginning.
int64_t common(std::span<const int> a, std::span<const int> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

/// What a client calls its conversation: a header, or OpenAI's field.
std::string session_of(const HttpRequest& request, const Completion& completion) {
  const std::string name = request.header("x-session-id");
  return name.empty() ? completion.session : name;
}

}  // namespace

const std::vector<Service::Route>& Service::routes() {
  static const std::vector<Route> routes = {
      {"GET", "/health", &Service::health},
      {"GET", "/v1/health", &Service::health},
      {"GET", "/ready", &Service::ready},
      {"GET", "/version", &Service::version},
      {"GET", "/metrics", &Service::metrics},
      {"GET", "/v1/models", &Service::models},
      {"GET", "/tokenizer_info", &Service::tokenizer_info},
      {"POST", "/tokenize", &Service::tokenize},
      {"POST", "/detokenize", &Service::detokenize},
      {"POST", "/apply-template", &Service::apply_template},
      {"POST", "/v1/chat/completions", &Service::chat},
      {"POST", "/v1/completions", &Service::completions},
      {"GET", "/v1/sessions", &Service::list_sessions},
      {"POST", "/v1/sessions", &Service::create_session},
      {"GET", "/v1/sessions/{id}", &Service::show_session},
      {"DELETE", "/v1/sessions/{id}", &Service::delete_session},
      {"POST", "/v1/sessions/{id}/ingest", &Service::ingest_session},
      {"POST", "/v1/sessions/{id}/fork", &Service::fork_session},
      {"POST", "/v1/sessions/{id}/rollback", &Service::roll_back_session},
      {"POST", "/v1/sessions/{id}/save", &Service::save_session},
      {"POST", "/v1/sessions/{id}/load", &Service::load_session},
  };
  return routes;
}

Service::Service(const ModelFiles& files, Engine& engine, Sessions& sessions,
                 ServiceOptions options)
    : files_(files),
      engine_(engine),
      sessions_(sessions),
      options_(std::move(options)),
      process_(std::random_device()()),
      started_(now_seconds()) {}

void Service::respond(const std::shared_ptr<Exchange>& exchange, int status,
                      const OrderedJson& json, HttpHeaders headers) {
  metrics_.count_answer(status);
  exchange->respond(status, "application/json", text_of(json), std::move(headers));
}

void Service::handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  try {
    check_access(request);
    const Route* found = nullptr;
    bool path = false;
    for (const Route& route : routes()) {
      const std::optional<std::string> id = match(route.path, request.path);
      if (!id) continue;
      path = true;
      request.id = *id;
      if (request.method == route.method ||
          (request.method == "HEAD" && std::string_view(route.method) == "GET"))
        found = &route;
    }
    if (!path)
      throw ApiError(404, "there is no such path; docs/serving.md lists those that are there");
    if (found == nullptr) throw ApiError(405, fmt::format("{} takes another method", request.path));
    (this->*found->answer)(request, exchange);
  } catch (const ApiError& e) {
    HttpHeaders headers;
    if (e.status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
    if (e.status == 429 || e.status == 503) headers.emplace_back("Retry-After", "1");
    respond(exchange, e.status, error_json(e.status, e.what(), e.param, e.code), headers);
  } catch (const Error& e) {  // a template, a sampling parameter
    respond(exchange, 400, error_json(400, e.what(), {}, "invalid_value"));
  } catch (const std::exception& e) {
    respond(exchange, 500, error_json(500, e.what(), {}, {}));
  }
}

void Service::check_access(const HttpRequest& request) const {
  if (request.path == "/health" || request.path == "/v1/health") return;
  if (options_.keys.empty()) {
    if (options_.loopback && !names_loopback(request.header("host")))
      throw ApiError(
          403, "the Host header names another machine; give the server an API key to serve it");
    return;
  }
  const std::string key = key_of(request);
  bool known = false;
  for (const std::string& one : options_.keys) known |= equal_secrets(one, key);
  if (!known)
    throw ApiError(401, "this server wants an API key: Authorization: Bearer KEY", {},
                   "invalid_api_key");
}

/// Who shares the machine evenly: keys, and conversations of nobody in particular.
std::string Service::caller_of(const HttpRequest& request, const std::string& session) const {
  const std::string key = options_.keys.empty() ? std::string() : key_of(request);
  return key.empty() ? session : key;
}

void Service::check_model(const std::string& name) const {
  if (name.empty() || name == options_.name) return;
  throw ApiError(404,
                 fmt::format("there is no model \"{}\" here; this server has \"{}\"",
                             name.substr(0, 100), options_.name),
                 "model", "model_not_found");
}

void Service::health(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  respond(exchange, 200, {{"status", "ok"}});
}

void Service::ready(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  if (draining_) throw ApiError(503, "the server is about to end");
  respond(exchange, 200, {{"status", "ready"}});
}

void Service::version(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  respond(exchange, 200, {{"version", SALA_VERSION}});
}

void Service::models(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  respond(exchange, 200,
          {{"object", "list"},
           {"data", OrderedJson::array({{{"id", options_.name},
                                         {"object", "model"},
                                         {"created", started_},
                                         {"owned_by", "sala"},
                                         {"max_model_len", engine_.longest()},
                                         {"meta", {{"vocab", files_.config.vocab}}}}})}});
}

void Service::metrics(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  metrics_.count_answer(200);
  exchange->respond(200, "text/plain; version=0.0.4; charset=utf-8",
                    metrics_.text(engine_.counters(), options_.name));
}

void Service::tokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const OrderedJson json = parse_body(request.body);
  // vLLM's clients say "prompt", llama.cpp's "content".
  const char* key = json.contains("prompt") ? "prompt" : "content";
  if (!json.contains(key) || !json[key].is_string())
    throw ApiError(400, "prompt is missing; expected a text", "prompt");
  bool special = json.contains("prompt");
  for (const char* flag : {"add_special_tokens", "add_special"})
    if (json.contains(flag) && json[flag].is_boolean()) special = json[flag].get<bool>();
  std::vector<int> tokens = special ? files_.raw_prefix() : std::vector<int>();
  const std::vector<int> text = files_.tokenizer->encode(json[key].get<std::string>());
  tokens.insert(tokens.end(), text.begin(), text.end());
  respond(exchange, 200,
          {{"tokens", tokens}, {"count", tokens.size()}, {"max_model_len", engine_.longest()}});
}

std::vector<int> Service::ids_in(const OrderedJson& json, const char* field) const {
  if (!json.contains(field) || !json[field].is_array())
    throw ApiError(400, fmt::format("{} is missing; expected an array of token ids", field), field);
  std::vector<int> ids;
  for (const OrderedJson& id : json[field]) {
    if (!id.is_number_integer() || id.get<double>() < 0 ||
        id.get<double>() >= static_cast<double>(files_.config.vocab))
      throw ApiError(
          400, fmt::format("{} has an id that is not below {}", field, files_.config.vocab), field);
    ids.push_back(id.get<int>());
  }
  return ids;
}

void Service::detokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const OrderedJson json = parse_body(request.body);
  const std::vector<int> ids = ids_in(json, "tokens");
  const std::string text = files_.tokenizer->decode(ids, false);
  respond(exchange, 200, {{"prompt", text}, {"content", text}});
}

void Service::tokenizer_info(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  const Tokenizer& t = *files_.tokenizer;
  const auto piece = [&](std::optional<int> id) {
    return id ? OrderedJson(std::string(t.piece(*id))) : OrderedJson();
  };
  const auto number = [](std::optional<int> id) { return id ? OrderedJson(*id) : OrderedJson(); };
  respond(exchange, 200,
          {{"bos_token", piece(t.bos())},
           {"bos_token_id", number(t.bos())},
           {"eos_token", piece(t.eos())},
           {"eos_token_id", number(t.eos())},
           {"pad_token", piece(t.pad())},
           {"unk_token", piece(t.unk())},
           {"add_bos_token", t.adds_bos()},
           {"vocab_size", t.size()},
           {"model_max_length", engine_.longest()},
           {"chat_template", files_.chat_template ? OrderedJson("present") : OrderedJson()}});
}

std::string Service::render(const ChatCompletion& chat, const OrderedJson& messages,
                            bool generation) const {
  if (!files_.chat_template)
    throw ApiError(400, "this model has no chat template: use /v1/completions", "messages");
  return files_.chat_template->render(messages, chat.tools, generation, chat.variables);
}

void Service::apply_template(const HttpRequest& request,
                             const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = parse_chat(request.body, files_.sampling);
  respond(exchange, 200, {{"prompt", render(chat, chat.messages, true)}});
}

/// Where other conversations may part from this one: behind the system message, and behind what was
/// said before the last message.
std::vector<int64_t> Service::marks_of(const ChatCompletion& chat,
                                       const std::vector<int>& prompt) const {
  constexpr int64_t kShort = 64;  // tokens: reading them again costs nothing
  std::vector<int64_t> marks;
  const auto mark = [&](size_t count) {
    if (count == 0 || count >= chat.messages.size()) return;
    const OrderedJson first(chat.messages.begin(),
                            chat.messages.begin() + static_cast<std::ptrdiff_t>(count));
    try {
      const auto tokens =
          files_.tokenizer->encode(render(chat, first, false), {.parse_special = true});
      const int64_t at = common(prompt, tokens);
      if (at >= kShort && (marks.empty() || at >= marks.back() + kShort)) marks.push_back(at);
    } catch (const Error&) {  // a template that wants a user's message
    }
  };
  mark(chat.messages[0]["role"] == "system" ? 1 : 0);
  mark(chat.messages.size() - 1);
  return marks;
}

std::vector<int> Service::behind_documents(const NamedText& text, std::span<const int> prompt,
                                           std::vector<int64_t>& marks) const {
  const auto documents = std::span(text.tokens).first(static_cast<size_t>(text.documents));
  std::vector<int> all(documents.begin(), documents.end());
  // Where texts begin with BOS the documents have it already.
  const std::vector<int> bos = files_.raw_prefix();
  const bool twice = !all.empty() && !bos.empty() && !prompt.empty() && prompt[0] == bos[0];
  if (twice) prompt = prompt.subspan(1);
  const int64_t shift = text.documents - (twice ? 1 : 0);
  for (int64_t& mark : marks) mark += shift;
  if (!all.empty()) marks.insert(marks.begin(), text.documents);
  all.insert(all.end(), prompt.begin(), prompt.end());
  return all;
}

Request Service::request_of(const Completion& completion, std::vector<int> prompt,
                            const std::string& caller) const {
  if (prompt.empty()) throw ApiError(400, "the prompt is empty", "prompt");
  for (const int id : prompt)
    if (id >= files_.config.vocab)
      throw ApiError(
          400,
          fmt::format("the prompt has token {}; the vocabulary has {}", id, files_.config.vocab),
          "prompt");
  const int64_t room = engine_.longest() - std::ssize(prompt);
  if (room < 1)
    throw ApiError(400,
                   fmt::format("the prompt has {} tokens and this server has room for {}, reply "
                               "included: start it with a larger --ctx-size",
                               prompt.size(), engine_.longest()),
                   "prompt", "context_length_exceeded");
  Request request;
  request.prompt = std::move(prompt);
  request.reply = completion.reply;
  request.reply.limit = std::min(completion.limit.value_or(room), room);
  if (!completion.ignore_eos) request.reply.stop = files_.stop;
  request.caller = caller;
  request.reuse = options_.reuse;
  return request;
}

void Service::chat(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = parse_chat(http.body, files_.sampling);
  check_model(chat.model);
  const std::string text = render(chat, chat.messages, true);
  std::vector<int> prompt = files_.tokenizer->encode(text, {.parse_special = true});
  std::vector<int64_t> marks = marks_of(chat, prompt);
  const std::string called = session_of(http, chat);
  const std::optional<Bound> bound = this->bound(called);
  if (bound) prompt = behind_documents(bound->text, prompt, marks);
  const size_t end = text.find_last_not_of(" \t\n");
  const bool thinking = std::string_view(text).substr(0, end + 1).ends_with("<think>");
  Request request = request_of(chat, prompt, caller_of(http, called));
  request.marks = std::move(marks);
  request.reuse |= bound.has_value();
  std::vector<Request> requests;
  for (int i = 0; i < chat.n; ++i) {
    Request one = request;
    one.reply.sampling.seed += static_cast<uint64_t>(i);
    one.after = i > 0 ? 1 : 0;
    requests.push_back(std::move(one));
  }
  Reply::Options options{.id = fmt::format("chatcmpl-{:08x}{:08x}", process_, next_++),
                         .model = options_.name,
                         .created = now_seconds(),
                         .chat = true,
                         .stream = chat.stream,
                         .usage_in_stream = chat.usage_in_stream,
                         .usage_in_every_piece = chat.usage_in_every_piece,
                         .logprobs = chat.logprobs,
                         .thinking = thinking};
  const auto reply =
      std::make_shared<Reply>(*files_.tokenizer, std::move(options),
                              std::vector<std::vector<int>>(static_cast<size_t>(chat.n), prompt));
  submit(http, exchange, reply, std::move(requests), bound);
}

void Service::completions(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  TextCompletion text = parse_text(http.body, files_.sampling);
  check_model(text.model);
  const std::string called = session_of(http, text);
  const std::optional<Bound> bound = this->bound(called);
  std::vector<Request> requests;
  std::vector<std::vector<int>> prompts;
  for (TextCompletion::Prompt& one : text.prompts) {
    std::vector<int> prompt = std::move(one.tokens);
    if (prompt.empty()) {
      prompt = files_.raw_prefix();
      const std::vector<int> rest = files_.tokenizer->encode(one.text);
      prompt.insert(prompt.end(), rest.begin(), rest.end());
    }
    std::vector<int64_t> marks;
    if (bound) prompt = behind_documents(bound->text, prompt, marks);
    for (int i = 0; i < text.n; ++i) {
      Request request = request_of(text, prompt, caller_of(http, called));
      request.marks = marks;
      request.reuse |= bound.has_value();
      request.reply.sampling.seed += static_cast<uint64_t>(i);
      request.prompt_logprobs = text.echo && text.logprobs;
      // The first of all is the only one that others can wait for by number.
      request.after = i > 0 && prompts.size() == static_cast<size_t>(i) ? 1 : 0;
      requests.push_back(std::move(request));
      prompts.push_back(prompt);
    }
  }
  Reply::Options options{.id = fmt::format("cmpl-{:08x}{:08x}", process_, next_++),
                         .model = options_.name,
                         .created = now_seconds(),
                         .chat = false,
                         .stream = text.stream,
                         .usage_in_stream = text.usage_in_stream,
                         .usage_in_every_piece = text.usage_in_every_piece,
                         .logprobs = text.logprobs,
                         .echo = text.echo};
  const auto reply =
      std::make_shared<Reply>(*files_.tokenizer, std::move(options), std::move(prompts));
  submit(http, exchange, reply, std::move(requests), bound);
}

void Service::require_taken(const Engine::Submitted& submitted) {
  if (submitted.refusal == Engine::Refusal::full)
    throw ApiError(429, "too many requests are waiting", {}, "queue_full");
  if (submitted.refusal == Engine::Refusal::draining)
    throw ApiError(503, "the server is about to end", {}, "draining");
}

void Service::submit(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange,
                     const std::shared_ptr<Reply>& reply, std::vector<Request> requests,
                     const std::optional<Bound>& bound) {
  const bool stream = reply->streams();
  const auto done = [this, reply, path = http.path, bound] {
    const Usage u = reply->usage();
    if (bound && reply->ending() != "error" && reply->ending() != "cancelled")
      sessions_.converse(bound->name, bound->text.version, reply->tokens_of(0));
    metrics_.count_answer(reply->status());
    if (options_.log)
      options_.log(fmt::format(
          "request id={} path={} status={} prompt={} cached={} read_again={} generated={} "
          "preemptions={} "
          "queue_s={:.3f} prompt_s={:.3f} reply_s={:.3f} end={}",
          reply->id(), path, reply->status(), u.prompt, u.cached, u.read_again, u.generated,
          u.preemptions, u.queue_seconds, u.prompt_seconds, u.reply_seconds, reply->ending()));
  };
  for (size_t i = 0; i < requests.size(); ++i)
    requests[i].on_event = [this, exchange, reply, i, done](const ReplyEvent& event) {
      if (event.finish || !event.error.empty()) metrics_.count_reply(event);
      exchange->post([exchange, reply, i, event, done] {
        if (reply->over()) return;
        reply->hear(i, event, *exchange);
        if (reply->over()) done();
      });
    };
  const auto submitted = engine_.submit(std::move(requests));
  require_taken(submitted[0]);
  if (stream) exchange->begin_stream();
  exchange->on_gone([this, submitted] {
    for (const Engine::Submitted& one : submitted) engine_.cancel(one.id);
  });
}

}  // namespace sala
