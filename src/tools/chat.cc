// sala chat: a conversation on the terminal.
#include <algorithm>
#include <cstdio>
#include <span>

#include "base/error.h"
#include "base/json.h"
#include "engine/generate.h"
#include "text/unicode.h"
#include "tools/chat_input.h"
#include "tools/command.h"
#include "tools/conversation.h"
#include "tools/sampling_flags.h"
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

  void run() const;
};

/// A chat with one sequence in memory: of every prompt only what is new is read, as long as it goes
/// on from what the sequence has.
class Chat {
 public:
  Chat(const ChatCommand& command, LoadedModel& loaded, Runner& runner)
      : command_(command),
        loaded_(loaded),
        runner_(runner),
        terminal_(is_interactive()),
        sampling_(command.sampling.over(loaded.files.sampling)) {
    conversation_.set_system(command.system);
  }

  void run();

 private:
  void welcome() const;
  void obey(const std::string& line);
  void answer(std::string text);
  std::string rendered() const;
  std::vector<int> prompt_tokens(const std::string& text) const;
  Generation generate_from(const std::vector<int>& prompt, bool thinking);
  void report(const Generation& answer) const;
  void note(std::string_view text) const;

  const ChatCommand& command_;
  LoadedModel& loaded_;
  Runner& runner_;
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
    conversation_.load(argument);
    note(fmt::format("[{} messages from {}]", conversation_.size(), argument));
  } else if (name == "/undo") {
    if (!conversation_.undo()) fail("there is no message to remove");
    note(fmt::format("[removed the last exchange; {} messages are left]", conversation_.size()));
  } else if (name == "/clear") {
    conversation_.clear();
    attached_.clear();
    note("[removed all messages]");
  } else if (name == "/system") {
    conversation_.set_system(argument);
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

std::string Chat::rendered() const {
  return loaded_.files.chat_template->render(conversation_.messages(), nullptr, true);
}

std::vector<int> Chat::prompt_tokens(const std::string& text) const {
  std::vector<int> tokens = loaded_.files.tokenizer->encode(text, {.parse_special = true});
  const int64_t context = runner_.options().context;
  if (static_cast<int64_t>(tokens.size()) >= context)
    fail(
        "the conversation with this message is {} tokens and the context has room for {}: /undo or "
        "/clear make room, or /save it and start again with --ctx {}",
        tokens.size(), context, std::max<int64_t>(2 * context, 2 * int64_t(tokens.size())));
  return tokens;
}

Generation Chat::generate_from(const std::vector<int>& prompt, bool thinking) {
  const bool goes_on = hold_ && read_.size() < prompt.size() &&
                       std::ranges::equal(read_, std::span(prompt).first(read_.size()));
  if (!goes_on) {
    hold_.reset();  // before the next one: the runner has room for one sequence
    hold_.emplace(runner_.open());
    read_.clear();
  }
  const int64_t room = runner_.options().context - static_cast<int64_t>(prompt.size());
  AnswerPrinter printer(terminal_, thinking);
  GenerateOptions what{.limit = command_.limit > 0 ? std::min(command_.limit, room) : room,
                       .sampling = sampling_,
                       .stop = loaded_.files.stop,
                       .stop_strings = command_.sampling.stops};
  what.on_text = [&](const std::string& text) { printer.show(text); };
  what.on_prompt_progress = prompt_progress(static_cast<int64_t>(prompt.size() - read_.size()));
  what.cancelled = [&] { return interrupts_.requested(); };
  try {
    Generation answer = generate(runner_, *hold_, *loaded_.files.tokenizer, prompt, what);
    printer.finish();
    read_ = prompt;
    read_.insert(read_.end(), answer.tokens.begin(), answer.tokens.end());
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
    const std::string prompt = rendered();
    const size_t end = prompt.find_last_not_of(" \t\n");
    const bool thinking = std::string_view(prompt)
                              .substr(0, end == std::string::npos ? 0 : end + 1)
                              .ends_with("<think>");
    interrupts_.clear();
    const Generation answer = generate_from(prompt_tokens(prompt), thinking);
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
                  answer.tokens.size(), rate(answer.reply_steps, answer.reply_seconds));
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
  const int64_t trained = loaded.files.config.trained_context;
  options.context = context > 0   ? context
                    : trained > 0 ? std::min(trained, kDefaultContext)
                                  : kDefaultContext;
  Runner runner(*loaded.model, *loaded.device, options);
  Chat(*this, loaded, runner).run();
}

}  // namespace

void add_chat(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("chat", "Talk with a model");
  auto chat = std::make_shared<ChatCommand>();
  chat->model.add_to(command);
  chat->sampling.add_to(command);
  command.add_option("--system", chat->system, "a system message");
  command
      .add_option("--ctx", chat->context,
                  "tokens of context [default: what the model was trained on, 8192 at most]")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  command
      .add_option("-n,--predict", chat->limit,
                  "tokens of an answer at most [default: what the context has room for]")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  read_environment(command);
  command.callback([chat] { chat->run(); });
}

}  // namespace sala
