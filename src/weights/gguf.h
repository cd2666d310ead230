#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "weights/source.h"

namespace sala {

/// A value of a GGUF file's metadata. Integers of every width are int64_t (u64 above its range is
/// refused), floats double.
using GgufValue = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<bool>, std::vector<std::string>>;

/// A kind of model in GGUF files.
struct GgufArchitecture {
  std::string_view name;  ///< `general.architecture` and, with a dot, the prefix of its keys
  bool interleaved;       ///< rows of q and k lie in the order of interleaved RoPE
  bool qk_norm;           ///< every head of q and k is normalised before RoPE
};

/// The tensor [head size / 2] of what RoPE's frequencies are divided by: how converters write
/// Llama 3's scaling (`rope_type` llama3), of which the metadata say nothing.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";

/// A GGUF file (version 2 or 3, little-endian): metadata and tensors under their GGUF names. All
/// sizes are checked against the file before they are used.
class Gguf {
 public:
  /// Throws Error naming the file and the field at fault.
  static Gguf open(const std::filesystem::path& path);
  /// The same for bytes in memory. `path` stands for them in messages; `file` becomes each tensor's
  /// owner and may be null if the caller keeps `bytes` alive.
  static Gguf parse(std::span<const std::byte> bytes, const std::filesystem::path& path,
                    const std::shared_ptr<const MappedFile>& file);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }

  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  /// The value of `key`; throws Error when it is absent or of another kind. The forms with a
  /// default return it when the key is absent. References live as long as this object.
  int64_t integer(std::string_view key) const;
  int64_t integer(std::string_view key, int64_t otherwise) const;
  double real(std::string_view key) const;
  double real(std::string_view key, double otherwise) const;
  bool boolean(std::string_view key, bool otherwise) const;
  const std::string& text(std::string_view key) const;
  std::string text(std::string_view key, std::string otherwise) const;
  const std::vector<std::string>& texts(std::string_view key) const;
  const std::vector<int64_t>& integers(std::string_view key) const;
  const std::vector<double>& reals(std::string_view key) const;

  /// Null when there is no tensor of this (GGUF) name.
  const StoredTensor* find_tensor(std::string_view name) const;

  /// What `general.architecture` names. Throws Error naming those that are supported.
  const GgufArchitecture& architecture() const;
  /// The tensors of a supported architecture under Hugging Face names, rows of q and k in
  /// rotate-half order (heads and head size from the metadata). Names without a counterpart stay as
  /// they are; kGgufRopeFactors, which belongs to the configuration, is left out. Throws Error when
  /// the file is of another architecture, a part of a split one, or contradicts itself.
  WeightSource model_weights() const;

 private:
  template <class T>
  const T* find(std::string_view key) const;
  template <class T>
  const T& get(std::string_view key) const;

  std::filesystem::path path_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace sala
