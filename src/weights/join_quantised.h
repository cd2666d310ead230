#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "weights/stored_tensor.h"

namespace sala {

/// The tensors of a checkpoint under the names that a model asks for.
struct JoinedTensors {
  std::vector<StoredTensor> tensors;
  std::string remark;  ///< what a user should know of them; may be empty
};

/// "quantization_config" of a directory's config.json, or what quantize_config.json says (older
/// AutoGPTQ); null where there is neither.
Json read_quantisation(const std::filesystem::path& dir);

/// Joins the tensors that hold one matrix together (`X.qweight`, `X.scales`, ...) to `X.weight` of
/// type int4 or int8, as GPTQ, AWQ and compressed-tensors write them (docs/formats.md); others stay
/// as they are. `quantisation` says how they were written; null and our own: nothing is joined.
/// `origin` stands for them in messages. Throws Error naming the key or the tensor at fault.
JoinedTensors join_quantised(std::vector<StoredTensor> tensors, const Json& quantisation,
                             const std::string& origin);

}  // namespace sala
