#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/session.h"
#include "tools/command.h"

namespace sala {

/// Where sessions are, for every command that knows them.
struct SessionsDirectory {
  std::string path;

  void add_to(CLI::App& command);
  std::filesystem::path root() const;
  /// The directory of a session; throws Error for a bad name.
  std::filesystem::path of(const std::string& name) const;
  /// The same of a session that is there, or an Error that says how to see which are.
  std::filesystem::path existing(const std::string& name) const;
};

/// The options of commands that go on from a session.
struct SessionFlags {
  std::string name;
  SessionsDirectory directory;
  bool inexact = false;

  void add_to(CLI::App& command);
  bool used() const { return !name.empty(); }
};

/// Opens the session in `dir`, or makes it where there is none, for a run of `loaded`.
Session open_session(const std::filesystem::path& dir, Session::Access access,
                     const LoadedModel& loaded, const RunOptions& options, bool inexact);

/// The ids that a user's message adds to a session, up to where the answer begins. The first
/// message is the chat template's prompt for it, without a second BOS if there is a text before; a
/// later one also ends the answer before it. `system` is only for the first. Throws Error when the
/// model has no chat template.
std::vector<int> message_tokens(const ModelFiles& files, const Manifest& session,
                                const std::string& system, const std::string& message);

/// Makes `text`, which ends with a reply, the session's; the reply's last token may not have been
/// read yet. `message`: what is new in it is a message of a chat and its answer.
void save_reply(Session& session, Runner& runner, Hold& hold, std::span<const int> text,
                bool message);

}  // namespace sala
