#include "engine/machine.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string_view>

#include "base/error.h"
#include "base/parallel.h"
#include "cpu/device.h"
#include "cpu/isa.h"
#include "engine/runner.h"
#include "ops/math.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

constexpr int kRounds = 5;
constexpr double kMuch = 1e3;  // of a round, in rates: any real machine is slower

/// A line "Key:   number kB" of a file of /proc, in bytes.
int64_t proc_line(const char* path, std::string_view wanted) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(wanted)) return std::atoll(line.c_str() + wanted.size()) * 1024;
  return 0;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The shortest of some rounds, after one that does not count.
double best_seconds(const std::function<void()>& work) {
  work();
  double best = kMuch;
  for (int i = 0; i < kRounds; ++i) best = std::min(best, seconds_of(work));
  return best;
}

/// A matrix of small numbers.
Weight some_weight(WeightType type, int64_t rows, int64_t cols) {
  const auto read = [&](int, int64_t n, WeightRow& row) {
    std::minstd_rand random(static_cast<unsigned>(n) + 1);
    const auto count = static_cast<size_t>(cols), groups = count / kGroup;
    for (size_t i = 0; i < count; ++i) {
      const auto code = static_cast<uint8_t>(random() % 16);
      if (type == WeightType::f32) row.values.push_back(code);
      if (type == WeightType::bf16) row.bits.push_back(f32_to_bf16(code));
      if (type == WeightType::w4) row.codes.push_back(code);
    }
    if (type == WeightType::w4) {
      row.scales.assign(groups, f32_to_f16(0.5f));
      row.mins.assign(groups, f32_to_f16(-4.0f));
    }
  };
  return pack(type, rows, cols, false, read,
              [](int64_t count, const std::function<void(int64_t)>& work) {
                for (int64_t i = 0; i < count; ++i) work(i);
              });
}

/// Operations a second of the product of `tokens` rows.
double measure_matmul(Device& device, const Weight& weight, Compute compute, int64_t tokens) {
  constexpr int64_t kOperations = int64_t{1} << 28;  // of a round
  Tensor x(DType::f32, {tokens, weight.cols}), y(DType::f32, {tokens, weight.rows});
  std::fill_n(x.view().as<float>(), tokens * weight.cols, 0.5f);
  const int64_t operations = 2 * tokens * weight.rows * weight.cols;
  const int64_t calls = std::max<int64_t>(1, kOperations / operations / 4);
  const double seconds = best_seconds([&] {
    for (int64_t i = 0; i < calls; ++i)
      matmul(device, x.view(), weight, Epilogue::none, compute, y.view());
  });
  return static_cast<double>(calls * operations) / seconds;
}

MatmulRates measure_rates(Device& device, int64_t tokens) {
  constexpr int64_t kSize = 1024;
  const auto rate = [&](WeightType type, Compute compute) {
    return measure_matmul(device, some_weight(type, kSize, kSize), compute, tokens);
  };
  return {.f32 = rate(WeightType::f32, Compute::f32),
          .bf16 = rate(WeightType::bf16, device.native_bf16() ? Compute::bf16 : Compute::f32),
          .int8 = rate(WeightType::w4, Compute::int8)};
}

/// The graphics cards that NVIDIA's driver lists.
std::vector<std::string> gpus() {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& card : fs::directory_iterator("/proc/driver/nvidia/gpus", error)) {
    std::ifstream file(card.path() / "information");
    for (std::string line; std::getline(file, line);)
      if (line.starts_with("Model:"))
        found.push_back(line.substr(std::min(line.size(), line.find_first_not_of(" \t", 6))));
  }
  std::ranges::sort(found);
  return found;
}

std::string isa_name() {
  switch (cpu::isa()) {
    case cpu::Isa::avx512:
      return "avx512";
    case cpu::Isa::avx2:
      return "avx2";
    case cpu::Isa::baseline:
      return "baseline";
  }
  panic("unknown instruction set", __FILE__, __LINE__);
}

}  // namespace

double MatmulRates::of(WeightType type) const {
  if (type == WeightType::f32 || type == WeightType::f16) return f32;
  return type == WeightType::bf16 ? bf16 : int8;
}

int64_t peak_memory() { return proc_line("/proc/self/status", "VmHWM:"); }

Machine measure_machine(int threads) {
  Machine machine;
  machine.cores = available_cores();
  machine.threads = threads > 0 ? threads : machine.cores;
  machine.isa = isa_name();
  machine.vnni = cpu::has_vnni();
  machine.bf16 = cpu::has_fast_bf16();
  machine.memory = proc_line("/proc/meminfo", "MemTotal:");
  machine.available = std::max<int64_t>(0, Memory().available());
  machine.gpus = gpus();
  {
    constexpr int64_t kProbe = int64_t{256} << 20;
    ThreadPool pool(machine.threads);
    machine.limits = cpu::LimitProbe(pool, std::min(kProbe, machine.available / 8)).all();
  }
  const auto device = open_cpu(machine.threads);
  constexpr int64_t kPrompt = 128;
  machine.many = measure_rates(*device, kPrompt);
  machine.one = measure_rates(*device, 1);
  return machine;
}

Machine measure_gpu(Device& gpu) {
  Machine machine;
  machine.cores = available_cores();
  machine.threads = gpu.threads();
  machine.isa = gpu.name();
  machine.bf16 = gpu.native_bf16();
  machine.available = gpu.available();
  machine.memory = machine.available;
  machine.gpus = gpus();
  machine.limits = gpu.limits();
  const Limits& limits = machine.limits;
  machine.many = machine.one = {.f32 = limits.f32,
                                .bf16 = limits.bf16,
                                .int8 = gpu.decodes_to_bf16() ? limits.bf16 : limits.int8};
  return machine;
}

}  // namespace sala
