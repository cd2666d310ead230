#include "weights/join_quantised.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "weights/describe.h"
#include "weights/grouped.h"
#include "weights/quantised_matrix.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFloats[] = {"F16", "BF16", "F32"}, kWords[] = {"I32"},
                           kBytes[] = {"I8"}, kSizes[] = {"I64"}, kBytesOrWords[] = {"I8", "I32"};

int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// What GPTQ and AWQ share: scales [groups, rows] and zeros [groups, words of rows].
void take_scales(QuantisedMatrix& matrix, int64_t rows, int64_t cols, int64_t size,
                 const PackedIntegers& zeros) {
  const StoredTensor& scales = matrix.take_table("scales", kFloats);
  const int64_t count = size == 0 ? 1 : divided(cols, size);
  matrix.expect_shape(scales, {count, rows});
  matrix.set_scales(scales, 1, rows);
  const StoredTensor& packed = matrix.take_table("qzeros", kWords);
  const int64_t words = divided(rows, int64_t{1} << zeros.lane_bits);
  matrix.expect_shape(packed, {count, words});
  PackedIntegers how = zeros;
  how.row_stride = 1;
  how.column_stride = words;
  matrix.set_zeros(packed, how);
  const StoredTensor* index = matrix.find("g_idx");
  if (index != nullptr) {
    matrix.take("g_idx", kWords);
    matrix.expect_shape(*index, {cols});
  }
  matrix.set_groups(count, cols, size, index);
}

/// Older writers give every matrix a bias; the models that load here have none.
void drop_zero_bias(QuantisedMatrix& matrix) {
  const StoredTensor* bias = matrix.find("bias");
  if (bias != nullptr &&
      std::ranges::any_of(bias->bytes, [](std::byte b) { return b != std::byte{0}; }))
    matrix.refuse(*bias, "is a bias that is not zero, which the model has no place for");
}

/// How a method names the tensor of the codes, and what it makes of the tensors beside it.
struct Method {
  const char* codes;  ///< the last part of the name
  std::function<StoredTensor(QuantisedMatrix&)> join;
};

Method gptq(const QuantisationKeys& keys) {
  const int64_t bits = keys.integer("bits");
  if (bits != 4 && bits != 8) keys.refuse("bits", "4 or 8");
  const int64_t size = keys.group_size();
  const std::string format = keys.text("checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2")
    keys.refuse("checkpoint_format", "\"gptq\" or \"gptq_v2\"; save the model in one of them");
  const int lane_bits = bits == 4 ? 3 : 2;
  return {"qweight", [=](QuantisedMatrix& matrix) {
            const StoredTensor& codes = matrix.take_table("qweight", kWords);
            const int64_t rows = codes.shape[1], cols = codes.shape[0] << lane_bits;
            matrix.set_codes(codes, {.bits = static_cast<int>(bits),
                                     .lane_bits = lane_bits,
                                     .row_stride = 1,
                                     .column_stride = rows});
            // The first format stores zeros less one.
            take_scales(matrix, rows, cols, size,
                        {.bits = static_cast<int>(bits),
                         .lane_bits = lane_bits,
                         .order = PackedIntegers::Order::rows,
                         .offset = format == "gptq" ? 1 : 0});
            drop_zero_bias(matrix);
            return matrix.make(rows, cols, "GPTQ");
          }};
}

Method awq(const QuantisationKeys& keys) {
  if (keys.integer("bits") != 4) keys.refuse("bits", "4");
  const int64_t size = keys.group_size();
  std::string version = keys.text("version", "gemm");
  if (version != "gemm" && version != "GEMM")
    keys.refuse("version", "\"gemm\"; save the model in that version");
  return {"qweight", [=](QuantisedMatrix& matrix) {
            const StoredTensor& codes = matrix.take_table("qweight", kWords);
            const int64_t rows = codes.shape[1] * 8, cols = codes.shape[0];
            PackedIntegers how{.order = PackedIntegers::Order::rows_even_first,
                               .row_stride = 1,
                               .column_stride = codes.shape[1]};
            matrix.set_codes(codes, how);
            take_scales(matrix, rows, cols, size, how);
            drop_zero_bias(matrix);
            return matrix.make(rows, cols, "AWQ");
          }};
}

/// Bits and columns of a group, 0 for all.
using Scheme = std::pair<int64_t, int64_t>;

/// What "config_groups" says of weights; which matrices it says it of, their tensors show.
std::set<Scheme> read_schemes(const QuantisationKeys& keys, const std::string& origin) {
  const Json* groups = keys.find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->empty())
    keys.refuse("config_groups", "an object with a scheme");
  std::set<Scheme> schemes;
  for (const auto& [name, group] : groups->items()) {
    const std::string where = "quantization_config: config_groups: " + printable(name);
    const QuantisationKeys of(group, origin, where);
    const Json* given = of.find("weights");
    if (given == nullptr) of.refuse("weights", "an object");
    const QuantisationKeys weights(*given, origin, where + ": weights");
    if (weights.text("type", "int") != "int")
      weights.refuse("type", "\"int\"; other numbers do not load here");
    const int64_t bits = weights.integer("num_bits");
    if (bits != 4 && bits != 8) weights.refuse("num_bits", "4 or 8");
    const std::string strategy = weights.text("strategy", "tensor");
    if (strategy != "group" && strategy != "channel" && strategy != "tensor")
      weights.refuse("strategy", R"("group", "channel" or "tensor")");
    schemes.emplace(bits, strategy == "group" ? weights.group_size() : 0);
  }
  return schemes;
}

/// The groups of a compressed-tensors matrix: scales [rows, groups], [rows] or [1].
void take_scale(QuantisedMatrix& matrix, const StoredTensor& codes, int64_t bits, int64_t rows,
                int64_t cols, const std::set<Scheme>& schemes) {
  const StoredTensor& scale = matrix.take("weight_scale", kFloats);
  const bool single = scale.shape.empty() || scale.shape == std::vector<int64_t>{1};
  const int64_t count = scale.shape.size() == 2 ? scale.shape[1] : 1;
  if (scale.shape.size() == 2)
    matrix.expect_shape(scale, {rows, count});
  else if (!single)
    matrix.expect_shape(scale, {rows});
  if (count < 1) matrix.refuse(scale, "has no groups");
  const auto fits = [&](const Scheme& scheme) {
    return scheme.first == bits &&
           (scheme.second == 0 ? count == 1 : count == divided(cols, scheme.second));
  };
  const auto scheme = std::ranges::find_if(schemes, fits);
  if (scheme == schemes.end())
    matrix.refuse(codes, fmt::format("has {} columns of {} bits and {} scales a row, which no "
                                     "scheme of config_groups says",
                                     cols, bits, count));
  matrix.set_scales(scale, single ? 0 : count, 1);

  if (matrix.find("weight_zero_point") != nullptr) {
    const bool table = scale.shape.size() == 2;
    const StoredTensor& zeros =
        matrix.take("weight_zero_point", std::span(kBytesOrWords).first(table ? 2 : 1));
    const int lane_bits = zeros.type_name == "I8" ? 0 : bits == 4 ? 3 : 2;
    if (lane_bits == 0)
      matrix.expect_shape(zeros, scale.shape);
    else
      matrix.expect_shape(zeros, {divided(rows, int64_t{1} << lane_bits), count});
    matrix.set_zeros(zeros, {.bits = static_cast<int>(bits),
                             .lane_bits = lane_bits,
                             .order = PackedIntegers::Order::rows,
                             .row_stride = single ? 0 : count,
                             .column_stride = 1,
                             .offset = lane_bits == 0 ? 1 << (bits - 1) : 0});
  }
  const StoredTensor* index = matrix.find("weight_g_idx");
  if (index != nullptr) {
    matrix.take("weight_g_idx", kWords);
    matrix.expect_shape(*index, {cols});
    int32_t first = 0;
    std::memcpy(&first, index->bytes.data(), sizeof first);
    if (first == -1) index = nullptr;  // how the writer says that there is no order
  }
  matrix.set_groups(count, cols, count == 1 ? 0 : scheme->second, index);
  // Of activations, which are rounded here as --compute says.
  matrix.find("input_scale");
  matrix.find("input_zero_point");
}

StoredTensor join_packed(QuantisedMatrix& matrix, const std::set<Scheme>& schemes) {
  const StoredTensor& codes = matrix.take_table("weight_packed", kWords);
  const StoredTensor& shape = matrix.take("weight_shape", kSizes);
  matrix.expect_shape(shape, {2});
  int64_t extents[2];
  std::memcpy(extents, shape.bytes.data(), sizeof extents);
  const auto [rows, cols] = extents;
  const int64_t words = codes.shape[1];
  const bool four = cols > words * 4;
  if (rows != codes.shape[0] || cols < 1 || cols > words * 8 ||
      words != divided(cols, four ? 8 : 4))
    matrix.refuse(codes, fmt::format("has shape {}, which does not hold {} x {} numbers of 4 or 8 "
                                     "bits",
                                     shape_text(codes.shape), rows, cols));
  matrix.set_codes(
      codes,
      {.bits = four ? 4 : 8, .lane_bits = four ? 3 : 2, .row_stride = words, .column_stride = 1});
  take_scale(matrix, codes, four ? 4 : 8, rows, cols, schemes);
  return matrix.make(rows, cols, "packed");
}

StoredTensor join_bytes(QuantisedMatrix& matrix, const std::set<Scheme>& schemes) {
  const StoredTensor& codes = matrix.take_table("weight", kBytes);
  const int64_t rows = codes.shape[0], cols = codes.shape[1];
  matrix.set_codes(
      codes, {.bits = 8, .lane_bits = 0, .row_stride = cols, .column_stride = 1, .offset = 128});
  take_scale(matrix, codes, 8, rows, cols, schemes);
  return matrix.make(rows, cols, "signed");
}

Method compressed(const QuantisationKeys& keys, const std::string& origin) {
  const std::string format = keys.text("format", "");
  if (format != "pack-quantized" && format != "int-quantized")
    keys.refuse("format", R"("pack-quantized" or "int-quantized"; others do not load here)");
  const bool packed = format == "pack-quantized";
  return {packed ? "weight_packed" : "weight",
          [packed, schemes = read_schemes(keys, origin)](QuantisedMatrix& matrix) {
            return packed ? join_packed(matrix, schemes) : join_bytes(matrix, schemes);
          }};
}

Method method_of(const QuantisationKeys& keys, const std::string& name, const std::string& origin) {
  if (name == "gptq") return gptq(keys);
  if (name == "awq") return awq(keys);
  if (name == "compressed-tensors") return compressed(keys, origin);
  keys.refuse("quant_method",
              R"("gptq", "awq" or "compressed-tensors"; give the checkpoint that it was made of)");
}

/// On matrices that take more memory than their files, because our groups are columns side by side.
std::string remark_on(const std::vector<StoredTensor>& tensors, const std::string& origin) {
  int64_t count = 0, stored = 0, held = 0;
  for (const StoredTensor& tensor : tensors) {
    if (!tensor.grouped || tensor.grouped->block > 1) continue;
    ++count;
    stored += static_cast<int64_t>(tensor.bytes.size());
    held += 2 * tensor.elements();
  }
  if (count == 0) return {};
  constexpr double kGigabyte = 1e9;
  return fmt::format(
      "{}: the groups of {} matrices are not 32, 64 or 128 columns side by side (desc_act); they "
      "are held in f16, {:.2f} GB instead of {:.2f}; sala quantize makes 8 or 4 bits of them",
      origin, count, static_cast<double>(held) / kGigabyte,
      static_cast<double>(stored) / kGigabyte);
}

}  // namespace

Json read_quantisation(const fs::path& dir) {
  std::error_code ignored;
  if (const fs::path path = dir / "config.json"; fs::exists(path, ignored)) {
    const Json config = read_json(path);
    if (config.is_object() && config.contains("quantization_config"))
      return config["quantization_config"];
  }
  const fs::path older = dir / "quantize_config.json";
  if (!fs::exists(older, ignored)) return nullptr;
  Json quantisation = read_json(older);
  if (quantisation.is_object()) quantisation["quant_method"] = "gptq";
  return quantisation;
}

JoinedTensors join_quantised(std::vector<StoredTensor> tensors, const Json& quantisation,
                             const std::string& origin) {
  if (quantisation.is_null()) return {.tensors = std::move(tensors), .remark = {}};
  const QuantisationKeys keys(quantisation, origin, "quantization_config");
  const std::string name = keys.text("quant_method", "");
  if (name == "sala") return {.tensors = std::move(tensors), .remark = {}};
  const Method method = method_of(keys, name, origin);
  const std::string ending = std::string(".") + method.codes;

  QuantisedCheckpoint all{
      .tensors = std::move(tensors), .index = {}, .joined = {}, .origin = origin};
  all.joined.resize(all.tensors.size());
  for (size_t i = 0; i < all.tensors.size(); ++i) all.index.try_emplace(all.tensors[i].name, i);
  JoinedTensors result;
  for (const StoredTensor& tensor : all.tensors) {
    if (!tensor.name.ends_with(ending)) continue;
    if (ending == ".weight" && tensor.type_name != "I8") continue;
    QuantisedMatrix matrix(all, tensor.name.substr(0, tensor.name.size() - ending.size()));
    result.tensors.push_back(method.join(matrix));
  }
  for (size_t i = 0; i < all.tensors.size(); ++i)
    if (!all.joined[i]) result.tensors.push_back(std::move(all.tensors[i]));
  result.remark = remark_on(result.tensors, origin);
  return result;
}

}  // namespace sala
