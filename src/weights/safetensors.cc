#include "weights/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "weights/describe.h"
#include "weights/safetensors_json.h"

namespace sala {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "files are read in place and are little-endian");

constexpr uint64_t kMostHeaderBytes = 100'000'000;
constexpr uintmax_t kMostIndexBytes = 100'000'000;

struct Dtype {
  std::string_view name;
  int bits;
  StoredType type;
};

constexpr Dtype kDtypes[] = {
    {"F32", 32, StoredType::f32},      {"F16", 16, StoredType::f16},
    {"BF16", 16, StoredType::bf16},    {"F64", 64, StoredType::other},
    {"C64", 64, StoredType::other},    {"I64", 64, StoredType::other},
    {"U64", 64, StoredType::other},    {"I32", 32, StoredType::other},
    {"U32", 32, StoredType::other},    {"I16", 16, StoredType::other},
    {"U16", 16, StoredType::other},    {"I8", 8, StoredType::other},
    {"U8", 8, StoredType::other},      {"BOOL", 8, StoredType::other},
    {"F8_E4M3", 8, StoredType::other}, {"F8_E5M2", 8, StoredType::other},
    {"F8_E8M0", 8, StoredType::other}, {"F6_E2M3", 6, StoredType::other},
    {"F6_E3M2", 6, StoredType::other}, {"F4", 4, StoredType::other},
};

/// Checks one entry by itself and makes a tensor of it, whose bytes lie in `data`.
StoredTensor check_entry(SafetensorsEntry& entry, std::span<const std::byte> data,
                         const std::string& file) {
  const auto name = printable(entry.name);
  const auto* dtype = std::ranges::find(kDtypes, entry.dtype, &Dtype::name);
  if (dtype == std::end(kDtypes))
    fail(
        "{}: tensor {} has dtype {}, which is not a safetensors type; the file is damaged or newer "
        "than this program",
        file, name, printable(entry.dtype));
  const auto count = element_count(entry.shape);
  int64_t bits = 0;
  if (!count || __builtin_mul_overflow(*count, int64_t{dtype->bits}, &bits))
    fail(
        "{}: tensor {} has shape {}, whose size overflows 64 bits; the file is damaged, obtain it "
        "again",
        file, name, shape_text(entry.shape));
  if (entry.begin > entry.end || entry.end > static_cast<int64_t>(data.size()))
    fail(
        "{}: tensor {} has data_offsets [{}, {}], outside the {} bytes of data; the file is "
        "truncated or damaged, obtain it again",
        file, name, entry.begin, entry.end, data.size());
  if (bits % 8 != 0 || entry.end - entry.begin != bits / 8)
    fail(
        "{}: tensor {} of type {} and shape {} needs {} bits, but data_offsets [{}, {}] hold {} "
        "bytes; the file is damaged, obtain it again",
        file, name, dtype->name, shape_text(entry.shape), bits, entry.begin, entry.end,
        entry.end - entry.begin);
  StoredTensor tensor;
  tensor.name = std::move(entry.name);
  tensor.type = dtype->type;
  tensor.type_name = dtype->name;
  tensor.shape = std::move(entry.shape);
  tensor.bytes = data.subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(bits / 8));
  return tensor;
}

/// Checks that tensors in the order of their data cover it without overlap, hole or tail.
void check_coverage(const std::vector<StoredTensor>& tensors, std::span<const std::byte> data,
                    const std::string& file) {
  const std::byte* end = data.data();
  const StoredTensor* previous = nullptr;
  for (const auto& tensor : tensors) {
    if (tensor.bytes.data() < end)
      fail("{}: tensors {} and {} overlap by {} bytes; the file is damaged, obtain it again", file,
           printable(previous->name), printable(tensor.name), end - tensor.bytes.data());
    if (tensor.bytes.data() > end)
      fail(
          "{}: {} bytes before tensor {} belong to no tensor; the format allows no holes: write "
          "the file again with the safetensors library",
          file, tensor.bytes.data() - end, printable(tensor.name));
    end = tensor.bytes.data() + tensor.bytes.size();
    previous = &tensor;
  }
  if (const auto tail = data.data() + data.size() - end; tail != 0)
    fail(
        "{}: {} bytes after the last tensor belong to no tensor; the format allows none: obtain "
        "the file again",
        file, tail);
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

std::vector<StoredTensor> parse_safetensors(std::span<const std::byte> bytes,
                                            const std::string& name,
                                            const std::shared_ptr<const MappedFile>& file) {
  uint64_t header = 0;
  if (bytes.size() < sizeof header)
    fail(
        "{}: {} bytes are too few for a safetensors file, which begins with 8 bytes of header "
        "length; obtain it again",
        name, bytes.size());
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto rest = bytes.subspan(sizeof header);
  if (header > kMostHeaderBytes)
    fail(
        "{}: the header claims {} bytes, more than the {} that the format allows; this is not a "
        "safetensors file or it is damaged, obtain it again",
        name, header, kMostHeaderBytes);
  if (header > rest.size())
    fail(
        "{}: the header claims {} bytes, but {} follow; the file is truncated or damaged, obtain "
        "it again",
        name, header, rest.size());
  const auto text = rest.first(static_cast<size_t>(header));
  const auto data = rest.subspan(static_cast<size_t>(header));

  auto entries = read_header_json({reinterpret_cast<const char*>(text.data()), text.size()}, name);
  std::vector<StoredTensor> tensors;
  tensors.reserve(entries.size());
  for (auto& entry : entries) {
    tensors.push_back(check_entry(entry, data, name));
    tensors.back().file = file;
  }
  // Empty tensors first: they may lie at the beginning of others.
  std::ranges::sort(
      tensors, {}, [](const StoredTensor& t) { return std::pair(t.bytes.data(), t.bytes.size()); });
  check_coverage(tensors, data, name);
  return tensors;
}

std::vector<StoredTensor> read_safetensors(const fs::path& path) {
  const auto file = MappedFile::open(path);
  return parse_safetensors(file->bytes(), path.string(), file);
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view text,
                                                           const std::string& name) {
  auto shards = read_index_json(text, name);
  for (const auto& [tensor, shard] : shards)
    if (!is_plain_file_name(shard))
      fail(
          "{}: tensor {} is in {}, which is not a plain file name; shards must lie beside the "
          "index",
          name, printable(tensor), printable(shard));
  return shards;
}

std::vector<StoredTensor> read_safetensors_directory(const fs::path& dir) {
  const auto single = dir / "model.safetensors", index = dir / "model.safetensors.index.json";
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored))
    fail("{}: not a directory; give a directory with config.json and safetensors, or a .gguf file",
         dir.string());
  if (fs::exists(single, ignored)) return read_safetensors(single);
  if (!fs::exists(index, ignored))
    fail(
        "{}: holds neither model.safetensors nor model.safetensors.index.json; download the "
        "model's safetensors files, or convert its weights to that format",
        dir.string());
  if (const auto size = fs::file_size(index, ignored); !ignored && size > kMostIndexBytes)
    fail("{}: {} bytes, more than the {} that are accepted for an index", index.string(), size,
         kMostIndexBytes);
  const auto shard_of = parse_safetensors_index(read_text(index), index.string());

  std::set<std::string> shards;
  for (const auto& [tensor, shard] : shard_of) shards.insert(shard);
  std::vector<StoredTensor> tensors;
  std::set<std::string_view> seen;
  for (const auto& shard : shards) {
    if (!fs::exists(dir / shard, ignored))
      fail("{}: names the shard {}, which is not in the directory; download it again",
           index.string(), printable(shard));
    for (auto& tensor : read_safetensors(dir / shard)) {
      const auto entry = shard_of.find(tensor.name);
      if (entry == shard_of.end())
        fail(
            "{}: holds tensor {}, which {} does not name; the shards and the index are of "
            "different models",
            (dir / shard).string(), printable(tensor.name), index.string());
      if (entry->second != shard)
        fail(
            "{}: holds tensor {}, which {} says is in {}; the shards and the index are of "
            "different models",
            (dir / shard).string(), printable(tensor.name), index.string(),
            printable(entry->second));
      seen.insert(entry->first);
      tensors.push_back(std::move(tensor));
    }
  }
  for (const auto& [tensor, shard] : shard_of)
    if (!seen.contains(tensor))
      fail(
          "{}: tensor {} should be in {}, which does not hold it; the shards and the index are of "
          "different models",
          index.string(), printable(tensor), (dir / shard).string());
  return tensors;
}

}  // namespace sala
