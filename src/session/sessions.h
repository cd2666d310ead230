#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "session/stored_session.h"

namespace sala {

/// Where sessions are when nothing else is said: sala/sessions in $XDG_DATA_HOME, by default
/// ~/.local/share.
std::filesystem::path default_sessions_directory();

/// The directory of the session `name` in `root`. Throws Error when the name is not 1 to 64 of
/// A-Z a-z 0-9 . _ - or is . or .. .
std::filesystem::path session_directory(const std::filesystem::path& root, std::string_view name);

/// The names of the sessions in `root`, in order; none when there is no such directory.
std::vector<std::string> session_names(const std::filesystem::path& root);

/// Reads and checks everything of a session: what it says about each fault found, nothing when all
/// is well. `progress` hears the pages done.
std::vector<std::string> verify_session(
    const std::filesystem::path& dir,
    const std::function<void(int64_t done, int64_t total)>& progress = {});

/// Bytes of a session's files on the disk, superseded ones and those shared with forks included.
int64_t session_bytes(const std::filesystem::path& dir);

/// Throws Error unless a session's `identity` is `here`, naming the first fact that differs, both
/// values and the remedy. `name` stands for the session in messages.
void require_identity(const std::string& name, const Facts& identity, const Facts& here);

/// In what the numbers of a session differ from those of this run, "fact: a there, b here", over
/// all its origins; empty when it was computed as this run computes.
std::vector<std::string> numeric_differences(const Manifest& manifest, const Facts& here);

}  // namespace sala
