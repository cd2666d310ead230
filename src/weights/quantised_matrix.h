#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json_fwd.h"
#include "weights/grouped.h"
#include "weights/stored_tensor.h"

namespace sala {

/// A checkpoint whose tensors are being joined: those that `joined` marks belong to a matrix.
struct QuantisedCheckpoint {
  std::vector<StoredTensor> tensors;
  std::unordered_map<std::string, size_t> index;
  std::vector<bool> joined;
  std::string origin;
};

/// The keys of "quantization_config", or of an object in it, which `where` names. Refers to its
/// arguments.
class QuantisationKeys {
 public:
  QuantisationKeys(const Json& json, const std::string& origin, const std::string& where);

  /// Null where the key is missing or null.
  const Json* find(const char* key) const;
  std::string text(const char* key, const std::string& otherwise) const;
  int64_t integer(const char* key) const;
  /// Columns of a group; 0: all.
  int64_t group_size() const;
  [[noreturn]] void refuse(const char* key, std::string_view expected) const;

 private:
  const Json& json_;
  const std::string& origin_;
  std::string where_;
};

/// The tensors `X.…` of one matrix, and what becomes of them. Throws Error naming the tensor at
/// fault.
class QuantisedMatrix {
 public:
  QuantisedMatrix(QuantisedCheckpoint& checkpoint, std::string name)
      : checkpoint_(checkpoint), name_(std::move(name)) {}

  /// Null when there is none. It no longer belongs to the checkpoint.
  const StoredTensor* find(const char* part);
  /// The same of one that must be there, of one of these types.
  const StoredTensor& take(const char* part, std::span<const std::string_view> types);
  /// The same of one with rows and columns.
  const StoredTensor& take_table(const char* part, std::span<const std::string_view> types);
  void expect_shape(const StoredTensor& tensor, const std::vector<int64_t>& shape) const;
  [[noreturn]] void refuse(const StoredTensor& tensor, const std::string& what) const;

  void set_codes(const StoredTensor& tensor, const PackedIntegers& how);
  void set_zeros(const StoredTensor& tensor, const PackedIntegers& how);
  void set_scales(const StoredTensor& tensor, int64_t row_stride, int64_t group_stride);
  /// Which group a column belongs to: as `index` says, which may be null, else `size` columns
  /// after the other, 0 for all.
  void set_groups(int64_t count, int64_t cols, int64_t size, const StoredTensor* index);

  /// `X.weight` [rows, cols].
  StoredTensor make(int64_t rows, int64_t cols, std::string_view writer);

 private:
  QuantisedCheckpoint& checkpoint_;
  std::string name_;
  GroupedCodes grouped_;
  const StoredTensor* codes_ = nullptr;
};

}  // namespace sala
