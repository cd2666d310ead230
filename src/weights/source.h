#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ops/weight.h"
#include "tensor/tensor.h"
#include "weights/packed.h"
#include "weights/stored_tensor.h"

namespace sala {

/// Runs work(i) for i in [0, count) on any threads.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& work)>;

/// Who wants the packed matrices themselves rather than a model made of them (quantize).
struct MatrixSink {
  /// The type in which a matrix is wanted that its file holds in `matrix.type`.
  std::function<WeightType(const PackedMatrix& matrix)> choose;
  /// Gets each matrix when it is packed; the model gets one without data. Where this is not set
  /// nothing is packed.
  std::function<void(const PackedMatrix& matrix, const Weight& weight)> take;
};

/// The tensors of a checkpoint, by Hugging Face names. Each is taken once, with the shape that the
/// model expects: the model's constructor is the schema. Errors name the file, the tensor, what was
/// found and what was expected. Not thread-safe.
class WeightSource {
 public:
  /// A Hugging Face directory: model.safetensors, or model.safetensors.index.json and its shards,
  /// quantised by others or not (join_quantised.h).
  static WeightSource open_directory(const std::filesystem::path& dir);
  /// The tensors that somebody else has read (GGUF). `origin` stands for them in messages. Throws
  /// Error when two have the same name.
  explicit WeightSource(std::vector<StoredTensor> tensors, std::string origin);

  /// Random tensors of whatever shape is asked for: norms of ones, matrices of `type`, the
  /// embedding in bf16 where `type` is a quantised one, as sala quantize keeps it.
  static WeightSource random(WeightType type);

  /// Called by the taking thread at least every 64 MB and when the last tensor is taken, with the
  /// bytes of the files taken so far and in all.
  std::function<void(int64_t done, int64_t total)> progress;
  /// How packing is spread over threads; serial when not set.
  ParallelFor parallel;
  /// What a user should know of these tensors before loading them; may be empty.
  std::string remark;
  /// Where matrices go; null: to the model.
  const MatrixSink* sink = nullptr;
  /// Where the model's tensors lie; null: in the host's memory. Must outlive the model.
  Memory* memory = nullptr;

  bool has(std::string_view name) const;
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const std::string& origin() const { return origin_; }

  /// A vector of n values as f32, divided by `divisor`. Stored as F32, F16 or BF16.
  Tensor take_vector(const std::string& name, int64_t n, float divisor = 1.0f);
  /// The same matrix where the model's tensors lie.
  Weight placed(Weight weight) const;
  /// What a model knows without a file, where its tensors lie.
  Tensor constant(std::span<const float> values);
  /// A matrix [rows, cols] of a linear map, packed in the narrowest type that holds what is stored
  /// without loss. Taking a tensor lets go of its pages of the file; a matrix that the file holds
  /// packed (packed.h) is used where it lies.
  Weight take_matrix(const std::string& name, int64_t rows, int64_t cols);
  /// Matrices of one width laid one under the other, as one map: part i is `names[i]` with rows[i]
  /// rows. Where the parts differ in type, the result has the narrowest type that holds all of them
  /// without loss.
  Weight take_stack(std::span<const std::string> names, std::span<const int64_t> rows,
                    int64_t cols);
  /// Two matrices [rows, cols] as a paired weight (ops/weight.h).
  Weight take_pair(const std::string& first, const std::string& second, int64_t rows, int64_t cols);

  /// Throws Error naming every tensor that nobody has taken.
  void expect_all_taken() const;

 private:
  /// A part of a packed matrix: a stored matrix and where its rows begin.
  struct Part {
    const StoredTensor* matrix = nullptr;
    int64_t first = 0;
  };

  const StoredTensor& take(const std::string& name, std::initializer_list<int64_t> shape);
  std::optional<Weight> take_packed(const std::string& parts, int64_t rows, int64_t cols);
  Weight take_random(const std::string& parts, int64_t rows, int64_t cols, bool paired);
  Weight pack_parts(const std::string& names, std::span<const Part> parts, int64_t rows,
                    int64_t cols, bool paired);
  void run_in_slices(int64_t stored, int64_t count, const std::function<void(int64_t)>& work);
  void release(const StoredTensor& tensor);
  void report(int64_t taken);
  std::string file_of(const StoredTensor& tensor) const;

  std::string origin_;
  std::optional<WeightType> random_;  ///< of random matrices; there are no tensors then
  std::vector<StoredTensor> tensors_;
  std::vector<bool> taken_;
  std::unordered_map<std::string, size_t> index_;
  std::unordered_map<std::string, size_t> packed_;  ///< by the names of the parts
  int64_t bytes_taken_ = 0;
  int64_t bytes_total_ = 0;
  int64_t bytes_reported_ = 0;
};

}  // namespace sala
