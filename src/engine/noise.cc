#include "engine/noise.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/random.h"
#include "ops/math.h"

namespace sala {
namespace {

/// A block of random bytes of one kind, from which fields are cut at different places.
class Noise {
 public:
  explicit Noise(KvType type) {
    constexpr size_t kNumbers = size_t{1} << 18;
    Random random(1);
    bytes_.resize(4 * kNumbers);
    for (size_t i = 0; i < kNumbers; ++i) {
      const auto x = static_cast<float>(3.4 * random.uniform() - 1.7);  // of variance about 1
      const uint16_t half = f32_to_bf16(x);
      // Two scales or four codes: without its second bit, no byte begins an f16 beyond 2.
      const uint32_t codes = static_cast<uint32_t>(random.bits()) & 0xBFBFBFBFU;
      std::byte* to = bytes_.data() + 4 * i;
      if (type == KvType::f32) std::memcpy(to, &x, 4);
      if (type == KvType::bf16) std::memcpy(to, &half, 2), std::memcpy(to + 2, &half, 2);
      if (type >= KvType::int8) std::memcpy(to, &codes, 4);
    }
  }

  void fill(std::span<std::byte> out, int64_t seed) const {
    size_t at = static_cast<size_t>(seed) * 7919 * 4 % bytes_.size();
    while (!out.empty()) {
      const size_t count = std::min(out.size(), bytes_.size() - at);
      std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(at), count, out.begin());
      out = out.subspan(count);
      at = 0;
    }
  }

 private:
  std::vector<std::byte> bytes_;
};

class NoisyPages final : public PageStore {
 public:
  explicit NoisyPages(KvType type) : noise_(type) {}
  void read(int64_t record, int layer, std::span<std::byte> out) override {
    noise_.fill(out, 64 * record + layer);
  }

 private:
  Noise noise_;
};

}  // namespace

Hold noise(Runner& runner, int64_t tokens) {
  const int page = runner.cache().page();
  SALA_CHECK(tokens > 0 && tokens % page == 0, "{} tokens, pages of {}", tokens, page);
  const KvType kv = runner.options().kv;
  StoredText text;
  text.tokens = tokens;
  text.store = std::make_shared<NoisyPages>(kv);
  for (int64_t i = 0; i < tokens / page; ++i) text.records.push_back(i);
  const Noise index(kv == KvType::f32 ? KvType::f32 : KvType::bf16), states(KvType::f32);
  text.read_index = [&](int64_t i, int layer, std::span<std::byte> out) {
    index.fill(out, 64 * i + layer);
  };
  text.snapshots.emplace_back(tokens, [&](std::span<std::byte> out) { states.fill(out, 0); });
  Cache& cache = runner.cache();
  std::optional<Hold> hold = cache.restore(text);
  SALA_CHECK(hold && hold->length() == tokens, "no room for {} tokens", tokens);
  for (int i = 0; i < cache.layers(); ++i) {
    const LayerMemory layer = cache.layer(i);
    if (layer.managed() && layer.capacity() * page >= tokens)
      layer.use(hold->pages(), Frames::Access::read);
  }
  return std::move(*hold);
}

}  // namespace sala
