#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "text/bpe_long_word.h"
#include "text/byte_alphabet.h"
#include "text/unicode.h"

namespace sala {
namespace {

// Up to this many symbols a plain search for the best pair beats a heap.
constexpr size_t kShortWord = 24;

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15ULL;
  return x ^ x >> 32;
}

uint64_t hash_of(std::string_view word) {
  uint64_t hash = word.size();
  const char* at = word.data();
  size_t left = word.size();
  for (; left >= 8; left -= 8, at += 8) {
    uint64_t chunk = 0;
    std::memcpy(&chunk, at, 8);
    hash = mix(hash ^ chunk);
  }
  uint64_t tail = 0;
  std::memcpy(&tail, at, left);
  return mix(mix(hash ^ tail) + left);
}

template <class Entry, class Key>
size_t free_slot(const std::vector<Entry>& table, uint64_t pair, Key&& key) {
  const size_t mask = table.size() - 1;
  size_t at = mix(pair) & mask;
  while (key(table[at]) != ~uint64_t{0} && key(table[at]) != pair) at = (at + 1) & mask;
  return at;
}

}  // namespace

WordCache::WordCache(size_t text_bytes) {
  if (text_bytes < 512) return;  // too little to repeat itself
  slots_.resize(std::clamp<size_t>(std::bit_ceil(text_bytes / 16), 64, 32768));
  mask_ = slots_.size() - 1;
}

bool WordCache::find(std::string_view word, std::vector<int>& out) {
  if (word.size() > kMaxBytes || slots_.empty()) return false;
  last_ = hash_of(word) & mask_;
  const Slot& slot = slots_[last_];
  if (slot.bytes != word.size() || std::memcmp(slot.word.data(), word.data(), word.size()) != 0)
    return false;
  out.insert(out.end(), slot.ids.begin(), slot.ids.begin() + slot.count);
  return true;
}

void WordCache::insert(std::string_view word, const int* ids, size_t count) {
  if (word.empty() || word.size() > kMaxBytes || count > kMaxIds || slots_.empty()) return;
  Slot& slot = slots_[last_];
  std::copy_n(ids, count, slot.ids.begin());
  std::copy(word.begin(), word.end(), slot.word.begin());
  slot.bytes = static_cast<uint8_t>(word.size());
  slot.count = static_cast<uint8_t>(count);
}

Bpe::Bpe(const Vocab& vocab, const std::vector<BpeMerge>& merges, Options options)
    : vocab_(vocab), options_(std::move(options)) {
  if (options_.alphabet == Alphabet::kBytes) {
    for (int byte = 0; byte < 256; ++byte)
      byte_ids_[static_cast<size_t>(byte)] =
          vocab.find(to_utf8(byte_to_letter(static_cast<unsigned char>(byte))));
  } else {
    byte_ids_.fill(-1);
    if (options_.byte_fallback)
      for (int byte = 0; byte < 256; ++byte)
        byte_ids_[static_cast<size_t>(byte)] = vocab.find(fmt::format("<0x{:02X}>", byte));
    index_characters(vocab);
  }
  index_rules(merges);
  if (options_.alphabet == Alphabet::kCharacters) index_joints(vocab, merges);
}

void Bpe::index_characters(const Vocab& vocab) {
  pages_.assign(0x110000 >> 8, -1);
  for (int id = 0; id < vocab.size(); ++id)
    if (std::ranges::find(options_.reserved, id) == options_.reserved.end())
      index_character(vocab.piece(id), id);
  for (size_t i = 0; i < options_.shadows.size(); ++i)
    index_character(options_.shadows[i], options_.shadow_first + static_cast<int>(i));
}

/// Notes the id of a piece that is one character; the first of two counts.
void Bpe::index_character(std::string_view character, int id) {
  const Utf8Char c = decode_utf8(character.substr(0, 4));
  if (c.length == 0 || static_cast<size_t>(c.length) != character.size()) return;
  int& page = pages_[c.code >> 8];
  if (page < 0) {
    page = static_cast<int>(characters_.size());
    characters_.emplace_back().fill(-1);
  }
  int& slot = characters_[static_cast<size_t>(page)][c.code & 255];
  if (slot < 0) slot = id;
}

int Bpe::character_id(char32_t code) const {
  const int page = pages_[code >> 8];
  return page < 0 ? -1 : characters_[static_cast<size_t>(page)][code & 255];
}

void Bpe::index_rules(const std::vector<BpeMerge>& merges) {
  rules_.resize(std::bit_ceil(merges.size() * 2 + 2));
  for (const BpeMerge& merge : merges) {
    const uint64_t pair = pair_of(merge.left, merge.right);
    Rule& slot = rules_[free_slot(rules_, pair, [](const Rule& r) { return r.pair; })];
    slot = {pair, merge.rank, merge.result};
    ranks_ = std::max(ranks_, merge.rank + 1);
  }
}

/// Two neighbouring symbols can end up in one token only if some rule has a left side ending in the
/// first and a right side beginning with the second. What a side ends in follows from its spelling
/// (its characters' ids) or is itself.
void Bpe::index_joints(const Vocab& vocab, const std::vector<BpeMerge>& merges) {
  const auto edge = [&](int id, bool last) {
    const std::string_view piece = vocab.piece(id);
    if (piece.empty()) return id;
    size_t at = last ? piece.size() - 1 : 0;
    while (last && at > 0 && (static_cast<unsigned char>(piece[at]) & 0xC0) == 0x80) --at;
    const Utf8Char c = decode_utf8(piece.substr(at, 4));
    const int found = c.length == 0 ? -1 : character_id(c.code);
    return found < 0 ? id : found;
  };
  std::vector<uint64_t> pairs;
  pairs.reserve(merges.size());
  for (const BpeMerge& merge : merges)
    for (const int left : {edge(merge.left, true), merge.left})
      for (const int right : {edge(merge.right, false), merge.right})
        pairs.push_back(pair_of(left, right));
  std::ranges::sort(pairs);
  pairs.erase(std::ranges::unique(pairs).begin(), pairs.end());
  joints_.assign(std::bit_ceil(pairs.size() * 2 + 2), kNoPair);
  for (const uint64_t pair : pairs)
    joints_[free_slot(joints_, pair, [](uint64_t p) { return p; })] = pair;
}

bool Bpe::can_join(int left, int right) const {
  const uint64_t pair = pair_of(left, right);
  return joints_[free_slot(joints_, pair, [](uint64_t p) { return p; })] == pair;
}

const Bpe::Rule* Bpe::rule(int left, int right) const {
  const uint64_t pair = pair_of(left, right);
  const Rule& found = rules_[free_slot(rules_, pair, [](const Rule& r) { return r.pair; })];
  return found.pair == pair ? &found : nullptr;
}

void Bpe::encode(std::string_view text, WordCache& cache, std::vector<int>& out) const {
  if (text.empty()) return;
  if (!options_.prefix.empty() || !options_.suffix.empty()) {
    encode_affixed(text, out);
  } else if (options_.alphabet == Alphabet::kBytes) {
    encode_bytes(text, cache, out);
  } else {
    encode_characters(text, cache, out);
  }
}

void Bpe::encode_bytes(std::string_view text, WordCache& cache, std::vector<int>& out) const {
  if (cache.find(text, out)) return;
  const size_t before = out.size();
  const int whole = options_.ignore_merges ? vocab_.find(to_byte_letters(text)) : -1;
  if (whole >= 0) {
    out.push_back(whole);
  } else {
    std::vector<int> symbols;
    symbols.reserve(text.size());
    int pending = -1;
    for (const char c : text) {
      const int id = byte_ids_[static_cast<unsigned char>(c)];
      if (id < 0) {
        append_unknown({&c, 1}, pending, symbols);
      } else {
        if (pending >= 0) symbols.push_back(std::exchange(pending, -1));
        symbols.push_back(id);
      }
    }
    if (pending >= 0) symbols.push_back(pending);
    merge(symbols, out);
  }
  cache.insert(text, out.data() + before, out.size() - before);
}

bool Bpe::has_byte_tokens(std::string_view character) const {
  return options_.byte_fallback && std::ranges::all_of(character, [&](char c) {
           return byte_ids_[static_cast<unsigned char>(c)] >= 0;
         });
}

/// Adds the byte tokens of a character that the vocabulary lacks, or notes it as unknown: an
/// unknown is added when the next known character comes (so that neighbours can be fused), byte
/// tokens at once.
void Bpe::append_unknown(std::string_view character, int& pending,
                         std::vector<int>& symbols) const {
  if (has_byte_tokens(character)) {
    for (const char c : character) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  } else if (options_.unknown >= 0) {
    if (pending >= 0 && !options_.fuse_unknown) symbols.push_back(pending);
    pending = options_.unknown;
  }
}

void Bpe::encode_characters(std::string_view text, WordCache& cache, std::vector<int>& out) const {
  if (options_.ignore_merges) {
    if (const int whole = vocab_.find(text); whole >= 0) {
      out.push_back(whole);
      return;
    }
  }
  std::vector<int> symbols;
  int pending = -1;
  bool open = false;  // an unknown character touches both its sides: no cut beside it
  size_t start = 0;
  const auto finish = [&](size_t end) {
    if (pending >= 0) symbols.push_back(std::exchange(pending, -1));
    const std::string_view word = text.substr(start, end - start);
    start = end;
    if (!options_.shadows.empty() || !cache.find(word, out)) {
      const size_t before = out.size();
      merge(symbols, out);
      if (options_.shadows.empty()) {
        cache.insert(word, out.data() + before, out.size() - before);
      } else {
        replace_shadows(out, before);
      }
    }
    symbols.clear();
  };
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_valid_utf8(text, at);
    const std::string_view character = text.substr(at, static_cast<size_t>(c.length));
    const int id = character_id(c.code);
    int first = id;
    if (id < 0 && has_byte_tokens(character))
      first = byte_ids_[static_cast<unsigned char>(character[0])];
    if (first >= 0 && !open && !symbols.empty() && !can_join(symbols.back(), first)) finish(at);
    if (id < 0) {
      append_unknown(character, pending, symbols);
    } else {
      if (pending >= 0) symbols.push_back(std::exchange(pending, -1));
      symbols.push_back(id);
    }
    // Shadows may become unknown ids, which are fused with their neighbours: nothing is cut then.
    open = first < 0 || pending >= 0 || !options_.shadows.empty();
    at += character.size();
  }
  finish(text.size());
}

void Bpe::replace_shadows(std::vector<int>& out, size_t from) const {
  const std::vector<int> ids(out.begin() + static_cast<std::ptrdiff_t>(from), out.end());
  out.resize(from);
  for (const int id : ids) {
    if (id < options_.shadow_first) {
      const bool again =
          id == options_.unknown && options_.fuse_unknown && out.size() > from && out.back() == id;
      if (!again) out.push_back(id);
      continue;
    }
    int pending = out.size() > from && out.back() == options_.unknown ? options_.unknown : -1;
    if (pending >= 0) out.pop_back();
    append_unknown(options_.shadows[static_cast<size_t>(id - options_.shadow_first)], pending, out);
    if (pending >= 0) out.push_back(pending);
  }
}

/// With affixes the first and last character of a word have spellings of their own; such
/// vocabularies have short pre-tokens, so nothing is cut or cached.
void Bpe::encode_affixed(std::string_view text, std::vector<int>& out) const {
  if (options_.ignore_merges) {
    if (const int whole = vocab_.find(text); whole >= 0) {
      out.push_back(whole);
      return;
    }
  }
  std::vector<int> symbols;
  int pending = -1;
  for (size_t at = 0; at < text.size();) {
    const auto length = static_cast<size_t>(decode_valid_utf8(text, at).length);
    std::string spelling = at == 0 ? std::string() : options_.prefix;
    spelling.append(text.substr(at, length));
    at += length;
    if (at == text.size()) spelling.append(options_.suffix);
    if (const int id = vocab_.find(spelling); id >= 0) {
      if (pending >= 0) symbols.push_back(std::exchange(pending, -1));
      symbols.push_back(id);
    } else {
      append_unknown(spelling, pending, symbols);
    }
  }
  if (pending >= 0) symbols.push_back(pending);
  merge(symbols, out);
}

void Bpe::merge(std::vector<int>& symbols, std::vector<int>& out) const {
  if (symbols.size() <= kShortWord) {
    merge_short(symbols, out);
  } else {
    LongWord(*this, symbols).merge(out);
  }
}

void Bpe::merge_short(std::vector<int>& symbols, std::vector<int>& out) const {
  constexpr int kNoRank = std::numeric_limits<int>::max();
  std::array<int, kShortWord> ranks{};
  std::array<int, kShortWord> results{};
  size_t n = symbols.size();
  const auto look = [&](size_t i) {
    const Rule* found = i + 1 < n ? rule(symbols[i], symbols[i + 1]) : nullptr;
    ranks[i] = found == nullptr ? kNoRank : found->rank;
    results[i] = found == nullptr ? kNone : found->result;
  };
  for (size_t i = 0; i < n; ++i) look(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == kNoRank) break;
    symbols[best] = results[best];
    for (size_t i = best + 1; i + 1 < n; ++i) {
      symbols[i] = symbols[i + 1];
      ranks[i] = ranks[i + 1];
      results[i] = results[i + 1];
    }
    --n;
    look(best);
    if (best > 0) look(best - 1);
  }
  out.insert(out.end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(n));
}

}  // namespace sala
