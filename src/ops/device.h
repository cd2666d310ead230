#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "ops/limits.h"
#include "ops/table.h"

namespace sala {

/// What a step looks like from outside: two with the same shape launch the same work.
struct StepShape {
  int64_t tokens = 0, sequences = 0, pages = 0, logits = 0;
  auto operator<=>(const StepShape&) const = default;
};

/// Work that is done again and again with the same arguments. Must not outlive its device.
class Recordings {
 public:
  virtual ~Recordings() = default;
  /// Does `work`, or what it did when it was last called for this shape: the same calls of ops and
  /// of Memory::copy and fill, with the same arguments.
  virtual void run(const StepShape& /*shape*/, const std::function<void()>& work) { work(); }
};

/// Memory, an order of work, and a table of ops. One thread at a time may use a device.
class Device : public Memory {
 public:
  explicit Device(std::string name, const Ops& table) : ops(table), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  /// Threads that work on an op.
  virtual int threads() const { return 1; }
  /// Whether bf16 matmul runs faster than f32 here (arithmetic of its own).
  virtual bool native_bf16() const { return false; }
  /// Whether a matmul of quantised weights is as fast in bf16, which is nearer to the exact product
  /// than int8 activations.
  virtual bool decodes_to_bf16() const { return false; }
  /// Bytes of scratch that its ops have grown to; they depend on the largest step, not on the
  /// context.
  virtual int64_t scratch_bytes() const { return 0; }
  /// Waits until everything that it was asked is done.
  virtual void wait() {}
  /// A place in its order of work, behind all that it was asked so far.
  virtual int64_t mark() { return 0; }
  /// Waits until all before one of the last two marks is done.
  virtual void wait_for(int64_t /*mark*/) {}
  /// Measures what the device allows now, in well under a second.
  virtual Limits limits() { return {}; }
  virtual std::unique_ptr<Recordings> recordings() { return std::make_unique<Recordings>(); }

  Ops ops;

 private:
  std::string name_;
};

/// The reference backend on the host's memory.
std::unique_ptr<Device> open_reference();

}  // namespace sala
