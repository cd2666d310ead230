#include "cuda/emulation/memory.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/error.h"

namespace sala::cuda::emulation {
namespace {

constexpr int64_t kBytes = int64_t{1} << 30;
constexpr int64_t kAlign = 256;

}  // namespace

DeviceMemory::DeviceMemory() {
  void* data =
      ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SALA_CHECK(data != MAP_FAILED, "no room for {} bytes of emulated memory", kBytes);
  base_ = static_cast<std::byte*>(data);
}

DeviceMemory::~DeviceMemory() { ::munmap(base_, kBytes); }

std::shared_ptr<std::byte> DeviceMemory::allocate(int64_t bytes) {
  const int64_t size = (std::max<int64_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
  int64_t begin = 0;
  for (const auto& [first, last] : used_) {
    if (first - begin >= size) break;
    begin = last;
  }
  if (begin + size > kBytes) fail("{} bytes of emulated memory, {} in all", bytes, kBytes);
  used_[begin] = begin + size;
  end_ = std::max(end_, begin + size);
  const Opened opened(*this);
  std::fill_n(base_ + begin, size, std::byte{0});
  return {base_ + begin,
          [self = shared_from_this(), begin](std::byte*) { self->used_.erase(begin); }};
}

int64_t DeviceMemory::available() const {
  int64_t left = kBytes;
  for (const auto& [first, last] : used_) left -= last - first;
  return left;
}

void DeviceMemory::protect(int how) const {
  constexpr int64_t kPage = 4096;
  ::mprotect(base_, static_cast<size_t>((end_ + kPage - 1) / kPage * kPage), how);
}

DeviceMemory::Opened::Opened(DeviceMemory& memory) : memory_(memory) {
  if (memory_.opened_++ == 0) memory_.protect(PROT_READ | PROT_WRITE);
}

DeviceMemory::Opened::~Opened() {
  if (--memory_.opened_ == 0) memory_.protect(PROT_NONE);
}

}  // namespace sala::cuda::emulation
