#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "engine/session.h"

namespace sala {

/// A text that requests go on from.
struct NamedText {
  std::vector<int> tokens{};
  /// The first ones, which come before every prompt: documents. Behind them is a conversation.
  int64_t documents = 0;
  std::string parent{};  ///< what it was forked from
  uint64_t version = 0;  ///< another one whenever the documents change
  bool stored = false;   ///< it has been on the disk under its name
  bool saved = false;    ///< and was then as it is
};

/// The sessions of a server: names for texts. Their memory is what the cache remembers of them, so
/// that a fork or a roll back costs nothing and a text whose pages were needed elsewhere is read
/// again; on the disk it is safe. Any thread, but for save().
class Sessions {
 public:
  struct Options {
    std::filesystem::path root;  ///< the directory of sala session
    std::string model;           ///< its path, to tell users
    bool inexact = false;        ///< takes sessions that were computed otherwise
    /// What this server's memory depends on. Throws Error where sessions cannot be.
    std::function<SessionFacts()> facts;
  };
  static constexpr size_t kMost = 1024;  ///< in memory

  explicit Sessions(Options options) : options_(std::move(options)) {}

  /// Whether a name can be one: 1 to 64 of A-Z a-z 0-9 . _ - .
  static bool is_name(const std::string& name);

  std::optional<NamedText> find(const std::string& name) const;
  bool saved(const std::string& name) const;
  /// Adds one; false when there is one of this name, on the disk too, or there are kMost.
  bool add(const std::string& name, NamedText text);
  /// Gives `name` another text if its version is still `version`.
  bool replace(const std::string& name, uint64_t version, NamedText text);
  /// Notes a conversation behind the documents of `version`, if they are still those.
  void converse(const std::string& name, uint64_t version, std::vector<int> tokens);
  /// Removes one from memory and disk, and what a first save that was killed has left of it; false
  /// when there is nothing. Throws Error when another process writes it.
  bool remove(const std::string& name);

  struct Entry {
    std::string name;
    int64_t tokens = 0, documents = 0;
    bool in_memory = false;
    bool saved = false;    ///< all of it is on the disk
    std::string damage{};  ///< why the one on the disk cannot be read
  };
  Entry entry(const std::string& name) const;
  std::vector<Entry> list() const;

  /// Makes the session on the disk `text`, which `hold` has read. On the engine's thread. Throws
  /// Error when somebody has deleted it there.
  void save(const std::string& name, const NamedText& text, Runner& runner, Hold& hold);
  /// Has something done on the engine's thread, with a free slot, and waits for it.
  using OnEngine = std::function<void(const std::function<void(Runner&)>& work)>;
  /// Checks the session on the disk, of less than `longest` tokens, has the cache remember it and
  /// takes its text.
  void load(const std::string& name, int64_t longest, const OnEngine& on_engine);

 private:
  std::filesystem::path dir(const std::string& name) const;

  Options options_;
  mutable Mutex mutex_;
  std::map<std::string, NamedText> texts_ SALA_GUARDED_BY(mutex_);
  uint64_t next_version_ SALA_GUARDED_BY(mutex_) = 1;
};

}  // namespace sala
