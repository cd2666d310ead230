#include "weights/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "weights/describe.h"
#include "weights/gguf_cursor.h"

namespace sala {
namespace {

static_assert(std::endian::native == std::endian::little,
              "files are read in place and are little-endian");

struct BlockType {
  uint32_t id;
  std::string_view name;
  int64_t columns, bytes;  // of one block
  StoredType type;
};

constexpr BlockType kTypes[] = {
    {0, "F32", 1, 4, StoredType::f32},           {1, "F16", 1, 2, StoredType::f16},
    {2, "Q4_0", 32, 18, StoredType::q4_0},       {3, "Q4_1", 32, 20, StoredType::q4_1},
    {6, "Q5_0", 32, 22, StoredType::q5_0},       {7, "Q5_1", 32, 24, StoredType::q5_1},
    {8, "Q8_0", 32, 34, StoredType::q8_0},       {9, "Q8_1", 32, 36, StoredType::other},
    {10, "Q2_K", 256, 84, StoredType::q2_k},     {11, "Q3_K", 256, 110, StoredType::q3_k},
    {12, "Q4_K", 256, 144, StoredType::q4_k},    {13, "Q5_K", 256, 176, StoredType::q5_k},
    {14, "Q6_K", 256, 210, StoredType::q6_k},    {15, "Q8_K", 256, 292, StoredType::other},
    {16, "IQ2_XXS", 256, 66, StoredType::other}, {17, "IQ2_XS", 256, 74, StoredType::other},
    {18, "IQ3_XXS", 256, 98, StoredType::other}, {19, "IQ1_S", 256, 50, StoredType::other},
    {20, "IQ4_NL", 32, 18, StoredType::iq4_nl},  {21, "IQ3_S", 256, 110, StoredType::other},
    {22, "IQ2_S", 256, 82, StoredType::other},   {23, "IQ4_XS", 256, 136, StoredType::iq4_xs},
    {24, "I8", 1, 1, StoredType::other},         {25, "I16", 1, 2, StoredType::other},
    {26, "I32", 1, 4, StoredType::other},        {27, "I64", 1, 8, StoredType::other},
    {28, "F64", 1, 8, StoredType::other},        {29, "IQ1_M", 256, 56, StoredType::other},
    {30, "BF16", 1, 2, StoredType::bf16},        {34, "TQ1_0", 256, 54, StoredType::other},
    {35, "TQ2_0", 256, 66, StoredType::other},   {39, "MXFP4", 32, 17, StoredType::other},
    {40, "NVFP4", 64, 36, StoredType::other},
};

constexpr uint32_t kMostDimensions = 4;

void check_magic(GgufCursor& in) {
  char magic[4];
  for (char& c : magic) c = in.read<char>("the magic number");
  if (std::memcmp(magic, "GGUF", sizeof magic) != 0)
    fail(
        "{}: begins with {}, a GGUF file begins with 'GGUF'; give a .gguf file or a directory with "
        "safetensors",
        in.file(), printable({magic, sizeof magic}));
  const auto version = in.read<uint32_t>("the version");
  if (version != 0 && (version & 0xFFFF) == 0)
    fail("{}: is big-endian; convert it to little-endian with gguf-py's gguf_convert_endian",
         in.file());
  if (version != 2 && version != 3)
    fail(
        "{}: is of GGUF version {}, versions 2 and 3 are accepted; convert the model again with "
        "current tools",
        in.file(), version);
}

struct TensorInfo {
  StoredTensor tensor;
  int64_t size = 0;
  uint64_t offset = 0;
};

/// Type, shape and the bytes that they need, before the place in the file.
TensorInfo read_tensor_info(GgufCursor& in) {
  TensorInfo info;
  StoredTensor& tensor = info.tensor;
  tensor.name = read_gguf_name(in, "tensor name");
  const auto name = printable(tensor.name), what = "tensor " + name;
  const auto rank = in.read<uint32_t>(what);
  if (rank > kMostDimensions)
    fail("{}: {} has {} dimensions, at most {} are accepted; the file is damaged", in.file(), what,
         rank, kMostDimensions);
  tensor.shape.resize(rank);
  for (uint32_t i = rank; i-- > 0;) tensor.shape[i] = read_gguf_size(in, what);
  const auto id = in.read<uint32_t>(what);
  info.offset = in.read<uint64_t>(what);

  const auto* type = std::ranges::find(kTypes, id, &BlockType::id);
  if (type == std::end(kTypes))
    fail("{}: {} has the unknown type {}; the file is damaged or newer than this program",
         in.file(), what, id);
  tensor.type = type->type;
  tensor.type_name = type->name;
  const auto count = element_count(tensor.shape);
  const int64_t columns = rank == 0 ? 1 : tensor.shape.back();
  if (count && columns % type->columns != 0)
    fail(
        "{}: {} of type {} has rows of {} elements, expected a multiple of {}; the file is damaged",
        in.file(), what, type->name, columns, type->columns);
  if (!count || __builtin_mul_overflow(*count / type->columns, type->bytes, &info.size))
    fail("{}: {} has shape {}, whose size overflows 64 bits; the file is damaged", in.file(), what,
         shape_text(tensor.shape));
  return info;
}

/// Finds each tensor's bytes in `data` (the file from the end of the header's padding on).
void place_tensors(std::vector<TensorInfo>& infos, std::span<const std::byte> data,
                   int64_t alignment, const std::string& file) {
  for (auto& [tensor, size, offset] : infos) {
    if (offset % static_cast<uint64_t>(alignment) != 0)
      fail("{}: tensor {} is at offset {}, not a multiple of the alignment {}; the file is damaged",
           file, printable(tensor.name), offset, alignment);
    if (offset > data.size() || static_cast<uint64_t>(size) > data.size() - offset)
      fail(
          "{}: tensor {} takes {} bytes at offset {}, outside the {} bytes of data; the file is "
          "truncated or damaged, obtain it again",
          file, printable(tensor.name), size, offset, data.size());
    tensor.bytes = data.subspan(static_cast<size_t>(offset), static_cast<size_t>(size));
  }
  std::vector<const StoredTensor*> order;
  for (const auto& info : infos)
    if (info.size > 0) order.push_back(&info.tensor);
  std::ranges::sort(order, {}, [](const StoredTensor* t) { return t->bytes.data(); });
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i - 1]->bytes.data() + order[i - 1]->bytes.size() > order[i]->bytes.data())
      fail("{}: tensors {} and {} overlap; the file is damaged, obtain it again", file,
           printable(order[i - 1]->name), printable(order[i]->name));
}

std::string_view kind_of(const GgufValue& value) {
  constexpr std::string_view names[] = {"an integer",
                                        "a float",
                                        "a boolean",
                                        "a string",
                                        "an array of integers",
                                        "an array of floats",
                                        "an array of booleans",
                                        "an array of strings"};
  return names[value.index()];
}

}  // namespace

Gguf Gguf::open(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse(file->bytes(), path, file);
}

Gguf Gguf::parse(std::span<const std::byte> bytes, const std::filesystem::path& path,
                 const std::shared_ptr<const MappedFile>& file) {
  constexpr uint64_t kLeastTensorInfo = 8 + 1 + 4 + 4 + 8, kLeastPair = 8 + 1 + 4 + 1;
  Gguf gguf;
  gguf.path_ = path;
  GgufCursor in(bytes, path.string());
  check_magic(in);
  const auto tensors = in.count(kLeastTensorInfo, "the number of tensors");
  const auto pairs = in.count(kLeastPair, "the number of metadata keys");
  for (uint64_t i = 0; i < pairs; ++i) {
    auto key = read_gguf_name(in, "metadata key");
    const auto what = "metadata key " + printable(key);
    auto value = read_gguf_value(in, what);
    if (!gguf.metadata_.try_emplace(std::move(key), std::move(value)).second)
      fail("{}: {} occurs twice; the file is damaged, obtain it again", in.file(), what);
  }
  const auto alignment = gguf.integer("general.alignment", 32);
  if (alignment <= 0 || alignment > (1 << 30) ||
      !std::has_single_bit(static_cast<uint64_t>(alignment)))
    fail(
        "{}: metadata key 'general.alignment' is {}, expected a power of two up to 2^30; the file "
        "is damaged",
        in.file(), alignment);

  in.check_count(tensors, kLeastTensorInfo, "the number of tensors");
  std::vector<TensorInfo> infos;
  infos.reserve(static_cast<size_t>(tensors));
  for (uint64_t i = 0; i < tensors; ++i) infos.push_back(read_tensor_info(in));
  std::unordered_set<std::string_view> names;
  for (const auto& info : infos)
    if (!names.insert(info.tensor.name).second)
      fail("{}: two tensors are named {}; the file is damaged, obtain it again", in.file(),
           printable(info.tensor.name));

  const auto unit = static_cast<size_t>(alignment);
  const size_t start = std::min((in.position() + unit - 1) / unit * unit, bytes.size());
  place_tensors(infos, bytes.subspan(start), alignment, in.file());
  for (auto& info : infos) {
    info.tensor.file = file;
    gguf.tensors_.push_back(std::move(info.tensor));
  }
  return gguf;
}

template <class T>
const T* Gguf::find(std::string_view key) const {
  const auto entry = metadata_.find(key);
  if (entry == metadata_.end()) return nullptr;
  if (const auto* value = std::get_if<T>(&entry->second)) return value;
  fail(
      "{}: metadata key {} is {}, expected {}; the file is damaged or of a kind that is not "
      "supported",
      path_.string(), printable(key), kind_of(entry->second), kind_of(T{}));
}

template <class T>
const T& Gguf::get(std::string_view key) const {
  if (const T* value = find<T>(key)) return *value;
  fail("{}: metadata key {} is missing; convert the model again with current tools", path_.string(),
       printable(key));
}

int64_t Gguf::integer(std::string_view key) const { return get<int64_t>(key); }
double Gguf::real(std::string_view key) const { return get<double>(key); }
const std::string& Gguf::text(std::string_view key) const { return get<std::string>(key); }
const std::vector<std::string>& Gguf::texts(std::string_view key) const {
  return get<std::vector<std::string>>(key);
}
const std::vector<int64_t>& Gguf::integers(std::string_view key) const {
  return get<std::vector<int64_t>>(key);
}
const std::vector<double>& Gguf::reals(std::string_view key) const {
  return get<std::vector<double>>(key);
}

int64_t Gguf::integer(std::string_view key, int64_t otherwise) const {
  const auto* value = find<int64_t>(key);
  return value != nullptr ? *value : otherwise;
}
double Gguf::real(std::string_view key, double otherwise) const {
  const auto* value = find<double>(key);
  return value != nullptr ? *value : otherwise;
}
bool Gguf::boolean(std::string_view key, bool otherwise) const {
  const auto* value = find<bool>(key);
  return value != nullptr ? *value : otherwise;
}
std::string Gguf::text(std::string_view key, std::string otherwise) const {
  const auto* value = find<std::string>(key);
  return value != nullptr ? *value : std::move(otherwise);
}

const StoredTensor* Gguf::find_tensor(std::string_view name) const {
  const auto found = std::ranges::find(tensors_, name, &StoredTensor::name);
  return found != tensors_.end() ? &*found : nullptr;
}

}  // namespace sala
