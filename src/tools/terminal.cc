#include "tools/terminal.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "text/unicode.h"

namespace sala {
namespace {

constexpr std::string_view kFaint = "\x1b[2m", kPlain = "\x1b[0m";
constexpr int kOpenTag = 0;  // place of <think> among the tags

std::atomic<bool> interrupt_requested = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not wait");

void on_interrupt(int) { interrupt_requested = true; }

void handle_interrupts(void (*handler)(int)) {
  struct sigaction action{};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;  // or half-written output would be lost
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, nullptr);
}

/// A model's text must not be able to steer the terminal: controls but tab and newline become
/// U+FFFD.
std::string without_controls(std::string_view text) {
  std::string safe;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_valid_utf8(text, at);
    const bool control = c.code < 0x20 || (c.code >= 0x7F && c.code < 0xA0);
    if (control && c.code != U'\t' && c.code != U'\n')
      safe += kReplacement;
    else
      safe += text.substr(at, static_cast<size_t>(c.length));
    at += static_cast<size_t>(c.length);
  }
  return safe;
}

}  // namespace

bool is_interactive() { return ::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0; }

std::string dim(std::string_view text, bool terminal) {
  if (!terminal || text.empty()) return std::string(text);
  return std::string(kFaint).append(text).append(kPlain);
}

Interrupts::Interrupts() { handle_interrupts(on_interrupt); }
Interrupts::~Interrupts() { handle_interrupts(SIG_DFL); }
bool Interrupts::requested() const { return interrupt_requested; }
void Interrupts::clear() { interrupt_requested = false; }

DefaultInterrupts::DefaultInterrupts() { handle_interrupts(SIG_DFL); }
DefaultInterrupts::~DefaultInterrupts() { handle_interrupts(on_interrupt); }

AnswerPrinter::AnswerPrinter(bool terminal, bool thinking)
    : terminal_(terminal), thinking_(thinking), tags_({"<think>", "</think>"}) {}

void AnswerPrinter::show(std::string text) {
  print(tags_.push(text), thinking_);
  while (tags_.found()) {
    thinking_ = tags_.matched() == kOpenTag;
    print(thinking_ ? "<think>" : "</think>", true);
    text = tags_.rest();
    tags_.flush();
    print(tags_.push(text), thinking_);
  }
  std::fflush(stdout);
}

void AnswerPrinter::finish() {
  print(tags_.flush(), thinking_);
  std::fputs("\n", stdout);
  std::fflush(stdout);
}

void AnswerPrinter::print(std::string_view text, bool faint) {
  const std::string shown = terminal_ ? dim(without_controls(text), faint) : std::string(text);
  std::fwrite(shown.data(), 1, shown.size(), stdout);
}

}  // namespace sala
