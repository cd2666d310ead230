// A GPU's memory, stream and captured graphs.
#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "cuda/device.h"

namespace sala::cuda {
namespace {

constexpr int64_t kStaging = int64_t{16} << 20;  // bytes
constexpr int64_t kLarge = int64_t{1} << 20;     // bytes worth several threads
constexpr int kThreads = 8;                      // that copy to staging

// Steps of more tokens take longer than the launching of their kernels.
constexpr int64_t kMostTokens = 128;
constexpr size_t kMostGraphs = 128;

/// A captured graph for each shape that came twice: the first time grows scratch.
class Graphs final : public Recordings {
 public:
  explicit Graphs(CudaDevice& device) : device_(device) {}
  ~Graphs() override { clear(); }
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;

  void run(const StepShape& shape, const std::function<void()>& work) override {
    if (shape.tokens > kMostTokens) return work();
    if (graphs_.size() == kMostGraphs && !graphs_.contains(shape)) clear();
    const auto [entry, first] = graphs_.try_emplace(shape);
    if (first) return work();
    Graph& graph = entry->second;
    if (graph.launchable == nullptr || graph.moves != device_.moves()) capture(graph, work);
    check(cudaGraphLaunch(graph.launchable, device_.stream()));
  }

 private:
  struct Graph {
    cudaGraphExec_t launchable = nullptr;
    int64_t moves = 0;
  };

  void capture(Graph& graph, const std::function<void()>& work) {
    release(graph);
    check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t captured = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(device_.stream(), &captured);
      cudaGraphDestroy(captured);
      throw;
    }
    check(cudaStreamEndCapture(device_.stream(), &captured));
    const cudaError_t status = cudaGraphInstantiate(&graph.launchable, captured, 0);
    cudaGraphDestroy(captured);
    check(status);
    graph.moves = device_.moves();
  }

  void release(Graph& graph) {
    if (graph.launchable == nullptr) return;
    device_.wait();
    cudaGraphExecDestroy(graph.launchable);
    graph = {};
  }

  void clear() {
    for (auto& [shape, graph] : graphs_) release(graph);
    graphs_.clear();
  }

  CudaDevice& device_;
  std::map<StepShape, Graph> graphs_;
};

/// As its maker calls it: what a GPU computes is the same on all of a model.
std::string name_of_gpu(int ordinal) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, ordinal));
  return properties.name;
}

double mib(size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

}  // namespace

void check(cudaError_t status) {
  if (status != cudaSuccess) fail("CUDA: {}", cudaGetErrorString(status));
}

CudaDevice::CudaDevice(int ordinal) : Device(name_of_gpu(ordinal), cuda_ops()), ordinal_(ordinal) {
  bind();
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
  launches_early_ = major >= 9 && kernels_wait();
  warpgroups_ = major == 9 && kernels_have_warpgroups();
  for (cudaEvent_t& mark : marks_) check(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming));
  for (Staging& staging : staging_) {
    void* data = nullptr;
    check(cudaHostAlloc(&data, kStaging, cudaHostAllocPortable));
    staging.data = static_cast<std::byte*>(data);
    check(cudaEventCreateWithFlags(&staging.passed, cudaEventDisableTiming));
  }
}

CudaDevice::~CudaDevice() {
  cudaSetDevice(ordinal_);
  cudaStreamSynchronize(stream_);
  for (Buffer& buffer : scratch_) release(buffer);
  for (cudaEvent_t mark : marks_) cudaEventDestroy(mark);
  for (const Staging& staging : staging_) {
    cudaEventDestroy(staging.passed);
    cudaFreeHost(staging.data);
  }
  cudaStreamDestroy(stream_);
}

// A thread has a GPU of its own choice, number 0 at first.
void CudaDevice::bind() const { check(cudaSetDevice(ordinal_)); }

void CudaDevice::wait() { check(cudaStreamSynchronize(stream_)); }

int64_t CudaDevice::mark() {
  check(cudaEventRecord(marks_[marked_ % kMarks], stream_));
  return marked_++;
}

void CudaDevice::wait_for(int64_t mark) {
  SALA_CHECK(mark >= marked_ - kMarks && mark < marked_, "mark {} of {}", mark, marked_);
  check(cudaEventSynchronize(marks_[mark % kMarks]));
}

Storage CudaDevice::allocate(int64_t bytes) {
  bind();
  void* data = nullptr;
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  if (cudaMalloc(&data, size) != cudaSuccess) {
    cudaGetLastError();  // the next call would report it again
    fail(
        "{} has {:.1f} MiB of memory left, {:.1f} MiB are needed at once: use a shorter context, "
        "--kv int8, --kv-memory, or a model with smaller weights (sala quantize)",
        name(), mib(static_cast<size_t>(available())), mib(size));
  }
  Storage storage(static_cast<std::byte*>(data), [](std::byte* p) { cudaFree(p); });
  fill(storage.get(), std::byte{0}, bytes);
  return storage;
}

Storage CudaDevice::allocate_on_host(int64_t bytes) {
  bind();
  void* data = nullptr;
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  if (cudaHostAlloc(&data, size, cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess) {
    cudaGetLastError();
    fail("the system cannot pin {:.1f} MiB of memory for {}: use a shorter context or --kv int8",
         mib(size), name());
  }
  std::memset(data, 0, size);
  return {static_cast<std::byte*>(data), [](std::byte* p) { cudaFreeHost(p); }};
}

void CudaDevice::write(std::byte* to, std::span<const std::byte> from) {
  bind();
  while (!from.empty()) {
    const auto part = from.first(std::min(from.size(), static_cast<size_t>(kStaging)));
    Staging& staging = staging_[turn_++ % 2];
    check(cudaEventSynchronize(staging.passed));
    if (std::ssize(part) < kLarge) {
      std::ranges::copy(part, staging.data);
    } else {  // perhaps from a file that has yet to be read
      if (!pool_) pool_.emplace(std::min(kThreads, available_cores()));
      pool_->run((std::ssize(part) + kLarge - 1) / kLarge, [&](int64_t i, int) {
        const auto slice = part.subspan(static_cast<size_t>(i * kLarge));
        std::copy_n(slice.begin(), std::min(std::ssize(slice), kLarge), staging.data + i * kLarge);
      });
    }
    check(cudaMemcpyAsync(to, staging.data, part.size(), cudaMemcpyDefault, stream_));
    check(cudaEventRecord(staging.passed, stream_));
    to += part.size();
    from = from.subspan(part.size());
  }
}

void CudaDevice::read(std::span<std::byte> to, const std::byte* from) {
  bind();
  while (!to.empty()) {
    const auto part = to.first(std::min(to.size(), static_cast<size_t>(kStaging)));
    Staging& staging = staging_[turn_++ % 2];
    check(cudaMemcpyAsync(staging.data, from, part.size(), cudaMemcpyDefault, stream_));
    wait();
    std::copy_n(staging.data, part.size(), part.begin());
    from += part.size();
    to = to.subspan(part.size());
  }
}

void CudaDevice::copy(std::byte* to, const std::byte* from, int64_t bytes) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_));
}

void CudaDevice::fill(std::byte* to, std::byte value, int64_t bytes) {
  check(cudaMemsetAsync(to, static_cast<int>(value), static_cast<size_t>(bytes), stream_));
}

int64_t CudaDevice::available() const {
  bind();
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

std::unique_ptr<Recordings> CudaDevice::recordings() { return std::make_unique<Graphs>(*this); }

std::byte* CudaDevice::scratch(int lane, int64_t bytes) {
  scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(lane) + 1));
  Buffer& buffer = scratch_[static_cast<size_t>(lane)];
  if (buffer.bytes < bytes) {
    wait();  // earlier ops may use the old one
    release(buffer);
    void* data = nullptr;
    check(cudaMalloc(&data, static_cast<size_t>(bytes)));
    buffer = {.data = static_cast<std::byte*>(data), .bytes = bytes};
    ++moves_;
  }
  return buffer.data;
}

void CudaDevice::release(Buffer& buffer) {
  cudaFree(buffer.data);
  buffer = {};
}

int64_t CudaDevice::scratch_bytes() const {
  int64_t bytes = 0;
  for (const Buffer& buffer : scratch_) bytes += buffer.bytes;
  return bytes;
}

}  // namespace sala::cuda

namespace sala {

std::unique_ptr<Device> open_cuda(int ordinal) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count);
      status != cudaSuccess || ordinal < 0 || ordinal >= count)
    fail("no GPU number {}: {}; run nvidia-smi to see whether there is one and its driver works",
         ordinal,
         status != cudaSuccess ? cudaGetErrorString(status)
                               : fmt::format("the driver shows {}", count).c_str());
  return std::make_unique<cuda::CudaDevice>(ordinal);
}

}  // namespace sala
