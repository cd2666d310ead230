#pragma once

#include <filesystem>

#include "base/json.h"
#include "decoder.h"

namespace sala::halo {

/// config.json of a model, in the format of its family: llama, qwen3, minicpm_sala or hypenet.
/// `type` is the files' type of weights, e.g. "bfloat16". parse_config reads back what it says.
Json config_json(const ModelConfig& config, const std::string& type);

/// Writes tensors as a safetensors file, under a temporary name until it is whole. Throws Error
/// when something cannot be written.
void write_safetensors(const std::filesystem::path& path, const Weights& tensors,
                       const std::map<std::string, std::string>& metadata = {});
/// Reads all tensors of a safetensors file of ours: F64, F32, BF16, F16, I32, I64, U8.
Weights read_tensors(const std::filesystem::path& path);

/// A model in memory.
struct Checkpoint {
  ModelConfig config;
  Weights weights;  ///< f32
  Decoder decoder() const { return {config, weights}; }
};

/// Reads a Hugging Face directory; weights become f32 on `device`. Throws Error naming the file and
/// the tensor at fault.
Checkpoint read_checkpoint(const std::filesystem::path& dir, torch::Device device);

/// Writes config.json, generation_config.json and model.safetensors in `type` (kFloat, kBFloat16)
/// to `dir`.
void write_checkpoint(const std::filesystem::path& dir, const Checkpoint& checkpoint,
                      torch::ScalarType type);

/// Copies the tokenizer's files of one model directory to another, where they are not the same.
void copy_tokenizer(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace sala::halo
