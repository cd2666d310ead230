#include "engine/calibrate.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "engine/feedback.h"

namespace sala {
namespace {

constexpr std::string_view kLayers = "model.layers.";
constexpr size_t kMatrices = 4;  // of a layer: into the mixer, out of it, into the MLP, out of it

/// The layer of a tensor or of a packed matrix; nothing outside layers.
std::optional<int> layer_of(std::string_view name) {
  int layer = 0;
  if (!name.starts_with(kLayers)) return {};
  const auto [end, error] =
      std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
  return error == std::errc() ? std::optional(layer) : std::nullopt;
}

/// The same in a model of this layer alone.
std::string as_first_layer(std::string name, int layer) {
  const std::string from = fmt::format("{}{}.", kLayers, layer);
  const std::string to = fmt::format("{}0.", kLayers);
  for (size_t at = name.find(from); at != std::string::npos; at = name.find(from, at + to.size()))
    name.replace(at, from.size(), to);
  return name;
}

StoredTensor floats(std::string name, std::vector<int64_t> shape, const float* values) {
  StoredTensor tensor;
  tensor.name = std::move(name);
  tensor.type_name = "F32";
  tensor.shape = std::move(shape);
  tensor.bytes = {reinterpret_cast<const std::byte*>(values),
                  static_cast<size_t>(tensor.elements()) * sizeof(float)};
  return tensor;
}

}  // namespace

/// Stands in for two ops of a device while it lives, to see what enters and leaves a layer.
class Calibration::Recorder {
 public:
  Recorder(Calibration& calibration, bool collects)
      : calibration_(calibration), collects_(collects), plain_(calibration.device_->ops) {
    current = this;
    calibration.device_->ops.matmul = matmul;
    calibration.device_->ops.residual_norm = residual_norm;
  }
  ~Recorder() {
    calibration_.device_->ops = plain_;
    current = nullptr;
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

 private:
  static thread_local Recorder* current;  // ops are functions and run on the caller's thread

  static void residual_norm(Device& device, Out h, In a, float scale, In w, float eps, Out x) {
    current->plain_.residual_norm(device, h, a, scale, w, eps, x);
    current->stream_ = h;
  }

  static void matmul(Device& device, In x, const Weight& w, Epilogue epilogue, Compute compute,
                     Out y) {
    Recorder& self = *current;
    const size_t which = self.calls_++ % kMatrices;
    self.plain_.matmul(device, x, w, epilogue, compute, y);
    if (self.collects_) self.collect(device, which, x, w, y);
    if (which == kMatrices - 1) self.leave(y);
  }

  /// How large the stream is that token t leaves the mixer or the MLP with. Every later norm
  /// divides by it, so that an error counts in relation to it: a token that some models make a
  /// thousand times as large as others (the first) would else outweigh all of them.
  float size_of(int64_t t, In y) const {
    const float scale = calibration_.files_.config.residual_scale;
    double sum = 0;
    for (int64_t k = 0; k < y.dim[1]; ++k) {
      const double value = stream_.row<float>(t)[k] + scale * y.row<float>(t)[k];
      sum += value * value;
    }
    return static_cast<float>(std::sqrt(sum / static_cast<double>(y.dim[1])));
  }

  void collect(Device& device, size_t which, In x, const Weight& w, In y) {
    const Ops patched = device.ops;
    device.ops = plain_;
    Calibration& to = calibration_;
    if (to.exact_.size() == which) {
      to.exact_.push_back(w);
      to.grams_.emplace_back(DType::f32, std::initializer_list<int64_t>{w.cols, w.cols});
    }
    const Tensor rows(DType::f32, {x.dim[0], x.dim[1]});
    for (int64_t t = 0; t < x.dim[0]; ++t) {
      const float size = which % 2 == 0 ? 1.0f : size_of(t, y);
      for (int64_t k = 0; k < x.dim[1]; ++k)
        rows.view().row<float>(t)[k] = size > 0 ? x.row<float>(t)[k] / size : 0.0f;
    }
    add_gram(device, rows.view(), to.parallel_, to.grams_[which].view());
    device.ops = patched;
  }

  /// The layer's last product joins the stream. Where it only collects, the text stays before it.
  void leave(In y) {
    const float scale = calibration_.files_.config.residual_scale;
    for (int64_t t = 0; t < y.dim[0] && !collects_; ++t) {
      auto* to = calibration_.hidden_.view().row<float>(row_++);
      for (int64_t k = 0; k < y.dim[1]; ++k)
        to[k] = stream_.row<float>(t)[k] + scale * y.row<float>(t)[k];
    }
  }

  Calibration& calibration_;
  bool collects_;
  Ops plain_;
  In stream_;
  size_t calls_ = 0;
  int64_t row_ = 0;
};

thread_local Calibration::Recorder* Calibration::Recorder::current = nullptr;

Calibration::~Calibration() = default;

Calibration::Calibration(ModelFiles files, std::string_view text, int threads,
                         const ParallelFor& parallel)
    : files_(std::move(files)), parallel_(parallel) {
  const std::vector<int> prefix = files_.raw_prefix();
  const std::vector<int> ids = files_.require_tokenizer().encode(text);
  if (ids.empty()) fail("--calibrate: the text has no tokens; give some thousand words");
  std::vector<int32_t> read;
  const auto step = static_cast<size_t>(kSequence) - prefix.size();
  for (size_t first = 0; first < ids.size() && std::ssize(read) < kTokens; first += step) {
    const auto count = static_cast<std::ptrdiff_t>(std::min(step, ids.size() - first));
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(first);
    read.insert(read.end(), prefix.begin(), prefix.end());
    read.insert(read.end(), begin, begin + count);
    sequences_.push_back(static_cast<int64_t>(prefix.size()) + count);
  }
  options_ = {
      .threads = threads, .compute = ComputeMode::f32, .kv = KvType::f32, .context = kSequence};
  device_ = open_device(options_);
  const auto tokens = static_cast<int64_t>(read.size());
  hidden_ = Tensor(DType::f32, {tokens, files_.config.hidden});
  files_.weights.parallel = parallel_;
  const Weight table = files_.weights.take_matrix("model.embed_tokens.weight", files_.config.vocab,
                                                  files_.config.hidden);
  embed(*device_, window(std::span<const int32_t>(read), {tokens}), {}, table,
        files_.config.embed_scale, hidden_.view());
}

std::unique_ptr<Model> Calibration::layer_model(const std::vector<StoredTensor>* matrices) {
  ModelConfig config = files_.config;
  config.vocab = hidden_.view().dim[0];
  config.mixers = {config.mixers[static_cast<size_t>(layer_)]};
  config.tied = true;
  config.embed_scale = 1;
  const std::vector<float> ones(static_cast<size_t>(config.hidden), 1.0f);
  std::vector<StoredTensor> tensors = {
      floats("model.embed_tokens.weight", {config.vocab, config.hidden},
             hidden_.view().as<float>()),
      floats("model.norm.weight", {config.hidden}, ones.data())};
  for (const StoredTensor& tensor : files_.weights.tensors()) {
    if (layer_of(tensor.name) != layer_) continue;
    if (matrices != nullptr && tensor.shape.size() != 1) continue;
    tensors.push_back(tensor);
    tensors.back().name = as_first_layer(tensor.name, layer_);
  }
  if (matrices != nullptr) tensors.insert(tensors.end(), matrices->begin(), matrices->end());
  WeightSource source(std::move(tensors), files_.weights.origin());
  source.parallel = parallel_;
  return std::make_unique<Model>(config, source);
}

void Calibration::run(const Model& model, bool collects) {
  const Recorder recorder(*this, collects);
  Runner runner(model, *device_, options_);
  int first = 0;
  for (const int64_t length : sequences_) {
    std::vector<int> rows(static_cast<size_t>(length));
    for (int& row : rows) row = first++;
    Hold hold = runner.open();
    runner.read(hold, rows, {});
  }
}

void Calibration::begin_layer(int layer) {
  if (layer_ >= 0) run(*layer_model(&packed_), false);
  layer_ = layer;
  exact_.clear();
  grams_.clear();
  rounded_.clear();
  packed_.clear();
  run(*layer_model(nullptr), true);
}

Weight Calibration::round(const PackedMatrix& matrix, const Weight& nearest) {
  const auto layer = layer_of(matrix.parts);
  if (!layer) return nearest;
  if (*layer != layer_) begin_layer(*layer);
  const size_t which = rounded_.size();
  Weight result = nearest;
  if (quantised(matrix.type) && exact_[which].type != matrix.type) {
    const Out gram = grams_[which].view();
    for (int64_t k = 0; k < gram.dim[0]; ++k)
      if (!std::isfinite(gram.row<float>(k)[k]))
        fail("{}: what enters {} is not finite on the text of --calibrate; check the checkpoint",
             files_.path.string(), matrix.parts);
    result = round_with_feedback(*device_, exact_[which], matrix.type, parallel_, gram);
  }
  grams_[which] = {};
  rounded_.push_back(result);
  StoredTensor tensor;
  tensor.name = as_first_layer(matrix.name(), layer_);
  tensor.type = StoredType::other;
  tensor.type_name = "U8";
  tensor.shape = {result.panels(), result.panel_bytes()};
  tensor.bytes = {result.data, static_cast<size_t>(result.bytes())};
  packed_.push_back(std::move(tensor));
  return result;
}

}  // namespace sala
