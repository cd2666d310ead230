#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

namespace sala::cuda::emulation {

/// Memory that nobody reaches but who has opened it: host code that touches it dies at once, as it
/// would beside a GPU.
class DeviceMemory : public std::enable_shared_from_this<DeviceMemory> {
 public:
  DeviceMemory();
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// Zeroed bytes on a boundary of 256. Throws Error when there are not enough.
  std::shared_ptr<std::byte> allocate(int64_t bytes);
  int64_t available() const;

  /// While it lives the memory is within reach.
  class Opened {
   public:
    explicit Opened(DeviceMemory& memory);
    ~Opened();
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;

   private:
    DeviceMemory& memory_;
  };

 private:
  void protect(int how) const;

  std::byte* base_;
  std::map<int64_t, int64_t> used_;  ///< where allocations begin and end
  int64_t end_ = 0;                  ///< of the last there ever was
  int opened_ = 0;
};

}  // namespace sala::cuda::emulation
