#include "ops/reference.h"

#include "ops/device.h"

namespace sala {
namespace {

class ReferenceDevice final : public Device {
 public:
  ReferenceDevice() : Device("reference", reference_ops()) {}
};

}  // namespace

Ops reference_ops() {
  return {.embed = reference::embed,
          .residual_norm = reference::residual_norm,
          .matmul = reference::matmul,
          .rope_table = reference::rope_table,
          .qk_norm_rope = reference::qk_norm_rope,
          .kv_append = reference::kv_append,
          .compress_keys = reference::compress_keys,
          .block_select = reference::block_select,
          .attention = reference::attention,
          .lightning = reference::lightning,
          .sample = reference::sample};
}

std::unique_ptr<Device> open_reference() { return std::make_unique<ReferenceDevice>(); }

}  // namespace sala
