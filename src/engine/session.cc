#include "engine/session.h"

#include <algorithm>

#include "base/error.h"
#include "session/sessions.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

/// Keys and values of a session's pages, for a cache.
class SessionPages final : public PageStore {
 public:
  explicit SessionPages(std::shared_ptr<const StoredSession> stored) : stored_(std::move(stored)) {}
  void read(int64_t record, int layer, std::span<std::byte> out) override {
    stored_->read_kv(record, layer, out);
  }
  void will_read(int64_t record, int layer) override { stored_->will_read_kv(record, layer); }

 private:
  std::shared_ptr<const StoredSession> stored_;
};

/// Gives index bytes layer by layer, of records that are read and checked whole.
class IndexReader {
 public:
  explicit IndexReader(std::shared_ptr<const StoredSession> stored) : stored_(std::move(stored)) {}

  void read(int64_t page, int layer, std::span<std::byte> out) {
    const SessionLayout& layout = stored_->layout();
    if (page != page_) {
      bytes_.resize(static_cast<size_t>(layout.index_bytes()));
      stored_->read_index(stored_->record_of(page), bytes_);
      page_ = page;
    }
    size_t begin = 0;
    for (int i = 0; i < layer; ++i)
      begin += static_cast<size_t>(layout.index[static_cast<size_t>(i)]);
    std::ranges::copy(std::span(bytes_).subspan(begin, out.size()), out.begin());
  }

 private:
  std::shared_ptr<const StoredSession> stored_;
  int64_t page_ = -1;
  std::vector<std::byte> bytes_;
};

/// The snapshots that may go: a gap may be half as long as its distance from the end, so that a
/// roll back by d tokens reads at most d / 2 tokens again, and there are few of them.
std::vector<int64_t> thinned(const Manifest& manifest) {
  std::vector<int64_t> out;
  int64_t after = 0;  // the one kept behind the snapshot in question, 0: none
  for (size_t i = manifest.snapshots.size(); i-- > 0;) {
    const int64_t position = manifest.snapshots[i].position;
    const int64_t before = i > 0 ? manifest.snapshots[i - 1].position : 0;
    if (after > 0 && after - before <= (manifest.tokens - after) / 2)
      out.push_back(position);
    else
      after = position;
  }
  return out;
}

}  // namespace

Session Session::create(const fs::path& dir, const std::string& model, const SessionFacts& here) {
  Session session(
      StoredSession::create(dir, {.model = model,
                                  .identity = here.identity,
                                  .layout = here.layout,
                                  .origins = {{.first = 0, .numerics = here.numerics}}}),
      here);
  return session;
}

Session Session::open(const fs::path& dir, Access access, const SessionFacts& here, bool inexact) {
  Session session(StoredSession::open(dir, access), here);
  const Manifest& manifest = session.manifest();
  const std::string name = dir.filename().string();
  require_identity(name, manifest.identity, here.identity);
  if (manifest.layout != here.layout)
    fail("session {}: its pages have other sizes than this model's; make a new session", name);
  session.differences_ = numeric_differences(manifest, here.numerics);
  if (!inexact && !session.differences_.empty())
    fail(
        "session {} was computed otherwise than this run computes ({}): run it as it was, or with "
        "--inexact, which takes its memory for what this run would have computed",
        name, fmt::join(session.differences_, "; "));
  return session;
}

Hold Session::restore(Runner& runner, int64_t count) const {
  const SessionLayout& layout = stored_->layout();
  const int64_t vocab = runner.model().config().vocab;
  SALA_CHECK(count >= 0 && count <= std::ssize(tokens()), "{} of {} tokens", count,
             tokens().size());
  for (const int32_t token : tokens())
    if (token >= vocab)
      fail("{}: holds token {}; the model's vocabulary has {}", stored_->dir().string(), token,
           vocab);
  StoredText text;
  text.tokens = count;
  text.store = std::make_shared<SessionPages>(stored_);
  for (int64_t page = 0; page < layout.pages(count); ++page)
    text.records.push_back(stored_->record_of(page));
  text.read_index = [reader = std::make_shared<IndexReader>(stored_)](int64_t page, int layer,
                                                                      std::span<std::byte> out) {
    reader->read(page, layer, out);
  };
  const auto& snapshots = manifest().snapshots;
  const auto bring = [&](int64_t position) {  // the last states at or before it
    const auto behind =
        std::ranges::upper_bound(snapshots, position, {}, &Manifest::Snapshot::position);
    if (behind == snapshots.begin()) return;
    const auto last = static_cast<size_t>(behind - snapshots.begin() - 1);
    const int64_t at = snapshots[last].position;
    if (!text.snapshots.empty() && text.snapshots.back().first == at) return;
    text.snapshots.emplace_back(at, [this, last](std::span<std::byte> out) {
      std::ranges::copy(stored_->read_snapshot(last), out.begin());
    });
  };
  // Another conversation may begin where the first one did.
  if (const auto& turns = manifest().turns; !turns.empty() && turns.front() < count)
    bring(turns.front());
  bring(count);
  std::optional<Hold> hold = runner.cache().restore(text);
  if (!hold)
    fail("{}: there is no room for its {} tokens now; wait until other requests have ended",
         stored_->dir().string(), count);
  return std::move(*hold);
}

void Session::save(Runner& runner, Hold& hold, std::span<const int> text,
                   std::optional<int64_t> turn) {
  SALA_CHECK(hold.kept() == std::ssize(text) && hold.length() == hold.kept(),
             "a text of {} tokens, {} of {} read", text.size(), hold.length(), hold.kept());
  const auto kept = tokens();
  const auto common = std::ranges::mismatch(kept, text).in1 - kept.begin();
  if (common < std::ssize(kept)) stored_->roll_back(common);
  const auto before = turn ? std::clamp<int64_t>(*turn, common, std::ssize(text)) : common;
  if (common < std::ssize(text)) stored_->set_numerics(here_.numerics);
  stored_->append_tokens(
      text.subspan(static_cast<size_t>(common), static_cast<size_t>(before - common)));
  if (turn) stored_->mark_turn();
  if (common < std::ssize(text)) {
    stored_->append_tokens(text.subspan(static_cast<size_t>(before)));
    save_pages(runner.cache(), hold, common / stored_->layout().page);
  }
  save_snapshots(runner.cache(), hold);
  stored_->commit();
}

void Session::roll_back(int64_t tokens) {
  stored_->roll_back(tokens);
  stored_->commit();
}

void Session::save_pages(Cache& cache, const Hold& hold, int64_t from) {
  const SessionLayout& layout = stored_->layout();
  std::vector<std::byte> kv(static_cast<size_t>(layout.kv_bytes()));
  std::vector<std::byte> index(static_cast<size_t>(layout.index_bytes()));
  for (int64_t i = from; i < manifest().pages(); ++i) {
    const int32_t page = hold.pages()[static_cast<size_t>(i)];
    auto kv_left = std::span(kv), index_left = std::span(index);
    const auto take = [&](int layer, Field::Role role, int64_t bytes, std::span<std::byte>& out) {
      const auto part = out.first(static_cast<size_t>(bytes));
      if (bytes > 0) cache.read_page(page, layer, role, part);
      out = out.subspan(part.size());
    };
    for (int layer = 0; layer < cache.layers(); ++layer) {
      take(layer, Field::Role::kv, layout.kv[static_cast<size_t>(layer)], kv_left);
      take(layer, Field::Role::index, layout.index[static_cast<size_t>(layer)], index_left);
    }
    stored_->write_page(i, kv, index);
  }
}

void Session::save_snapshots(Cache& cache, Hold& hold) {
  cache.snapshot(hold);
  std::vector<std::byte> state(static_cast<size_t>(stored_->layout().state));
  for (const SnapshotRef& snapshot : hold.snapshots()) {
    if (!snapshot->alive()) continue;
    cache.read_snapshot(*snapshot, state);
    stored_->add_snapshot(snapshot->position(), state);
  }
  for (const int64_t position : thinned(manifest())) stored_->drop_snapshot(position);
}

void make_room_for_snapshots(const ModelConfig& config, RunOptions& options, int snapshots) {
  int64_t state = 0;
  for (const CacheSpec& spec : cache_specs(config, options.kv))
    state += entry_bytes(spec, Field::Growth::state, Field::Role::state);
  options.cache_ram = std::max(options.cache_ram, snapshots * state);
}

}  // namespace sala
