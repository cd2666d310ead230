#pragma once

#include <memory>
#include <optional>
#include <string>

namespace sala {

/// What a person typed: a message, or a command that begins with '/'.
struct ChatInputLine {
  std::string text;
  bool command = false;
};

/// Reads messages from standard input. A line that ends with a backslash goes on in the next one;
/// lines between """ and """ are one message, whatever they are. On a terminal with a prompt, line
/// editing and history (libedit). Bytes that are not UTF-8 become U+FFFD.
class ChatInput {
 public:
  explicit ChatInput(bool interactive);
  ~ChatInput();
  ChatInput(const ChatInput&) = delete;
  ChatInput& operator=(const ChatInput&) = delete;

  /// The next message, or nothing when the person leaves: Ctrl-D, Ctrl-C at the prompt, end of
  /// input.
  std::optional<ChatInputLine> read();

 private:
  class Editor;
  std::optional<std::string> next_line(const char* prompt);
  std::optional<std::string> rest_of_block(std::string text);

  std::unique_ptr<Editor> editor_;  ///< null without a terminal
};

}  // namespace sala
