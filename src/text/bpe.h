#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocab.h"

namespace sala {

/// One rule of byte-pair encoding: `left` next to `right` becomes `result`; the lowest `rank` goes
/// first, among equals the leftmost.
struct BpeMerge {
  int left = 0;
  int right = 0;
  int rank = 0;
  int result = 0;
};

/// Ids of words seen before, so that frequent words are merged once. Belongs to one call of encode
/// (no locks); its size follows the text's, up to 2 MiB.
class WordCache {
 public:
  explicit WordCache(size_t text_bytes);

  /// Appends the ids of `word` when they are known.
  bool find(std::string_view word, std::vector<int>& out);

  /// Remembers them. Call it right after `find` said no, with the same word.
  void insert(std::string_view word, const int* ids, size_t count);

 private:
  static constexpr size_t kMaxBytes = 22;
  static constexpr size_t kMaxIds = 8;
  struct alignas(64) Slot {
    std::array<int, kMaxIds> ids;
    std::array<char, kMaxBytes> word;
    uint8_t bytes = 0;
    uint8_t count = 0;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t last_ = 0;
};

/// Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) of one pre-token. Immutable:
/// thread-safe.
///
/// A pre-token may be a whole document (SentencePiece vocabularies have no pre-split). It is cut
/// where no rule can ever join the two sides, which changes nothing in the result, and each part is
/// merged in O(n log n).
class Bpe {
 public:
  /// How the text becomes the symbols that merging starts from.
  enum class Alphabet {
    kCharacters,  ///< characters as the vocabulary has them
    kBytes,       ///< raw bytes, each standing for its letter of the byte alphabet
  };
  struct Options {
    Alphabet alphabet = Alphabet::kCharacters;
    int unknown = -1;  ///< id for what the vocabulary lacks; -1: such characters are dropped
    bool fuse_unknown = false;   ///< neighbouring unknown characters give one id
    bool byte_fallback = false;  ///< unknown characters become the tokens <0x00> to <0xFF> of their
                                 ///< bytes; kCharacters only
    bool ignore_merges = false;  ///< a pre-token that is in the vocabulary is taken whole
    std::string prefix;          ///< continuing_subword_prefix
    std::string suffix;          ///< end_of_word_suffix
    std::vector<int>
        reserved;  ///< pieces that are no characters of a text, even when they look like one
    /// Characters that are part of pieces but no pieces themselves: rules know them under the
    /// numbers from `shadow_first` on, the result has their byte tokens or the unknown id instead.
    std::vector<std::string> shadows;
    int shadow_first = -1;
  };

  /// `vocab` is used during construction, and later only with ignore_merges, prefix or suffix; it
  /// must outlive this.
  Bpe(const Vocab& vocab, const std::vector<BpeMerge>& merges, Options options);

  /// Appends the ids of `text` (valid UTF-8).
  void encode(std::string_view text, WordCache& cache, std::vector<int>& out) const;

 private:
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr int kNone = -1;
  friend class LongWord;
  struct Rule {
    uint64_t pair = kNoPair;
    int rank = 0;
    int result = 0;
  };
  static uint64_t pair_of(int left, int right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  void index_characters(const Vocab& vocab);
  void index_character(std::string_view character, int id);
  void replace_shadows(std::vector<int>& out, size_t from) const;
  void index_rules(const std::vector<BpeMerge>& merges);
  void index_joints(const Vocab& vocab, const std::vector<BpeMerge>& merges);
  const Rule* rule(int left, int right) const;
  bool can_join(int left, int right) const;
  int character_id(char32_t code) const;
  bool has_byte_tokens(std::string_view character) const;
  void append_unknown(std::string_view character, int& pending, std::vector<int>& symbols) const;

  void encode_bytes(std::string_view text, WordCache& cache, std::vector<int>& out) const;
  void encode_characters(std::string_view text, WordCache& cache, std::vector<int>& out) const;
  void encode_affixed(std::string_view text, std::vector<int>& out) const;
  void merge(std::vector<int>& symbols, std::vector<int>& out) const;
  void merge_short(std::vector<int>& symbols, std::vector<int>& out) const;

  const Vocab& vocab_;
  Options options_;
  std::array<int, 256> byte_ids_{};
  std::vector<int> pages_;  ///< code >> 8 to a page of `characters_`, or -1
  std::vector<std::array<int, 256>> characters_;
  int ranks_ = 0;                 ///< one more than the largest rank of a rule
  std::vector<Rule> rules_;       ///< open addressing, size a power of two
  std::vector<uint64_t> joints_;  ///< pairs of starting symbols that some rule can bring together
};

}  // namespace sala
