#include "ops/weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/math.h"

namespace sala {
namespace {

/// f16 scales and minima of the rows of a panel, and those that are bytes.
constexpr int64_t kScaleBytes = 2 * kPanel * static_cast<int64_t>(sizeof(uint16_t));
constexpr int64_t kScaleCodeBytes = 2 * kPanel;

int64_t group_bytes(WeightType type) {
  return codes_place(type) + kPanel * group_columns(type) / (narrow(type) ? 2 : 1);
}

int64_t groups_of_super(WeightType type) { return kSuper / group_columns(type); }

int64_t super_bytes(WeightType type) {
  return kScaleBytes + groups_of_super(type) * group_bytes(type);
}

/// Place of entry (row n of the panel, column k) among 16-bit elements.
int64_t place16(WeightType type, int64_t k, int64_t n) {
  return type == WeightType::bf16 ? (k / 2 * kPanel + n) * 2 + k % 2 : k * kPanel + n;
}

/// Byte that holds the code of row n, column k of a group, from the start of the group.
int64_t code_place(WeightType type, int64_t k, int64_t n) {
  return codes_place(type) + ((narrow(type) ? k / 8 : k / 4) * kPanel + n) * 4 + k % 4;
}

bool high_nibble(int64_t k) { return k % 8 >= 4; }

void check_row(const WeightRow& row, WeightType type, int64_t cols) {
  const auto count = static_cast<size_t>(cols);
  bool whole = false;
  if (type == WeightType::f32) {
    whole = row.values.size() == count;
  } else if (quantised(type)) {
    const size_t scales = count / static_cast<size_t>(column_unit(type));
    const size_t codes = two_level(type) ? count / static_cast<size_t>(group_columns(type)) : 0;
    whole = row.codes.size() == count && row.scales.size() == scales && row.mins.size() == scales &&
            row.scale_codes.size() == codes && row.min_codes.size() == codes;
  } else {
    whole = row.bits.size() == count;
  }
  SALA_CHECK(whole, "a row of {} does not have {} columns", name_of(type), cols);
}

uint32_t load32(const void* p) {
  uint32_t bits = 0;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}

/// Writes element k of every row n to out[k][n]. In tiles of a cache line a row: rows that lie a
/// power of two apart share cache sets, and 32 of them would evict each other.
template <class T>
void interleave(const std::vector<const std::byte*>& rows, int64_t count, T* out) {
  constexpr int64_t kTile = 64 / sizeof(T);
  const int64_t whole = count / kTile * kTile;
  for (int64_t first = 0; first < whole; first += kTile) {
    for (size_t n = 0; n < rows.size(); ++n) {
      T tile[kTile];
      std::memcpy(tile, rows[n] + first * sizeof(T), sizeof tile);
      T* column = out + first * kPanel + n;
      for (int64_t k = 0; k < kTile; ++k) column[k * kPanel] = tile[k];
    }
  }
  for (size_t n = 0; n < rows.size(); ++n)
    for (int64_t k = whole; k < count; ++k)
      std::memcpy(out + k * kPanel + n, rows[n] + k * sizeof(T), sizeof(T));
}

/// Four codes a word: of 8 bits four columns, of 4 bits eight, the second four in the high nibbles.
void put_codes(WeightType type, const uint8_t* codes, size_t n, uint32_t* words) {
  const auto columns = static_cast<size_t>(group_columns(type));
  if (!narrow(type)) {
    for (size_t j = 0; j < columns / 4; ++j) words[j * kPanel + n] = load32(codes + 4 * j);
    return;
  }
  for (size_t j = 0; j < columns / 8; ++j)
    words[j * kPanel + n] =
        (load32(codes + 8 * j) & 0x0F0F0F0F) | (load32(codes + 8 * j + 4) & 0x0F0F0F0F) << 4;
}

void put_groups(WeightType type, int64_t cols, const std::vector<WeightRow>& rows,
                std::byte* panel) {
  const auto groups = static_cast<size_t>(cols / group_columns(type));
  const auto per_super = two_level(type) ? static_cast<size_t>(groups_of_super(type)) : 1;
  for (size_t g = 0; g < groups; ++g) {
    std::byte* group = panel + group_place(type, static_cast<int64_t>(g));
    auto* scales = reinterpret_cast<uint16_t*>(two_level(type) ? group - kScaleBytes : group);
    auto* scale_codes = reinterpret_cast<int8_t*>(group);
    for (size_t n = 0; n < rows.size(); ++n) {
      if (g % per_super == 0) {
        scales[n] = rows[n].scales[g / per_super];
        scales[kPanel + n] = rows[n].mins[g / per_super];
      }
      if (two_level(type)) {
        scale_codes[n] = rows[n].scale_codes[g];
        scale_codes[kPanel + n] = rows[n].min_codes[g];
      }
      put_codes(type, rows[n].codes.data() + g * static_cast<size_t>(group_columns(type)), n,
                reinterpret_cast<uint32_t*>(group + codes_place(type)));
    }
  }
}

/// Writes up to kPanel rows into a panel of zeros.
void put_panel(WeightType type, int64_t cols, const std::vector<WeightRow>& rows,
               std::byte* panel) {
  if (quantised(type)) return put_groups(type, cols, rows, panel);
  std::vector<const std::byte*> data;
  for (const auto& row : rows)
    data.push_back(type == WeightType::f32 ? reinterpret_cast<const std::byte*>(row.values.data())
                                           : reinterpret_cast<const std::byte*>(row.bits.data()));
  if (type == WeightType::f32) {
    interleave(data, cols, reinterpret_cast<float*>(panel));
  } else if (type == WeightType::f16) {
    interleave(data, cols, reinterpret_cast<uint16_t*>(panel));
  } else {
    interleave(data, cols / 2, reinterpret_cast<uint32_t*>(panel));
    if (cols % 2 != 0)
      for (size_t n = 0; n < rows.size(); ++n)
        reinterpret_cast<uint16_t*>(panel)[place16(type, cols - 1, static_cast<int64_t>(n))] =
            rows[n].bits.back();
  }
}

void unpack_groups(const Weight& w, const std::byte* panel, int64_t n, std::span<float> out) {
  const int64_t columns = group_columns(w.type);
  for (int64_t g = 0; g < w.cols / columns; ++g) {
    const std::byte* group = panel + group_place(w.type, g);
    const std::byte* super =
        two_level(w.type) ? panel + columns * g / kSuper * super_bytes(w.type) : group;
    const auto* scales = reinterpret_cast<const uint16_t*>(super);
    float scale = f16_to_f32(scales[n]);
    float min = f16_to_f32(scales[kPanel + n]);
    if (two_level(w.type)) {
      const auto* codes = reinterpret_cast<const int8_t*>(group);
      scale *= static_cast<float>(codes[n]);
      min *= static_cast<float>(codes[kPanel + n]);
    }
    for (int64_t k = 0; k < columns; ++k) {
      int code = static_cast<int>(group[code_place(w.type, k, n)]);
      if (narrow(w.type)) code = high_nibble(k) ? code >> 4 : code & 15;
      out[columns * g + k] = std::fma(scale, static_cast<float>(code), min);
    }
  }
}

}  // namespace

std::string_view name_of(WeightType type) {
  constexpr std::string_view names[] = {"f32",   "f16",    "bf16",   "w8", "w4", "w8g64",
                                        "w4g64", "w8g128", "w4g128", "k8", "k4"};
  return names[static_cast<size_t>(type)];
}

int64_t panel_bytes(WeightType type, int64_t cols) {
  switch (type) {
    case WeightType::f32:
      return cols * kPanel * 4;
    case WeightType::f16:
      return cols * kPanel * 2;
    case WeightType::bf16:
      return (cols + 1) / 2 * 2 * kPanel * 2;
    case WeightType::w8:
    case WeightType::w4:
    case WeightType::w8g64:
    case WeightType::w4g64:
    case WeightType::w8g128:
    case WeightType::w4g128:
      return cols / group_columns(type) * group_bytes(type);
    case WeightType::k8:
    case WeightType::k4:
      return cols / kSuper * super_bytes(type);
  }
  return 0;
}

int64_t codes_place(WeightType type) { return two_level(type) ? kScaleCodeBytes : kScaleBytes; }

int64_t group_place(WeightType type, int64_t g) {
  if (!two_level(type)) return g * group_bytes(type);
  const int64_t groups = groups_of_super(type);
  return g / groups * super_bytes(type) + kScaleBytes + g % groups * group_bytes(type);
}

int64_t Weight::panel_bytes() const { return sala::panel_bytes(type, cols); }

Weight pack(
    WeightType type, int64_t rows, int64_t cols, bool paired, const RowReader& read,
    const std::function<void(int64_t count, const std::function<void(int64_t)>& work)>& parallel) {
  const RowsReader one_by_one = [&](int part, int64_t first, std::span<WeightRow> block) {
    for (WeightRow& row : block) read(part, first++, row);
  };
  return pack(type, rows, cols, paired, one_by_one, parallel);
}

Weight pack(
    WeightType type, int64_t rows, int64_t cols, bool paired, const RowsReader& read,
    const std::function<void(int64_t count, const std::function<void(int64_t)>& work)>& parallel) {
  SALA_CHECK(rows > 0 && cols > 0, "a matrix of {} x {}", rows, cols);
  SALA_CHECK(cols % column_unit(type) == 0, "{} columns of {}, not a multiple of {}", cols,
             name_of(type), column_unit(type));
  Weight w{.type = type, .rows = rows, .cols = cols, .paired = paired, .storage = {}};
  w.storage = allocate(w.bytes());
  w.data = w.storage.get();
  parallel(w.panels(), [&](int64_t panel) {
    const int part = paired ? static_cast<int>(panel % 2) : 0;
    const int64_t first = (paired ? panel / 2 : panel) * kPanel;
    // Kept by the thread: fresh pages for every panel would cost more than filling them.
    thread_local std::vector<WeightRow> block;
    block.resize(static_cast<size_t>(std::min<int64_t>(kPanel, rows - first)));
    for (size_t n = 0; n < block.size(); ++n) {
      block[n].values.clear();
      block[n].bits.clear();
      block[n].codes.clear();
      block[n].scales.clear();
      block[n].mins.clear();
      block[n].scale_codes.clear();
      block[n].min_codes.clear();
    }
    read(part, first, block);
    for (const WeightRow& row : block) check_row(row, type, cols);
    put_panel(type, cols, block, w.storage.get() + panel * w.panel_bytes());
  });
  return w;
}

void unpack_row(const Weight& w, int part, int64_t n, std::span<float> out) {
  SALA_CHECK(n >= 0 && n < w.rows && (part == 0 || (part == 1 && w.paired)),
             "row {} of part {} of a matrix of {} rows", n, part, w.rows);
  SALA_CHECK(static_cast<int64_t>(out.size()) == w.cols, "{} columns into {} floats", w.cols,
             out.size());
  const std::byte* panel = w.panel(w.paired ? n / kPanel * 2 + part : n / kPanel);
  n %= kPanel;
  if (quantised(w.type)) return unpack_groups(w, panel, n, out);
  for (int64_t k = 0; k < w.cols; ++k) {
    if (w.type == WeightType::f32) {
      out[k] = reinterpret_cast<const float*>(panel)[k * kPanel + n];
    } else {
      const uint16_t bits = reinterpret_cast<const uint16_t*>(panel)[place16(w.type, k, n)];
      out[k] = w.type == WeightType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
    }
  }
}

}  // namespace sala
