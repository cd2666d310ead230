// /v1/sessions: texts with names, kept in memory and on the disk.
#include <algorithm>

#include "server/errors.h"
#include "server/service.h"

namespace sala {
namespace {

OrderedJson body_of(const HttpRequest& http) {
  return http.body.empty() ? OrderedJson::object() : parse_body(http.body);
}

/// A whole number from 0 to `most` in a body, or `otherwise` where there is none.
int64_t number_of(const OrderedJson& json, const char* field, int64_t most, int64_t otherwise) {
  if (!json.contains(field) || json[field].is_null()) return otherwise;
  const OrderedJson& value = json[field];
  if (!value.is_number_integer() || value.get<double>() < 0 ||
      value.get<double>() > static_cast<double>(most))
    throw ApiError(400, fmt::format("{} is not a whole number from 0 to {}", field, most), field,
                   "invalid_value");
  return value.get<int64_t>();
}

/// The name in a body's "id", or `otherwise`. Throws ApiError for one that cannot be.
std::string name_of(const OrderedJson& json, const std::string& otherwise) {
  if (!json.contains("id") || json["id"].is_null()) return otherwise;
  const std::string name = json["id"].is_string() ? json["id"].get<std::string>() : std::string();
  if (!Sessions::is_name(name))
    throw ApiError(400, "id is not a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -", "id",
                   "invalid_value");
  return name;
}

bool stream_of(const OrderedJson& json) {
  if (!json.contains("stream") || json["stream"].is_null()) return false;
  if (!json["stream"].is_boolean())
    throw ApiError(400, "stream is not true or false", "stream", "invalid_value");
  return json["stream"].get<bool>();
}

[[noreturn]] void refuse_changed(const std::string& name) {
  throw ApiError(409, fmt::format("session {} was changed by another request meanwhile", name), {},
                 "conflict");
}

}  // namespace

OrderedJson Service::session_json(const Sessions::Entry& entry) const {
  OrderedJson json = {{"id", entry.name},
                      {"object", "session"},
                      {"tokens", entry.tokens},
                      {"documents", entry.documents},
                      {"in_memory", entry.in_memory},
                      {"saved", entry.saved}};
  if (!entry.damage.empty()) json["damage"] = entry.damage;
  return json;
}

void Service::load(const std::string& name) {
  try {
    sessions_.load(name, longest(), [&](const auto& work) { engine_.call(work); });
  } catch (const Error& e) {
    throw ApiError(409, e.what(), {}, "session_not_usable");
  }
}

NamedText Service::session(const std::string& name) {
  if (!sessions_.find(name) && sessions_.saved(name)) load(name);
  if (auto text = sessions_.find(name)) return std::move(*text);
  throw ApiError(404, fmt::format("there is no session \"{}\"", name.substr(0, 100)), {},
                 "session_not_found");
}

std::optional<Bound> Service::bound(const std::string& name) {
  if (name.empty() || (!sessions_.find(name) && !sessions_.saved(name))) return {};
  return Bound{.name = name, .text = session(name)};
}

void Service::list_sessions(const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
  OrderedJson data = OrderedJson::array();
  for (const Sessions::Entry& entry : sessions_.list()) data.push_back(session_json(entry));
  respond(exchange, 200, {{"object", "list"}, {"data", data}});
}

void Service::create_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const std::string name =
      name_of(body_of(http), fmt::format("session-{:08x}{:08x}", process_, next_++));
  if (!sessions_.add(name, {}))
    throw ApiError(409, fmt::format("there is a session {} already, or too many", name), "id",
                   "conflict");
  respond(exchange, 200, session_json(sessions_.entry(name)));
}

void Service::show_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const Sessions::Entry entry = sessions_.entry(http.id);
  if (!entry.in_memory && !entry.saved) session(http.id);
  respond(exchange, 200, session_json(entry));
}

void Service::delete_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  if (!sessions_.remove(http.id)) session(http.id);  // which says that there is none
  respond(exchange, 200, {{"id", http.id}, {"object", "session"}, {"deleted", true}});
}

void Service::fork_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const OrderedJson json = body_of(http);
  NamedText text = session(http.id);
  const auto all = std::ssize(text.tokens);
  const int64_t at = number_of(json, "at", all, all);
  text.tokens.resize(static_cast<size_t>(at));
  text.documents = std::min(text.documents, at);
  text.parent = http.id;
  text.stored = text.saved = false;
  const std::string name = name_of(json, fmt::format("session-{:08x}{:08x}", process_, next_++));
  if (!sessions_.add(name, std::move(text)))
    throw ApiError(409, fmt::format("there is a session {} already, or too many", name), "id",
                   "conflict");
  respond(exchange, 200, session_json(sessions_.entry(name)));
}

void Service::roll_back_session(const HttpRequest& http,
                                const std::shared_ptr<Exchange>& exchange) {
  const OrderedJson json = body_of(http);
  NamedText text = session(http.id);
  const int64_t keep = number_of(json, "tokens", std::ssize(text.tokens), -1);
  if (keep < 0) throw ApiError(400, "tokens is missing: how many to keep", "tokens");
  text.tokens.resize(static_cast<size_t>(keep));
  text.documents = std::min(text.documents, keep);
  const uint64_t version = text.version;
  if (!sessions_.replace(http.id, version, std::move(text))) refuse_changed(http.id);
  respond(exchange, 200, session_json(sessions_.entry(http.id)));
}

void Service::ingest_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const OrderedJson json = body_of(http);
  const bool stream = stream_of(json);
  NamedText text = session(http.id);
  std::vector<int>& tokens = text.tokens;
  if (json.contains("text") && !json["text"].is_null()) {
    if (!json["text"].is_string())
      throw ApiError(400,
                     fmt::format("text is of type {}; expected a text", json["text"].type_name()),
                     "text", "invalid_value");
    if (tokens.empty()) tokens = files_.raw_prefix();
    const std::vector<int> more = files_.tokenizer->encode(json["text"].get<std::string>());
    tokens.insert(tokens.end(), more.begin(), more.end());
  } else {
    if (!json.contains("tokens"))
      throw ApiError(400, "text is missing, or tokens", "text", "missing_value");
    const std::vector<int> more = ids_in(json, "tokens");
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  text.documents = std::ssize(tokens);
  const std::vector<int> whole = tokens;
  read_session(http, exchange, whole, stream, {}, [this, name = http.id, text] {
    return sessions_.replace(name, text.version, text);
  });
}

void Service::save_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const NamedText text = session(http.id);
  const bool stream = stream_of(body_of(http));
  read_session(
      http, exchange, text.tokens, stream,
      [this, name = http.id, text](Runner& runner, Hold& hold) {
        sessions_.save(name, text, runner, hold);
      },
      [] { return true; });
}

void Service::load_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  if (!sessions_.saved(http.id))
    throw ApiError(404, "there is no session of this name on the disk", {}, "session_not_found");
  load(http.id);
  respond(exchange, 200, session_json(sessions_.entry(http.id)));
}

void Service::read_session(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange,
                           const std::vector<int>& tokens, bool stream,
                           std::function<void(Runner&, Hold&)> then, std::function<bool()> done) {
  if (tokens.empty())
    throw ApiError(400, "the session has no text yet: ingest one", {}, "empty_session");
  Completion plain;
  plain.limit = 0;
  Request request = request_of(plain, tokens, caller_of(http, http.id));
  request.reuse = true;
  request.on_read = std::move(then);
  const auto over = [this, exchange, stream](int status, const OrderedJson& json) {
    if (!stream) return respond(exchange, status, json);
    metrics_.count_answer(status);
    exchange->send("data: " + text_of(json) + "\n\ndata: [DONE]\n\n");
    exchange->end();
  };
  request.on_event = [this, exchange, stream, over, done = std::move(done), name = http.id,
                      total = std::ssize(tokens)](const ReplyEvent& event) {
    if (!event.error.empty()) return over(409, openai_error(409, event.error));
    if (event.finish == Finish::cancelled)
      return over(503, openai_error(503, "the server is about to end", {}, "draining"));
    if (event.finish) {
      if (done()) return over(200, session_json(sessions_.entry(name)));
      return over(409, openai_error(409, "the session was changed by another request meanwhile", {},
                                    "conflict"));
    }
    if (stream)
      exchange->send(
          "data: " +
          text_of({{"object", "session.progress"}, {"read", event.prompt_read}, {"total", total}}) +
          "\n\n");
  };
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  const auto submitted = engine_.submit(std::move(requests));
  require_taken(submitted[0]);
  if (stream) exchange->begin_stream();
  exchange->on_gone([this, id = submitted[0].id] { engine_.cancel(id); });
}

}  // namespace sala
