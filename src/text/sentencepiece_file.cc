#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "text/sentencepiece.h"

namespace sala {
namespace {

constexpr size_t kMaxPieces = 1 << 22;

/// One field of a protobuf message: a number, or bytes.
struct Field {
  uint32_t number = 0;
  uint64_t value = 0;
  std::string_view bytes;
};

/// Walks the fields of a protobuf message. Every length is checked against what is left.
class Message {
 public:
  Message(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    field = {.number = static_cast<uint32_t>(key >> 3), .value = 0, .bytes = {}};
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.bytes = take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5: {
        field.bytes = take(4);
        uint32_t bits = 0;
        std::memcpy(&bits, field.bytes.data(), 4);
        field.value = bits;
        break;
      }
      default:
        fail_damaged();
    }
    return true;
  }

 private:
  [[noreturn]] void fail_damaged() const {
    fail("{}: not a sentencepiece model: its fields do not fit the file; download it again", name_);
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) fail_damaged();
      const auto byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail_damaged();
  }
  std::string_view take(uint64_t size) {
    if (size > rest_.size()) fail_damaged();
    const std::string_view part = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return part;
  }

  std::string_view rest_;
  const std::string& name_;
};

SentencePieceModel::Piece read_piece(std::string_view bytes, const std::string& name) {
  SentencePieceModel::Piece piece;
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2 && field.bytes.size() == 4)
      std::memcpy(&piece.score, field.bytes.data(), 4);
    if (field.number == 3) piece.type = static_cast<int>(field.value);
  }
  if (piece.score != piece.score)
    fail("{}: piece '{}' has a score that is not a number; the file is damaged", name, piece.text);
  return piece;
}

void read_trainer(SentencePieceModel& model, std::string_view bytes, const std::string& name) {
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    const int number = static_cast<int>(field.value);
    switch (field.number) {
      case 3:
        model.algorithm = number;
        break;
      case 24:
        model.space_as_suffix = number != 0;
        break;
      case 35:
        model.byte_fallback = number != 0;
        break;
      case 40:
        model.unk = number;
        break;
      case 41:
        model.bos = number;
        break;
      case 42:
        model.eos = number;
        break;
      case 43:
        model.pad = number;
        break;
      case 44:
        model.unk_surface = field.bytes;
        break;
      default:
        break;
    }
  }
}

void read_normalizer(SentencePieceModel& model, std::string_view bytes, const std::string& name) {
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.number == 2) model.charsmap = field.bytes;
    if (field.number == 3) model.add_dummy_prefix = field.value != 0;
    if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) model.escape_whitespaces = field.value != 0;
  }
}

}  // namespace

SentencePieceModel read_sentencepiece(std::span<const std::byte> bytes, const std::string& name) {
  SentencePieceModel model;
  Message message({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, name);
  for (Field field; message.next(field);) {
    if (field.number == 1) model.pieces.push_back(read_piece(field.bytes, name));
    if (field.number == 2) read_trainer(model, field.bytes, name);
    if (field.number == 3) read_normalizer(model, field.bytes, name);
    if (model.pieces.size() > kMaxPieces)
      fail("{}: more than {} pieces; the file is damaged", name, kMaxPieces);
  }
  if (model.pieces.empty())
    fail("{}: not a sentencepiece model: it has no pieces; download it again", name);
  return model;
}

}  // namespace sala
