#include "start.h"

#include <cmath>

#include "base/error.h"
#include "model/rope.h"

namespace sala::halo {
namespace {

// Tokens of the context that are compared.
constexpr int64_t kPast = 7;
// How far, in nats, the best place of a peaked softmax is above its neighbours.
constexpr double kPeak = 10.0;
// Nats that a token in common adds to a place's score, and those by which its successor leads.
constexpr double kMatch = 3.0, kVote = 8.0;

/// The parts of the residual stream: element 0 is one everywhere, then codes of the token here, of
/// those 1 to 7 back, and of the one that is predicted.
struct Layout {
  int64_t hidden, width = (hidden - 1) / (kPast + 2);
  int64_t back(int64_t places) const { return 1 + places * width; }
  int64_t predicted() const { return back(kPast + 1); }
  /// What the norm multiplies by when `codes` parts are filled, with elements of size one.
  double normed(int64_t codes) const {
    return std::sqrt(static_cast<double>(hidden) / static_cast<double>(1 + codes * width));
  }
};

class Induction {
 public:
  Induction(const ModelConfig& config, uint64_t seed)
      : config_(config),
        heads_(config.attention.heads),
        group_(heads_ / config.attention.kv_heads),
        dim_(config.attention.head_dim),
        part_{.hidden = config.hidden},
        weights_(random_start(config, seed, torch::kCPU)) {
    for (const float f : inverse_frequencies(config.rope, config.attention.head_dim))
      frequencies_.push_back(f);
  }

  Weights make() {
    for (auto& [name, weight] : weights_)
      if (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight")) weight.zero_();
    name_tokens();
    for (int64_t head = 0; head < 3; ++head) bring(0, head, head + 1, 1);
    bring(1, 0, 4, 4);
    find_again(2);
    return std::move(weights_);
  }

 private:
  Tensor& of(int layer, const char* name) {
    return weights_.at(layer_tensor(layer, std::string("self_attn.") + name));
  }
  /// The rows of one head of a projection.
  Tensor rows(int layer, const char* name, int64_t head) {
    return of(layer, name).narrow(0, head * dim_, dim_);
  }

  void name_tokens() {
    const Tensor codes = torch::randn({config_.vocab, part_.width}).sign();
    Tensor& embedding = weights_.at("model.embed_tokens.weight");
    embedding.mul_(0.02);
    embedding.select(1, 0).fill_(1.0);
    embedding.narrow(1, part_.back(0), part_.width).copy_(codes);
    Tensor& head = weights_.at("lm_head.weight");
    head.mul_(0.1);
    head.narrow(1, part_.predicted(), part_.width)
        .copy_(codes * (kVote / static_cast<double>(part_.width)));
  }

  /// A head that copies `parts` codes, those of the tokens 0 to parts - 1 back, from `places` back.
  /// The query is a constant that RoPE turns; the key is one that it does not.
  void bring(int layer, int64_t head, int64_t places, int64_t parts) {
    const double norm = part_.normed(parts);
    Tensor q = rows(layer, "q_proj", head), k = rows(layer, "k_proj", head / group_);
    q.zero_();
    k.zero_();
    double lead = 0.0;  // of the right place over the next one
    for (const double f : frequencies_) lead += 1.0 - std::cos(f);
    const double size = std::sqrt(kPeak * std::sqrt(static_cast<double>(dim_)) / lead) / norm;
    const auto half = static_cast<int64_t>(frequencies_.size());
    for (int64_t i = 0; i < half; ++i) {
      const double angle = frequencies_[static_cast<size_t>(i)] * static_cast<double>(places);
      q[i][0] = size * std::cos(angle);
      q[i + half][0] = -size * std::sin(angle);
      k[i][0] = size;
    }
    const int64_t copied = parts * part_.width;
    const Tensor one = torch::eye(copied);
    Tensor v = rows(layer, "v_proj", head / group_);
    v.zero_();
    v.narrow(0, 0, copied).narrow(1, part_.back(0), copied).copy_(one);
    of(layer, "o_proj")
        .narrow(0, part_.back(places), copied)
        .narrow(1, head * dim_, copied)
        .copy_(one / norm);
  }

  /// Heads that compare the tokens before a place with those here: the sums of their codes, each
  /// mixed at random, in the pairs that RoPE hardly turns.
  void find_again(int layer) {
    const double norm = part_.normed(kPast + 1);
    const auto half = static_cast<int64_t>(frequencies_.size());
    const auto context = static_cast<double>(config_.trained_context);
    int64_t first = 0;
    while (first < half && frequencies_[static_cast<size_t>(first)] * context > 1.0) ++first;
    const int64_t slow = half - first;
    if (slow == 0)
      fail(
          "RoPE of base {} turns every pair of a head of {} within {} tokens; expected a larger "
          "base",
          config_.rope.theta, dim_, config_.trained_context);
    of(layer, "q_proj").zero_();
    of(layer, "k_proj").zero_();
    // q . k / sqrt(dim) is kMatch for each token in common.
    const double size =
        std::sqrt(kMatch * std::sqrt(static_cast<double>(dim_)) / static_cast<double>(part_.width));
    for (int64_t group = 0; group < config_.attention.kv_heads; ++group) {
      for (int64_t places = 0; places < kPast; ++places) {
        const Tensor mix = torch::randn({2, slow, part_.width}) *
                           (size / norm / std::sqrt(2.0 * static_cast<double>(slow)));
        for (int64_t side = 0; side < 2; ++side) {
          const auto put = [&](const char* name, int64_t head, int64_t from) {
            rows(layer, name, head)
                .narrow(0, side * half + first, slow)
                .narrow(1, part_.back(from), part_.width)
                .copy_(mix[side]);
          };
          for (int64_t head = 0; head < group_; ++head)
            put("q_proj", group * group_ + head, places);
          put("k_proj", group, places + 1);
        }
      }
      Tensor v = rows(layer, "v_proj", group);
      v.zero_();
      v.narrow(0, 0, part_.width)
          .narrow(1, part_.back(0), part_.width)
          .copy_(torch::eye(part_.width));
    }
    for (int64_t head = 0; head < heads_; ++head)
      of(layer, "o_proj")
          .narrow(0, part_.predicted(), part_.width)
          .narrow(1, head * dim_, part_.width)
          .copy_(torch::eye(part_.width) / (norm * static_cast<double>(heads_)));
  }

  const ModelConfig& config_;
  int64_t heads_, group_, dim_;
  Layout part_;
  Weights weights_;
  std::vector<double> frequencies_;
};

}  // namespace

Weights random_start(const ModelConfig& config, uint64_t seed, torch::Device device) {
  torch::manual_seed(static_cast<int64_t>(seed));
  Weights weights;
  const double added = 1.0 / std::sqrt(2.0 * config.layers());
  for (const auto& [name, shape] : tensor_shapes(config)) {
    const bool residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
    weights[name] =
        shape.size() == 1
            ? torch::ones(shape, device)
            : torch::randn(shape)
                  .mul_((residual ? added : 1.0) / std::sqrt(static_cast<double>(shape[1])))
                  .to(device);
  }
  return weights;
}

Weights induction_start(const ModelConfig& config, uint64_t seed, torch::Device device) {
  const auto need = [](bool met, const char* what, int64_t found, int64_t expected) {
    if (!met) fail("an induction start needs {} of at least {}; found {}", what, expected, found);
  };
  const Layout part{.hidden = config.hidden};
  need(config.layers() >= 3, "a number of layers", config.layers(), 3);
  need(config.attention.heads >= 3, "a number of heads", config.attention.heads, 3);
  need(part.width >= 8, "a residual stream", config.hidden, 8 * (kPast + 2) + 1);
  need(config.attention.head_dim >= 4 * part.width, "heads", config.attention.head_dim,
       4 * part.width);
  if (config.tied || !config.attention.rope)
    fail("an induction start needs RoPE and an lm_head that is not the embedding");
  Weights weights = Induction(config, seed).make();
  for (auto& [name, weight] : weights) weight = weight.to(device);
  return weights;
}

}  // namespace sala::halo
