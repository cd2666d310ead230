#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "session/file.h"
#include "session/manifest.h"

namespace sala {

/// The manifest of the session in `dir`, checked by itself; its files may still be damaged.
Manifest read_manifest(const std::filesystem::path& dir);

/// One session as it lies in its directory: tokens, pages, snapshots. Knows bytes and no model.
///
/// What is read has been checked: manifest, tokens, snapshots and index when it is opened, keys and
/// values whenever they are read; Errors name the file and the page. What is written exists once
/// commit() returns, and not before: a process that dies, a full disk or a power cut leave the last
/// commit. Committed bytes are never overwritten.
///
/// Many may read a session while one writes. Methods that are const may run on any threads while
/// no other runs.
class StoredSession {
 public:
  enum class Access : uint8_t { read, write };

  /// Opens and checks a session. Throws Error when it is damaged, or when another process writes it
  /// and write access is asked for.
  static StoredSession open(const std::filesystem::path& dir, Access access);
  /// Makes an empty session, which exists once it is committed. `begin` holds model, identity,
  /// layout and one origin. Throws Error when there is one already.
  static StoredSession create(const std::filesystem::path& dir, const Manifest& begin);
  /// Makes a session `to` that is what `from` is now, sharing its files; either may then grow or be
  /// removed.
  static StoredSession fork(const std::filesystem::path& from, const std::filesystem::path& to);
  /// Removes a session, or what a writer that died before its first commit has left. Throws Error
  /// when another process writes it.
  static void remove(const std::filesystem::path& dir);
  /// Whether a directory holds only what such a writer leaves.
  static bool is_abandoned(const std::filesystem::path& dir);
  /// Whether a directory is a session.
  static bool exists(const std::filesystem::path& dir);

  StoredSession(StoredSession&&) = default;
  StoredSession& operator=(StoredSession&&) = default;
  /// A session that was never committed goes without a trace.
  ~StoredSession();

  const std::filesystem::path& dir() const { return dir_; }
  const Manifest& manifest() const { return manifest_; }
  const SessionLayout& layout() const { return manifest_.layout; }
  std::span<const int32_t> tokens() const { return tokens_; }

  /// Names the record of a page; it stays good, and means the same bytes, for as long as this
  /// object lives.
  int64_t record_of(int64_t page) const { return pages_[static_cast<size_t>(page)]; }
  /// The keys and values of one layer of a record: layout().kv[layer] bytes.
  void read_kv(int64_t record, int layer, std::span<std::byte> out) const;
  /// Says that read_kv will follow soon.
  void will_read_kv(int64_t record, int layer) const;
  /// The index of all layers of a record: layout().index_bytes().
  void read_index(int64_t record, std::span<std::byte> out) const;
  /// The states of manifest().snapshots[i]: layout().state bytes.
  std::vector<std::byte> read_snapshot(size_t i) const;

  /// Adds to the text. The pages that it reaches must be written before the next commit.
  void append_tokens(std::span<const int32_t> tokens);
  /// Writes a page, superseding the one with this number and all that follow: kv of all layers in
  /// order, index of all layers in order. The text reaches into the page, and the pages before it
  /// are written.
  void write_page(int64_t page, std::span<const std::byte> kv, std::span<const std::byte> index);
  /// Adds a snapshot at `position`, a multiple of the layout's cell within the text. One that is
  /// there already stays.
  void add_snapshot(int64_t position, std::span<const std::byte> state);
  void drop_snapshot(int64_t position);
  /// Says that a message of a chat begins at the end of the text.
  void mark_turn();
  /// Says what computes the tokens from here on.
  void set_numerics(const Facts& numerics);
  /// Shortens the text to `tokens` tokens, with its pages, snapshots and turns.
  void roll_back(int64_t tokens);
  /// Makes all that was done since the last commit exist, at one stroke.
  void commit();

 private:
  struct Record {
    int64_t segment = 0, ordinal = 0, page = 0;
    uint64_t checksum = 0;
  };
  struct SegmentFiles {
    File tokens, index, kv;
  };

  StoredSession(std::filesystem::path dir, File lock)
      : dir_(std::move(dir)), lock_(std::move(lock)) {}
  static File lock_to_write(const std::filesystem::path& dir);
  static StoredSession load(const std::filesystem::path& dir, File lock, const std::string& text);
  std::filesystem::path file(const char* kind, int64_t id) const;
  File open_data(const char* kind, int64_t id, int64_t committed) const;
  void open_segments();
  void load_tokens();
  void load_records();
  void load_snapshots();
  void check_record(std::span<const std::byte> record, const File& file, int64_t page) const;
  void add_record(int64_t segment, int64_t ordinal, std::span<const std::byte> record);
  uint64_t pages_checksum() const;
  int64_t kv_offset(const Record& record, int layer) const;

  void begin_writing();
  SegmentFiles& growing();
  void link_files_of(const StoredSession& source) const;
  void drop_unused_segments();
  void commit_manifest();
  void sweep() const;
  void remove_files();

  std::filesystem::path dir_;
  File lock_;  ///< open: this is the writer
  Manifest manifest_;
  std::vector<int32_t> tokens_;
  std::vector<Record> records_;         ///< all that was ever a page since this was opened
  std::vector<uint64_t> kv_checksums_;  ///< [records, layers]
  std::vector<int64_t> pages_;          ///< the record of each
  std::map<int64_t, SegmentFiles> segments_;
  std::map<int64_t, File> states_;

  // The writer's.
  int64_t covered_ = 0;  ///< tokens that the pages hold
  bool writing_ = false, growing_ = false, failed_ = false;
  std::vector<int64_t> fresh_states_;  ///< ids, not yet committed
};

}  // namespace sala
