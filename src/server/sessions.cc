#include "server/sessions.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "session/sessions.h"

namespace sala {

namespace fs = std::filesystem;

bool Sessions::is_name(const std::string& name) {
  try {
    session_directory(".", name);
    return true;
  } catch (const Error&) {
    return false;
  }
}

fs::path Sessions::dir(const std::string& name) const {
  return session_directory(options_.root, name);
}

std::optional<NamedText> Sessions::find(const std::string& name) const {
  const Lock lock(mutex_);
  const auto at = texts_.find(name);
  return at == texts_.end() ? std::nullopt : std::optional(at->second);
}

bool Sessions::saved(const std::string& name) const {
  return is_name(name) && StoredSession::exists(dir(name));
}

bool Sessions::add(const std::string& name, NamedText text) {
  if (saved(name)) return false;
  const Lock lock(mutex_);
  if (texts_.size() >= kMost || texts_.contains(name)) return false;
  text.version = next_version_++;
  texts_[name] = std::move(text);
  return true;
}

bool Sessions::replace(const std::string& name, uint64_t version, NamedText text) {
  const Lock lock(mutex_);
  const auto at = texts_.find(name);
  if (at == texts_.end() || at->second.version != version) return false;
  text.version = next_version_++;
  text.stored = at->second.stored;
  text.saved = at->second.saved && at->second.tokens == text.tokens;
  at->second = std::move(text);
  return true;
}

void Sessions::converse(const std::string& name, uint64_t version, std::vector<int> tokens) {
  const Lock lock(mutex_);
  const auto at = texts_.find(name);
  if (at == texts_.end() || at->second.version != version) return;
  at->second.saved &= at->second.tokens == tokens;
  at->second.tokens = std::move(tokens);
}

bool Sessions::remove(const std::string& name) {
  const bool on_disk =
      is_name(name) && (StoredSession::exists(dir(name)) || StoredSession::is_abandoned(dir(name)));
  if (on_disk) StoredSession::remove(dir(name));
  const Lock lock(mutex_);
  return texts_.erase(name) > 0 || on_disk;
}

Sessions::Entry Sessions::entry(const std::string& name) const {
  Entry entry{.name = name, .saved = saved(name)};
  if (const auto text = find(name)) {
    entry.in_memory = true;
    entry.saved &= text->saved;
    entry.tokens = std::ssize(text->tokens);
    entry.documents = text->documents;
  } else if (entry.saved) {
    try {
      const Manifest manifest = read_manifest(dir(name));
      entry.tokens = manifest.tokens;
      entry.documents = manifest.turns.empty() ? manifest.tokens : manifest.turns.front();
    } catch (const Error& e) {
      entry.damage = e.what();
    }
  }
  return entry;
}

std::vector<Sessions::Entry> Sessions::list() const {
  std::set<std::string> names;
  for (std::string& name : session_names(options_.root)) names.insert(std::move(name));
  {
    const Lock lock(mutex_);
    for (const auto& [name, text] : texts_) names.insert(name);
  }
  std::vector<Entry> all;
  for (const std::string& name : names) all.push_back(entry(name));
  return all;
}

void Sessions::save(const std::string& name, const NamedText& text, Runner& runner, Hold& hold) {
  const fs::path to = dir(name);
  if (text.stored && !StoredSession::exists(to))
    fail(
        "session {} was deleted on the disk: fork it and save the fork to keep what is in memory, "
        "or "
        "delete it here too",
        name);
  // What a fork has in common with a saved parent is shared on the disk too.
  if (!StoredSession::exists(to) && saved(text.parent)) StoredSession::fork(dir(text.parent), to);
  const SessionFacts here = options_.facts();
  Session session = StoredSession::exists(to)
                        ? Session::open(to, Session::Access::write, here, options_.inexact)
                        : Session::create(to, options_.model, here);
  const auto same =
      std::ranges::mismatch(session.tokens(), text.tokens).in1 - session.tokens().begin();
  std::optional<int64_t> turn;  // its first message begins behind the documents
  if (std::ssize(text.tokens) > text.documents && same <= text.documents) turn = text.documents;
  session.save(runner, hold, text.tokens, turn);
  const Lock lock(mutex_);
  const auto at = texts_.find(name);
  if (at == texts_.end()) return;
  at->second.stored = true;
  at->second.saved = at->second.tokens == text.tokens;
}

void Sessions::load(const std::string& name, int64_t longest, const OnEngine& on_engine) {
  const Session session =
      Session::open(dir(name), Session::Access::read, options_.facts(), options_.inexact);
  const auto count = std::ssize(session.tokens());
  if (count >= longest)
    fail(
        "session {} has {} tokens and this server has room for {}: start it with a larger "
        "--ctx-size",
        name, count, longest);
  NamedText text{
      .tokens = {session.tokens().begin(), session.tokens().end()}, .stored = true, .saved = true};
  const auto& turns = session.manifest().turns;
  text.documents = turns.empty() ? count : turns.front();
  on_engine([&](Runner& runner) {
    const Hold hold = session.restore(runner, count);
    runner.cache().remember(hold, text.tokens);
  });
  const Lock lock(mutex_);
  if (texts_.size() >= kMost && !texts_.contains(name))
    fail("there are {} sessions in memory; delete some", kMost);
  text.version = next_version_++;
  texts_[name] = std::move(text);
}

}  // namespace sala
