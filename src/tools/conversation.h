#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "text/chat_template.h"

namespace sala {

/// The messages of a chat.
class Conversation {
 public:
  /// Sets the system message; an empty one is none.
  void set_system(std::string text) { system_ = std::move(text); }
  /// Adds a message; `role` is "user" or "assistant".
  void add(const char* role, std::string text);
  /// Removes the last exchange: the last user message and what followed it. False when there is
  /// none.
  bool undo();
  /// Removes every message but the system message.
  void clear() { turns_.clear(); }

  /// The system message first, if there is one; what a chat template takes.
  OrderedJson messages() const;
  size_t size() const { return turns_.size() + (system_.empty() ? 0 : 1); }

  /// Writes messages() as a JSON array. Throws Error naming the path.
  void save(const std::filesystem::path& path) const;
  /// Reads what save() wrote, or anybody else's array of objects with the texts "role" (system,
  /// user, assistant; system only first) and "content". Throws Error naming path and message, and
  /// is as it was.
  void load(const std::filesystem::path& path);

 private:
  struct Turn {
    std::string role, text;
  };
  std::string system_;
  std::vector<Turn> turns_;
};

}  // namespace sala
