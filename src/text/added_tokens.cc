#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace sala {
namespace {

/// The character that ends at byte `end`.
char32_t character_before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return decode_valid_utf8(text, at).code;
}

bool touches_word(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word(character_before(text, begin))) ||
         (end < text.size() && is_word(decode_valid_utf8(text, end).code));
}

}  // namespace

void Trie::add(std::string_view text, int value) {
  int node = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    int next = child(node, byte);
    if (next < 0) {
      next = static_cast<int>(nodes_.size());
      nodes_.emplace_back();
      auto& edges = nodes_[static_cast<size_t>(node)].next;
      edges.insert(std::ranges::lower_bound(edges, std::pair(byte, 0)), {byte, next});
    }
    node = next;
  }
  if (int& slot = nodes_[static_cast<size_t>(node)].value; slot < 0) slot = value;
  starts_[static_cast<unsigned char>(text[0])] = true;
}

int Trie::child(int node, unsigned char byte) const {
  const auto& edges = nodes_[static_cast<size_t>(node)].next;
  const auto it = std::ranges::lower_bound(edges, std::pair(byte, 0));
  return it == edges.end() || it->first != byte ? -1 : it->second;
}

Trie::Match Trie::find_at(std::string_view text, size_t at) const {
  Match best;
  int node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    node = child(node, static_cast<unsigned char>(text[i]));
    if (node < 0) break;
    if (const int value = nodes_[static_cast<size_t>(node)].value; value >= 0)
      best = {at, i + 1, value};
  }
  return best;
}

Trie::Match Trie::find(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (!starts_[static_cast<unsigned char>(text[at])]) continue;
    if (const Match match = find_at(text, at); match.value >= 0) return match;
  }
  return {};
}

void AddedTokens::add(const AddedToken& token, int id, const Normalizer& normalizer) {
  if (token.content.empty()) return;
  std::string form = token.content;
  if (token.normalized) {
    form = normalizer.apply(token.content);
    if (form != token.content) normal_forms_[id] = form;
  }
  if (!form.empty()) (token.normalized ? normalized_ : raw_).add(form, id);
  ids_[token.content] = id;
  if (token.special) {
    special_.insert(token.content);
    special_spellings_.add(token.content, id);
    if (!form.empty()) special_spellings_.add(form, id);
  }
  tokens_[id] = token;
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, bool normalized,
                                                  bool parse_special) const {
  std::vector<Part> parts;
  const Trie& trie = normalized ? normalized_ : raw_;
  size_t start = 0;
  size_t from = 0;
  while (!trie.empty()) {
    const Trie::Match match = trie.find(text, from);
    if (match.value < 0) break;
    from = match.end;
    const AddedToken& token = tokens_.at(match.value);
    if (token.special && (!parse_special || text.substr(match.end).starts_with(kQuote))) continue;
    if (token.single_word && touches_word(text, match.begin, match.end)) continue;
    size_t begin = match.begin;
    size_t end = match.end;
    if (token.lstrip)
      while (begin > start && is_space(character_before(text, begin)))
        begin -= to_utf8(character_before(text, begin)).size();
    if (token.rstrip)
      while (end < text.size() && is_space(decode_valid_utf8(text, end).code))
        end += static_cast<size_t>(decode_valid_utf8(text, end).length);
    if (start < begin) parts.push_back({text.substr(start, begin - start), -1});
    parts.push_back({text.substr(begin, end - begin), match.value});
    // White space that the token took along can belong to the next token too; the text goes on
    // after that one.
    start = end;
  }
  if (start < text.size()) parts.push_back({text.substr(start), -1});
  return parts;
}

const AddedToken* AddedTokens::find(int id) const {
  const auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : &it->second;
}

int AddedTokens::id_of(std::string_view content) const {
  const auto it = ids_.find(std::string(content));
  return it == ids_.end() ? -1 : it->second;
}

bool AddedTokens::is_special(int id) const {
  const AddedToken* token = find(id);
  return token != nullptr && token->special;
}

std::string_view AddedTokens::decoder_piece(int id) const {
  if (const auto it = normal_forms_.find(id); it != normal_forms_.end()) return it->second;
  const AddedToken* token = find(id);
  return token == nullptr ? std::string_view() : std::string_view(token->content);
}

}  // namespace sala
