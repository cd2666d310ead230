#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cpu/device.h"
#include "cpu/isa.h"
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "ops/device.h"
#include "ops/math.h"

/// What the tests of ops share: random tensors, weights, sequences and pages, comparisons, and the
/// devices under test.
namespace sala::test {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  /// A whole number in [low, high].
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  float normal() { return normal_(engine_); }
  template <class T>
  void shuffle(std::vector<T>& values) {
    std::shuffle(values.begin(), values.end(), engine_);
  }
  /// Normal numbers of deviation `size`, f32.
  Tensor tensor(std::initializer_list<int64_t> dims, float size = 1) {
    Tensor x(DType::f32, dims);
    float* data = x.view().as<float>();
    for (int64_t i = 0; i < x.view().size(); ++i) data[i] = size * normal();
    return x;
  }
  Weight weight(WeightType type, int64_t rows, int64_t cols, bool paired = false);

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

inline Weight Random::weight(WeightType type, int64_t rows, int64_t cols, bool paired) {
  const auto read = [&](int, int64_t, WeightRow& row) {
    for (int64_t k = 0; k < cols; ++k) {
      const float x = normal();
      if (type == WeightType::f32) row.values.push_back(x);
      if (type == WeightType::f16) row.bits.push_back(f32_to_f16(x));
      if (type == WeightType::bf16) row.bits.push_back(f32_to_bf16(x));
      if (!quantised(type)) continue;
      const int largest = narrow(type) ? 15 : 255;
      if (two_level(type) && k % group_columns(type) == 0) {
        row.scale_codes.push_back(static_cast<int8_t>(between(-128, 127)));
        row.min_codes.push_back(static_cast<int8_t>(between(-128, 127)));
      }
      if (k % column_unit(type) == 0) {
        const float width = (1 + std::abs(x)) / (two_level(type) ? 64.0f : 1.0f);
        row.scales.push_back(f32_to_f16(2 * width / static_cast<float>(largest)));
        row.mins.push_back(f32_to_f16(-width * 0.9f));
      }
      row.codes.push_back(static_cast<uint8_t>(between(0, largest)));
    }
  };
  return pack(type, rows, cols, paired, read,
              [](int64_t count, const std::function<void(int64_t)>& work) {
                for (int64_t i = 0; i < count; ++i) work(i);
              });
}

inline Tensor integers(const std::vector<int32_t>& values, std::initializer_list<int64_t> dims) {
  Tensor x(DType::i32, dims);
  std::ranges::copy(values, x.view().as<int32_t>());
  return x;
}

inline Tensor copy_of(const Tensor& x) {
  const Out from = x;
  Tensor y = from.rank == 1   ? Tensor(from.dtype, {from.dim[0]})
             : from.rank == 2 ? Tensor(from.dtype, {from.dim[0], from.dim[1]})
             : from.rank == 3
                 ? Tensor(from.dtype, {from.dim[0], from.dim[1], from.dim[2]})
                 : Tensor(from.dtype, {from.dim[0], from.dim[1], from.dim[2], from.dim[3]});
  std::memcpy(const_cast<void*>(y.view().data), from.data,
              static_cast<size_t>(from.size() * size_of(from.dtype)));
  return y;
}

/// A tensor of `rows` x `cols` f32 whose rows lie `gap` floats apart in memory of NaN, as the parts
/// of a fused projection.
struct Strided {
  Strided(int64_t rows, int64_t cols, int64_t gap) : all(DType::f32, {rows, cols + gap}) {
    std::fill_n(all.view().as<float>(), all.view().size(), std::nanf(""));
    view = columns(all.view(), gap / 2, cols);
  }
  Strided(const Tensor& from, int64_t gap) : Strided(from.view().dim[0], from.view().dim[1], gap) {
    for (int64_t t = 0; t < view.dim[0]; ++t)
      std::copy_n(from.view().row<float>(t), view.dim[1], view.row<float>(t));
  }
  Tensor all;
  Out view;
};

/// Row t of a tensor of rank >= 2 as bytes, for comparisons bit for bit.
inline std::string bits_of_row(const In& x, int64_t t) {
  return {static_cast<const char*>(x.data) + t * x.stride[0] * size_of(x.dtype),
          static_cast<size_t>(x.size() / x.dim[0] * size_of(x.dtype))};
}

inline testing::AssertionResult same_bits(const In& a, const In& b) {
  for (int64_t t = 0; t < a.dim[0]; ++t)
    if (bits_of_row(a, t) != bits_of_row(b, t))
      return testing::AssertionFailure() << "row " << t << " of " << a.dim[0] << " differs";
  return testing::AssertionSuccess();
}

/// |a - b| <= tolerance in every element of two f32 tensors of rank 2.
inline testing::AssertionResult close(const In& a, const In& b, double tolerance) {
  for (int64_t t = 0; t < a.dim[0]; ++t)
    for (int64_t i = 0; i < a.dim[1]; ++i) {
      const double x = a.row<float>(t)[i];
      const double y = b.row<float>(t)[i];
      if (!(std::abs(x - y) <= tolerance))
        return testing::AssertionFailure()
               << fmt::format("[{}, {}]: {} and {} differ by {:.3g}, more than {:.3g}", t, i, x, y,
                              std::abs(x - y), tolerance);
    }
  return testing::AssertionSuccess();
}

/// One rounding of f32.
inline constexpr double kEpsilon = 0x1p-24;

/// Tokens [first, first + count) of sequence `sequence`, in one step.
struct Piece {
  int64_t sequence;
  int64_t first;
  int64_t count;
};
using Schedule = std::vector<std::vector<Piece>>;

/// The tensors of a step.
struct Step {
  std::vector<Piece> pieces;
  Tensor positions, starts, page_table, slots;
  int64_t tokens() const { return positions.view().dim[0]; }
  Sequences sequences() const {
    return {.positions = positions, .starts = starts, .page_table = page_table, .slots = slots};
  }
};

/// Sequences of given lengths that share a pool: each has pages and a slot of its own, in shuffled
/// order. Pool page 0 and slot 0 belong to nobody.
class Crowd {
 public:
  Crowd(Random& random, std::vector<int64_t> lengths, int64_t page)
      : lengths_(std::move(lengths)), page_(page) {
    std::vector<int32_t> free(static_cast<size_t>(pool_pages() - 1));
    std::iota(free.begin(), free.end(), 1);
    random.shuffle(free);
    for (const int64_t length : lengths_) {
      const auto count = static_cast<std::ptrdiff_t>((length + page - 1) / page);
      pages_.emplace_back(free.end() - count, free.end());
      free.resize(free.size() - static_cast<size_t>(count));
    }
    slots_.resize(lengths_.size());
    std::iota(slots_.begin(), slots_.end(), 1);
    random.shuffle(slots_);
  }

  const std::vector<int64_t>& lengths() const { return lengths_; }
  const std::vector<int32_t>& slots() const { return slots_; }
  const std::vector<std::vector<int32_t>>& pages() const { return pages_; }
  int64_t slot_count() const { return static_cast<int64_t>(lengths_.size()) + 1; }
  int64_t pool_pages() const {
    int64_t count = 3;
    for (const int64_t length : lengths_) count += (length + page_ - 1) / page_;
    return count;
  }

  Step step(const std::vector<Piece>& pieces) const {
    std::vector<int32_t> positions, starts{0}, table, slots;
    size_t width = 1;
    for (const auto& pages : pages_) width = std::max(width, pages.size());
    for (const Piece& piece : pieces) {
      for (int64_t i = 0; i < piece.count; ++i)
        positions.push_back(static_cast<int32_t>(piece.first + i));
      starts.push_back(static_cast<int32_t>(positions.size()));
      table.insert(table.end(), pages_[piece.sequence].begin(), pages_[piece.sequence].end());
      table.resize(starts.size() * width - width);
      slots.push_back(slots_[piece.sequence]);
    }
    const auto T = static_cast<int64_t>(positions.size());
    const auto B = static_cast<int64_t>(pieces.size());
    return {.pieces = pieces,
            .positions = integers(positions, {T}),
            .starts = integers(starts, {B + 1}),
            .page_table = integers(table, {B, static_cast<int64_t>(width)}),
            .slots = integers(slots, {B})};
  }

 private:
  std::vector<int64_t> lengths_;
  int64_t page_;
  std::vector<std::vector<int32_t>> pages_;
  std::vector<int32_t> slots_;
};

/// Schedules that feed the same sequences: each alone and whole; all in one step; token by token;
/// random pieces of several sequences in each step, in any order.
inline Schedule one_by_one(const std::vector<int64_t>& lengths) {
  Schedule schedule;
  for (size_t s = 0; s < lengths.size(); ++s)
    schedule.push_back({{static_cast<int64_t>(s), 0, lengths[s]}});
  return schedule;
}
inline Schedule all_at_once(const std::vector<int64_t>& lengths) {
  std::vector<Piece> step;
  for (size_t s = lengths.size(); s-- > 0;)
    step.push_back({static_cast<int64_t>(s), 0, lengths[s]});
  return {step};
}
inline Schedule token_by_token(const std::vector<int64_t>& lengths) {
  Schedule schedule;
  for (int64_t t = 0; t < *std::ranges::max_element(lengths); ++t) {
    auto& step = schedule.emplace_back();
    for (size_t s = 0; s < lengths.size(); ++s)
      if (t < lengths[s]) step.push_back({static_cast<int64_t>(s), t, 1});
  }
  return schedule;
}
inline Schedule random_pieces(Random& random, const std::vector<int64_t>& lengths, int longest) {
  Schedule schedule;
  std::vector<int64_t> done(lengths.size());
  while (done != lengths) {
    std::vector<Piece> step;
    for (size_t s = 0; s < lengths.size(); ++s) {
      const int64_t count = std::min<int64_t>(
          lengths[s] - done[s], random.between(0, 3) == 0 ? 1 : random.between(1, longest));
      if (count == 0 || random.between(0, 3) == 0) continue;
      step.push_back({static_cast<int64_t>(s), done[s], count});
      done[s] += count;
    }
    random.shuffle(step);
    if (!step.empty()) schedule.push_back(step);
  }
  return schedule;
}

/// One value for each token of each sequence: tensor s is [lengths[s], width].
using Streams = std::vector<Tensor>;

inline Streams streams(Random& random, const std::vector<int64_t>& lengths, int64_t width,
                       float size = 1) {
  Streams all;
  for (const int64_t length : lengths) all.push_back(random.tensor({length, width}, size));
  return all;
}
inline Streams streams_of(DType type, const std::vector<int64_t>& lengths, int64_t width) {
  Streams all;
  for (const int64_t length : lengths)
    all.emplace_back(type, std::initializer_list<int64_t>{length, width});
  return all;
}

/// The tokens of a step out of streams, and back into them.
inline Tensor gather(const Streams& from, const Step& step) {
  const int64_t width = from[0].view().dim[1];
  const DType type = from[0].view().dtype;
  Tensor to(type, {step.tokens(), width});
  auto* bytes = static_cast<char*>(const_cast<void*>(to.view().data));
  for (const Piece& piece : step.pieces)
    for (int64_t i = 0; i < piece.count; ++i, bytes += width * size_of(type))
      std::memcpy(bytes, bits_of_row(from[piece.sequence], piece.first + i).data(),
                  static_cast<size_t>(width * size_of(type)));
  return to;
}
inline void scatter(const Tensor& from, const Step& step, Streams& to) {
  int64_t t = 0;
  for (const Piece& piece : step.pieces)
    for (int64_t i = 0; i < piece.count; ++i, ++t) {
      const std::string bits = bits_of_row(from, t);
      const Out& out = to[piece.sequence].view();
      std::memcpy(static_cast<char*>(const_cast<void*>(out.data)) +
                      (piece.first + i) * static_cast<int64_t>(bits.size()),
                  bits.data(), bits.size());
    }
}

inline testing::AssertionResult same_bits(const Streams& a, const Streams& b) {
  for (size_t s = 0; s < a.size(); ++s)
    if (auto same = same_bits(a[s].view(), b[s].view()); !same) return same << " in sequence " << s;
  return testing::AssertionSuccess();
}
inline testing::AssertionResult close(const Streams& a, const Streams& b, double tolerance) {
  for (size_t s = 0; s < a.size(); ++s)
    if (auto near = close(a[s].view(), b[s].view(), tolerance); !near)
      return near << " in sequence " << s;
  return testing::AssertionSuccess();
}

/// A pool of one paged field: the pages of a crowd are zero, all else (other pages, the gaps
/// between) is NaN in any type.
struct Field {
  Field(const Crowd& crowd, int64_t page_bytes) {
    paged = {.data = nullptr, .stride = (page_bytes + 127) / 64 * 64};
    bytes = crowd.pool_pages() * paged.stride;
    storage = allocate(bytes);
    paged.data = storage.get();
    std::memset(paged.data, 0xFF, static_cast<size_t>(bytes));
    for (const auto& pages : crowd.pages())
      for (const int32_t page : pages)
        std::memset(paged.data + page * paged.stride, 0, static_cast<size_t>(page_bytes));
  }
  bool operator==(const Field& other) const {
    return std::memcmp(paged.data, other.paged.data, static_cast<size_t>(bytes)) == 0;
  }
  Storage storage;
  Paged paged;
  int64_t bytes = 0;
};

/// An op that returns when it is done.
template <auto kOp>
struct Waiting;
template <class... Arguments, void (*kOp)(Device&, Arguments...)>
struct Waiting<kOp> {
  static void op(Device& device, Arguments... arguments) {
    kOp(device, arguments...);
    device.wait();
  }
};
/// The CUDA backend with such ops: tests look at results at once.
inline std::unique_ptr<Device> waiting(std::unique_ptr<Device> device) {
  device->ops = {.embed = Waiting<&cuda::embed>::op,
                 .residual_norm = Waiting<&cuda::residual_norm>::op,
                 .matmul = Waiting<&cuda::matmul>::op,
                 .rope_table = Waiting<&cuda::rope_table>::op,
                 .qk_norm_rope = Waiting<&cuda::qk_norm_rope>::op,
                 .kv_append = Waiting<&cuda::kv_append>::op,
                 .compress_keys = Waiting<&cuda::compress_keys>::op,
                 .block_select = Waiting<&cuda::block_select>::op,
                 .attention = Waiting<&cuda::attention>::op,
                 .lightning = Waiting<&cuda::lightning>::op,
                 .sample = Waiting<&cuda::sample>::op};
  return device;
}

inline constexpr int kReference = 0, kCuda = -1;

/// A device under test.
struct Target {
  std::string name;
  int threads = kReference;  ///< of the CPU backend; kReference and kCuda are the other backends
  cpu::Isa isa = cpu::Isa::avx512;
  bool bf16 = false;  ///< bf16 arithmetic where it is there, fast or not

  std::unique_ptr<Device> open() const {
    if (threads == kCuda) return waiting(open_cuda());
    return threads == kReference ? open_reference() : open_cpu(threads);
  }
};

/// The CPU backend with each instruction set and with one to three threads.
inline std::vector<Target> cpu_targets() {
  return {{"cpu", 1},
          {"cpu_2_threads", 2},
          {"cpu_3_threads", 3},
          {"cpu_bf16", 2, cpu::Isa::avx512, true},
          {"cpu_avx2", 2, cpu::Isa::avx2},
          {"cpu_baseline", 1, cpu::Isa::baseline}};
}
/// The CUDA backend's kernels, under emulation (src/cuda/emulation) or, built by nvcc, on a GPU.
inline Target cuda_target() {
#ifdef SALA_CUDA_EMULATION
  return {"cuda_emulated", kCuda};
#else
  return {"cuda", kCuda};
#endif
}

/// All backends but the reference. The thread sanitizer knows nothing of the emulation's fibers,
/// and hangs.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SALA_THREAD_SANITIZER
#endif
#endif
inline std::vector<Target> fast_targets() {
#ifdef SALA_GPU_CHECK  // what a GPU computes, and nothing else
  return {cuda_target()};
#endif
  std::vector<Target> all = cpu_targets();
#ifndef SALA_THREAD_SANITIZER
  all.push_back(cuda_target());
#endif
  return all;
}
inline std::vector<Target> targets() {
  std::vector<Target> all = fast_targets();
  all.push_back({"reference"});
  return all;
}

inline std::string name_of_target(const testing::TestParamInfo<Target>& info) {
  return info.param.name;
}

/// A target at work; what it limits ends with it. One at a time.
class Opened {
 public:
  explicit Opened(const Target& target) {
    cpu::limit_isa(target.isa);
    cpu::assume_fast_bf16(target.bf16);
    device_ = target.open();
  }
  ~Opened() {
    cpu::limit_isa(cpu::Isa::avx512);
    cpu::assume_fast_bf16(false);
  }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  Device& device() { return *device_; }

 private:
  std::unique_ptr<Device> device_;
};

/// A test that runs on a device.
class OnDevice : public testing::TestWithParam<Target> {
 protected:
  OnDevice() : opened_(GetParam()), reference_(open_reference()) {}
  Device& device() { return opened_.device(); }
  Device& reference() { return *reference_; }

 private:
  Opened opened_;
  std::unique_ptr<Device> reference_;
};

}  // namespace sala::test
