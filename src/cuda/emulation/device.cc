// The emulated GPU: commands are done when the host waits for them, in memory that it cannot reach.
#include "cuda/device.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include "base/error.h"

namespace sala::cuda {
namespace {

/// Commands of every shape, done again from the second time on: what they do may depend on
/// nothing but the device's memory.
class Commands final : public Recordings {
 public:
  explicit Commands(CudaDevice& device) : device_(device) {}
  void run(const StepShape& shape, const std::function<void()>& work) override {
    const auto known = steps_.find(shape);
    if (known == steps_.end())
      steps_[shape] = device_.record(work);
    else
      for (const CudaDevice::Command& command : known->second) device_.command(command);
  }

 private:
  CudaDevice& device_;
  std::map<StepShape, std::vector<CudaDevice::Command>> steps_;
};

}  // namespace

CudaDevice::CudaDevice(int ordinal)
    : Device("cuda (emulated)", cuda_ops()),
      warpgroups_(ordinal == 0),
      memory_(std::make_shared<emulation::DeviceMemory>()) {}
CudaDevice::~CudaDevice() = default;

// What was freed may come again.
Storage CudaDevice::allocate(int64_t bytes) {
  wait();
  return memory_->allocate(bytes);
}

Storage CudaDevice::allocate_on_host(int64_t bytes) {
  const Storage pinned = sala::allocate(bytes);
  return {pinned.get(), [this, pinned](std::byte*) { wait(); }};
}

int64_t CudaDevice::available() const { return memory_->available(); }

void CudaDevice::write(std::byte* to, std::span<const std::byte> from) {
  SALA_CHECK(record_ == nullptr, "the host's bytes in a recorded step");
  command([to, bytes = std::vector<std::byte>(from.begin(), from.end())] {
    std::ranges::copy(bytes, to);
  });
}

void CudaDevice::read(std::span<std::byte> to, const std::byte* from) {
  SALA_CHECK(record_ == nullptr, "the host waits in a recorded step");
  wait();
  const emulation::DeviceMemory::Opened opened(*memory_);
  std::copy_n(from, to.size(), to.begin());
}

void CudaDevice::copy(std::byte* to, const std::byte* from, int64_t bytes) {
  command([=] { std::memmove(to, from, static_cast<size_t>(bytes)); });
}

void CudaDevice::fill(std::byte* to, std::byte value, int64_t bytes) {
  command([=] { std::fill_n(to, bytes, value); });
}

void CudaDevice::command(Command command) {
  if (record_ != nullptr) record_->push_back(command);
  asked_.push_back({std::move(command)});
}

void CudaDevice::wait() { do_until(done_ + std::ssize(asked_)); }

int64_t CudaDevice::mark() {
  marks_[marked_ % kMarks] = done_ + std::ssize(asked_);
  return marked_++;
}

void CudaDevice::wait_for(int64_t mark) {
  SALA_CHECK(mark >= marked_ - kMarks && mark < marked_, "mark {} of {}", mark, marked_);
  do_until(marks_[mark % kMarks]);
}

void CudaDevice::do_until(int64_t count) {
  const emulation::DeviceMemory::Opened opened(*memory_);
  for (; done_ < count; ++done_) {
    // Kernels begin before what they wait for has run, and what that waits for.
    for (size_t i = 0; i < 3 && i < asked_.size() && begin(asked_[i]); ++i) {
    }
    finish(asked_.front());
    asked_.pop_front();
  }
}

/// Begins a kernel, which may come before the kernels in front of it are done; all else may not.
bool CudaDevice::begin(Asked& asked) {
  const auto* kernel = std::get_if<emulation::Kernel>(&asked.command);
  if (kernel == nullptr) return false;
  if (asked.launch == nullptr) {
    asked.launch = std::make_unique<emulation::Launch>(*kernel);
    asked.launch->begin();
  }
  return true;
}

void CudaDevice::finish(Asked& asked) {
  if (asked.launch != nullptr)
    asked.launch->end();
  else
    std::get<std::function<void()>>(asked.command)();
}

std::vector<CudaDevice::Command> CudaDevice::record(const std::function<void()>& work) {
  std::vector<Command> commands;
  record_ = &commands;
  try {
    work();
  } catch (...) {
    record_ = nullptr;
    throw;
  }
  record_ = nullptr;
  return commands;
}

std::unique_ptr<Recordings> CudaDevice::recordings() { return std::make_unique<Commands>(*this); }

// The exact size, so that the address sanitizer sees what lies outside, and new with each request,
// so that nobody finds what an earlier op has left.
std::byte* CudaDevice::scratch(int lane, int64_t bytes) {
  const auto at = static_cast<size_t>(lane);
  scratch_.resize(std::max(scratch_.size(), at + 1));
  scratch_sizes_.resize(scratch_.size());
  const auto size = static_cast<size_t>(bytes);
  constexpr std::align_val_t kAlign{256};
  const Storage storage(static_cast<std::byte*>(::operator new(size, kAlign)),
                        [](std::byte* p) { ::operator delete(p, std::align_val_t{256}); });
  command([storage, size] { std::memset(storage.get(), 0xFF, size); });
  // What was asked may use the one before.
  command([before = std::exchange(scratch_[at], storage)] {});
  scratch_sizes_[at] = bytes;
  return storage.get();
}

int64_t CudaDevice::scratch_bytes() const {
  int64_t sum = 0;
  for (const int64_t bytes : scratch_sizes_) sum += bytes;
  return sum;
}

}  // namespace sala::cuda

namespace sala {

std::unique_ptr<Device> open_cuda(int ordinal) {
  return std::make_unique<cuda::CudaDevice>(ordinal);
}

}  // namespace sala
