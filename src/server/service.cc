#include "server/service.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <span>

#include "base/json.h"
#include "server/errors.h"

namespace sala {
namespace {

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
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos);
}

/// Whether a browser says that a page of another machine asks.
bool comes_from_elsewhere(const HttpRequest& request) {
  const std::string origin = request.header("origin");
  const size_t host = origin.find("://");
  const bool elsewhere = !origin.empty() && (host == std::string::npos || origin.ends_with("://") ||
                                             !names_loopback(origin.substr(host + 3)));
  return elsewhere || request.header("sec-fetch-site") == "cross-site";
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
  if (path.find('/') != std::string_view::npos && before != "/v1/models/") return {};
  return std::string(path);
}

}  // namespace

const std::vector<Service::Route>& Service::routes() {
  static const std::vector<Route> routes = {
      {{"GET", "/health", "whether the server lives", "", "Status"}, &Service::health},
      {{"GET", "/v1/health", "the same", "", "Status"}, &Service::health},
      {{"GET", "/ready", "whether it takes requests: 503 while it ends", "", "Status"},
       &Service::ready},
      {{"GET", "/version", "the release", "", "Version"}, &Service::version},
      {{"GET", "/openapi.json", "this document", "", "Document"}, &Service::document},
      {{"GET", "/metrics", "what Prometheus reads", "", ""}, &Service::metrics},
      {{"GET", "/v1/models", "the model", "", "Models"}, &Service::models},
      {{"GET", "/v1/models/{id}", "the same by its name", "", "Model"}, &Service::show_model},
      {{"GET", "/tokenizer_info", "special tokens and sizes", "", "TokenizerInfo"},
       &Service::tokenizer_info},
      {{"POST", "/tokenize", "a text's token ids", "TokenizeRequest", "Tokens"},
       &Service::tokenize},
      {{"POST", "/detokenize", "the text of token ids", "DetokenizeRequest", "Text"},
       &Service::detokenize},
      {{"POST", "/apply-template", "the prompt of a chat", "ChatRequest", "Text"},
       &Service::apply_template},
      {{"POST", "/v1/chat/completions", "answers a chat", "ChatRequest", "Reply", true},
       &Service::chat},
      {{"POST", "/v1/completions", "goes on with texts", "CompletionRequest", "Reply", true},
       &Service::completions},
      {{"POST", "/v1/responses", "answers a conversation", "ResponsesRequest", "Response", true},
       &Service::responses},
      {{"POST", "/v1/responses/input_tokens", "the length of its prompt", "ResponsesRequest",
        "InputTokens"},
       &Service::count_responses},
      {{"POST", "/v1/messages", "answers a conversation, as Anthropic's servers do",
        "MessagesRequest", "Message", true, "AnthropicError"},
       &Service::messages},
      {{"POST", "/v1/messages/count_tokens", "the length of its prompt", "MessagesRequest",
        "InputTokens", false, "AnthropicError"},
       &Service::count_messages},
      {{"GET", "/v1/sessions", "all sessions", "", "Sessions"}, &Service::list_sessions},
      {{"POST", "/v1/sessions", "makes a session", "SessionName", "Session"},
       &Service::create_session},
      {{"GET", "/v1/sessions/{id}", "one session", "", "Session"}, &Service::show_session},
      {{"DELETE", "/v1/sessions/{id}", "removes it from memory and disk", "", "Deleted"},
       &Service::delete_session},
      {{"POST", "/v1/sessions/{id}/ingest", "reads a text to its end", "Ingest", "Session", true},
       &Service::ingest_session},
      {{"POST", "/v1/sessions/{id}/fork", "another that begins alike", "Fork", "Session"},
       &Service::fork_session},
      {{"POST", "/v1/sessions/{id}/rollback", "keeps its first tokens", "RollBack", "Session"},
       &Service::roll_back_session},
      {{"POST", "/v1/sessions/{id}/save", "writes it to the disk", "Stream", "Session", true},
       &Service::save_session},
      {{"POST", "/v1/sessions/{id}/load", "takes it from the disk", "", "Session"},
       &Service::load_session},
  };
  return routes;
}

int64_t Service::now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Service::Service(const ModelFiles& files, Engine& engine, Sessions& sessions,
                 ServiceOptions options)
    : files_(files),
      engine_(engine),
      sessions_(sessions),
      options_(std::move(options)),
      process_(std::random_device()()),
      started_(now_seconds()),
      constraints_(*files.tokenizer, files.config.vocab) {
  if (files_.chat_template) tool_format_ = tool_format_of(*files_.chat_template);
}

void Service::respond(const std::shared_ptr<Exchange>& exchange, int status,
                      const OrderedJson& json, HttpHeaders headers) {
  metrics_.count_answer(status);
  exchange->respond(status, "application/json", text_of(json), std::move(headers));
}

void Service::handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  std::string allowed;  // methods of the path
  const auto refuse = [&](int status, const std::string& message, const std::string& param,
                          const std::string& code, HttpHeaders headers = {}) {
    respond(exchange, status, error_of_path(request.path, status, message, param, code),
            std::move(headers));
  };
  try {
    check_access(request);
    const std::string coding = request.header("content-encoding");
    if (!coding.empty() && coding != "identity")
      throw ApiError(415, "the body is compressed (Content-Encoding); send it as it is", {},
                     "unsupported_encoding");
    const Route* found = nullptr;
    for (const Route& route : routes()) {
      const std::optional<std::string> id = match(route.about.path, request.path);
      if (!id) continue;
      request.id = *id;
      allowed += (allowed.empty() ? "" : ", ") + std::string(route.about.method);
      if (request.method == route.about.method ||
          (request.method == "HEAD" && std::string_view(route.about.method) == "GET"))
        found = &route;
    }
    if (allowed.empty())
      throw ApiError(404, "there is no such path; /openapi.json lists those that are there");
    if (found == nullptr)
      throw ApiError(405, fmt::format("{} takes another method: {}", request.path, allowed));
    (this->*found->answer)(request, exchange);
  } catch (const ApiError& e) {
    HttpHeaders headers;
    if (e.status == 405) headers.emplace_back("Allow", allowed);
    if (e.status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
    if (e.status == 429 || e.status == 503) headers.emplace_back("Retry-After", "1");
    refuse(e.status, e.what(), e.param, e.code, headers);
  } catch (const Error& e) {  // a template, a sampling parameter
    refuse(400, e.what(), {}, "invalid_value");
  } catch (const std::exception& e) {
    refuse(500, e.what(), {}, {});
  }
}

void Service::check_access(const HttpRequest& request) const {
  if (request.path == "/health" || request.path == "/v1/health") return;
  if (options_.keys.empty()) {
    if (options_.loopback && !names_loopback(request.header("host")))
      throw ApiError(
          403, "the Host header names another machine; give the server an API key to serve it");
    const bool reads = request.method == "GET" || request.method == "HEAD";
    if (!reads && comes_from_elsewhere(request))
      throw ApiError(403,
                     "a page of another machine sends this (Origin or Sec-Fetch-Site says so), and "
                     "any page could: start the server with --api-key-file or --api-key and have "
                     "the page send the key",
                     {}, "cross_origin");
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

void Service::document(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  std::vector<Operation> operations;
  for (const Route& route : routes()) operations.push_back(route.about);
  respond(exchange, 200, openapi(operations));
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

OrderedJson Service::model_json() const {
  const int64_t known = files_.config.longest_known();
  return {{"id", options_.name},
          {"object", "model"},
          {"created", started_},
          {"owned_by", "sala"},
          {"max_model_len", known > 0 ? std::min(known, longest()) : longest()},
          {"meta", {{"vocab", files_.config.vocab}}}};
}

void Service::models(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  respond(exchange, 200, {{"object", "list"}, {"data", OrderedJson::array({model_json()})}});
}

void Service::show_model(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  check_model(request.id);
  respond(exchange, 200, model_json());
}

void Service::metrics(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  metrics_.count_answer(200);
  exchange->respond(200, "text/plain; version=0.0.4; charset=utf-8",
                    metrics_.text(engine_.counters(), options_.name));
}

void Service::tokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const OrderedJson json = parse_body(request.body);
  const auto answer = [&](const std::vector<int>& tokens) {
    respond(exchange, 200,
            {{"tokens", tokens},
             {"count", tokens.size()},
             {"max_model_len", model_json()["max_model_len"]}});
  };
  if (json.contains("messages")) {
    const ChatCompletion chat = parse_chat(request.body, files_.sampling);
    require_tools_seen(chat);
    const bool generation = json.value("add_generation_prompt", OrderedJson(true)) != false;
    return answer(
        files_.tokenizer->encode(render(chat, chat.messages, generation), {.parse_special = true}));
  }
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
  answer(tokens);
}

std::vector<int> Service::ids_in(const OrderedJson& json, const char* field) const {
  if (!json.contains(field) || !json[field].is_array())
    throw ApiError(400,
                   fmt::format("{} is {}; expected an array of token ids", field,
                               json.contains(field) ? "no array" : "missing"),
                   field);
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
           {"model_max_length", model_json()["max_model_len"]},
           {"chat_template", files_.chat_template ? OrderedJson("present") : OrderedJson()}});
}

const ChatTemplate& Service::chat_template() const {
  if (!files_.chat_template)
    throw ApiError(400, "this model has no chat template: use /v1/completions", "messages");
  return *files_.chat_template;
}

std::string Service::render(const ChatCompletion& chat, const OrderedJson& messages,
                            bool generation) const {
  return chat_template().render_for(*files_.tokenizer, messages, chat.tools, generation,
                                    chat.variables);
}

void Service::require_tools_seen(const ChatCompletion& chat) const {
  if (chat.tools.is_null()) return;
  const auto prompt = [&](const OrderedJson& tools) {
    return chat_template().render(chat.messages, tools, true, chat.variables);
  };
  if (prompt(chat.tools) == prompt(nullptr))
    throw ApiError(400,
                   "tools are given, and this model's chat template does not show them to the "
                   "model: send none",
                   "tools", "invalid_value");
}

void Service::apply_template(const HttpRequest& request,
                             const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = parse_chat(request.body, files_.sampling);
  require_tools_seen(chat);
  respond(exchange, 200,
          {{"prompt", chat_template().render(chat.messages, chat.tools, true, chat.variables)}});
}

void Service::require_taken(const Engine::Submitted& submitted) {
  if (submitted.refusal == Engine::Refusal::full)
    throw ApiError(429, "too many requests are waiting", {}, "queue_full");
  if (submitted.refusal == Engine::Refusal::draining)
    throw ApiError(503, "the server is about to end", {}, "draining");
}

}  // namespace sala
