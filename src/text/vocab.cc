#include "text/vocab.h"

#include "base/error.h"

namespace sala {

void Vocab::add(std::string_view piece, int id) {
  if (id < 0 || id > kMaxId)
    fail("vocabulary: token '{}' has id {}, expected 0 to {}; the tokenizer file is damaged", piece,
         id, kMaxId);
  const auto index = static_cast<size_t>(id);
  if (index >= pieces_.size()) {
    pieces_.resize(index + 1);
    used_.resize(index + 1, false);
  }
  if (!used_[index]) {
    used_[index] = true;
    pieces_[index] = piece;
    ids_.try_emplace(pieces_[index], id);
  } else if (pieces_[index] != piece) {
    ids_.try_emplace(spare_.emplace_back(piece), id);
  }
}

int Vocab::find(std::string_view piece) const {
  const auto it = ids_.find(piece);
  return it == ids_.end() ? -1 : it->second;
}

std::string_view Vocab::piece(int id) const {
  return has(id) ? std::string_view(pieces_[static_cast<size_t>(id)]) : std::string_view();
}

}  // namespace sala
