#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "ops/table.h"

namespace sala {

/// Memory, an order of work, and a table of ops. One thread at a time may use a device.
class Device {
 public:
  explicit Device(std::string name, const Ops& table) : ops(table), name_(std::move(name)) {}
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& name() const { return name_; }
  /// Threads that work on an op.
  virtual int threads() const { return 1; }
  /// Whether bf16 matmul runs faster than f32 here (arithmetic of its own).
  virtual bool native_bf16() const { return false; }
  /// Bytes of scratch that its ops have grown to; they depend on the largest step, not on the
  /// context.
  virtual int64_t scratch_bytes() const { return 0; }

  Ops ops;

 private:
  std::string name_;
};

/// The reference backend on the host's memory.
std::unique_ptr<Device> open_reference();

}  // namespace sala
