// Completions: prompts in, requests to the engine, replies out.
#include <algorithm>
#include <span>

#include "server/service.h"

namespace sala {
namespace {

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
  const int64_t room = longest() - std::ssize(prompt);
  if (room < 1)
    throw ApiError(400,
                   fmt::format("the prompt has {} tokens and this server has room for {}, reply "
                               "included: start it with a larger --ctx-size",
                               prompt.size(), longest()),
                   "prompt", "context_length_exceeded");
  Request request;
  request.prompt = std::move(prompt);
  request.reply = completion.reply;
  request.reply.limit = std::min(completion.limit.value_or(room), room);
  request.reply.stop = completion.stop_tokens;
  if (!completion.ignore_eos)
    request.reply.stop.insert(request.reply.stop.end(), files_.stop.begin(), files_.stop.end());
  request.caller = caller;
  request.reuse = options_.reuse;
  return request;
}

void Service::chat(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = parse_chat(http.body, files_.sampling);
  check_model(chat.model);
  require_tools_seen(chat);
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
  if (!chat.expected.empty()) {
    request.expected = files_.tokenizer->encode(chat.expected);
    if (std::ssize(request.expected) > request.reply.limit)
      request.expected.resize(static_cast<size_t>(request.reply.limit));
  }
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
  std::vector<std::string> echoes;
  for (TextCompletion::Prompt& one : text.prompts) {
    std::vector<int> prompt = std::move(one.tokens);
    const std::string echo = prompt.empty() ? one.text : files_.tokenizer->decode(prompt, false);
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
      if (text.echo) echoes.push_back(echo);
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
                         .echoes = std::move(echoes)};
  const auto reply =
      std::make_shared<Reply>(*files_.tokenizer, std::move(options), std::move(prompts));
  submit(http, exchange, reply, std::move(requests), bound);
}

void Service::submit(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange,
                     const std::shared_ptr<Reply>& reply, std::vector<Request> requests,
                     const std::optional<Bound>& bound) {
  if (std::ssize(requests) > engine_.queue_limit())  // a 429 would ask for the same again
    throw ApiError(400,
                   fmt::format("prompts times n is {} and this server lets {} wait: send fewer at "
                               "a time, or start it with a larger --queue",
                               requests.size(), engine_.queue_limit()));
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
