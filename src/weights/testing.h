#pragma once

#include <fmt/ranges.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/testing.h"

/// Files for tests: what the formats' writers write, byte by byte, so that tests can damage it.
namespace sala::testing {

template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

inline std::span<const std::byte> as_span(std::string_view bytes) {
  return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
}

struct FileTensor {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

/// A safetensors file of a header's text and data.
inline std::string safetensors_file(const std::string& header, const std::string& data) {
  return bytes_of(static_cast<uint64_t>(header.size())) + header + data;
}

/// A safetensors file of these tensors, one after the other.
inline std::string safetensors_file(const std::vector<FileTensor>& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})", data;
  for (const auto& tensor : tensors) {
    header += fmt::format(R"(,"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          tensor.name, tensor.dtype, fmt::join(tensor.shape, ","), data.size(),
                          data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  return safetensors_file(header + "}", data);
}

/// Writes GGUF files: add() metadata and tensors, then file().
class GgufFile {
 public:
  /// Metadata in its raw form: a value type and the bytes that follow it.
  GgufFile& raw(const std::string& key, uint32_t type, const std::string& bytes) {
    pairs_ += text(key) + bytes_of(type) + bytes;
    ++pair_count;
    return *this;
  }
  GgufFile& add(const std::string& key, uint32_t value) { return raw(key, 4, bytes_of(value)); }
  GgufFile& add(const std::string& key, float value) { return raw(key, 6, bytes_of(value)); }
  GgufFile& add(const std::string& key, const char* value) { return raw(key, 8, text(value)); }

  /// A tensor; `shape` outermost first.
  GgufFile& tensor(const std::string& name, uint32_t type, const std::vector<int64_t>& shape,
                   const std::string& bytes) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    return tensor_at(name, type, shape, data_.size(), bytes);
  }
  /// The same with an offset that need not be true.
  GgufFile& tensor_at(const std::string& name, uint32_t type, const std::vector<int64_t>& shape,
                      uint64_t offset, const std::string& bytes) {
    infos_ += text(name) + bytes_of(static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) infos_ += bytes_of(static_cast<uint64_t>(shape[i]));
    infos_ += bytes_of(type) + bytes_of(offset);
    data_ += bytes;
    ++tensor_count;
    return *this;
  }

  static std::string text(const std::string& value) {
    return bytes_of(static_cast<uint64_t>(value.size())) + value;
  }
  /// Everything before the data, without padding.
  std::string header() const {
    return magic + bytes_of(version) + bytes_of(tensor_count) + bytes_of(pair_count) + pairs_ +
           infos_;
  }
  std::string file() const {
    std::string result = header();
    result.resize((result.size() + alignment - 1) / alignment * alignment);
    return result + data_;
  }

  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t tensor_count = 0, pair_count = 0;
  size_t alignment = 32;

 private:
  std::string pairs_, infos_, data_;
};

}  // namespace sala::testing
