#include "weights/stored_tensor.h"

#include "base/error.h"
#include "weights/describe.h"

namespace sala {

std::string_view name_of(StoredType type) {
  constexpr std::string_view names[] = {"F32",  "F16",  "BF16", "Q4_0",   "Q4_1",
                                        "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "other"};
  return names[static_cast<size_t>(type)];
}

int64_t stored_bytes(StoredType type, int64_t columns) {
  switch (type) {
    case StoredType::f32:
      return columns * 4;
    case StoredType::f16:
    case StoredType::bf16:
      return columns * 2;
    case StoredType::q4_0:
    case StoredType::iq4_nl:
      return columns / 32 * 18;
    case StoredType::q4_1:
      return columns / 32 * 20;
    case StoredType::q5_0:
      return columns / 32 * 22;
    case StoredType::q5_1:
      return columns / 32 * 24;
    case StoredType::q8_0:
      return columns / 32 * 34;
    case StoredType::other:
      break;
  }
  SALA_CHECK(false, "the bytes of a type that is not taken");
  return 0;
}

int64_t StoredTensor::elements() const {
  const auto count = element_count(shape);
  SALA_CHECK(count.has_value(), "tensor {} was not checked by its reader", name);
  return *count;
}

}  // namespace sala
