#include "cache/spec.h"

namespace sala {

int64_t entry_bytes(const CacheSpec& spec, Field::Growth growth, Field::Role role) {
  int64_t bytes = 0;
  for (const Field& field : spec.fields)
    if (field.growth == growth && field.role == role) bytes += field.bytes();
  return bytes;
}

MemoryUse memory_of(const std::vector<CacheSpec>& layers, int page, int64_t tokens) {
  MemoryUse use;
  const int64_t pages = (tokens + page - 1) / page;
  for (const CacheSpec& spec : layers) {
    for (const Field& field : spec.fields) {
      const int64_t bytes = field.bytes() * (field.growth == Field::Growth::paged ? pages : 1);
      (field.role == Field::Role::kv      ? use.kv
       : field.role == Field::Role::index ? use.index
                                          : use.state) += bytes;
    }
  }
  return use;
}

}  // namespace sala
