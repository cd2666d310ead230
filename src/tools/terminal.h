#pragma once

#include <string>
#include <string_view>

#include "engine/stop.h"

namespace sala {

/// True when both input and output are a person's terminal.
bool is_interactive();

/// `text` in a faint colour where `terminal` says that there is one.
std::string dim(std::string_view text, bool terminal);

/// While it lives, Ctrl-C (SIGINT) ends nothing but raises a flag. One at a time.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  bool requested() const;
  void clear();
};

/// While it lives, Ctrl-C does what it does by default, whatever Interrupts says.
class DefaultInterrupts {
 public:
  DefaultInterrupts();
  ~DefaultInterrupts();
  DefaultInterrupts(const DefaultInterrupts&) = delete;
  DefaultInterrupts& operator=(const DefaultInterrupts&) = delete;
};

/// Prints an answer on standard output as it comes. On a terminal what the model thinks, between
/// <think> and </think>, is faint, and control characters are shown as U+FFFD.
class AnswerPrinter {
 public:
  /// `thinking`: the prompt has opened <think> already.
  AnswerPrinter(bool terminal, bool thinking);

  /// Prints what is sure not to be half a tag; `text` is whole characters.
  void show(std::string text);
  /// Prints what waited for the rest of a tag, and ends the line.
  void finish();

 private:
  void print(std::string_view text, bool faint);

  bool terminal_, thinking_;
  StopStrings tags_;
};

}  // namespace sala
