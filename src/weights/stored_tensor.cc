#include "weights/stored_tensor.h"

#include "base/error.h"
#include "weights/describe.h"

namespace sala {
namespace {

struct Block {
  std::string_view name;
  int64_t columns, bytes;
};

const Block& block(StoredType type) {
  static constexpr Block kBlocks[] = {
      {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},       {"Q4_0", 32, 18},
      {"Q4_1", 32, 20},   {"Q5_0", 32, 22},   {"Q5_1", 32, 24},     {"Q8_0", 32, 34},
      {"IQ4_NL", 32, 18}, {"Q2_K", 256, 84},  {"Q3_K", 256, 110},   {"Q4_K", 256, 144},
      {"Q5_K", 256, 176}, {"Q6_K", 256, 210}, {"IQ4_XS", 256, 136}, {"INT4", 0, 0},
      {"INT8", 0, 0},     {"other", 0, 0},
  };
  return kBlocks[static_cast<size_t>(type)];
}

}  // namespace

std::string_view name_of(StoredType type) { return block(type).name; }

int64_t block_columns(StoredType type) {
  SALA_CHECK(block(type).columns > 0, "the columns of a block of {}", name_of(type));
  return block(type).columns;
}

int64_t stored_bytes(StoredType type, int64_t columns) {
  return columns / block_columns(type) * block(type).bytes;
}

int64_t StoredTensor::elements() const {
  const auto count = element_count(shape);
  SALA_CHECK(count.has_value(), "tensor {} was not checked by its reader", name);
  return *count;
}

}  // namespace sala
