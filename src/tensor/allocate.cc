// Alone in its file, so that a program can put another in its place.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tensor/tensor.h"

namespace sala {

Storage allocate(int64_t bytes) {
  SALA_CHECK(bytes >= 0, "{} bytes", bytes);
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    fail("cannot reserve {} bytes of memory: {}; use a smaller model or context", bytes,
         std::strerror(errno));
  constexpr size_t kHugePage = size_t{2} << 20;
  if (size >= 2 * kHugePage) ::madvise(data, size, MADV_HUGEPAGE);
  return {static_cast<std::byte*>(data), [size](std::byte* p) { ::munmap(p, size); }};
}

}  // namespace sala
