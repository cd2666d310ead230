// How a session is written: see docs/sessions.md, "What is written when".
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.h"
#include "session/checksum.h"
#include "session/stored_session.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kKinds[] = {"tokens", "index", "kv", "state"};

std::string file_name(std::string_view kind, int64_t id) { return fmt::format("{}-{}", kind, id); }

/// Whether a session may have written a file of this name, besides manifest and lock.
bool is_ours(std::string_view name) {
  if (name == "manifest.json.new") return true;
  const size_t dash = name.find('-');
  return dash != std::string_view::npos &&
         std::ranges::find(kKinds, name.substr(0, dash)) != std::end(kKinds) &&
         dash + 1 < name.size() &&
         name.find_first_not_of("0123456789", dash + 1) == std::string_view::npos;
}

std::set<std::string> files_in_use(const Manifest& manifest) {
  std::set<std::string> names;
  for (const auto& segment : manifest.segments)
    for (const char* kind : {"tokens", "index", "kv"}) names.insert(file_name(kind, segment.id));
  for (const auto& snapshot : manifest.snapshots) names.insert(file_name("state", snapshot.id));
  return names;
}

void make_directory(const fs::path& dir) {
  std::error_code error;
  fs::create_directories(dir.parent_path(), error);
  if (error) fail("{}: cannot create: {}", dir.parent_path().string(), error.message());
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST)
    fail("{}: cannot create: {}", dir.string(), std::strerror(errno));
}

}  // namespace

StoredSession StoredSession::create(const fs::path& dir, const Manifest& begin) {
  SALA_CHECK(begin.tokens == 0 && begin.origins.size() == 1, "a session begins empty");
  make_directory(dir);
  StoredSession session(dir, lock_to_write(dir));
  if (exists(dir))
    fail("{}: there is a session of this name; choose another name or delete it", dir.string());
  session.manifest_ = begin;
  return session;
}

StoredSession StoredSession::fork(const fs::path& from, const fs::path& to) {
  StoredSession source = open(from, Access::read);
  StoredSession copy = create(to, {.origins = {{}}});
  for (;;) {
    copy.manifest_ = {.origins = {{}}};
    copy.writing_ = false;
    copy.begin_writing();  // removes what an attempt before has left
    copy.manifest_ = source.manifest_;
    copy.manifest_.grows = false;  // the files are the source's: nothing may be added to them
    try {
      copy.link_files_of(source);
      break;
    } catch (const Error&) {
      // The source's writer may have removed files of the manifest before.
      StoredSession again = open(from, Access::read);
      if (print_manifest(again.manifest_) == print_manifest(source.manifest_)) throw;
      source = std::move(again);
    }
  }
  copy.commit_manifest();
  return open(to, Access::read);
}

void StoredSession::link_files_of(const StoredSession& source) const {
  const auto link = [&](std::string_view kind, int64_t id, int64_t bytes) {
    const std::string name = file_name(kind, id);
    link_or_copy(source.dir_ / name, dir_ / name, bytes);
  };
  for (const auto& segment : manifest_.segments) {
    link("tokens", segment.id, segment.tokens * kTokenBytes);
    link("index", segment.id, segment.pages * layout().record_bytes());
    link("kv", segment.id, segment.pages * layout().kv_bytes());
  }
  for (const auto& snapshot : manifest_.snapshots) link("state", snapshot.id, layout().state);
}

void StoredSession::remove(const fs::path& dir) {
  if (!exists(dir) && !is_abandoned(dir))
    fail("{}: not a session: there is no manifest.json", dir.string());
  StoredSession session(dir, lock_to_write(dir));
  remove_file(dir / "manifest.json");  // from here on there is no session
  sync_directory(dir);
  session.remove_files();
}

bool StoredSession::is_abandoned(const fs::path& dir) {
  std::error_code error;
  fs::directory_iterator files(dir, error);
  return !error && std::all_of(begin(files), end(files), [](const fs::directory_entry& entry) {
    const std::string name = entry.path().filename();
    return name == "lock" || is_ours(name);
  });
}

StoredSession::~StoredSession() {
  if (!lock_.is_open() || exists(dir_)) return;
  try {
    remove_files();
  } catch (const Error&) {  // StoredSession::remove can try again
  }
}

/// Removes all files of a session that does not exist, and its directory.
void StoredSession::remove_files() {
  manifest_ = {};
  sweep();
  remove_file(dir_ / "lock");
  const bool removed = ::rmdir(dir_.c_str()) == 0;
  const int reason = errno;
  lock_ = {};  // what is there from now on is somebody else's
  if (!removed)
    fail("{}: the session is gone, but the directory cannot be removed: {}", dir_.string(),
         std::strerror(reason));
}

/// Removes the files that the manifest does not name: they were never committed, or are no longer
/// in use.
void StoredSession::sweep() const {
  const std::set<std::string> used = files_in_use(manifest_);
  std::vector<fs::path> unused;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir_, error))
    if (const std::string name = entry.path().filename(); is_ours(name) && !used.contains(name))
      unused.push_back(entry.path());
  if (error) fail("{}: cannot list: {}", dir_.string(), error.message());
  for (const fs::path& path : unused) remove_file(path);
}

/// Comes before the first change, while the manifest is still the committed one.
void StoredSession::begin_writing() {
  SALA_CHECK(lock_.is_open(), "{} was opened to read", dir_.string());
  if (failed_)
    fail("{}: could not be written before; open it again to go on from its last commit",
         dir_.string());
  if (writing_) return;
  sweep();
  writing_ = true;
}

/// The files of the last segment, ready to be appended to. Bytes behind its committed end are of a
/// writer that died.
StoredSession::SegmentFiles& StoredSession::growing() {
  begin_writing();
  if (manifest_.segments.empty() || !manifest_.grows) {
    const int64_t id = manifest_.next++;
    segments_[id] = {.tokens = File::create(file("tokens", id)),
                     .index = File::create(file("index", id)),
                     .kv = File::create(file("kv", id))};
    manifest_.segments.push_back({.id = id});
    manifest_.grows = growing_ = true;
  } else if (!growing_) {
    const Manifest::Segment& last = manifest_.segments.back();
    SegmentFiles files = {.tokens = File::open_to_write(file("tokens", last.id)),
                          .index = File::open_to_write(file("index", last.id)),
                          .kv = File::open_to_write(file("kv", last.id))};
    files.tokens.truncate(last.tokens * kTokenBytes);
    files.index.truncate(last.pages * layout().record_bytes());
    files.kv.truncate(last.pages * layout().kv_bytes());
    segments_[last.id] = std::move(files);
    growing_ = true;
  }
  return segments_[manifest_.segments.back().id];
}

void StoredSession::append_tokens(std::span<const int32_t> tokens) {
  if (tokens.empty()) return;
  SegmentFiles& files = growing();
  Manifest::Segment& segment = manifest_.segments.back();
  files.tokens.write(segment.tokens * kTokenBytes, std::as_bytes(tokens));
  append_run(manifest_.token_runs, {segment.id, segment.tokens, std::ssize(tokens)});
  segment.tokens += std::ssize(tokens);
  manifest_.tokens += std::ssize(tokens);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

void StoredSession::write_page(int64_t page, std::span<const std::byte> kv,
                               std::span<const std::byte> index) {
  const int64_t begin = page * layout().page;
  SALA_CHECK(begin <= covered_ && begin < manifest_.tokens, "page {}: {} tokens, {} in pages", page,
             manifest_.tokens, covered_);
  SALA_CHECK(std::ssize(kv) == layout().kv_bytes() && std::ssize(index) == layout().index_bytes(),
             "a page of {} and {} bytes", kv.size(), index.size());
  std::vector<std::byte> record;
  record.reserve(static_cast<size_t>(layout().record_bytes()));
  const auto put = [&](uint64_t sum) {
    const auto bytes = std::as_bytes(std::span(&sum, 1));
    record.insert(record.end(), bytes.begin(), bytes.end());
  };
  size_t at = 0;
  for (const int64_t size : layout().kv) {
    put(checksum(kv.subspan(at, static_cast<size_t>(size))));
    at += static_cast<size_t>(size);
  }
  record.insert(record.end(), index.begin(), index.end());
  put(checksum(record));

  SegmentFiles& files = growing();
  Manifest::Segment& segment = manifest_.segments.back();
  files.kv.write(segment.pages * layout().kv_bytes(), kv);
  files.index.write(segment.pages * layout().record_bytes(), record);
  trim_runs(manifest_.page_runs, page);
  pages_.resize(static_cast<size_t>(page));
  append_run(manifest_.page_runs, {segment.id, segment.pages, 1});
  add_record(segment.id, segment.pages, record);
  ++segment.pages;
  covered_ = std::min(begin + layout().page, manifest_.tokens);
}

void StoredSession::add_snapshot(int64_t position, std::span<const std::byte> state) {
  SALA_CHECK(position > 0 && position <= manifest_.tokens && position % layout().cell == 0,
             "a snapshot at {} of {} tokens", position, manifest_.tokens);
  SALA_CHECK(std::ssize(state) == layout().state, "a snapshot of {} bytes", state.size());
  const auto at =
      std::ranges::lower_bound(manifest_.snapshots, position, {}, &Manifest::Snapshot::position);
  if (at != manifest_.snapshots.end() && at->position == position) return;
  begin_writing();
  const int64_t id = manifest_.next++;
  File data = File::create(file("state", id));
  data.write(0, state);
  states_[id] = std::move(data);
  fresh_states_.push_back(id);
  manifest_.snapshots.insert(at, {.id = id, .position = position, .checksum = checksum(state)});
}

void StoredSession::drop_snapshot(int64_t position) {
  begin_writing();
  std::erase_if(manifest_.snapshots, [&](const auto& s) { return s.position == position; });
}

void StoredSession::mark_turn() {
  if (manifest_.turns.empty() || manifest_.turns.back() < manifest_.tokens)
    manifest_.turns.push_back(manifest_.tokens);
}

void StoredSession::set_numerics(const Facts& numerics) {
  auto& origins = manifest_.origins;
  if (origins.size() > 1 && origins.back().first == manifest_.tokens) origins.pop_back();
  if (manifest_.tokens == 0)
    origins = {{.first = 0, .numerics = numerics}};
  else if (origins.back().numerics != numerics)
    origins.push_back({.first = manifest_.tokens, .numerics = numerics});
}

void StoredSession::roll_back(int64_t tokens) {
  SALA_CHECK(tokens >= 0 && tokens <= manifest_.tokens, "roll back {} tokens to {}",
             manifest_.tokens, tokens);
  begin_writing();
  Manifest& m = manifest_;
  m.tokens = tokens;
  tokens_.resize(static_cast<size_t>(tokens));
  trim_runs(m.token_runs, tokens);
  covered_ = std::min(covered_, tokens);
  pages_.resize(std::min(pages_.size(), static_cast<size_t>(m.pages())));
  trim_runs(m.page_runs, m.pages());
  std::erase_if(m.snapshots, [&](const auto& s) { return s.position > tokens; });
  std::erase_if(m.turns, [&](int64_t turn) { return turn >= tokens; });
  std::erase_if(m.origins, [&](const auto& o) { return o.first > 0 && o.first >= tokens; });
}

void StoredSession::commit() {
  SALA_CHECK(covered_ == manifest_.tokens, "the pages hold {} of {} tokens", covered_,
             manifest_.tokens);
  begin_writing();
  failed_ = true;  // until all is done: a write that the disk refused once may look done later
  if (growing_) {
    SegmentFiles& files = segments_[manifest_.segments.back().id];
    for (File* data : {&files.tokens, &files.index, &files.kv}) data->sync();
  }
  for (const int64_t id : fresh_states_) states_[id].sync();
  manifest_.tokens_checksum = checksum_of(std::span<const int32_t>(tokens_));
  manifest_.pages_checksum = pages_checksum();
  drop_unused_segments();
  commit_manifest();
  fresh_states_.clear();
  failed_ = false;
}

void StoredSession::drop_unused_segments() {
  Manifest& m = manifest_;
  std::set<int64_t> used;
  for (const auto& run : m.token_runs) used.insert(run.segment);
  for (const auto& run : m.page_runs) used.insert(run.segment);
  if (m.grows && !m.segments.empty()) used.insert(m.segments.back().id);
  std::erase_if(m.segments, [&](const auto& s) { return !used.contains(s.id); });
}

void StoredSession::commit_manifest() {
  const std::string text = print_manifest(manifest_);
  sync_directory(dir_);  // the names of new files, before the manifest that names them
  replace_file(dir_ / "manifest.json", std::as_bytes(std::span(text)));
  sync_directory(dir_.parent_path());
  sweep();
}

}  // namespace sala
