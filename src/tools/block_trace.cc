#include "tools/block_trace.h"

#include <array>
#include <charconv>

#include "base/error.h"
#include "base/json.h"

namespace sala {
namespace {

constexpr int kVersion = 1;
constexpr int64_t kMostPositions = int64_t{1} << 32;
constexpr size_t kExcerptTokens = 12;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Written some thousand times a token, so without a formatter.
void append_number(std::string& out, int64_t number) {
  std::array<char, 20> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
  out.append(digits.data(), end);
}

/// Blocks that the token at `position` could see.
int64_t visible(int64_t position, int64_t block) { return position / block + 1; }

Json excerpts(std::span<const int> prompt, int64_t block, const Tokenizer& tokenizer) {
  Json out = Json::array();
  for (size_t at = 0; at < prompt.size(); at += static_cast<size_t>(block)) {
    const auto tokens = prompt.subspan(at, std::min(kExcerptTokens, prompt.size() - at));
    out.push_back(tokenizer.decode(tokens, false));
  }
  return out;
}

/// One line of a trace file, with errors that name it.
class Line {
 public:
  Line(const std::string& text, std::string where) : where_(std::move(where)) {
    json_ = parse_json(text, where_);
    if (!json_.is_object()) fail("{}: expected a JSON object", where_);
  }
  bool has(const char* key) const { return json_.contains(key); }
  const Json& list(const char* key) const {
    if (!has(key) || !json_[key].is_array()) fail("{}: key \"{}\" is not a list", where_, key);
    return json_[key];
  }
  int64_t number(const char* key, int64_t low, int64_t high) const {
    return checked(has(key) ? json_[key] : Json(), key, low, high);
  }
  int64_t checked(const Json& value, const char* key, int64_t low, int64_t high) const {
    const bool whole = value.is_number_integer() &&
                       (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
    if (!whole || value.get<int64_t>() < low || value.get<int64_t>() > high)
      fail("{}: key \"{}\" holds {}; expected a whole number from {} to {}", where_, key,
           value.dump().substr(0, 40), low, high);
    return value.get<int64_t>();
  }
  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> out;
    for (const Json& each : list(key)) {
      if (!each.is_string()) fail("{}: key \"{}\" holds {}, not a text", where_, key, each.dump());
      out.push_back(each.get<std::string>());
    }
    return out;
  }
  const std::string& where() const { return where_; }

 private:
  std::string where_;
  Json json_;
};

void read_head(const Line& line, BlockTrace& trace) {
  if (!line.has("format"))
    fail("{}: is not a trace; `sala run --trace-blocks FILE` writes one", line.where());
  line.number("version", kVersion, kVersion);
  trace.block_size = line.number("block_size", 1, 1 << 20);
  trace.kv_heads = line.number("kv_heads", 1, 1 << 16);
  trace.prompt_tokens = line.number("prompt_tokens", 1, kMostPositions);
  for (const Json& layer : line.list("layers"))
    trace.layers.push_back(static_cast<int>(line.checked(layer, "layers", 0, 1 << 16)));
  if (trace.layers.empty()) fail("{}: key \"layers\" is empty", line.where());
  trace.excerpts = line.texts("excerpts");
}

BlockTrace::Look read_look(const Line& line, const BlockTrace& trace) {
  BlockTrace::Look look;
  look.position = line.number("position", 0, kMostPositions);
  const int64_t last = visible(look.position, trace.block_size) - 1;
  for (const Json& runs : line.list("blocks")) {
    auto& list = look.lists.emplace_back();
    if (!runs.is_array() || runs.size() % 2 != 0)
      fail("{}: key \"blocks\" holds {}, not pairs", line.where(), runs.dump().substr(0, 40));
    int64_t next = 0;
    for (size_t i = 0; i < runs.size(); i += 2) {
      const int64_t first = line.checked(runs[i], "blocks", next, last);
      const int64_t length = line.checked(runs[i + 1], "blocks", 1, last - first + 1);
      list.push_back({first, length});
      next = first + length;
    }
  }
  if (static_cast<int64_t>(look.lists.size()) != trace.lists())
    fail("{}: key \"blocks\" has {} lists; expected {}, {} layers of {} heads", line.where(),
         look.lists.size(), trace.lists(), trace.layers.size(), trace.kv_heads);
  return look;
}

}  // namespace

TraceWriter::TraceWriter(const std::filesystem::path& path, const ModelConfig& config,
                         const Tokenizer& tokenizer, std::span<const int> prompt, int64_t read)
    : path_(path.string()),
      block_(config.page()),
      prompt_(static_cast<int64_t>(prompt.size())),
      done_(read) {
  if (config.attention.sparse)
    for (int i = 0; i < config.layers(); ++i)
      if (config.mixers[static_cast<size_t>(i)] == MixerKind::attention) layers_.push_back(i);
  if (layers_.empty())
    fail("--trace-blocks: this model ({}) has no layers that choose blocks", config.family);
  file_.open(path, std::ios::binary | std::ios::trunc);
  file_ << dump({{"format", "sala-trace"},
                 {"version", kVersion},
                 {"block_size", block_},
                 {"kv_heads", config.attention.kv_heads},
                 {"layers", layers_},
                 {"prompt_tokens", prompt_},
                 {"excerpts", excerpts(prompt, block_, tokenizer)}})
        << '\n';
  if (!file_) fail("{}: cannot be written", path_);
}

void TraceWriter::append_runs(int64_t position, In lists, In counts, int64_t head) {
  const int64_t row = counts.dim[0] - 1;
  const int32_t count = counts.row<int32_t>(row)[head];
  const int32_t* list = lists.row<int32_t>(row) + head * lists.stride[1];
  line_ += '[';
  const auto run = [&](int64_t first, int64_t length) {
    if (line_.back() != '[') line_ += ',';
    append_number(line_, first);
    line_ += ',';
    append_number(line_, length);
  };
  if (count < 0) run(0, visible(position, block_));
  for (int32_t i = 0; i < count;) {
    int32_t end = i + 1;
    while (end < count && list[end] == list[end - 1] + 1) ++end;
    run(list[i], end - i);
    i = end;
  }
  line_ += ']';
}

void TraceWriter::add(int layer, In lists, In counts) {
  const int64_t end = done_ + counts.dim[0];
  if (layer == layers_.back()) done_ = end;
  if (end < prompt_) return;
  if (layer == layers_.front())
    line_ = fmt::format("{{\"position\":{},\"blocks\":[", end - 1);
  else
    line_ += ',';
  for (int64_t head = 0; head < counts.dim[1]; ++head) {
    if (head > 0) line_ += ',';
    append_runs(end - 1, lists, counts, head);
  }
  if (layer == layers_.back()) file_ << line_ << "]}\n";
}

void TraceWriter::finish(std::span<const int> tokens, const Tokenizer& tokenizer) {
  Json pieces = Json::array();
  for (const int token : tokens) pieces.push_back(tokenizer.decode({&token, 1}, false));
  file_ << dump({{"tokens", tokens}, {"pieces", pieces}}) << '\n';
  file_.close();
  if (!file_) fail("{}: cannot be written; is the disk full?", path_);
}

int64_t BlockTrace::blocks() const {
  return looks.empty() ? 0 : visible(looks.back().position, block_size);
}

BlockTrace read_trace(std::istream& file, const std::string& name) {
  BlockTrace trace;
  std::string text;
  for (int64_t number = 1; std::getline(file, text); ++number) {
    const Line line(text, fmt::format("{}:{}", name, number));
    if (number == 1) {
      read_head(line, trace);
    } else if (line.has("tokens")) {
      trace.pieces = line.texts("pieces");
    } else {
      auto look = read_look(line, trace);
      if (!trace.looks.empty() && look.position != trace.looks.back().position + 1)
        fail("{}: position {} follows {}", line.where(), look.position,
             trace.looks.back().position);
      trace.looks.push_back(std::move(look));
    }
  }
  if (trace.looks.empty())
    fail("{}: holds no answer; `sala run --trace-blocks FILE` writes traces", name);
  return trace;
}

}  // namespace sala
