#include "weights/source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "base/mutex.h"
#include "weights/decode.h"
#include "weights/describe.h"
#include "weights/join_quantised.h"
#include "weights/random.h"
#include "weights/round.h"
#include "weights/safetensors.h"

namespace sala {
namespace {

constexpr int64_t kReportEvery = int64_t{32} << 20;
constexpr size_t kAlignment = 64;  // of packed weights: a line of the cache

}  // namespace

WeightSource WeightSource::open_directory(const std::filesystem::path& dir) {
  JoinedTensors joined =
      join_quantised(read_safetensors_directory(dir), read_quantisation(dir), dir.string());
  WeightSource source(std::move(joined.tensors), dir.string());
  source.remark = std::move(joined.remark);
  return source;
}

WeightSource::WeightSource(std::vector<StoredTensor> tensors, std::string origin)
    : origin_(std::move(origin)), tensors_(std::move(tensors)), taken_(tensors_.size()) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!index_.try_emplace(tensors_[i].name, i).second)
      fail("{}: two tensors are named {}; the file is damaged, obtain it again",
           file_of(tensors_[i]), printable(tensors_[i].name));
    if (const auto packed = parse_packed(tensors_[i]))
      if (!packed_.try_emplace(packed->parts, i).second)
        fail("{}: two tensors hold {}; quantize the model again", file_of(tensors_[i]),
             printable(packed->parts));
    bytes_total_ += static_cast<int64_t>(tensors_[i].bytes.size());
  }
}

WeightSource WeightSource::random(WeightType type) {
  WeightSource source({}, "random weights");
  source.random_ = type;
  return source;
}

bool WeightSource::has(std::string_view name) const { return index_.contains(std::string(name)); }

std::string WeightSource::file_of(const StoredTensor& tensor) const {
  return tensor.file != nullptr ? tensor.file->path().string() : origin_;
}

const StoredTensor& WeightSource::take(const std::string& name,
                                       std::initializer_list<int64_t> shape) {
  const auto entry = index_.find(name);
  if (entry == index_.end())
    fail(
        "{}: tensor {} of shape {} is missing; check that the configuration belongs to these "
        "weights",
        origin_, printable(name), shape_text(shape));
  const StoredTensor& tensor = tensors_[entry->second];
  SALA_CHECK(!taken_[entry->second], "tensor {} is taken twice", name);
  if (!std::ranges::equal(tensor.shape, shape))
    fail(
        "{}: tensor {} has shape {}, expected {}; check that the configuration belongs to these "
        "weights",
        file_of(tensor), printable(name), shape_text(tensor.shape), shape_text(shape));
  if (tensor.type == StoredType::other)
    fail(
        "{}: tensor {} is of type {}, accepted are F32, F16 and BF16, in GGUF also Q4_0, Q4_1, "
        "Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL and IQ4_XS; use a file of these types (Q4_K_M is a "
        "good choice)",
        file_of(tensor), printable(name), tensor.type_name);
  taken_[entry->second] = true;
  return tensor;
}

void WeightSource::report(int64_t taken) {
  bytes_taken_ = taken;
  if (!progress || bytes_taken_ == bytes_reported_) return;
  if (bytes_taken_ - bytes_reported_ < kReportEvery && bytes_taken_ < bytes_total_) return;
  bytes_reported_ = bytes_taken_;
  progress(bytes_taken_, bytes_total_);
}

void WeightSource::release(const StoredTensor& tensor) {
  if (tensor.file != nullptr) tensor.file->release(tensor.bytes);
}

/// Runs a loop over `stored` bytes of the files in slices, so that progress is told by the thread
/// that takes.
void WeightSource::run_in_slices(int64_t stored, int64_t count,
                                 const std::function<void(int64_t)>& work) {
  const int64_t before = bytes_taken_, slices = stored / kReportEvery + 1;
  int64_t first = 0;
  for (int64_t slice = 1; slice <= slices; ++slice) {
    const int64_t last = count / slices * slice + count % slices * slice / slices;
    if (parallel)
      parallel(last - first, [&](int64_t i) { work(first + i); });
    else
      for (int64_t i = first; i < last; ++i) work(i);
    first = last;
    report(slice == slices ? before + stored : before + stored / slices * slice);
  }
}

Weight WeightSource::placed(Weight weight) const {
  if (memory == nullptr || memory->of_host() || weight.data == nullptr) return weight;
  const std::span bytes(weight.data, static_cast<size_t>(weight.bytes()));
  Storage storage = memory->allocate(weight.bytes());
  memory->write(storage.get(), bytes);
  weight.data = storage.get();
  weight.storage = std::move(storage);
  return weight;
}

Tensor WeightSource::constant(std::span<const float> values) {
  Memory host;
  return {memory == nullptr ? host : *memory, values, {static_cast<int64_t>(values.size())}};
}

Tensor WeightSource::take_vector(const std::string& name, int64_t n, float divisor) {
  std::vector<float> values(static_cast<size_t>(n), 1.0f / divisor);
  if (random_) return constant(values);
  const StoredTensor& tensor = take(name, {n});
  if (tensor.type != StoredType::f32 && tensor.type != StoredType::f16 &&
      tensor.type != StoredType::bf16)
    fail("{}: vector {} is of type {}, expected F32, F16 or BF16; quantise matrices only",
         file_of(tensor), printable(name), tensor.type_name);
  decode_floats(tensor, values);
  for (float& value : values) value /= divisor;
  release(tensor);
  report(bytes_taken_ + static_cast<int64_t>(tensor.bytes.size()));
  return constant(values);
}

Weight WeightSource::take_matrix(const std::string& name, int64_t rows, int64_t cols) {
  if (random_) return take_random(name, rows, cols, false);
  if (const auto packed = take_packed(name, rows, cols)) return *packed;
  const Part part{.matrix = &take(name, {rows, cols})};
  return pack_parts(name, {&part, 1}, rows, cols, false);
}

Weight WeightSource::take_stack(std::span<const std::string> names, std::span<const int64_t> rows,
                                int64_t cols) {
  SALA_CHECK(names.size() == rows.size() && !names.empty(), "{} names, {} heights", names.size(),
             rows.size());
  const int64_t height = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  const std::string joined = fmt::format("{}", fmt::join(names, "+"));
  if (random_) return take_random(joined, height, cols, false);
  if (const auto packed = take_packed(joined, height, cols)) return *packed;
  std::vector<Part> parts;
  int64_t total = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    parts.push_back({.matrix = &take(names[i], {rows[i], cols}), .first = total});
    total += rows[i];
  }
  return pack_parts(joined, parts, total, cols, false);
}

Weight WeightSource::take_pair(const std::string& first, const std::string& second, int64_t rows,
                               int64_t cols) {
  const std::string joined = first + "|" + second;
  if (random_) return take_random(joined, rows, cols, true);
  if (const auto packed = take_packed(joined, rows, cols)) return *packed;
  const Part parts[] = {{.matrix = &take(first, {rows, cols})},
                        {.matrix = &take(second, {rows, cols})}};
  return pack_parts(joined, parts, rows, cols, true);
}

Weight WeightSource::take_random(const std::string& parts, int64_t rows, int64_t cols,
                                 bool paired) {
  const bool embedding = parts == "model.embed_tokens.weight";
  const WeightType type = embedding && quantised(*random_) ? WeightType::bf16 : *random_;
  if (cols % column_unit(type) != 0)
    fail("--type is {}; {} has {} columns, not a multiple of {}: use a type with smaller groups",
         name_of(type), parts, cols, column_unit(type));
  return placed(random_weight(type, rows, cols, paired, [&](int64_t count, const auto& work) {
    run_in_slices(0, count, work);
  }));
}

std::optional<Weight> WeightSource::take_packed(const std::string& parts, int64_t rows,
                                                int64_t cols) {
  const auto entry = packed_.find(parts);
  if (entry == packed_.end()) return {};
  const StoredTensor& tensor = tensors_[entry->second];
  const PackedMatrix matrix = *parse_packed(tensor);
  SALA_CHECK(!taken_[entry->second], "tensor {} is taken twice", tensor.name);
  const auto refuse = [&](const std::string& what) {
    fail(
        "{}: tensor {} {}; quantize the model again, or check that its configuration belongs to it",
        file_of(tensor), printable(tensor.name), what);
  };
  if (matrix.rows != rows || matrix.cols != cols)
    refuse(fmt::format("holds {} x {}, expected {} x {}", matrix.rows, matrix.cols, rows, cols));
  if (cols % column_unit(matrix.type) != 0)
    refuse(fmt::format("has groups of {} columns, which do not divide {}",
                       group_columns(matrix.type), cols));
  Weight weight{
      .type = matrix.type, .rows = rows, .cols = cols, .paired = matrix.paired(), .storage = {}};
  const int64_t shape[] = {weight.panels(), weight.panel_bytes()};
  if (!std::ranges::equal(tensor.shape, shape))
    refuse(fmt::format("has shape {}, expected {} (panels of 32 rows, bytes of a panel)",
                       shape_text(tensor.shape), shape_text(shape)));
  if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % kAlignment != 0)
    refuse(fmt::format("does not begin at a multiple of {} bytes", kAlignment));
  weight.data = tensor.bytes.data();
  // The model keeps the file mapped.
  weight.storage = Storage(std::const_pointer_cast<MappedFile>(tensor.file), nullptr);
  std::atomic<int64_t> unsound = -1;
  run_in_slices(static_cast<int64_t>(tensor.bytes.size()), weight.panels(), [&](int64_t panel) {
    if (!sound_panel(weight, panel)) unsound = panel;
  });
  if (unsound >= 0)
    refuse(fmt::format("has a scale or minimum in panel {} that is not a finite number",
                       unsound.load()));
  taken_[entry->second] = true;
  weight = placed(std::move(weight));
  if (weight.data != tensor.bytes.data()) release(tensor);
  return weight;
}

Weight WeightSource::pack_parts(const std::string& names, std::span<const Part> parts, int64_t rows,
                                int64_t cols, bool paired) {
  WeightType type = weight_type(*parts[0].matrix);
  int64_t stored = 0;
  for (const Part& part : parts) {
    type = common_type(type, weight_type(*part.matrix));
    stored += static_cast<int64_t>(part.matrix->bytes.size());
  }
  const WeightType exact = type;
  PackedMatrix matrix{.parts = names, .type = exact, .rows = rows, .cols = cols};
  if (sink != nullptr) matrix.type = type = sink->choose(matrix);
  if (sink != nullptr && !sink->take)
    return {.type = type, .rows = rows, .cols = cols, .paired = paired, .storage = {}};
  Mutex mutex;
  std::optional<std::pair<const StoredTensor*, int64_t>> unsound;  // guarded by mutex
  const auto read_part = [&](const StoredTensor& from, int64_t first, std::span<WeightRow> block) {
    std::optional<int64_t> bad;
    if (type == exact) {
      bad = decode_rows(from, first, type, block);
    } else {
      thread_local std::vector<WeightRow> floats;
      floats.resize(block.size());
      for (WeightRow& row : floats) row.values.clear();
      bad = decode_rows(from, first, WeightType::f32, floats);
      for (size_t i = 0; i < block.size(); ++i)
        if (!round_row(floats[i].values, type, block[i]) && !bad)
          bad = first + static_cast<int64_t>(i);
    }
    if (!bad) return;
    const Lock lock(mutex);
    if (!unsound) unsound = {&from, *bad};
  };
  const RowsReader read = [&](int which, int64_t first, std::span<WeightRow> block) {
    if (paired) return read_part(*parts[static_cast<size_t>(which)].matrix, first, block);
    for (const Part& part : parts) {
      const int64_t last = part.first + part.matrix->shape[0];
      if (block.empty() || first >= last) continue;
      const auto here = block.first(
          static_cast<size_t>(std::min(static_cast<int64_t>(block.size()), last - first)));
      read_part(*part.matrix, first - part.first, here);
      block = block.subspan(here.size());
      first += static_cast<int64_t>(here.size());
    }
  };
  auto weight = pack(type, rows, cols, paired, read,
                     [&](int64_t count, const std::function<void(int64_t)>& work) {
                       run_in_slices(stored, count, work);
                     });
  if (unsound)
    fail("{}: tensor {}: {} of row {} {}; the file is damaged, obtain it again",
         file_of(*unsound->first), printable(unsound->first->name),
         type == exact ? "a block" : "a number", unsound->second,
         type == exact ? "has a scale or minimum that is not a finite f16 number"
                       : "is not finite or beyond 65504");
  for (const Part& part : parts) release(*part.matrix);
  if (sink != nullptr) {
    sink->take(matrix, weight);
    weight.storage = {};
    weight.data = nullptr;
  }
  return placed(std::move(weight));
}

void WeightSource::expect_all_taken() const {
  constexpr int64_t kMostNames = 8;
  const auto left = std::ranges::count(taken_, false);
  if (left == 0) return;
  std::string names;
  int64_t listed = 0;
  for (size_t i = 0; i < tensors_.size() && listed < kMostNames; ++i) {
    if (taken_[i]) continue;
    names += (listed++ == 0 ? "" : ", ") + printable(tensors_[i].name);
  }
  fail(
      "{}: {} {} not part of the model that the configuration describes: {}{}; check that the "
      "configuration belongs to these weights",
      origin_, left, left == 1 ? "tensor is" : "tensors are", names,
      left > listed ? " and others" : "");
}

}  // namespace sala
