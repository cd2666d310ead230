#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/error.h"

namespace sala {

/// Element types of dense tensors. Quantised matrices are not tensors: see ops/weight.h.
enum class DType : uint8_t { f32, f16, bf16, i32, u8 };

constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

std::string_view name_of(DType type);

/// The DType of a C++ element type. bf16 and f16 are kept as their bits in uint16_t and are named
/// explicitly.
template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, uint8_t>) return DType::u8;
}

/// A window to read: rank <= 4, strides in elements, the last dimension contiguous. Owns nothing. A
/// default In is empty and stands for an absent optional input.
struct In {
  const void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, 4> dim{};
  std::array<int64_t, 4> stride{};

  constexpr bool empty() const { return data == nullptr; }
  int64_t size() const;
  template <class T>
  const T* as() const {
    SALA_CHECK(dtype == dtype_of<T>(), "tensor is {}, read as {}", name_of(dtype),
               name_of(dtype_of<T>()));
    return static_cast<const T*>(data);
  }
  /// Row i of a tensor of rank 2.
  template <class T>
  const T* row(int64_t i) const {
    return as<T>() + i * stride[0];
  }
};

/// A window to write.
struct Out : In {
  template <class T>
  T* as() const {
    return const_cast<T*>(In::as<T>());
  }
  template <class T>
  T* row(int64_t i) const {
    return as<T>() + i * stride[0];
  }
};

using Extents = std::span<const int64_t>;

/// A contiguous window over memory that somebody else owns.
Out window(void* data, DType dtype, std::initializer_list<int64_t> dims);
In window(const void* data, DType dtype, std::initializer_list<int64_t> dims);
template <class T>
Out window(std::span<T> data, std::initializer_list<int64_t> dims)
  requires(!std::is_const_v<T>)
{
  return window(static_cast<void*>(data.data()), dtype_of<T>(), dims);
}
template <class T>
In window(std::span<const T> data, std::initializer_list<int64_t> dims) {
  return window(static_cast<const void*>(data.data()), dtype_of<T>(), dims);
}

/// Rows [first, first + count) of a tensor of rank >= 1, and columns of a tensor of rank 2.
Out rows(const Out& x, int64_t first, int64_t count);
In rows(const In& x, int64_t first, int64_t count);
Out columns(const Out& x, int64_t first, int64_t count);
In columns(const In& x, int64_t first, int64_t count);

/// Bytes on a 64-byte boundary.
using Storage = std::shared_ptr<std::byte>;
/// Bytes of the host, zeroed when the system hands them out and touched lazily. Throws Error when
/// the memory cannot be had, naming the amount.
Storage allocate(int64_t bytes);
/// Says that memory from allocate() will be touched here and there only, so that it comes in the
/// system's small pages.
void expect_sparse_use(const std::byte* data, int64_t bytes);

/// Where tensors lie. This one is the host's; that of another device overrides all of it, and then
/// its bytes are reached by these functions and the device's ops alone, in the order of the calls.
class Memory {
 public:
  Memory() = default;
  virtual ~Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  /// Whether the host may read and write what allocate() gives, with no more ado.
  virtual bool of_host() const { return true; }
  /// Zeroed bytes. Throws Error when they cannot be had, naming the amount.
  virtual Storage allocate(int64_t bytes) { return sala::allocate(bytes); }
  /// Zeroed bytes that the host owns and the device's ops reach, more slowly.
  virtual Storage allocate_on_host(int64_t bytes) { return sala::allocate(bytes); }
  /// Copies from the host's bytes.
  virtual void write(std::byte* to, std::span<const std::byte> from);
  /// Copies to the host's bytes; they are there when it returns.
  virtual void read(std::span<std::byte> to, const std::byte* from);
  virtual void copy(std::byte* to, const std::byte* from, int64_t bytes);
  virtual void fill(std::byte* to, std::byte value, int64_t bytes);
  /// Bytes that it can still give, or -1 when that is not known.
  virtual int64_t available() const;
};

/// The owner of a contiguous tensor.
class Tensor {
 public:
  Tensor() = default;
  /// Zeros in the host's memory.
  Tensor(DType dtype, std::initializer_list<int64_t> dims);
  /// Zeros in `memory`.
  Tensor(Memory& memory, DType dtype, std::initializer_list<int64_t> dims);
  /// A copy in `memory` of values of the host.
  template <class T>
  Tensor(Memory& memory, std::span<const T> values, std::initializer_list<int64_t> dims)
      : Tensor(memory, dtype_of<T>(), dims) {
    memory.write(storage_.get(), std::as_bytes(values));
  }
  operator Out() const { return view_; }
  Out view() const { return view_; }
  bool empty() const { return view_.empty(); }

 private:
  friend Tensor on_host(Memory& memory, In x);
  Storage storage_;
  Out view_;
};

/// A copy of a contiguous tensor of `memory` in the host's memory.
Tensor on_host(Memory& memory, In x);

}  // namespace sala
