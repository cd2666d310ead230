#include "weights/quantised_matrix.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/json.h"
#include "weights/describe.h"

namespace sala {

QuantisationKeys::QuantisationKeys(const Json& json, const std::string& origin,
                                   const std::string& where)
    : json_(json), origin_(origin), where_(where) {
  if (!json.is_object())
    fail("{}: {} is {}; expected a JSON object", origin, where, json.type_name());
}

const Json* QuantisationKeys::find(const char* key) const {
  const auto entry = json_.find(key);
  return entry == json_.end() || entry->is_null() ? nullptr : &*entry;
}

std::string QuantisationKeys::text(const char* key, const std::string& otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_string()) refuse(key, "a string");
  return value->get<std::string>();
}

int64_t QuantisationKeys::integer(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_number_integer()) refuse(key, "an integer");
  return value->get<int64_t>();
}

int64_t QuantisationKeys::group_size() const {
  const int64_t size = integer("group_size");
  if (size != -1 && (size < 1 || size > INT32_MAX))
    refuse("group_size", "-1 (a row has one group) or the columns of a group");
  return std::max<int64_t>(size, 0);
}

void QuantisationKeys::refuse(const char* key, std::string_view expected) const {
  const Json* value = find(key);
  fail("{}: {}: key \"{}\" is {}; expected {}", origin_, where_, key,
       value == nullptr ? "missing" : value->dump(), expected);
}

const StoredTensor* QuantisedMatrix::find(const char* part) {
  const auto entry = checkpoint_.index.find(name_ + "." + part);
  if (entry == checkpoint_.index.end()) return nullptr;
  checkpoint_.joined[entry->second] = true;
  return &checkpoint_.tensors[entry->second];
}

const StoredTensor& QuantisedMatrix::take(const char* part,
                                          std::span<const std::string_view> types) {
  const StoredTensor* tensor = find(part);
  if (tensor == nullptr)
    fail("{}: tensor {} is missing; the checkpoint is incomplete, obtain it again",
         checkpoint_.origin, printable(name_ + "." + part));
  if (std::ranges::find(types, tensor->type_name) == types.end())
    refuse(*tensor,
           fmt::format("is of type {}, expected {}", tensor->type_name, fmt::join(types, " or ")));
  return *tensor;
}

const StoredTensor& QuantisedMatrix::take_table(const char* part,
                                                std::span<const std::string_view> types) {
  const StoredTensor& tensor = take(part, types);
  if (tensor.shape.size() != 2 || tensor.bytes.empty())
    refuse(tensor,
           fmt::format("has shape {}, expected rows and columns", shape_text(tensor.shape)));
  return tensor;
}

void QuantisedMatrix::expect_shape(const StoredTensor& tensor,
                                   const std::vector<int64_t>& shape) const {
  if (tensor.shape != shape)
    refuse(tensor,
           fmt::format("has shape {}, expected {}", shape_text(tensor.shape), shape_text(shape)));
}

void QuantisedMatrix::refuse(const StoredTensor& tensor, const std::string& what) const {
  fail(
      "{}: tensor {} {}; check that quantization_config belongs to these weights, or obtain them "
      "again",
      tensor.file != nullptr ? tensor.file->path().string() : checkpoint_.origin,
      printable(tensor.name), what);
}

void QuantisedMatrix::set_codes(const StoredTensor& tensor, const PackedIntegers& how) {
  grouped_.codes = how;
  grouped_.codes.words = tensor.bytes.data();
  codes_ = &tensor;
}

void QuantisedMatrix::set_zeros(const StoredTensor& tensor, const PackedIntegers& how) {
  grouped_.zeros = how;
  grouped_.zeros.words = tensor.bytes.data();
  grouped_.files.push_back(tensor.file);
}

void QuantisedMatrix::set_scales(const StoredTensor& tensor, int64_t row_stride,
                                 int64_t group_stride) {
  grouped_.scales = tensor.bytes.data();
  grouped_.scale_type = tensor.type;
  grouped_.scale_row_stride = row_stride;
  grouped_.scale_group_stride = group_stride;
  grouped_.files.push_back(tensor.file);
}

StoredTensor QuantisedMatrix::make(int64_t rows, int64_t cols, std::string_view writer) {
  StoredTensor tensor;
  tensor.name = name_ + ".weight";
  tensor.type = grouped_.codes.bits == 4 ? StoredType::int4 : StoredType::int8;
  tensor.type_name = fmt::format("{} {}", writer, name_of(tensor.type));
  tensor.shape = {rows, cols};
  tensor.bytes = codes_->bytes;
  tensor.file = codes_->file;
  tensor.grouped = std::make_shared<const GroupedCodes>(std::move(grouped_));
  return tensor;
}

void QuantisedMatrix::set_groups(int64_t count, int64_t cols, int64_t size,
                                 const StoredTensor* index) {
  std::vector<int32_t> of(static_cast<size_t>(cols));
  if (index != nullptr)
    std::memcpy(of.data(), index->bytes.data(), index->bytes.size());
  else
    for (int64_t k = 0; k < cols; ++k) of[k] = size == 0 ? 0 : static_cast<int32_t>(k / size);
  for (const int32_t group : of)
    if (group < 0 || group >= count)
      refuse(*index, fmt::format("names group {}, of {} groups", group, count));
  const auto whole = [&](int64_t block) {
    for (int64_t k = 0; k < cols; ++k)
      if (of[k] != of[k - k % block]) return false;
    return cols % block == 0;
  };
  grouped_.count = count;
  grouped_.block = 1;
  for (const int64_t block : {32, 64, 128})
    if (whole(block)) grouped_.block = block;
  for (int64_t k = 0; k < cols; k += grouped_.block) grouped_.groups.push_back(of[k]);
}

}  // namespace sala
