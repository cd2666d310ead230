// sala chat: a conversation on the terminal.
#include <algorithm>
#include <cstdio>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/json.h"
#include "engine/generate.h"
#include "text/unicode.h"
#include "tools/chat_input.h"
#include "tools/command.h"
#include "tools/conversation.h"
#include "tools/sampling_flags.h"
#include "tools/session_flags.h"
#include "tools/terminal.h"

namespace sala {
namespace {

constexpr int64_t kDefaultContext = 8192;

constexpr std::string_view kHelp =
    R"(/help             what you are reading
/file PATH        put a text before the next message
/save PATH        write the messages to a JSON file
/load PATH        go on with the messages of such a file
/undo             remove the last message and its answer
/clear            remove all messages but the system message
/system TEXT      set the system message; without TEXT there is none
/set KEY VALUE    set how answers are sampled: temp, top-p, top-k, ...; /set alone shows all
/exit             leave, as Ctrl-D and Ctrl-C do at the prompt

Ctrl-C stops an answer and keeps what there is of it. A line that ends with \ goes on in the next
one; lines between """ and """ are one message. To begin a message with / put a space before it.
)";

struct ChatCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  SamplingFlags sampling;
  std::string system;
  int64_t context = 0, limit = 0;
  SessionFlags session;

  void run() const;
  int64_t context_for(const LoadedModel& loaded, const std::optional<Session>& kept) const;
};

/// A chat with one sequence in memory: of every prompt only what is new is read, as long as it goes
/// on from what the sequence has. With a session the text before this chat is the session's, and
/// every answer is saved there.
class Chat {
 public:
  Chat(const ChatCommand& command, LoadedModel& loaded, Runner& runner,
       std::optional<Session> session)
      : command_(command),
        loaded_(loaded),
        runner_(runner),
        session_(std::move(session)),
        terminal_(is_interactive()),
        sampling_(command.sampling.over(loaded.files.sampling)) {
    conversation_.set_system(command.system);
  }

  void run();

 private:
  void welcome() const;
  void obey(const std::string& line);
  void answer(std::string text);
  void undo();
  void clear();
  void set_system(const std::string& text);
  std::string system() const;
  std::vector<int> prompt() const;
  bool opens_thinking(const std::vector<int>& prompt) const;
  void begin_sequence(const std::vector<int>& prompt);
  Generation generate_from(const std::vector<int>& prompt, bool thinking);
  void report(const Generation& answer) const;
  void note(std::string_view text) const;

  const ChatCommand& command_;
  LoadedModel& loaded_;
  Runner& runner_;
  std::optional<Session> session_;
  bool terminal_;
  SamplingParams sampling_;
  Conversation conversation_;
  std::string attached_;  ///< goes before the next message
  std::optional<Hold> hold_;
  std::vector<int> read_;  ///< the tokens that hold_ has
  Interrupts interrupts_;
};

void Chat::note(std::string_view text) const {
  std::fputs((dim(text, terminal_) + "\n").c_str(), stderr);
}

void Chat::welcome() const {
  if (terminal_)
    note(fmt::format("{}: a context of {} tokens. /help lists the commands, Ctrl-D leaves.",
                     loaded_.files.path.filename().string(), runner_.options().context));
  if (session_)
    note(fmt::format("[session {}: {} tokens, {} exchanges; answers are saved]",
                     command_.session.name, session_->tokens().size(),
                     session_->manifest().turns.size()));
}

void Chat::run() {
  welcome();
  ChatInput input(terminal_);
  while (const auto line = input.read()) {
    try {
      if (line->command) {
        if (line->text == "/exit") return;
        obey(line->text);
      } else if (line->text.find_first_not_of(" \t\n") != std::string::npos) {
        answer(line->text);
      }
    } catch (const Error& e) {
      std::fflush(stdout);
      note(fmt::format("[{}]", e.what()));
    }
  }
}

void Chat::obey(const std::string& line) {
  const size_t space = line.find_first_of(" \t\n");
  const std::string name = line.substr(0, space);
  std::string argument;
  if (const size_t at = line.find_first_not_of(" \t\n", space); at < line.size())
    argument = line.substr(at, line.find_last_not_of(" \t\n") + 1 - at);
  const auto needs_path = [&] {
    if (argument.empty()) fail("{} needs a path: {} PATH", name, name);
  };
  if (name == "/help") {
    std::fwrite(kHelp.data(), 1, kHelp.size(), stdout);
    std::fflush(stdout);
  } else if (name == "/file") {
    needs_path();
    const std::string text = repair_utf8(read_text(argument), Repair::kMaximalSubpart);
    attached_ += text + "\n\n";
    note(fmt::format("[{} characters of {} go before your next message]", count_utf8(text),
                     argument));
  } else if (name == "/save") {
    needs_path();
    conversation_.save(argument);
    note(fmt::format("[{} messages in {}]", conversation_.size(), argument));
  } else if (name == "/load") {
    needs_path();
    if (session_) fail("/load would replace the session's messages; chat without --session");
    conversation_.load(argument);
    note(fmt::format("[{} messages from {}]", conversation_.size(), argument));
  } else if (name == "/undo") {
    undo();
  } else if (name == "/clear") {
    clear();
  } else if (name == "/system") {
    set_system(argument);
    note(argument.empty() ? "[no system message]" : "[the system message is set]");
  } else if (name == "/set") {
    const size_t split = argument.find_first_of(" \t=");
    if (argument.empty()) {
      std::fputs(show_sampling(sampling_).c_str(), stdout);
      std::fflush(stdout);
    } else if (split == std::string::npos) {
      fail("/set needs a value: /set {} VALUE", argument);
    } else {
      const size_t value = argument.find_first_not_of(" \t=", split);
      set_sampling(sampling_, argument.substr(0, split),
                   value == std::string::npos ? "" : argument.substr(value));
    }
  } else {
    fail("there is no command {}; /help lists them", name);
  }
}

void Chat::undo() {
  if (session_) {
    if (session_->manifest().turns.empty()) fail("there is no message to remove");
    session_->roll_back(session_->manifest().turns.back());
    hold_.reset();
    conversation_.undo();
    note(fmt::format("[removed the last exchange; the session has {} tokens]",
                     session_->tokens().size()));
    return;
  }
  if (!conversation_.undo()) fail("there is no message to remove");
  note(fmt::format("[removed the last exchange; {} messages are left]", conversation_.size()));
}

void Chat::clear() {
  if (session_ && !session_->manifest().turns.empty()) {
    session_->roll_back(session_->manifest().turns.front());
    hold_.reset();
  }
  conversation_.clear();
  attached_.clear();
  note("[removed all messages]");
}

void Chat::set_system(const std::string& text) {
  if (session_ && !session_->manifest().turns.empty())
    fail("a system message comes before the first message, and the session has messages");
  conversation_.set_system(text);
}

std::string Chat::system() const {
  const OrderedJson messages = conversation_.messages();
  const bool has = !messages.empty() && messages[0]["role"] == "system";
  return has ? messages[0]["content"].get<std::string>() : "";
}

/// The text that the model answers: the whole conversation, up to where its answer begins.
std::vector<int> Chat::prompt() const {
  std::vector<int> tokens;
  const OrderedJson messages = conversation_.messages();
  if (session_) {
    tokens.assign(session_->tokens().begin(), session_->tokens().end());
    const bool first = session_->manifest().turns.empty();
    const std::vector<int> more =
        message_tokens(loaded_.files, session_->manifest(), first ? system() : "",
                       messages.back()["content"].get<std::string>());
    tokens.insert(tokens.end(), more.begin(), more.end());
  } else {
    const Tokenizer& tokenizer = *loaded_.files.tokenizer;
    tokens = tokenizer.encode(
        loaded_.files.chat_template->render_for(tokenizer, messages, nullptr, true, nullptr),
        {.parse_special = true});
  }
  const int64_t context = runner_.options().context;
  if (std::ssize(tokens) >= context)
    fail(
        "the conversation with this message is {} tokens and the context has room for {}: /undo or "
        "/clear make room, or {}start again with --ctx {}",
        tokens.size(), context, session_ ? "" : "/save it and ",
        std::max<int64_t>(2 * context, 2 * std::ssize(tokens)));
  return tokens;
}

/// Whether the template has begun a model's thoughts: `prompt` ends with <think>.
bool Chat::opens_thinking(const std::vector<int>& prompt) const {
  constexpr size_t kTail = 16;  // tokens
  const std::string text = loaded_.files.tokenizer->decode(
      std::span(prompt).last(std::min(kTail, prompt.size())), false);
  const size_t end = text.find_last_not_of(" \t\n");
  return std::string_view(text).substr(0, end + 1).ends_with("<think>");
}

/// Has hold_ begin like `prompt`, with one token at least left to read.
void Chat::begin_sequence(const std::vector<int>& prompt) {
  const auto end = read_.begin() + std::min(std::ssize(read_), std::ssize(prompt) - 1);
  const auto common = std::mismatch(read_.begin(), end, prompt.begin()).first;
  if (hold_ && (common == read_.end() || !session_)) {
    // Templates write earlier answers differently, and /undo takes some away: what is before stays.
    runner_.cache().roll_back(*hold_, common - read_.begin());
    read_.erase(common, read_.end());
    return;
  }
  hold_.reset();  // before the next one: the runner has room for one sequence
  if (session_)
    hold_.emplace(session_->restore(runner_, std::ssize(session_->tokens())));
  else
    hold_.emplace(runner_.open());
  read_.assign(prompt.begin(), prompt.begin() + hold_->kept());
}

Generation Chat::generate_from(const std::vector<int>& prompt, bool thinking) {
  begin_sequence(prompt);
  const int64_t room = runner_.options().context - static_cast<int64_t>(prompt.size());
  AnswerPrinter printer(terminal_, thinking);
  GenerateOptions what{.limit = command_.limit > 0 ? std::min(command_.limit, room) : room,
                       .sampling = sampling_,
                       .stop = loaded_.files.stop,
                       .stop_strings = command_.sampling.stops};
  what.on_text = [&](const std::string& text) { printer.show(text); };
  what.on_prompt_progress = prompt_progress(std::ssize(prompt) - hold_->length());
  what.cancelled = [&] { return interrupts_.requested(); };
  try {
    Generation answer = generate(runner_, *hold_, *loaded_.files.tokenizer, prompt, what);
    printer.finish();
    read_ = prompt;
    read_.insert(read_.end(), answer.tokens.begin(), answer.tokens.end());
    const bool answered = answer.finish != Finish::cancelled || !answer.tokens.empty();
    if (session_ && answered) save_reply(*session_, runner_, *hold_, read_, true);
    read_.resize(static_cast<size_t>(hold_->length()));
    return answer;
  } catch (const Error&) {
    printer.finish();
    hold_.reset();
    read_.clear();
    throw;
  }
}

void Chat::answer(std::string text) {
  conversation_.add("user", attached_ + text);
  try {
    const std::vector<int> tokens = prompt();
    interrupts_.clear();
    const Generation answer = generate_from(tokens, opens_thinking(tokens));
    attached_.clear();
    if (answer.finish == Finish::cancelled && answer.tokens.empty()) {
      conversation_.undo();
      note("[stopped before the answer began; the message is not kept]");
      return;
    }
    conversation_.add("assistant", answer.text);
    ++sampling_.seed;  // or the same message would get the same answer again
    report(answer);
  } catch (const Error&) {
    conversation_.undo();
    throw;
  }
}

void Chat::report(const Generation& answer) const {
  const auto rate = [](int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
  };
  std::string text =
      fmt::format("[read {} tokens, {:.1f} tokens/s; wrote {} tokens, {:.1f} tokens/s]",
                  answer.prompt_read, rate(answer.prompt_read, answer.prompt_seconds),
                  answer.tokens.size(), rate(answer.stepped, answer.reply_seconds));
  if (answer.finish == Finish::cancelled) text += " [stopped]";
  if (answer.finish == Finish::length)
    text += static_cast<int64_t>(answer.tokens.size()) == command_.limit
                ? fmt::format(" [-n {} tokens]", command_.limit)
                : fmt::format(
                      " [the context of {} tokens is full: /undo or /clear make room, or "
                      "/save and start again with a larger --ctx]",
                      runner_.options().context);
  note(text);
}

void ChatCommand::run() const {
  LoadedModel loaded = load_model(model, OpenText::yes);
  loaded.files.require_tokenizer();
  if (!loaded.files.chat_template)
    fail("{}: has no chat template; use sala run --raw to complete a text",
         loaded.files.path.string());
  RunOptions options = model.run_options();
  std::optional<Session> kept;
  make_room_for_snapshots(loaded.files.config, options);
  if (session.used()) {
    kept.emplace(open_session(session.directory.of(session.name), Session::Access::write, loaded,
                              options, session.inexact));
  }
  options.context = context_for(loaded, kept);
  Runner runner(*loaded.model, *loaded.device, options);
  Chat(*this, loaded, runner, std::move(kept)).run();
}

int64_t ChatCommand::context_for(const LoadedModel& loaded,
                                 const std::optional<Session>& kept) const {
  const int64_t before = kept ? std::ssize(kept->tokens()) : 0;
  if (context > 0 && context <= before)
    fail("--ctx is {}; the session has {} tokens already", context, before);
  if (context > 0) return context;
  const int64_t trained = loaded.files.config.trained_context;
  return before + (trained > 0 ? std::min(trained, kDefaultContext) : kDefaultContext);
}

}  // namespace

void add_chat(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("chat", "Talk with a model");
  auto chat = std::make_shared<ChatCommand>();
  chat->model.add_to(command);
  chat->model.add_draft_to(command);
  chat->sampling.add_to(command);
  command.add_option("--system", chat->system, "a system message");
  command
      .add_option(
          "--ctx", chat->context,
          "tokens of context [default: what the model was trained on, 8192 at most, and the "
          "session's]")
      ->check(number_from(int64_t{1}, int64_t{1} << 40));
  command
      .add_option("-n,--predict", chat->limit,
                  "tokens of an answer at most [default: what the context has room for]")
      ->check(number_from(int64_t{1}, int64_t{1} << 30));
  chat->session.add_to(command);
  read_environment(command);
  command.callback([chat] { chat->run(); });
}

}  // namespace sala
