// sala session: what is done to sessions without a model.
#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/json.h"
#include "session/sessions.h"
#include "tools/progress.h"
#include "tools/session_flags.h"

namespace sala {
namespace {

using Access = StoredSession::Access;

struct SessionCommand {
  SessionsDirectory directory;
  std::string name, other;
  std::vector<std::string> names;
  int64_t tokens = -1;
  bool json = false;

  void list() const;
  void inspect() const;
  void fork() const;
  void roll_back() const;
  void remove() const;
  void verify() const;
};

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

void print(const Json& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void SessionCommand::list() const {
  Json all = Json::array();
  for (const std::string& one : session_names(directory.root())) {
    const std::filesystem::path dir = directory.of(one);
    Json entry = {{"name", one}, {"bytes", session_bytes(dir)}};
    try {
      const Manifest manifest = read_manifest(dir);
      entry["tokens"] = manifest.tokens;
      entry["model"] = manifest.model;
    } catch (const Error& e) {
      entry["damage"] = e.what();
    }
    all.push_back(std::move(entry));
  }
  if (json) return print(all);
  for (const Json& one : all) {
    const auto size = mib(one["bytes"].get<int64_t>());
    if (one.contains("damage"))
      fmt::print("{:<24} {:>30.1f} MiB  {}\n", one["name"].get<std::string>(), size,
                 one["damage"].get<std::string>());
    else
      fmt::print("{:<24} {:>12} tokens {:>10.1f} MiB  {}\n", one["name"].get<std::string>(),
                 one["tokens"].get<int64_t>(), size, one["model"].get<std::string>());
  }
}

Json inspection(const std::string& name, const std::filesystem::path& dir) {
  const StoredSession session = StoredSession::open(dir, Access::read);
  const Manifest& m = session.manifest();
  const SessionLayout& layout = m.layout;
  Json snapshots = Json::array(), origins = Json::array();
  for (const auto& snapshot : m.snapshots) snapshots.push_back(snapshot.position);
  for (const auto& origin : m.origins)
    origins.push_back({{"first", origin.first}, {"numerics", origin.numerics}});
  return {{"name", name},
          {"directory", dir.string()},
          {"model", m.model},
          {"tokens", m.tokens},
          {"turns", m.turns},
          {"snapshots", snapshots},
          {"exact", m.origins.size() == 1},
          {"identity", m.identity},
          {"origins", origins},
          {"page", layout.page},
          {"cell", layout.cell},
          {"bytes",
           {{"kv", m.pages() * layout.kv_bytes()},
            {"index", m.pages() * layout.index_bytes()},
            {"state", std::ssize(m.snapshots) * layout.state},
            {"files", session_bytes(dir)}}}};
}

void SessionCommand::inspect() const {
  const Json all = inspection(name, directory.existing(name));
  if (json) return print(all);
  const auto text = [&](const char* key) { return all[key].get<std::string>(); };
  const auto size = [&](const char* key) { return mib(all["bytes"][key].get<int64_t>()); };
  fmt::print("session    {}\ndirectory  {}\nmodel      {}\n", name, text("directory"),
             text("model"));
  fmt::print("tokens     {}\nturns      {}\nsnapshots  {} at {}\n", all["tokens"].get<int64_t>(),
             all["turns"].size(), all["snapshots"].size(), all["snapshots"].dump());
  fmt::print("memory     {:.1f} MiB keys and values, {:.1f} MiB index, {:.1f} MiB states\n",
             size("kv"), size("index"), size("state"));
  fmt::print("files      {:.1f} MiB\n", size("files"));
  for (const auto& [fact, value] : all["identity"].items())
    fmt::print("{:<10} {}\n", fact, value.get<std::string>());
  fmt::print("exact      {}\n",
             all["exact"].get<bool>() ? "yes" : "no: its parts were computed differently");
  for (const Json& origin : all["origins"])
    for (const auto& [fact, value] : origin["numerics"].items())
      fmt::print("{:<10} {} (from token {} on)\n", fact, value.get<std::string>(),
                 origin["first"].get<int64_t>());
}

void SessionCommand::fork() const {
  const std::filesystem::path from = directory.existing(name), to = directory.of(other);
  const int64_t all = StoredSession::open(from, Access::read).manifest().tokens;
  if (tokens > all) fail("session {} has {} tokens, fewer than {}", name, all, tokens);
  StoredSession::fork(from, to);
  if (tokens >= 0) {
    StoredSession session = StoredSession::open(to, Access::write);
    session.roll_back(tokens);
    session.commit();
  }
  tell("[session {}: {} tokens]\n", other, tokens >= 0 ? tokens : all);
}

void SessionCommand::roll_back() const {
  StoredSession session = StoredSession::open(directory.existing(name), Access::write);
  const int64_t before = session.manifest().tokens;
  if (tokens > before) fail("session {} has {} tokens, fewer than {}", name, before, tokens);
  session.roll_back(tokens);
  session.commit();
  tell("[session {}: {} of {} tokens are left]\n", name, tokens, before);
}

void SessionCommand::remove() const {
  for (const std::string& one : names) directory.existing(one);
  for (const std::string& one : names) StoredSession::remove(directory.of(one));
}

void SessionCommand::verify() const {
  size_t faults = 0;
  for (const std::string& one : names) {
    Progress bar("checking", "pages");
    const auto found = verify_session(
        directory.existing(one), [&](int64_t done, int64_t total) { bar.update(done, total); });
    bar.clear();
    for (const std::string& fault : found) tell("sala: {}\n", fault);
    if (found.empty()) fmt::print("{}: every byte is as it was saved\n", one);
    faults += found.size();
  }
  if (faults > 0) fail("{} fault{} found; nothing was changed", faults, faults == 1 ? "" : "s");
}

}  // namespace

void add_session(CLI::App& app) {
  CLI::App& group = *app.add_subcommand("session", "Keep what a model has read on the disk");
  group.require_subcommand(1);
  add_session_ingest(group);
  const auto add = [&](const char* verb, const char* what, auto options, auto work) {
    CLI::App& command = *group.add_subcommand(verb, what);
    auto session = std::make_shared<SessionCommand>();
    options(command, *session);
    session->directory.add_to(command);
    read_environment(command);
    command.callback([session, work] { (session.get()->*work)(); });
  };
  const auto name = [](CLI::App& command, SessionCommand& s) {
    command.add_option("name", s.name, "the session")->required();
  };
  const auto names = [](CLI::App& command, SessionCommand& s) {
    command.add_option("names", s.names, "the sessions")->required();
  };
  const auto json = [](CLI::App& command, SessionCommand& s) {
    command.add_flag("--json", s.json, "print JSON");
  };
  add("list", "Show all sessions", json, &SessionCommand::list);
  add(
      "inspect", "Show what a session is",
      [&](CLI::App& command, SessionCommand& s) { name(command, s), json(command, s); },
      &SessionCommand::inspect);
  add(
      "fork", "Make a session that begins like another; they share what they have in common",
      [&](CLI::App& command, SessionCommand& s) {
        name(command, s);
        command.add_option("new", s.other, "the name of the new one")->required();
        command.add_option("--at", s.tokens, "take only so many tokens [default: all]")
            ->check(number_from(int64_t{0}, int64_t{1} << 40));
      },
      &SessionCommand::fork);
  add(
      "rollback", "Cut a session to its first tokens",
      [&](CLI::App& command, SessionCommand& s) {
        name(command, s);
        command.add_option("tokens", s.tokens, "how many to keep")
            ->required()
            ->check(number_from(int64_t{0}, int64_t{1} << 40));
      },
      &SessionCommand::roll_back);
  add("delete", "Remove sessions", names, &SessionCommand::remove);
  add("verify", "Check every byte of sessions", names, &SessionCommand::verify);
}

}  // namespace sala
