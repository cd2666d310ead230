#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weights/stored_tensor.h"

namespace sala {

/// The tensors of one safetensors file, in the order of their data. Everything the header says is
/// checked against the file first, by the rules of the format's own library: a header of at most
/// 100 MB, unique names, sizes that follow from type and shape, and data that covers the rest of
/// the file without overlaps, holes or a tail. Throws Error naming the file, the tensor and the
/// field at fault.
std::vector<StoredTensor> read_safetensors(const std::filesystem::path& path);

/// The same for bytes in memory. `name` stands for them in messages; `file` becomes each tensor's
/// owner and may be null if the caller keeps `bytes` alive.
std::vector<StoredTensor> parse_safetensors(std::span<const std::byte> bytes,
                                            const std::string& name,
                                            const std::shared_ptr<const MappedFile>& file);

/// `weight_map` of the text of a model.safetensors.index.json: tensor -> shard. Shards are plain
/// file names. `name` stands for the text in messages.
std::map<std::string, std::string> parse_safetensors_index(std::string_view text,
                                                           const std::string& name);

/// The tensors of a Hugging Face directory: those of model.safetensors, or those of the shards that
/// model.safetensors.index.json names, which must hold exactly the tensors that the index says.
std::vector<StoredTensor> read_safetensors_directory(const std::filesystem::path& dir);

}  // namespace sala
