#include "tools/chat_input.h"

#include <histedit.h>

#include <clocale>
#include <cstdio>
#include <iostream>
#include <string_view>

#include "base/error.h"
#include "text/unicode.h"
#include "tools/terminal.h"

namespace sala {
namespace {

constexpr std::string_view kBlock = "\"\"\"";
constexpr const char* kPrompt = "> ";
constexpr const char* kMore = ". ";

}  // namespace

/// libedit with Ctrl-C as the key that leaves: while a line is edited the terminal sends it as a
/// character, and as a signal at all other times.
class ChatInput::Editor {
 public:
  Editor() : history_(::history_init()), edit_(::el_init("sala", stdin, stdout, stderr)) {
    SALA_CHECK(history_ != nullptr && edit_ != nullptr, "libedit does not start");
    HistEvent event;
    ::history(history_, &event, H_SETSIZE, 1000);
    ::history(history_, &event, H_SETUNIQUE, 1);
    ::el_set(edit_, EL_HIST, ::history, history_);
    ::el_set(edit_, EL_CLIENTDATA, this);
    ::el_set(edit_, EL_PROMPT, &Editor::prompt_of);
    ::el_set(edit_, EL_EDITOR, "emacs");
    ::el_set(edit_, EL_SIGNAL, 1);  // so that the terminal is left as it was found
    ::el_set(edit_, EL_ADDFN, "sala-leave", "leave the chat", &Editor::leave);
    ::el_set(edit_, EL_SETTY, "-d", "intr=", nullptr);
    ::el_set(edit_, EL_BIND, "^C", "sala-leave", nullptr);
    // A Ctrl-D in the moment between prompt and editing arrives as NUL, which libedit would take
    // for "insert the next key as it is": the next Ctrl-D would become text instead of leaving.
    ::el_set(edit_, EL_BIND, "^@", "em-set-mark", nullptr);
    ::el_set(edit_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  }
  ~Editor() {
    ::el_end(edit_);
    ::history_end(history_);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  std::optional<std::string> read(const char* prompt) {
    prompt_ = prompt;
    int count = 0;
    const char* line = ::el_gets(edit_, &count);
    if (line == nullptr || count <= 0) {
      std::fputs("\n", stdout);
      return std::nullopt;
    }
    std::string text(line, static_cast<size_t>(count));
    if (text.find_first_not_of(" \t\n") != std::string::npos) {
      HistEvent event;
      ::history(history_, &event, H_ENTER, text.c_str());
    }
    if (text.ends_with('\n')) text.pop_back();
    return text;
  }

 private:
  static const char* prompt_of(EditLine* edit) {
    void* self = nullptr;
    ::el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<Editor*>(self)->prompt_;
  }
  static unsigned char leave(EditLine*, int) { return CC_EOF; }

  History* history_;
  EditLine* edit_;
  const char* prompt_ = kPrompt;
};

ChatInput::ChatInput(bool interactive) {
  if (!interactive) return;
  // Without a UTF-8 locale libedit takes every byte for a character.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1)
    std::setlocale(LC_CTYPE, "C.UTF-8");
  editor_ = std::make_unique<Editor>();
}

ChatInput::~ChatInput() = default;

std::optional<std::string> ChatInput::next_line(const char* prompt) {
  std::optional<std::string> line;
  if (editor_ != nullptr) {
    line = editor_->read(prompt);
  } else {
    const DefaultInterrupts interrupts;
    if (std::string text; std::getline(std::cin, text)) line = std::move(text);
    if (line && line->ends_with('\r')) line->pop_back();
  }
  if (line) *line = repair_utf8(*line, Repair::kMaximalSubpart);
  return line;
}

/// `text` is what followed the opening quotes in their line.
std::optional<std::string> ChatInput::rest_of_block(std::string text) {
  bool first = true;
  while (!text.ends_with(kBlock)) {
    const std::optional<std::string> line = next_line(kMore);
    if (!line && editor_ != nullptr) return std::nullopt;
    if (!line) return text;
    if (!first || !text.empty()) text += '\n';
    text += *line;
    first = false;
  }
  text.resize(text.size() - kBlock.size());
  if (text.ends_with('\n')) text.pop_back();  // the closing quotes had a line of their own
  return text;
}

std::optional<ChatInputLine> ChatInput::read() {
  std::optional<std::string> line = next_line(kPrompt);
  if (!line) return std::nullopt;
  if (line->starts_with(kBlock)) {
    auto text = rest_of_block(line->substr(kBlock.size()));
    if (!text) return std::nullopt;
    return ChatInputLine{.text = std::move(*text)};
  }
  std::string text;
  while (line->ends_with('\\')) {
    text += line->substr(0, line->size() - 1) + '\n';
    line = next_line(kMore);
    if (!line && editor_ != nullptr) return std::nullopt;
    if (!line) line = "";
  }
  text += *line;
  const bool command = text.starts_with('/');
  return ChatInputLine{.text = std::move(text), .command = command};
}

}  // namespace sala
