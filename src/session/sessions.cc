#include "session/sessions.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>

#include "base/error.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestName = 64;
constexpr std::string_view kNameCharacters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

bool is_session_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && name != "." && name != ".." &&
         name.find_first_not_of(kNameCharacters) == std::string_view::npos;
}

/// The names in either of two sets of facts.
std::set<std::string> names_in(const Facts& a, const Facts& b) {
  std::set<std::string> names;
  for (const Facts* facts : {&a, &b})
    for (const auto& [name, value] : *facts) names.insert(name);
  return names;
}

std::string value_in(const Facts& facts, const std::string& name) {
  const auto at = facts.find(name);
  return at == facts.end() ? "not given" : at->second;
}

}  // namespace

fs::path default_sessions_directory() {
  const char* data = std::getenv("XDG_DATA_HOME");
  if (data != nullptr && fs::path(data).is_absolute()) return fs::path(data) / "sala" / "sessions";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0')
    fail("neither XDG_DATA_HOME nor HOME is set; say where sessions are with --sessions-dir");
  return fs::path(home) / ".local" / "share" / "sala" / "sessions";
}

fs::path session_directory(const fs::path& root, std::string_view name) {
  if (!is_session_name(name))
    fail("a session's name is 1 to {} of the characters A-Z a-z 0-9 . _ -, and not . or ..",
         kLongestName);
  return fs::absolute(root) / name;
}

std::vector<std::string> session_names(const fs::path& root) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error))
    if (const std::string name = entry.path().filename();
        is_session_name(name) && StoredSession::exists(entry.path()))
      names.push_back(name);
  if (error && error != std::errc::no_such_file_or_directory)
    fail("{}: cannot list: {}", root.string(), error.message());
  std::ranges::sort(names);
  return names;
}

std::vector<std::string> verify_session(const fs::path& dir,
                                        const std::function<void(int64_t, int64_t)>& progress) {
  std::optional<StoredSession> session;
  try {
    session.emplace(StoredSession::open(dir, StoredSession::Access::read));
  } catch (const Error& e) {
    return {e.what()};
  }
  std::vector<std::string> faults;
  const SessionLayout& layout = session->layout();
  const int64_t pages = session->manifest().pages();
  std::vector<std::byte> bytes;
  for (int64_t page = 0; page < pages; ++page) {
    for (size_t layer = 0; layer < layout.kv.size(); ++layer) {
      bytes.resize(static_cast<size_t>(layout.kv[layer]));
      try {
        session->read_kv(session->record_of(page), static_cast<int>(layer), bytes);
      } catch (const Error& e) {
        faults.emplace_back(e.what());
      }
    }
    if (progress) progress(page + 1, pages);
  }
  return faults;
}

int64_t session_bytes(const fs::path& dir) {
  int64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(dir, ignored))
    if (entry.is_regular_file(ignored)) bytes += static_cast<int64_t>(entry.file_size(ignored));
  return bytes;
}

void require_identity(const std::string& name, const Facts& identity, const Facts& here) {
  for (const std::string& fact : names_in(identity, here))
    if (value_in(identity, fact) != value_in(here, fact))
      fail(
          "session {}: {} is {} in the session and {} here; run it with the model and the options "
          "that it was made with, or make a new session",
          name, fact, value_in(identity, fact), value_in(here, fact));
}

std::vector<std::string> numeric_differences(const Manifest& manifest, const Facts& here) {
  std::vector<std::string> differences;
  for (const auto& origin : manifest.origins) {
    const std::string where =
        manifest.origins.size() > 1 ? fmt::format(" from token {} on", origin.first) : "";
    for (const std::string& fact : names_in(origin.numerics, here))
      if (value_in(origin.numerics, fact) != value_in(here, fact))
        differences.push_back(fmt::format("{}: {} in the session{}, {} here", fact,
                                          value_in(origin.numerics, fact), where,
                                          value_in(here, fact)));
  }
  return differences;
}

}  // namespace sala
