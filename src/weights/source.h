#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mapped_file.h"
#include "ops/weight.h"
#include "tensor/tensor.h"

namespace sala {

/// Element types as files store them. The block types are GGUF's, 32 columns a block.
enum class StoredType : uint8_t { f32, f16, bf16, q4_0, q4_1, q8_0 };

std::string_view name_of(StoredType type);
/// Bytes of `columns` elements (a multiple of the block).
int64_t stored_bytes(StoredType type, int64_t columns);

/// One tensor as it lies in a file: row-major, `shape` outermost first (PyTorch's order; GGUF's is reversed on reading).
struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const MappedFile> file;  ///< keeps `bytes` alive

  int64_t elements() const;
};

/// Runs work(i) for i in [0, count) on any threads.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& work)>;

/// The tensors of a checkpoint, by Hugging Face names. Each is taken once, with the shape that the model expects: the
/// model's constructor is the schema. Errors name the file, the tensor, what was found and what was expected.
/// Not thread-safe.
class WeightSource {
 public:
  /// A Hugging Face directory: model.safetensors, or model.safetensors.index.json and its shards.
  static WeightSource open_directory(const std::filesystem::path& dir);
  /// The tensors that somebody else has read (GGUF).
  explicit WeightSource(std::vector<StoredTensor> tensors, std::string origin);

  /// Called now and then while weights are taken, with the bytes of the file taken so far and in all.
  std::function<void(int64_t done, int64_t total)> progress;
  /// How packing is spread over threads; serial when not set.
  ParallelFor parallel;

  bool has(std::string_view name) const;
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const std::string& origin() const { return origin_; }

  /// A vector of n values as f32.
  Tensor take_vector(const std::string& name, int64_t n);
  /// A matrix [rows, cols] of a linear map, packed.
  Weight take_matrix(const std::string& name, int64_t rows, int64_t cols);
  /// Matrices of one width laid one under the other, as one map: part i is `names[i]` with rows[i] rows. Where the parts
  /// differ in type, the result has the narrowest type that holds all of them without loss.
  Weight take_stack(std::span<const std::string> names, std::span<const int64_t> rows, int64_t cols);
  /// Two matrices [rows, cols] as a paired weight (ops/weight.h).
  Weight take_pair(const std::string& first, const std::string& second, int64_t rows, int64_t cols);

  /// Throws Error naming every tensor that nobody has taken.
  void expect_all_taken() const;

 private:
  StoredTensor& take(const std::string& name, std::initializer_list<int64_t> shape);

  std::string origin_;
  std::vector<StoredTensor> tensors_;
  std::vector<bool> taken_;
  std::unordered_map<std::string, size_t> index_;
  int64_t bytes_taken_ = 0;
  int64_t bytes_total_ = 0;
};

}  // namespace sala
