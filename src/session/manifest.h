#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sala {

/// Names and values that a session's memory depends on, in words ("kv": "bf16").
using Facts = std::map<std::string, std::string>;

inline constexpr int64_t kTokenBytes = sizeof(int32_t);  ///< of a token in a file
/// A manifest of more bytes is refused.
inline constexpr int64_t kMostManifestBytes = int64_t{64} << 20;

/// Sizes of what a session keeps: bytes of one page of each layer, and of one snapshot.
struct SessionLayout {
  int64_t page = 64;             ///< tokens of a page
  int64_t cell = 1;              ///< snapshots are taken at multiples of this
  std::vector<int64_t> kv{};     ///< keys and values of each layer, 0 where it has none
  std::vector<int64_t> index{};  ///< compressed keys of each layer
  int64_t state = 0;             ///< states of all layers

  int64_t kv_bytes() const;
  int64_t index_bytes() const;
  /// Bytes of a record in an index file (docs/sessions.md): the checksum of each layer's kv, the
  /// index, and a checksum of these.
  int64_t record_bytes() const;
  int64_t pages(int64_t tokens) const { return (tokens + page - 1) / page; }
  bool operator==(const SessionLayout&) const = default;
};

/// The contents of a session's manifest: all that exists of it, and where it is. docs/sessions.md
/// describes the files.
struct Manifest {
  /// Some entries of one segment that follow each other: tokens, or records of pages.
  struct Run {
    int64_t segment = 0, first = 0, count = 0;
    bool operator==(const Run&) const = default;
  };
  /// A set of data files and how much of them has ever been committed, whether still in use or not.
  struct Segment {
    int64_t id = 0, tokens = 0, pages = 0;
  };
  struct Snapshot {
    int64_t id = 0, position = 0;
    uint64_t checksum = 0;
  };
  /// What computed the memory of the tokens from `first` on.
  struct Origin {
    int64_t first = 0;
    Facts numerics{};
  };

  std::string model{};  ///< where the model was, to tell users
  Facts identity{};     ///< what every run of the session must agree with
  SessionLayout layout{};
  std::vector<Origin> origins{};    ///< ascending; of more than one the numbers are mixed
  int64_t next = 0;                 ///< the next number for a file, never used before
  bool grows = true;                ///< the last segment is this session's own, to be appended to
  std::vector<Segment> segments{};  ///< ascending by id
  int64_t tokens = 0;
  std::vector<Run> token_runs{};      ///< the text, in order
  uint64_t tokens_checksum = 0;       ///< of the ids
  std::vector<Run> page_runs{};       ///< the pages of the text, in order
  uint64_t pages_checksum = 0;        ///< of the records' checksums
  std::vector<Snapshot> snapshots{};  ///< ascending positions
  std::vector<int64_t> turns{};       ///< where messages of a chat begin, ascending

  int64_t pages() const { return layout.pages(tokens); }
};

/// The text of a manifest, which ends with a checksum of all before it.
std::string print_manifest(const Manifest& manifest);
/// Reads what print_manifest wrote. The checksum and every number is checked; `name` stands for the
/// text in messages. Throws Error.
Manifest parse_manifest(std::string_view text, const std::string& name);
/// The JSON of a manifest, without a checksum of its own. For parse_manifest and its fuzzer.
Manifest parse_manifest_json(std::string_view text, const std::string& name);

/// Adds entries to the end of `runs`, in the run there if they follow it.
void append_run(std::vector<Manifest::Run>& runs, Manifest::Run run);
/// Shortens `runs` to `count` entries in all.
void trim_runs(std::vector<Manifest::Run>& runs, int64_t count);

}  // namespace sala
