#include "ops/weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/math.h"

namespace sala {
namespace {

constexpr int64_t kScaleBytes = 2 * kPanel * static_cast<int64_t>(sizeof(uint16_t));

bool quantised(WeightType type) { return type == WeightType::w8 || type == WeightType::w4; }

int64_t group_bytes(WeightType type) {
  return kScaleBytes + kPanel * kGroup / (type == WeightType::w4 ? 2 : 1);
}

/// Place of entry (row n of the panel, column k) among 16-bit elements.
int64_t place16(WeightType type, int64_t k, int64_t n) {
  return type == WeightType::bf16 ? (k / 2 * kPanel + n) * 2 + k % 2 : k * kPanel + n;
}

/// Byte that holds the code of row n, column k of a group, from the start of the group.
int64_t code_place(WeightType type, int64_t k, int64_t n) {
  return kScaleBytes + ((type == WeightType::w4 ? k / 8 : k / 4) * kPanel + n) * 4 + k % 4;
}

bool high_nibble(int64_t k) { return k % 8 >= 4; }

void check_row(const WeightRow& row, WeightType type, int64_t cols) {
  const auto count = static_cast<size_t>(cols);
  bool whole = false;
  if (type == WeightType::f32) {
    whole = row.values.size() == count;
  } else if (quantised(type)) {
    whole = row.codes.size() == count && row.scales.size() == count / kGroup &&
            row.mins.size() == count / kGroup;
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

/// Four codes a word: of w8 four columns, of w4 eight, the second four in the high nibbles.
void put_groups(WeightType type, const std::vector<WeightRow>& rows, std::byte* panel) {
  const size_t groups = rows[0].scales.size();
  for (size_t g = 0; g < groups; ++g, panel += group_bytes(type)) {
    auto* scales = reinterpret_cast<uint16_t*>(panel);
    auto* words = reinterpret_cast<uint32_t*>(panel + kScaleBytes);
    for (size_t n = 0; n < rows.size(); ++n) {
      scales[n] = rows[n].scales[g];
      scales[kPanel + n] = rows[n].mins[g];
      const uint8_t* codes = rows[n].codes.data() + g * kGroup;
      if (type == WeightType::w8) {
        for (size_t j = 0; j < kGroup / 4; ++j) words[j * kPanel + n] = load32(codes + 4 * j);
      } else {
        for (size_t j = 0; j < kGroup / 8; ++j)
          words[j * kPanel + n] =
              (load32(codes + 8 * j) & 0x0F0F0F0F) | (load32(codes + 8 * j + 4) & 0x0F0F0F0F) << 4;
      }
    }
  }
}

/// Writes up to kPanel rows into a panel of zeros.
void put_panel(WeightType type, int64_t cols, const std::vector<WeightRow>& rows,
               std::byte* panel) {
  if (quantised(type)) return put_groups(type, rows, panel);
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
  for (int64_t first = 0; first < w.cols; first += kGroup, panel += group_bytes(w.type)) {
    const auto* scales = reinterpret_cast<const uint16_t*>(panel);
    const auto* bytes = reinterpret_cast<const uint8_t*>(panel);
    const float scale = f16_to_f32(scales[n]);
    const float min = f16_to_f32(scales[kPanel + n]);
    for (int64_t k = 0; k < kGroup; ++k) {
      int code = bytes[code_place(w.type, k, n)];
      if (w.type == WeightType::w4) code = high_nibble(k) ? code >> 4 : code & 15;
      out[first + k] = std::fma(scale, static_cast<float>(code), min);
    }
  }
}

}  // namespace

std::string_view name_of(WeightType type) {
  constexpr std::string_view names[] = {"f32", "f16", "bf16", "w8", "w4"};
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
      return cols / kGroup * group_bytes(type);
  }
  return 0;
}

int64_t Weight::panel_bytes() const { return sala::panel_bytes(type, cols); }

Weight pack(
    WeightType type, int64_t rows, int64_t cols, bool paired, const RowReader& read,
    const std::function<void(int64_t count, const std::function<void(int64_t)>& work)>& parallel) {
  SALA_CHECK(rows > 0 && cols > 0, "a matrix of {} x {}", rows, cols);
  SALA_CHECK(!quantised(type) || cols % kGroup == 0, "{} columns of {}, not a multiple of {}", cols,
             name_of(type), kGroup);
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
      read(part, first + static_cast<int64_t>(n), block[n]);
      check_row(block[n], type, cols);
    }
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
