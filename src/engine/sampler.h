#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "ops/sample.h"

namespace sala {

/// How to choose the next token (docs/sampling.md). The defaults leave the model's distribution as
/// it is but for temperature and top_p.
struct SamplingParams {
  double temperature = 0.8;  ///< below 1e-5: the most likely token
  int64_t top_k = 0;         ///< sample among this many most likely tokens; 0: all
  double top_p = 0.95;  ///< sample among the most likely tokens that together have this probability
  double min_p = 0.0;   ///< leave out tokens less likely than this share of the most likely one
  double repetition_penalty = 1.0;  ///< logits of tokens in the prompt or the reply: l > 0 ? l / r
                                    ///< : l * r (Keskar et al. 2019, arXiv 1909.05858)
  double presence_penalty = 0.0;    ///< subtracted from the logit of every token in the reply
  double frequency_penalty = 0.0;   ///< the same for each time that it occurs there
  std::vector<std::pair<int, double>> logit_bias{};  ///< token, what is added to its logit
  uint64_t seed = 0;
};

/// A uniform number in [0, 1) that is a function of (seed, index) alone: the same on every machine
/// and in any batch (SplitMix64, Steele et al. 2014).
double uniform(uint64_t seed, uint64_t index);

/// A token's share in a distribution, as natural logarithm.
struct TokenLogprob {
  int token = 0;
  double logprob = 0.0;
};

/// What the model gave one place of a reply.
struct Logprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  ///< the most likely first; the lower id among equals
};

/// The tokens of one row of logits in the order of falling logits, the lower id first among equals,
/// sorted only as far as somebody asks: tokens are gathered from the largest logit down in bands of
/// growing width. Reusable: memory grows to what the longest order needed.
class FallingOrder {
 public:
  struct Entry {
    float logit;
    int token;
  };

  /// Begins a row whose largest logit is `largest`. `logits` must stay until the next start();
  /// `width`, above 0, is how far below the largest the first band reaches. A logit of -infinity is
  /// not in the order.
  void start(std::span<const float> logits, float largest, double width);
  /// Entry i, or nullptr when the order has no more than i. Valid until the next call.
  const Entry* at(size_t i) {
    while (i >= sorted_)
      if (!extend()) return nullptr;
    return &entries_[i];
  }

 private:
  bool extend();
  void gather_band();

  std::span<const float> logits_;  ///< the caller's
  std::vector<Entry> entries_;
  size_t sorted_ = 0;
  int bands_ = 0;
  float largest_ = 0.0f, floor_ = 0.0f;
  double width_ = 1.0;
};

/// Chooses the tokens of one reply. Draw number i is a function of the logits, the parameters, the
/// tokens so far and (seed, i): of nothing else in the program. One thread at a time.
class Sampler {
 public:
  /// Throws Error that names the parameter which is out of its range, or the biased token which is
  /// not in a vocabulary of `vocab` tokens.
  Sampler(SamplingParams params, int64_t vocab);

  /// Tells the prompt, for the repetition penalty. Ids are in the vocabulary.
  void see_prompt(std::span<const int> tokens);

  /// The next token from its logits [vocab]; `allowed` has a bit for each token, which says whether
  /// it may come; empty: all may. Throws Error when they hold NaN or +infinity, or nothing but
  /// -infinity (a token that must not come has -infinity).
  int sample(std::span<const float> logits, std::span<const uint64_t> allowed = {});

  /// The next draw, or the one `ahead` tokens behind it, for the op `sample` (ops/sample.h), which
  /// chooses the token that sample() would; nothing where penalties or a bias change logits, which
  /// the op does not do.
  std::optional<SampleRow> row(int64_t ahead = 0) const;

  /// Counts `token` as the reply's next.
  void accept(int token);

  /// Tokens that the reply has: the index of the next draw.
  uint64_t length() const { return length_; }

  /// Natural logarithms of softmax(logits), the model's own distribution before penalties, bias,
  /// temperature and cuts: that of `token` and the `top` largest.
  Logprobs logprobs(std::span<const float> logits, int token, int64_t top);

 private:
  bool penalises() const;
  bool changes_logits() const { return penalises() || !params_.logit_bias.empty(); }
  void touch(int token);
  std::span<const float> adjust(std::span<const float> logits, std::span<const uint64_t> allowed);
  float largest_of(std::span<const float> logits) const;
  int draw(std::span<const float> logits, float largest);

  SamplingParams params_;
  size_t vocab_;
  uint64_t length_ = 0;
  std::vector<int32_t> reply_count_;  ///< [vocab], empty where no penalty asks
  std::vector<bool> touched_;         ///< [vocab]: is in touched_tokens_
  std::vector<int> touched_tokens_;   ///< the distinct tokens that a penalty changes
  std::vector<float> adjusted_;       ///< [vocab], empty where nothing has changed logits
  std::vector<uint64_t> weights_;     ///< of the order's entries, as far as they were asked for
  FallingOrder order_;
};

}  // namespace sala
