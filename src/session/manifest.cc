#include "session/manifest.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "session/checksum.h"

namespace sala {
namespace {

constexpr int64_t kFormat = 2;  // 1 stored bf16 keys token by token
constexpr int64_t kMostTokens = int64_t{1} << 40;
constexpr int64_t kMostLayerBytes = int64_t{1} << 40;
constexpr size_t kMostLayers = 1 << 16;
constexpr size_t kMostFact = 1000;  // characters
constexpr std::string_view kSeal = ",\"checksum\":\"";
constexpr size_t kSealBytes = kSeal.size() + 16 + 3;  // the number, then "}\n

std::string hex(uint64_t value) { return fmt::format("{:016x}", value); }

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Takes a manifest's JSON apart; every error names the file and the key.
class Reader {
 public:
  Reader(const Json& json, const std::string& file) : json_(json), file_(file) {}

  Manifest read() const {
    if (!json_.is_object()) damaged("", json_, "an object");
    if (const int64_t format = number(json_, "format", 0, INT64_MAX); format != kFormat)
      fail("{}: format {}; this program reads format {}: use the program that wrote it", file_,
           format, kFormat);
    Manifest m;
    m.model = text(at(json_, "model"), "model");
    m.identity = facts(at(json_, "identity"), "identity");
    read_layout(at(json_, "layout"), m.layout);
    m.next = number(json_, "next", 0, kMostTokens);
    const Json& grows = at(json_, "grows");
    if (!grows.is_boolean()) damaged("grows", grows, "true or false");
    m.grows = grows.get<bool>();
    read_segments(m);
    read_runs(m);
    read_marks(m);
    return m;
  }

 private:
  [[noreturn]] void damaged(const std::string& key, const Json& found,
                            const std::string& expected) const {
    fail("{}: \"{}\" is {}; expected {}: the manifest is damaged", file_, key,
         found.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 100), expected);
  }

  const Json& at(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key))
      fail("{}: has no \"{}\"; the manifest is damaged", file_, key);
    return object[key];
  }

  int64_t integer(const Json& value, const std::string& key, int64_t low, int64_t high) const {
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
    if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high)
      damaged(key, value, fmt::format("a number from {} to {}", low, high));
    return value.get<int64_t>();
  }
  int64_t number(const Json& object, const char* key, int64_t low, int64_t high) const {
    return integer(at(object, key), key, low, high);
  }

  const Json& array(const Json& object, const char* key) const {
    const Json& value = at(object, key);
    if (!value.is_array()) damaged(key, value, "an array");
    return value;
  }

  std::string text(const Json& value, const char* key) const {
    if (!value.is_string() || value.get_ref<const std::string&>().size() > kMostFact)
      damaged(key, value, fmt::format("a text of {} characters at most", kMostFact));
    return value.get<std::string>();
  }

  /// Facts are shown to users, so they are plain characters.
  Facts facts(const Json& object, const char* key) const {
    if (!object.is_object()) damaged(key, object, "an object");
    Facts all;
    for (const auto& [name, value] : object.items()) {
      const std::string said = text(value, key);
      for (const char c : name + said)
        if (c < 0x20 || c > 0x7E) damaged(key, value, "printable ASCII characters");
      all[name] = said;
    }
    return all;
  }

  uint64_t sum(const Json& object, const char* key) const {
    const std::string digits = text(at(object, key), key);
    uint64_t value = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (error != std::errc{} || digits != hex(value))
      damaged(key, at(object, key), "16 hexadecimal digits");
    return value;
  }

  void read_layout(const Json& json, SessionLayout& layout) const {
    layout.page = number(json, "page", 1, 1 << 20);
    layout.cell = number(json, "cell", 1, 1 << 20);
    layout.state = number(json, "state", 0, kMostLayerBytes);
    const auto sizes = [&](const char* key, std::vector<int64_t>& of) {
      const Json& list = array(json, key);
      if (list.size() > kMostLayers) damaged(key, list, fmt::format("{} layers", kMostLayers));
      for (const Json& size : list) of.push_back(integer(size, key, 0, kMostLayerBytes));
      if (std::accumulate(of.begin(), of.end(), int64_t{0}) > kMostLayerBytes)
        damaged(key, list, fmt::format("{} bytes at most", kMostLayerBytes));
    };
    sizes("kv", layout.kv);
    sizes("index", layout.index);
    if (layout.kv.size() != layout.index.size())
      damaged("index", json, fmt::format("{} layers, as in \"kv\"", layout.kv.size()));
  }

  void read_segments(Manifest& m) const {
    for (const Json& json : array(json_, "segments")) {
      const int64_t lowest = m.segments.empty() ? 0 : m.segments.back().id + 1;
      Manifest::Segment segment{.id = number(json, "id", lowest, m.next - 1),
                                .tokens = number(json, "tokens", 0, kMostTokens),
                                .pages = number(json, "pages", 0, kMostTokens)};
      const int64_t largest = std::max(m.layout.kv_bytes(), m.layout.record_bytes());
      int64_t size = 0;
      if (__builtin_mul_overflow(segment.pages, largest, &size))
        damaged("pages", json, "fewer pages");
      m.segments.push_back(segment);
    }
  }

  /// Runs lie in the segments, ascending without overlap, and hold `count` entries.
  std::vector<Manifest::Run> runs(const Json& json, const Manifest& m,
                                  int64_t Manifest::Segment::* size, int64_t count) const {
    std::vector<Manifest::Run> all;
    int64_t sum = 0;
    for (const Json& entry : array(json, "runs")) {
      if (!entry.is_array() || entry.size() != 3) damaged("runs", entry, "[segment, first, count]");
      Manifest::Run run{.segment = integer(entry[0], "runs", 0, m.next),
                        .first = integer(entry[1], "runs", 0, kMostTokens),
                        .count = integer(entry[2], "runs", 1, kMostTokens)};
      const auto segment = std::ranges::find(m.segments, run.segment, &Manifest::Segment::id);
      if (segment == m.segments.end()) damaged("runs", entry, "one of \"segments\"");
      if (run.first + run.count > (*segment).*size)
        damaged("runs", entry, fmt::format("entries of the {} committed", (*segment).*size));
      if (!all.empty() && std::pair(all.back().segment, all.back().first + all.back().count - 1) >=
                              std::pair(run.segment, run.first))
        damaged("runs", entry, "a run that lies after the one before");
      sum += run.count;
      all.push_back(run);
    }
    if (sum != count) damaged("runs", json["runs"], fmt::format("{} entries", count));
    return all;
  }

  void read_runs(Manifest& m) const {
    const Json& tokens = at(json_, "tokens");
    m.tokens = number(tokens, "count", 0, kMostTokens);
    m.token_runs = runs(tokens, m, &Manifest::Segment::tokens, m.tokens);
    m.tokens_checksum = sum(tokens, "checksum");
    const Json& pages = at(json_, "pages");
    m.page_runs = runs(pages, m, &Manifest::Segment::pages, m.pages());
    m.pages_checksum = sum(pages, "checksum");
  }

  void read_marks(Manifest& m) const {
    for (const Json& json : array(json_, "snapshots")) {
      const int64_t lowest = m.snapshots.empty() ? 1 : m.snapshots.back().position + 1;
      Manifest::Snapshot snapshot{.id = number(json, "id", 0, m.next - 1),
                                  .position = number(json, "position", lowest, m.tokens),
                                  .checksum = sum(json, "checksum")};
      if (snapshot.position % m.layout.cell != 0)
        damaged("position", json, fmt::format("a multiple of {}", m.layout.cell));
      m.snapshots.push_back(snapshot);
    }
    for (const Json& json : array(json_, "origins")) {
      const int64_t lowest = m.origins.empty() ? 0 : m.origins.back().first + 1;
      const int64_t highest = m.origins.empty() ? 0 : m.tokens;
      m.origins.push_back({.first = number(json, "first", lowest, highest),
                           .numerics = facts(at(json, "numerics"), "numerics")});
    }
    if (m.origins.empty()) damaged("origins", json_["origins"], "what computed the tokens");
    for (const Json& json : array(json_, "turns"))
      m.turns.push_back(integer(json, "turns", m.turns.empty() ? 0 : m.turns.back() + 1, m.tokens));
  }

  const Json& json_;
  const std::string& file_;
};

Json runs_json(const std::vector<Manifest::Run>& runs) {
  Json all = Json::array();
  for (const auto& run : runs) all.push_back({run.segment, run.first, run.count});
  return all;
}

}  // namespace

int64_t SessionLayout::kv_bytes() const {
  return std::accumulate(kv.begin(), kv.end(), int64_t{0});
}

int64_t SessionLayout::index_bytes() const {
  return std::accumulate(index.begin(), index.end(), int64_t{0});
}

int64_t SessionLayout::record_bytes() const {
  return static_cast<int64_t>((kv.size() + 1) * sizeof(uint64_t)) + index_bytes();
}

std::string print_manifest(const Manifest& m) {
  Json segments = Json::array(), snapshots = Json::array(), origins = Json::array();
  for (const auto& s : m.segments)
    segments.push_back({{"id", s.id}, {"tokens", s.tokens}, {"pages", s.pages}});
  for (const auto& s : m.snapshots)
    snapshots.push_back({{"id", s.id}, {"position", s.position}, {"checksum", hex(s.checksum)}});
  for (const auto& o : m.origins) origins.push_back({{"first", o.first}, {"numerics", o.numerics}});
  const Json json = {
      {"format", kFormat},
      {"model", m.model},
      {"identity", m.identity},
      {"origins", origins},
      {"layout",
       {{"page", m.layout.page},
        {"cell", m.layout.cell},
        {"kv", m.layout.kv},
        {"index", m.layout.index},
        {"state", m.layout.state}}},
      {"next", m.next},
      {"grows", m.grows},
      {"segments", segments},
      {"tokens",
       {{"count", m.tokens},
        {"runs", runs_json(m.token_runs)},
        {"checksum", hex(m.tokens_checksum)}}},
      {"pages", {{"runs", runs_json(m.page_runs)}, {"checksum", hex(m.pages_checksum)}}},
      {"snapshots", snapshots},
      {"turns", m.turns}};
  std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  text.pop_back();
  return fmt::format("{}{}{}\"}}\n", text, kSeal, hex(checksum(bytes_of(text))));
}

Manifest parse_manifest(std::string_view text, const std::string& name) {
  if (std::cmp_greater(text.size(), kMostManifestBytes))
    fail("{}: {} bytes, more than the {} that are accepted", name, text.size(), kMostManifestBytes);
  if (text.size() < kSealBytes)
    fail("{}: {} bytes are too few for a manifest; it is truncated", name, text.size());
  const std::string_view body = text.substr(0, text.size() - kSealBytes);
  const std::string seal = fmt::format("{}{}\"}}\n", kSeal, hex(checksum(bytes_of(body))));
  if (text.substr(body.size()) != seal)
    fail("{}: its checksum does not fit its contents; the manifest is damaged", name);
  return parse_manifest_json(text, name);
}

Manifest parse_manifest_json(std::string_view text, const std::string& name) {
  const Json json = parse_json(text, name);
  return Reader(json, name).read();
}

void append_run(std::vector<Manifest::Run>& runs, Manifest::Run run) {
  if (!runs.empty() && runs.back().segment == run.segment &&
      runs.back().first + runs.back().count == run.first)
    runs.back().count += run.count;
  else
    runs.push_back(run);
}

void trim_runs(std::vector<Manifest::Run>& runs, int64_t count) {
  size_t kept = 0;
  for (; kept < runs.size() && count > 0; ++kept) {
    runs[kept].count = std::min(runs[kept].count, count);
    count -= runs[kept].count;
  }
  runs.resize(kept);
}

}  // namespace sala
