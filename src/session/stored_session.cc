#include "session/stored_session.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "session/checksum.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

/// Records are read in pieces of about this many bytes.
constexpr int64_t kPiece = int64_t{1} << 20;

std::string manifest_text(const fs::path& dir) {
  const File file = File::open(dir / "manifest.json");
  const int64_t size = file.size();
  if (size > kMostManifestBytes)
    fail("{}: {} bytes, more than the {} that are accepted", file.path().string(), size,
         kMostManifestBytes);
  std::string text(static_cast<size_t>(size), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

/// The checksum that a record of an index file ends with.
uint64_t sum_of(std::span<const std::byte> record) {
  uint64_t sum = 0;
  std::memcpy(&sum, record.last(sizeof sum).data(), sizeof sum);
  return sum;
}

}  // namespace

Manifest read_manifest(const fs::path& dir) {
  return parse_manifest(manifest_text(dir), (dir / "manifest.json").string());
}

bool StoredSession::exists(const fs::path& dir) {
  std::error_code ignored;
  return fs::is_regular_file(dir / "manifest.json", ignored);
}

File StoredSession::lock_to_write(const fs::path& dir) {
  File lock = File::try_lock(dir / "lock");
  if (!lock.is_open())
    fail("{}: another process is writing this session; wait until it is done", dir.string());
  return lock;
}

StoredSession StoredSession::open(const fs::path& dir, Access access) {
  if (!exists(dir)) {
    if (is_abandoned(dir))
      fail(
          "{}: not a session: its writer died before it had committed anything; make it again, or "
          "delete it",
          dir.string());
    fail("{}: not a session: there is no manifest.json", dir.string());
  }
  if (access == Access::write) {
    File lock = lock_to_write(dir);
    const std::string text = manifest_text(dir);
    return load(dir, std::move(lock), text);
  }
  for (std::string text = manifest_text(dir);;) {
    try {
      return load(dir, {}, text);
    } catch (const Error&) {
      // A writer that commits meanwhile may have removed files of the manifest before.
      std::string again = manifest_text(dir);
      if (again == text) throw;
      text = std::move(again);
    }
  }
}

StoredSession StoredSession::load(const fs::path& dir, File lock, const std::string& text) {
  StoredSession session(dir, std::move(lock));
  session.manifest_ = parse_manifest(text, (dir / "manifest.json").string());
  session.open_segments();
  session.load_tokens();
  session.load_records();
  session.load_snapshots();
  return session;
}

fs::path StoredSession::file(const char* kind, int64_t id) const {
  return dir_ / fmt::format("{}-{}", kind, id);
}

File StoredSession::open_data(const char* kind, int64_t id, int64_t committed) const {
  File data = File::open(file(kind, id));
  if (data.size() < committed)
    fail("{}: {} bytes, of the {} that were committed; the file is truncated", data.path().string(),
         data.size(), committed);
  return data;
}

void StoredSession::open_segments() {
  for (const auto& segment : manifest_.segments)
    segments_[segment.id] = {
        .tokens = open_data("tokens", segment.id, segment.tokens * kTokenBytes),
        .index = open_data("index", segment.id, segment.pages * layout().record_bytes()),
        .kv = open_data("kv", segment.id, segment.pages * layout().kv_bytes())};
}

void StoredSession::load_tokens() {
  for (const auto& run : manifest_.token_runs) {
    const size_t begin = tokens_.size();
    tokens_.resize(begin + static_cast<size_t>(run.count));
    segments_.at(run.segment)
        .tokens.read(run.first * kTokenBytes,
                     std::as_writable_bytes(std::span(tokens_).subspan(begin)));
  }
  if (checksum_of(std::span<const int32_t>(tokens_)) != manifest_.tokens_checksum)
    fail("{}: the tokens do not fit their checksum in the manifest; a file tokens-* is damaged",
         dir_.string());
  for (size_t i = 0; i < tokens_.size(); ++i)
    if (tokens_[i] < 0)
      fail("{}: token {} is {}; expected an id of a vocabulary", dir_.string(), i, tokens_[i]);
  covered_ = manifest_.tokens;
}

void StoredSession::load_records() {
  const int64_t size = layout().record_bytes();
  const int64_t at_once = std::max<int64_t>(1, kPiece / size);
  std::vector<std::byte> piece;
  for (const auto& run : manifest_.page_runs) {
    const File& index = segments_.at(run.segment).index;
    for (int64_t done = 0; done < run.count; done += at_once) {
      const int64_t count = std::min(at_once, run.count - done);
      piece.resize(static_cast<size_t>(count * size));
      index.read((run.first + done) * size, piece);
      for (int64_t i = 0; i < count; ++i) {
        const auto record =
            std::span(piece).subspan(static_cast<size_t>(i * size), static_cast<size_t>(size));
        check_record(record, index, static_cast<int64_t>(pages_.size()));
        add_record(run.segment, run.first + done + i, record);
      }
    }
  }
  if (pages_checksum() != manifest_.pages_checksum)
    fail("{}: the pages do not fit their checksum in the manifest; a file index-* is damaged",
         dir_.string());
}

void StoredSession::check_record(std::span<const std::byte> record, const File& index,
                                 int64_t page) const {
  if (checksum(record.first(record.size() - sizeof(uint64_t))) != sum_of(record))
    fail(
        "{}: the index of page {} does not fit its checksum; the file is damaged: restore it from "
        "a copy, or make the session again from its texts",
        index.path().string(), page);
}

void StoredSession::add_record(int64_t segment, int64_t ordinal,
                               std::span<const std::byte> record) {
  const size_t at = kv_checksums_.size(), layers = layout().kv.size();
  kv_checksums_.resize(at + layers);
  std::ranges::copy(record.first(layers * sizeof(uint64_t)),
                    std::as_writable_bytes(std::span(kv_checksums_).subspan(at)).begin());
  const auto page = static_cast<int64_t>(pages_.size());
  pages_.push_back(static_cast<int64_t>(records_.size()));
  records_.push_back(
      {.segment = segment, .ordinal = ordinal, .page = page, .checksum = sum_of(record)});
}

uint64_t StoredSession::pages_checksum() const {
  std::vector<uint64_t> sums;
  for (const int64_t record : pages_)
    sums.push_back(records_[static_cast<size_t>(record)].checksum);
  return checksum_of(std::span<const uint64_t>(sums));
}

void StoredSession::load_snapshots() {
  for (const auto& snapshot : manifest_.snapshots)
    states_[snapshot.id] = open_data("state", snapshot.id, layout().state);
  for (size_t i = 0; i < manifest_.snapshots.size(); ++i) read_snapshot(i);
}

std::vector<std::byte> StoredSession::read_snapshot(size_t i) const {
  const Manifest::Snapshot& snapshot = manifest_.snapshots[i];
  const File& data = states_.at(snapshot.id);
  std::vector<std::byte> state(static_cast<size_t>(layout().state));
  data.read(0, state);
  if (checksum(state) != snapshot.checksum)
    fail(
        "{}: the snapshot at token {} does not fit its checksum; the file is damaged: restore it "
        "from a copy, or make the session again from its texts",
        data.path().string(), snapshot.position);
  return state;
}

int64_t StoredSession::kv_offset(const Record& record, int layer) const {
  const auto& kv = layout().kv;
  return record.ordinal * layout().kv_bytes() +
         std::accumulate(kv.begin(), kv.begin() + layer, int64_t{0});
}

void StoredSession::read_kv(int64_t record, int layer, std::span<std::byte> out) const {
  const Record& r = records_[static_cast<size_t>(record)];
  const auto l = static_cast<size_t>(layer);
  SALA_CHECK(std::ssize(out) == layout().kv[l], "{} bytes for the {} of layer {}", out.size(),
             layout().kv[l], layer);
  const File& data = segments_.at(r.segment).kv;
  data.read(kv_offset(r, layer), out);
  if (checksum(out) != kv_checksums_[static_cast<size_t>(record) * layout().kv.size() + l])
    fail(
        "{}: keys and values of page {}, layer {} do not fit their checksum; the file is damaged: "
        "restore it from a copy, or roll back to {} tokens or fewer",
        data.path().string(), r.page, layer, r.page * layout().page);
}

void StoredSession::will_read_kv(int64_t record, int layer) const {
  const Record& r = records_[static_cast<size_t>(record)];
  segments_.at(r.segment).kv.will_read(kv_offset(r, layer),
                                       layout().kv[static_cast<size_t>(layer)]);
}

void StoredSession::read_index(int64_t record, std::span<std::byte> out) const {
  const Record& r = records_[static_cast<size_t>(record)];
  SALA_CHECK(std::ssize(out) == layout().index_bytes(), "{} bytes for an index of {}", out.size(),
             layout().index_bytes());
  std::vector<std::byte> bytes(static_cast<size_t>(layout().record_bytes()));
  const File& data = segments_.at(r.segment).index;
  data.read(r.ordinal * layout().record_bytes(), bytes);
  check_record(bytes, data, r.page);
  std::ranges::copy(std::span(bytes).subspan(layout().kv.size() * sizeof(uint64_t), out.size()),
                    out.begin());
}

}  // namespace sala
