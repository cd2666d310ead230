#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace sala {

/// Drafts how a text goes on: as it did where its last tokens have stood before (prompt lookup
/// decoding; Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding). It learns how often a
/// draft comes true by how many tokens agree in front of it (as the match model of Mahoney's lpaq
/// does), and drafts no further than is worth a row of a step. A function of its calls alone.
class Drafter {
 public:
  /// Drafts have at most `most` tokens; 0: none, and nothing is kept. `expected`: what the text may
  /// say, as if it stood in front of it.
  explicit Drafter(int64_t most = 0, std::span<const int> expected = {})
      : most_(most), before_(std::ssize(expected)), text_(expected.begin(), expected.end()) {}

  /// The tokens that may follow `text`, which begins with the text of the last call: at most
  /// `room`, maybe none.
  std::vector<int> draft(std::span<const int> text, int64_t room);

 private:
  struct Match {
    int64_t end = 0;     ///< of the same tokens, earlier in the text
    int64_t length = 0;  ///< of them, at most kLongest
  };
  void append(std::span<const int> text);
  void index();
  Match find() const;

  static constexpr int kLeast = 3, kLongest = 24;  // tokens that agree
  struct Chance {
    double is = 0.0;
    int seen = 0;  ///< tokens it was learned from
  };
  Chance& chance(int64_t length) {
    return chances_[static_cast<size_t>(length < kLongest ? length : kLongest)];
  }

  int64_t most_, before_;
  std::vector<int> text_;
  /// Ends of the same kLeast tokens (or others of the same hash): the last one of each, and the one
  /// before each.
  std::vector<int32_t> heads_, previous_;
  std::array<Chance, kLongest + 1> chances_{};  ///< that the next token is right, by match length
  int64_t matched_ = 0;                         ///< length of the last match
  std::vector<int> ahead_;                      ///< what stood behind it, worth a row or not
};

}  // namespace sala
