#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace sala {

/// One thing that a layer remembers of each sequence.
struct Field {
  /// paged: one entry for each page of tokens; state, tail: one entry for each sequence, however
  /// long. A state is complete at every multiple of the layer's cell and a tail holds what came
  /// after the last one, so that at a multiple the state is all there is to know.
  enum class Growth : uint8_t { paged, state, tail };
  /// What the entry is, for the accounts that users see and for where it lies: keys and values may
  /// leave fast memory, an index never does.
  enum class Role : uint8_t { kv, index, state };

  std::string name;
  Growth growth = Growth::paged;
  Role role = Role::kv;
  DType type = DType::f32;
  int64_t elements = 0;  ///< of one entry

  int64_t bytes() const { return elements * size_of(type); }
};

/// What one layer remembers: declared by its mixer, laid out by the cache, which knows no mixer.
struct CacheSpec {
  std::vector<Field> fields;
  int cell = 1;  ///< tokens; where its states are complete
};

/// Bytes of one entry of every field of `spec` with this growth and role, in all.
int64_t entry_bytes(const CacheSpec& spec, Field::Growth growth, Field::Role role);

/// Bytes that sequences take, by role.
struct MemoryUse {
  int64_t kv = 0;
  int64_t index = 0;
  int64_t state = 0;

  int64_t total() const { return kv + index + state; }
};

/// The closed form: memory of one sequence of `tokens` tokens (whole pages) with `page` tokens a
/// page.
MemoryUse memory_of(const std::vector<CacheSpec>& layers, int page, int64_t tokens);

}  // namespace sala
