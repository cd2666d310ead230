#include "weights/gguf_cursor.h"

#include <limits>

#include "weights/describe.h"

namespace sala {
namespace {

enum class ValueType : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  text,
  array,
  u64,
  i64,
  f64
};

/// Bytes that a value takes at least.
uint64_t least_bytes(ValueType type) {
  constexpr uint64_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return bytes[static_cast<size_t>(type)];
}

ValueType read_value_type(GgufCursor& in, std::string_view what) {
  const auto type = in.read<uint32_t>(what);
  if (type > static_cast<uint32_t>(ValueType::f64))
    fail("{}: {}: unknown value type {}; the file is damaged or newer than this program", in.file(),
         what, type);
  return static_cast<ValueType>(type);
}

int64_t read_integer(GgufCursor& in, ValueType type, std::string_view what) {
  switch (type) {
    case ValueType::u8:
      return in.read<uint8_t>(what);
    case ValueType::i8:
      return in.read<int8_t>(what);
    case ValueType::u16:
      return in.read<uint16_t>(what);
    case ValueType::i16:
      return in.read<int16_t>(what);
    case ValueType::u32:
      return in.read<uint32_t>(what);
    case ValueType::i32:
      return in.read<int32_t>(what);
    case ValueType::i64:
      return in.read<int64_t>(what);
    default:
      break;
  }
  const auto value = in.read<uint64_t>(what);
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    fail("{}: {}: {} exceeds the largest integer that is accepted, 2^63 - 1", in.file(), what,
         value);
  return static_cast<int64_t>(value);
}

double read_real(GgufCursor& in, ValueType type, std::string_view what) {
  return type == ValueType::f32 ? static_cast<double>(in.read<float>(what)) : in.read<double>(what);
}

bool read_boolean(GgufCursor& in, std::string_view what) {
  const auto value = in.read<uint8_t>(what);
  if (value > 1)
    fail("{}: {}: a boolean is {}, expected 0 or 1; the file is damaged", in.file(), what, value);
  return value == 1;
}

template <class T, class Read>
GgufValue read_elements(uint64_t count, const Read& read) {
  std::vector<T> values;
  values.reserve(static_cast<size_t>(count));
  for (uint64_t i = 0; i < count; ++i) values.push_back(T(read()));
  return values;
}

GgufValue read_array(GgufCursor& in, std::string_view what) {
  const auto type = read_value_type(in, what);
  if (type == ValueType::array) fail("{}: {}: arrays of arrays are not accepted", in.file(), what);
  const auto count = in.count(least_bytes(type), what);
  switch (type) {
    case ValueType::text:
      return read_elements<std::string>(count, [&] { return in.text(what); });
    case ValueType::boolean:
      return read_elements<bool>(count, [&] { return read_boolean(in, what); });
    case ValueType::f32:
    case ValueType::f64:
      return read_elements<double>(count, [&] { return read_real(in, type, what); });
    default:
      return read_elements<int64_t>(count, [&] { return read_integer(in, type, what); });
  }
}

GgufValue read_value(GgufCursor& in, ValueType type, std::string_view what) {
  switch (type) {
    case ValueType::text:
      return std::string(in.text(what));
    case ValueType::boolean:
      return read_boolean(in, what);
    case ValueType::f32:
    case ValueType::f64:
      return read_real(in, type, what);
    case ValueType::array:
      return read_array(in, what);
    default:
      return read_integer(in, type, what);
  }
}

}  // namespace

GgufValue read_gguf_value(GgufCursor& in, std::string_view what) {
  return read_value(in, read_value_type(in, what), what);
}

int64_t read_gguf_size(GgufCursor& in, std::string_view what) {
  return read_integer(in, ValueType::u64, what);
}

std::string read_gguf_name(GgufCursor& in, std::string_view what) {
  const auto name = in.text(what);
  if (name.empty() || !is_utf8(name))
    fail("{}: {} {} is not a name in UTF-8; the file is damaged, obtain it again", in.file(), what,
         printable(name));
  return std::string(name);
}

}  // namespace sala
