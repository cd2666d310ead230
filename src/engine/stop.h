#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace sala {

/// Looks for stop strings in a text that comes in pieces, and gives the text in front of the first
/// one. What might be the beginning of a stop string waits until that is decided; what is given and
/// what waits are whole characters when the pieces are.
///
/// The first stop string is the one that is complete first; of several that are complete at the
/// same character the longest. Time is linear in the text and in the stop strings (Aho and Corasick
/// 1975). One thread at a time.
class StopStrings {
 public:
  /// Throws Error when one is empty.
  explicit StopStrings(const std::vector<std::string>& stops);

  /// The text that `piece` lets go. Nothing may be pushed once found().
  std::string push(std::string_view piece);
  /// There is no more text: what was waiting. Then ready for another text.
  std::string flush();

  /// True when a stop string is complete; matched() says which, rest() what followed it in its
  /// piece.
  bool found() const { return found_ >= 0; }
  int matched() const { return found_; }
  const std::string& rest() const { return rest_; }

 private:
  struct Node {
    int depth = 0;     ///< bytes from the root: the length of what waits
    int fallback = 0;  ///< the longest proper suffix that also begins a stop string
    int stop = -1;     ///< the longest stop string that ends here
  };

  int child(int node, unsigned char byte) const;
  int advance(int node, unsigned char byte) const;

  std::vector<Node> nodes_;
  std::vector<size_t> lengths_;                 ///< of the stop strings
  std::unordered_map<uint64_t, int> children_;  ///< node * 256 + byte
  int at_ = 0;
  int found_ = -1;
  std::string waiting_, rest_;
};

}  // namespace sala
