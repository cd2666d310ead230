#include "engine/quantize.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "engine/calibrate.h"
#include "engine/open.h"
#include "model/model.h"
#include "session/file.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kAlignment = 64;  // of the data in the file

/// Which type a matrix gets.
class Policy {
 public:
  explicit Policy(const QuantizeOptions& options) : options_(options) {}

  WeightType choose(const PackedMatrix& matrix) {
    if (const auto* kept = find(matrix.parts)) return fitting(*kept, matrix);
    if (matrix.parts == "model.embed_tokens.weight") return matrix.type;
    return fitting(options_.narrow ? "w4" : "w8", matrix);
  }

  std::map<std::string, std::string> others;

  /// Throws Error for a name in --keep that chose nothing.
  void expect_all_used() const {
    for (const auto& [name, type] : options_.keep)
      if (!used_.contains(name))
        fail(
            "--keep {}={}: the model has no matrix {}; give the last part of a name, as in "
            "lm_head or o_proj",
            name, type, name);
  }

 private:
  const std::string* find(const std::string& parts) {
    for (const auto& [name, type] : options_.keep)
      for (size_t begin = 0; begin < parts.size();) {
        const size_t end = std::min(parts.find_first_of("+|", begin), parts.size());
        const std::string part = "." + parts.substr(begin, end - begin);
        if (part.ends_with("." + name + ".weight")) {
          used_.insert(name);
          return &type;
        }
        begin = end + 1;
      }
    return nullptr;
  }

  /// The type of this name with the widest group that divides the columns, up to the wanted one.
  WeightType fitting(const std::string& type, const PackedMatrix& matrix) {
    using enum WeightType;
    if (type == "f32") return f32;
    if (type == "f16") return f16;
    if (type == "bf16") return bf16;
    const std::array types =
        type == "w8" ? std::array{w8g128, w8g64, w8} : std::array{w4g128, w4g64, w4};
    for (const WeightType candidate : types) {
      const int group = group_columns(candidate);
      if (group > options_.group || matrix.cols % group != 0) continue;
      if (group < options_.group) others[matrix.parts] = name_of(candidate);
      return candidate;
    }
    others[matrix.parts] = name_of(matrix.type);
    return matrix.type;
  }

  const QuantizeOptions& options_;
  std::set<std::string> used_;
};

/// A tensor of the file to be: its place among the data.
struct Entry {
  std::string name, dtype;
  std::vector<int64_t> shape;
  int64_t begin = 0, bytes = 0;
};

class Layout {
 public:
  void add(std::string name, std::string dtype, std::vector<int64_t> shape, int64_t bytes) {
    entries_.push_back({std::move(name), std::move(dtype), std::move(shape), size_, bytes});
    size_ += bytes;
  }
  int64_t size() const { return size_; }
  const std::vector<Entry>& entries() const { return entries_; }

  /// The bytes before the data, which begin at a multiple of kAlignment.
  std::string header() const {
    Json json = {{"__metadata__", {{"format", "sala"}}}};
    for (const Entry& e : entries_)
      json[e.name] = {
          {"dtype", e.dtype}, {"shape", e.shape}, {"data_offsets", {e.begin, e.begin + e.bytes}}};
    std::string text = json.dump();
    while ((text.size() + sizeof(uint64_t)) % kAlignment != 0) text += ' ';
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
  }

 private:
  std::vector<Entry> entries_;
  int64_t size_ = 0;
};

/// Makes the model's constructor hand its matrices to `sink`.
void walk(ModelFiles& files, const MatrixSink& sink, const QuantizeOptions& options) {
  files.weights.sink = &sink;
  files.weights.parallel = options.parallel;
  const Model model(files.config, files.weights);
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// Whether a file of a model directory belongs to its text or its licence rather than its weights.
bool is_copied(const fs::path& path) {
  static const std::set<std::string> kSuffixes = {".json", ".txt", ".model", ".jinja", ".md"};
  const std::string name = path.filename().string();
  if (name == "config.json" || name.ends_with(".index.json")) return false;
  return kSuffixes.contains(path.extension().string()) || name.starts_with("LICENSE");
}

double gigabytes(int64_t bytes) { return 1e-9 * static_cast<double>(bytes); }

/// A directory that is removed unless it is published.
class Partial {
 public:
  explicit Partial(const fs::path& out) : out_(out), path_(out) {
    path_ += ".partial";
    std::error_code error;
    fs::remove_all(path_, error);  // of an interrupted run
    if (!error) fs::create_directory(path_, error);
    if (error) fail("{}: cannot create: {}", path_.string(), error.message());
  }
  ~Partial() {
    std::error_code ignored;
    if (!published_) fs::remove_all(path_, ignored);
  }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;

  const fs::path& path() const { return path_; }
  /// A new file that others may read as the caller's umask lets them.
  File create(const std::string& name) const {
    File file = File::create(path_ / name);
    constexpr auto kReadable = fs::perms::owner_read | fs::perms::owner_write |
                               fs::perms::group_read | fs::perms::others_read;
    fs::permissions(path_ / name, kReadable);
    return file;
  }
  void write(const std::string& name, const std::string& text) const {
    File file = create(name);
    file.write(0, bytes_of(text));
    file.sync();
  }
  void publish() {
    sync_directory(path_);
    std::error_code error;
    fs::rename(path_, out_, error);
    if (error) fail("{}: cannot rename to {}: {}", path_.string(), out_.string(), error.message());
    published_ = true;
    sync_directory(out_.has_parent_path() ? out_.parent_path() : fs::path("."));
  }

 private:
  fs::path out_, path_;
  bool published_ = false;
};

/// The configuration of the result.
Json configuration(const fs::path& in, const QuantizeOptions& options) {
  const fs::path path = in / "config.json";
  Json json = read_json(path);
  if (json.contains("quantization_config") && json["quantization_config"].is_object() &&
      json["quantization_config"].value("quant_method", Json()) == Json("sala"))
    fail("{}: the model is quantised already; give the checkpoint that it was made of",
         path.string());
  json["quantization_config"] = {{"quant_method", "sala"},
                                 {"format", 1},
                                 {"type", options.narrow ? "w4" : "w8"},
                                 {"group_size", options.group},
                                 {"keep", options.keep}};
  return json;
}

void expect_room(const fs::path& out, int64_t needed) {
  const fs::path parent = fs::absolute(out).parent_path();
  std::error_code error;
  const auto space = fs::space(parent, error);
  if (error)
    fail("{}: {}; create the directory that is to hold it", parent.string(), error.message());
  if (space.available < static_cast<uintmax_t>(needed))
    fail(
        "{}: the result takes {:.2f} GB, and the disk has {:.2f} GB left; make room or choose "
        "another disk",
        out.string(), gigabytes(needed), gigabytes(static_cast<int64_t>(space.available)));
}

/// The file of weights that is being written. Errors say what it needs.
class WeightFile {
 public:
  WeightFile(const Partial& partial, const Layout& layout)
      : layout_(layout), file_(partial.create("model.safetensors")) {
    const std::string header = layout.header();
    start_ = static_cast<int64_t>(header.size());
    write(0, bytes_of(header));
  }
  void next(const std::string& name, std::span<const std::byte> bytes) {
    const Entry& entry = layout_.entries()[next_++];
    SALA_CHECK(entry.name == name && entry.bytes == static_cast<int64_t>(bytes.size()),
               "{} where {} was planned", name, entry.name);
    write(start_ + entry.begin, bytes);
  }
  void sync() { file_.sync(); }

 private:
  void write(int64_t offset, std::span<const std::byte> bytes) {
    try {
      file_.write(offset, bytes);
    } catch (const Error& e) {
      fail("{} (the result takes {:.2f} GB)", e.what(), gigabytes(start_ + layout_.size()));
    }
  }

  const Layout& layout_;
  File file_;
  int64_t start_ = 0;
  size_t next_ = 0;
};

void write_weights(const fs::path& in, const QuantizeOptions& options, Policy& policy,
                   const Layout& layout, const Partial& partial) {
  WeightFile file(partial, layout);
  ModelFiles files = open_model(in, OpenText::no);
  int64_t done = 0;
  std::optional<Calibration> calibration;
  if (options.calibrate.empty())  // then what takes time is reading
    files.weights.progress = options.progress;
  else
    calibration.emplace(open_model(in, OpenText::yes), read_text(options.calibrate),
                        options.threads, options.parallel);
  walk(files,
       {.choose = [&](const PackedMatrix& matrix) { return policy.choose(matrix); },
        .take =
            [&](const PackedMatrix& matrix, const Weight& weight) {
              const Weight rounded = calibration ? calibration->round(matrix, weight) : weight;
              file.next(matrix.name(), {rounded.data, static_cast<size_t>(rounded.bytes())});
              done += rounded.bytes();
              if (calibration && options.progress) options.progress(done, layout.size());
            }},
       options);
  for (const StoredTensor& tensor : files.weights.tensors())
    if (tensor.shape.size() == 1) file.next(tensor.name, tensor.bytes);
  file.sync();
}

}  // namespace

QuantizeResult quantize(const fs::path& in, const fs::path& given, const QuantizeOptions& options) {
  fs::path out = given.has_filename() ? given : given.parent_path();
  if (!fs::is_directory(in))
    fail("{}: not a Hugging Face model directory; quantize reads config.json and safetensors files",
         in.string());
  if (fs::exists(out)) fail("{}: exists; choose another name or remove it", out.string());
  const Json config = configuration(in, options);

  // Once without packing, for the sizes.
  Policy policy(options);
  Layout layout;
  QuantizeResult result;
  ModelFiles files = open_model(in, OpenText::no);
  const auto choose = [&](const PackedMatrix& matrix) {
    PackedMatrix wanted = matrix;
    wanted.type = policy.choose(matrix);
    const Weight w{.type = wanted.type,
                   .rows = matrix.rows,
                   .cols = matrix.cols,
                   .paired = matrix.paired(),
                   .storage = {}};
    layout.add(wanted.name(), "U8", {w.panels(), w.panel_bytes()}, w.bytes());
    result.types[std::string(name_of(wanted.type))] += w.bytes();
    return wanted.type;
  };
  walk(files, {.choose = choose, .take = {}}, options);
  policy.expect_all_used();
  for (const StoredTensor& tensor : files.weights.tensors())
    if (tensor.shape.size() == 1)
      layout.add(tensor.name, tensor.type_name, tensor.shape,
                 static_cast<int64_t>(tensor.bytes.size()));
  result.bytes = static_cast<int64_t>(layout.header().size()) + layout.size();
  result.others = policy.others;
  expect_room(out, result.bytes);

  Partial partial(out);
  write_weights(in, options, policy, layout, partial);
  for (const auto& other : fs::directory_iterator(in))
    if (other.is_regular_file() && is_copied(other.path()))
      partial.write(other.path().filename().string(), read_text(other.path()));
  // Without this file nothing loads the directory.
  partial.write("config.json", config.dump(2) + "\n");
  partial.publish();
  return result;
}

}  // namespace sala
