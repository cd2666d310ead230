#include "tensor/tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

namespace sala {
namespace {

In describe(const void* data, DType dtype, std::initializer_list<int64_t> dims) {
  SALA_CHECK(dims.size() >= 1 && dims.size() <= 4, "rank {}", dims.size());
  In x{
      .data = data, .dtype = dtype, .rank = static_cast<int>(dims.size()), .dim = {}, .stride = {}};
  std::copy(dims.begin(), dims.end(), x.dim.begin());
  int64_t stride = 1;
  for (int i = x.rank - 1; i >= 0; --i) {
    x.stride[static_cast<size_t>(i)] = stride;
    stride *= x.dim[static_cast<size_t>(i)];
  }
  return x;
}

In part(const In& x, size_t axis, int64_t first, int64_t count) {
  SALA_CHECK(
      static_cast<int>(axis) < x.rank && first >= 0 && count >= 0 && first + count <= x.dim[axis],
      "part [{}, {}) of axis {} with extent {}", first, first + count, axis, x.dim[axis]);
  In y = x;
  y.data = static_cast<const std::byte*>(x.data) + first * x.stride[axis] * size_of(x.dtype);
  y.dim[axis] = count;
  return y;
}

}  // namespace

std::string_view name_of(DType type) {
  constexpr std::string_view names[] = {"f32", "f16", "bf16", "i32", "u8"};
  return names[static_cast<size_t>(type)];
}

int64_t In::size() const {
  if (empty()) return 0;
  int64_t n = 1;
  for (int i = 0; i < rank; ++i) n *= dim[static_cast<size_t>(i)];
  return n;
}

Out window(void* data, DType dtype, std::initializer_list<int64_t> dims) {
  return Out{describe(data, dtype, dims)};
}
In window(const void* data, DType dtype, std::initializer_list<int64_t> dims) {
  return describe(data, dtype, dims);
}

Out rows(const Out& x, int64_t first, int64_t count) { return Out{part(x, 0, first, count)}; }
In rows(const In& x, int64_t first, int64_t count) { return part(x, 0, first, count); }
Out columns(const Out& x, int64_t first, int64_t count) { return Out{part(x, 1, first, count)}; }
In columns(const In& x, int64_t first, int64_t count) { return part(x, 1, first, count); }

void expect_sparse_use(const std::byte* data, int64_t bytes) {
  ::madvise(const_cast<std::byte*>(data), static_cast<size_t>(bytes), MADV_NOHUGEPAGE);
}

void Memory::write(std::byte* to, std::span<const std::byte> from) { std::ranges::copy(from, to); }

void Memory::read(std::span<std::byte> to, const std::byte* from) {
  std::copy_n(from, to.size(), to.begin());
}

void Memory::copy(std::byte* to, const std::byte* from, int64_t bytes) {
  std::copy_n(from, bytes, to);
}

void Memory::fill(std::byte* to, std::byte value, int64_t bytes) { std::fill_n(to, bytes, value); }

int64_t Memory::available() const {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (int64_t kib = 0; file >> key >> kib >> unit;)
    if (key == "MemAvailable:") return kib * 1024;
  return -1;
}

Tensor::Tensor(Memory& memory, DType dtype, std::initializer_list<int64_t> dims)
    : view_(window(static_cast<void*>(nullptr), dtype, dims)) {
  int64_t count = 1;
  for (int64_t d : dims) count *= d;
  storage_ = memory.allocate(count * size_of(dtype));
  view_.data = storage_.get();
}

Tensor::Tensor(DType dtype, std::initializer_list<int64_t> dims) {
  Memory host;
  *this = Tensor(host, dtype, dims);
}

Tensor on_host(Memory& memory, In x) {
  Tensor copy(x.dtype, {x.size()});
  memory.read({copy.storage_.get(), static_cast<size_t>(x.size() * size_of(x.dtype))},
              static_cast<const std::byte*>(x.data));
  const void* data = copy.view_.data;
  copy.view_ = Out{x};
  copy.view_.data = data;
  return copy;
}

}  // namespace sala
