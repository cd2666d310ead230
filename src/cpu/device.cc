#include "cpu/device.h"

namespace sala::cpu {

CpuDevice::CpuDevice(int threads)
    : Device("cpu", cpu_ops()), pool_(threads > 0 ? threads : available_cores()) {}

std::byte* CpuDevice::scratch(int lane, int64_t bytes) {
  const auto index = static_cast<size_t>(lane);
  if (scratch_.size() <= index) scratch_.resize(index + 1);
  Buffer& buffer = scratch_[index];
  if (buffer.bytes < bytes) {
    buffer = {};  // the old one goes first, so that the two never count together
    buffer.storage = allocate(bytes);
    buffer.bytes = bytes;
  }
  return buffer.storage.get();
}

Limits CpuDevice::limits() {
  if (!probe_) probe_.emplace(pool_);
  return probe_->all();
}

int64_t CpuDevice::scratch_bytes() const {
  int64_t bytes = 0;
  for (const Buffer& buffer : scratch_) bytes += buffer.bytes;
  return bytes;
}

}  // namespace sala::cpu

namespace sala {

std::unique_ptr<Device> open_cpu(int threads) { return std::make_unique<cpu::CpuDevice>(threads); }

}  // namespace sala
