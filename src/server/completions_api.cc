// Completions: prompts in, requests to the engine, replies out.
#include <algorithm>
#include <span>

#include "grammar/tool_call_language.h"
#include "server/service.h"

namespace sala {
namespace {

/// Tokens that two texts have in common at their beginning.
int64_t common(std::span<const int> a, std::span<const int> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

/// Adds a request for each of the n choices of a prompt, each with a seed of its own.
void add_choices(const Request& request, int n, std::vector<Request>& requests) {
  const bool first = requests.empty();
  for (int i = 0; i < n; ++i) {
    Request& one = requests.emplace_back(request);
    one.reply.sampling.seed += static_cast<uint64_t>(i);
    // The first of all is the only one that others can wait for by number.
    one.after = first && i > 0 ? 1 : 0;
  }
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
                   // Claude Code looks for the first words and the numbers, and shortens its text.
                   fmt::format("the prompt is too long: {} tokens > {} maximum, which is what this "
                               "server has room for, reply included: start it with a larger "
                               "--ctx-size",
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

Service::ChatPrompt Service::prompt_of(const HttpRequest& http, const ChatCompletion& chat) {
  require_tools_seen(chat);
  const std::string text = render(chat, chat.messages, true);
  ChatPrompt prompt{.tokens = files_.tokenizer->encode(text, {.parse_special = true}),
                    .called = session_of(http, chat)};
  prompt.marks = marks_of(chat, prompt.tokens);
  prompt.bound = bound(prompt.called);
  if (prompt.bound)
    prompt.tokens = behind_documents(prompt.bound->text, prompt.tokens, prompt.marks);
  prompt.thought = chat_template().thought_behind(text);
  return prompt;
}

Constraint Service::compiled(const std::string& param, const Language& language,
                             const Rules& rules) const {
  try {
    return constraints_.of(language, rules);
  } catch (const TooManyConstraints& e) {
    throw ApiError(503, e.what(), param, "too_many_constraints");
  } catch (const Error& e) {
    throw ApiError(400, fmt::format("{}: {}", param, e.what()), param, "invalid_value");
  }
}

std::optional<Constraint> Service::constraint_of(const ChatCompletion& chat,
                                                 Thought thought) const {
  if (chat.form.kind == ReplyForm::Kind::any && !chat.must_call) return {};
  Rules rules;
  std::vector<Language> choices;
  if (!chat.must_call) choices.push_back(language_of(chat.form, rules));
  if (chat.must_call || (!chat.tools.is_null() && tool_format_ != ToolFormat::none))
    choices.push_back(tool_call_language(tool_format_, chat.tools, chat.must_call_tool,
                                         !chat.one_call && chat.must_call_tool.empty(), rules));
  return compiled(chat.must_call ? "tool_choice" : chat.form.param,
                  behind_thought(thought, either(std::move(choices))), rules);
}

void Service::answer(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange,
                     const ChatCompletion& chat, ReplyFormat& format) {
  const ChatPrompt prompt = prompt_of(http, chat);
  Request request = request_of(chat, prompt.tokens, caller_of(http, prompt.called));
  request.marks = prompt.marks;
  request.reply.thought = prompt.thought;
  if (!request.reply.thought_limit) request.reply.thought_limit = options_.thought_limit;
  request.reply.constraint = constraint_of(chat, prompt.thought);
  request.reply.show_special = !chat.tools.is_null() && tool_format_ != ToolFormat::none;
  request.reuse |= prompt.bound.has_value();
  if (!chat.expected.empty()) {
    request.expected = files_.tokenizer->encode(chat.expected);
    if (std::ssize(request.expected) > request.reply.limit)
      request.expected.resize(static_cast<size_t>(request.reply.limit));
  }
  std::vector<Request> requests;
  add_choices(request, chat.n, requests);
  Reply::Options options = options_of(chat);
  options.chat = true;
  options.thinking = prompt.thought == Thought::begun;
  options.tool_format = tool_format_;
  options.tools = chat.tools;
  options.one_call = chat.one_call;
  options.keep_thoughts = chat.keep_thoughts;
  options.told = chat.told;
  submit(http, exchange,
         format(*files_.tokenizer, std::move(options),
                std::vector<std::vector<int>>(static_cast<size_t>(chat.n), prompt.tokens)),
         std::move(requests), prompt.bound);
}

Reply::Options Service::options_of(const Completion& completion) {
  return {.number = fmt::format("{:08x}{:08x}", process_, next_++),
          .model = options_.name,
          .created = now_seconds(),
          .stream = completion.stream,
          .usage_in_stream = completion.usage_in_stream,
          .usage_in_every_piece = completion.usage_in_every_piece,
          .logprobs = completion.logprobs};
}

void Service::chat(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = parse_chat(http.body, files_.sampling);
  check_model(chat.model);
  answer(http, exchange, chat, chat_reply);
}

ChatCompletion Service::anthropic_chat(const HttpRequest& http) const {
  ChatCompletion chat = parse_messages(http.body, files_.sampling);
  // Anthropic's programs ask for its models by name, some of them whatever they are told.
  if (!chat.model.starts_with("claude")) check_model(chat.model);
  return chat;
}

void Service::messages(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = anthropic_chat(http);
  if (!chat.limit) throw ApiError(400, "max_tokens is missing; expected a number", "max_tokens");
  answer(http, exchange, chat, messages_reply);
}

void Service::count_messages(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const ChatPrompt prompt = prompt_of(http, anthropic_chat(http));
  respond(exchange, 200, {{"input_tokens", prompt.tokens.size()}});
}

void Service::responses(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = parse_responses(http.body, files_.sampling);
  check_model(chat.model);
  answer(http, exchange, chat, responses_reply);
}

void Service::count_responses(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  const ChatCompletion chat = parse_responses(http.body, files_.sampling);
  check_model(chat.model);
  respond(
      exchange, 200,
      {{"object", "response.input_tokens"}, {"input_tokens", prompt_of(http, chat).tokens.size()}});
}

void Service::completions(const HttpRequest& http, const std::shared_ptr<Exchange>& exchange) {
  TextCompletion text = parse_text(http.body, files_.sampling);
  check_model(text.model);
  const std::string called = session_of(http, text);
  const std::optional<Bound> bound = this->bound(called);
  std::vector<Request> requests;
  std::vector<std::vector<int>> prompts;
  std::vector<std::string> echoes;
  if (text.form.kind != ReplyForm::Kind::any) {
    Rules rules;
    const Language language = language_of(text.form, rules);
    text.reply.constraint = compiled(text.form.param, language, rules);
  }
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
    Request request = request_of(text, prompt, caller_of(http, called));
    request.marks = marks;
    request.reuse |= bound.has_value();
    request.prompt_logprobs = text.echo && text.logprobs;
    add_choices(request, text.n, requests);
    prompts.insert(prompts.end(), static_cast<size_t>(text.n), prompt);
    if (text.echo) echoes.insert(echoes.end(), static_cast<size_t>(text.n), echo);
  }
  Reply::Options options = options_of(text);
  options.echoes = std::move(echoes);
  submit(http, exchange, text_reply(*files_.tokenizer, std::move(options), std::move(prompts)),
         std::move(requests), bound);
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
