#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "base/error.h"
#include "base/random.h"

namespace sala {
namespace {

constexpr double kSmallest = -700.0;  ///< smaller exponents count as this
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Independent chains in reductions over a vocabulary: written out, so that they are the same
/// operations whether or not the compiler makes vectors of them.
constexpr size_t kLanes = 16;

void check_range(std::string_view name, double value, double low, double high) {
  if (!(value >= low && value <= high))
    fail("{} is {}; expected a number from {} to {}", name, value, low, high);
}

void check(const SamplingParams& p, int64_t vocab) {
  constexpr double kHuge = 1e4;
  check_range("temperature", p.temperature, 0.0, kHuge);
  check_range("top_k", static_cast<double>(p.top_k), 0.0, 1e12);
  check_range("top_p", p.top_p, 0.0, 1.0);
  check_range("min_p", p.min_p, 0.0, 1.0);
  check_range("repetition_penalty", p.repetition_penalty, 1e-4, kHuge);
  check_range("presence_penalty", p.presence_penalty, -kHuge, kHuge);
  check_range("frequency_penalty", p.frequency_penalty, -kHuge, kHuge);
  for (const auto& [token, bias] : p.logit_bias) {
    if (token < 0 || token >= vocab)
      fail("logit_bias names token {}; expected ids from 0 to {}", token, vocab - 1);
    check_range("logit_bias", bias, -kHuge, kHuge);
  }
}

/// Sum of e^(l - largest).
double sum_of_exponentials(std::span<const float> logits, double largest) {
  double lane[kLanes] = {};
  double weight[kLanes * 16];
  for (size_t i = 0; i < logits.size(); i += std::size(weight)) {
    const size_t count = std::min(std::size(weight), logits.size() - i);
    std::copy_n(logits.begin() + static_cast<std::ptrdiff_t>(i), count, weight);
    std::fill(weight + count, std::end(weight), -HUGE_VAL);
    for (double& w : weight) w = exponential(std::max(w - largest, kSmallest));
    for (size_t j = 0; j < std::size(weight); ++j) lane[j % kLanes] += weight[j];
  }
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

}  // namespace

double uniform(uint64_t seed, uint64_t index) {
  return static_cast<double>(random_bits(seed, index) >> 11) * 0x1p-53;
}

void FallingOrder::start(std::span<const float> logits, float largest, double width) {
  logits_ = logits;
  entries_.clear();
  sorted_ = 0;
  bands_ = 0;
  largest_ = largest;
  floor_ = kInfinity;
  width_ = width;
}

void FallingOrder::gather_band() {
  constexpr int kBands = 10;  // by then e^-(distance / width) is zero
  const float ceiling = floor_;
  floor_ = ++bands_ < kBands ? static_cast<float>(largest_ - width_) : -kInfinity;
  width_ *= 2;
  const auto inside = [&](float x) { return (x > floor_) & (x <= ceiling); };
  const auto gather = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      if (inside(logits_[i])) entries_.push_back({logits_[i], static_cast<int>(i)});
  };
  const size_t whole = logits_.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    int found = 0;
    for (size_t j = 0; j < kLanes; ++j) found += inside(logits_[i + j]) ? 1 : 0;
    if (found > 0) gather(i, i + kLanes);
  }
  gather(whole, logits_.size());
}

bool FallingOrder::extend() {
  constexpr size_t kChunk = 128;
  const auto before = [](const Entry& a, const Entry& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  while (sorted_ == entries_.size()) {
    if (floor_ == -kInfinity) return false;
    gather_band();
  }
  const size_t rest = entries_.size() - sorted_;
  const size_t step = std::min(rest, std::max(kChunk, sorted_));
  const auto first = entries_.begin() + static_cast<std::ptrdiff_t>(sorted_);
  const auto last = first + static_cast<std::ptrdiff_t>(step);
  if (step < rest) std::nth_element(first, last, entries_.end(), before);
  std::sort(first, last, before);
  sorted_ += step;
  return true;
}

Sampler::Sampler(SamplingParams params, int64_t vocab)
    : params_(std::move(params)), vocab_(static_cast<size_t>(vocab)) {
  SALA_CHECK(vocab <= kMostVocabulary, "a vocabulary of {} tokens, at most {}", vocab,
             kMostVocabulary);
  check(params_, vocab);
  if (penalises()) {
    reply_count_.assign(vocab_, 0);
    touched_.assign(vocab_, false);
  }
}

bool Sampler::penalises() const {
  return params_.repetition_penalty != 1.0 || params_.presence_penalty != 0.0 ||
         params_.frequency_penalty != 0.0;
}

void Sampler::touch(int token) {
  const auto i = static_cast<size_t>(token);
  if (!touched_[i]) touched_tokens_.push_back(token);
  touched_[i] = true;
}

void Sampler::see_prompt(std::span<const int> tokens) {
  if (params_.repetition_penalty == 1.0) return;
  for (const int token : tokens) touch(token);
}

void Sampler::accept(int token) {
  ++length_;
  if (!penalises()) return;
  touch(token);
  ++reply_count_[static_cast<size_t>(token)];
}

std::span<const float> Sampler::adjust(std::span<const float> logits,
                                       std::span<const uint64_t> allowed) {
  if (!changes_logits() && allowed.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : params_.logit_bias) {
    float& logit = adjusted_[static_cast<size_t>(token)];
    logit = static_cast<float>(logit + bias);
  }
  for (const int token : touched_tokens_) {
    const auto i = static_cast<size_t>(token);
    double logit = adjusted_[i];
    logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    if (const int32_t count = reply_count_[i]; count > 0)
      logit -= params_.frequency_penalty * count + params_.presence_penalty;
    adjusted_[i] = static_cast<float>(logit);
  }
  for (size_t i = 0; !allowed.empty() && i < adjusted_.size(); ++i)
    if ((allowed[i / 64] >> (i % 64) & 1) == 0) adjusted_[i] = -kInfinity;
  return adjusted_;
}

float Sampler::largest_of(std::span<const float> logits) const {
  float lane[kLanes];
  int32_t nan[kLanes] = {};
  std::ranges::fill(lane, -kInfinity);
  const auto look = [&](float x, size_t j) {
    lane[j] = x > lane[j] ? x : lane[j];
    nan[j] += x != x ? 1 : 0;
  };
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) look(logits[i + j], j);
  for (size_t j = 0; i < logits.size(); ++i, ++j) look(logits[i], j);
  const float largest = *std::ranges::max_element(lane);
  if (largest == kInfinity || std::ranges::any_of(nan, [](int32_t n) { return n > 0; })) {
    const auto bad = std::ranges::find_if(logits, [](float x) { return !(x < kInfinity); });
    fail(
        "the logits of token {} of the reply hold {} for id {}: the model's weights are damaged or "
        "overflow the type that it computes in; check the file, or use --compute f32",
        length_, *bad, bad - logits.begin());
  }
  if (largest == -kInfinity)
    fail("no token may follow token {} of the reply: every logit is -infinity", length_);
  return largest;
}

int Sampler::sample(std::span<const float> logits, std::span<const uint64_t> allowed) {
  SALA_CHECK(logits.size() == vocab_, "{} logits, {} expected", logits.size(), vocab_);
  const std::span<const float> adjusted = adjust(logits, allowed);
  const float largest = largest_of(adjusted);
  if (params_.temperature < kGreedyBelow)
    return static_cast<int>(std::ranges::find(adjusted, largest) - adjusted.begin());
  return draw(adjusted, largest);
}

/// Every cut keeps a beginning of the falling order, so what is left is its length and its mass.
int Sampler::draw(std::span<const float> logits, float largest) {
  const TokenWeights weight_of{.largest = largest, .scale = 1.0 / params_.temperature};
  order_.start(logits, largest, 2.0 * params_.temperature);
  weights_.clear();
  const auto weight = [&](size_t i) {
    for (size_t n = weights_.size(); n <= i; ++n) {
      const FallingOrder::Entry* entry = order_.at(n);
      weights_.push_back(entry == nullptr ? 0 : weight_of(entry->logit));
    }
    return weights_[i];
  };
  size_t count = logits.size();
  uint64_t mass = 0;
  if (params_.top_k > 0 && params_.top_k < static_cast<int64_t>(count)) {
    const auto most = static_cast<size_t>(params_.top_k);
    for (count = 0; count < most && weight(count) > 0; ++count) mass += weight(count);
  } else {
    mass = sum_of_weights(logits, weight_of);
  }
  if (params_.top_p < 1.0 || params_.min_p > 0.0) {
    const uint64_t enough = params_.top_p < 1.0 ? mass_of_top_p(params_.top_p, mass) : mass;
    const uint64_t least = weight_of_min_p(params_.min_p);
    const size_t most = count;
    mass = 0;
    for (count = 0; count < most && mass < enough && weight(count) >= least; ++count)
      mass += weight(count);
  }
  uint64_t left = place_of_draw(uniform(params_.seed, length_), mass);
  size_t i = 0;
  while (left >= weight(i)) left -= weight(i++);
  return order_.at(i)->token;
}

std::optional<SampleRow> Sampler::row(int64_t ahead) const {
  if (changes_logits()) return std::nullopt;
  return SampleRow{.temperature = params_.temperature,
                   .top_p = params_.top_p,
                   .min_p = params_.min_p,
                   .draw = uniform(params_.seed, length_ + ahead),
                   .top_k = params_.top_k};
}

Logprobs Sampler::logprobs(std::span<const float> logits, int token, int64_t top) {
  const float largest = largest_of(logits);
  const double log_sum = largest + std::log(sum_of_exponentials(logits, largest));
  Logprobs result;
  result.chosen = {.token = token, .logprob = logits[static_cast<size_t>(token)] - log_sum};
  order_.start(logits, largest, 2.0);
  for (size_t i = 0; i < static_cast<size_t>(top); ++i) {
    const FallingOrder::Entry* entry = order_.at(i);
    if (entry == nullptr) break;
    result.top.push_back({.token = entry->token, .logprob = entry->logit - log_sum});
  }
  return result;
}

}  // namespace sala
