#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "weights/gguf.h"

namespace sala {

/// Reads a GGUF file from front to back; every read is checked against what is left. `what` names
/// the thing that is read, for messages.
class GgufCursor {
 public:
  GgufCursor(std::span<const std::byte> bytes, std::string file)
      : bytes_(bytes), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  template <class T>
  T read(std::string_view what) {
    T value;
    need(sizeof value, what);
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  std::string_view text(std::string_view what) {
    const auto length = read<uint64_t>(what);
    need(length, what);
    const auto* data = reinterpret_cast<const char*>(bytes_.data() + position_);
    position_ += static_cast<size_t>(length);
    return {data, static_cast<size_t>(length)};
  }

  /// A count of things that take at least `each` bytes of the file.
  uint64_t count(uint64_t each, std::string_view what) {
    const auto value = read<uint64_t>(what);
    check_count(value, each, what);
    return value;
  }
  void check_count(uint64_t value, uint64_t each, std::string_view what) const {
    if (value > left() / each)
      fail(
          "{}: {}: {} entries do not fit into the {} bytes that are left; the file is truncated or "
          "damaged, obtain it again",
          file_, what, value, left());
  }

 private:
  void need(uint64_t size, std::string_view what) const {
    if (size > left())
      fail(
          "{}: {}: {} bytes are needed at byte {}, but {} are left; the file is truncated or "
          "damaged, obtain it again",
          file_, what, size, position_, left());
  }

  std::span<const std::byte> bytes_;
  std::string file_;
  size_t position_ = 0;
};

/// A metadata value with its type in front. Arrays of arrays are refused.
GgufValue read_gguf_value(GgufCursor& in, std::string_view what);

/// A count or an offset in 64 bits; above 2^63 - 1 it is refused.
int64_t read_gguf_size(GgufCursor& in, std::string_view what);

/// A name that will be printed and compared: UTF-8 and not empty.
std::string read_gguf_name(GgufCursor& in, std::string_view what);

}  // namespace sala
