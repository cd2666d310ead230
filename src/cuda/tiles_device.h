#pragma once

#include "cuda/matmul_kernels.h"

namespace sala::cuda {

/// The first row of activations and the first panel of a block that makes kRows x kPanels of the
/// outputs. Blocks of a band of rows walk the outputs together, so that they share weights in L2.
struct Tile {
  int row, panel;
};

template <int kRows, int kPanels>
__device__ inline Tile block_tile(const Product& p) {
  constexpr int kBand = 16;
  const int row_tiles = static_cast<int>((p.tokens + kRows - 1) / kRows);
  const int output_tiles = static_cast<int>((p.panel_count + kPanels - 1) / kPanels);
  const int block = static_cast<int>(blockIdx.x);
  const int band = block / (kBand * output_tiles), place = block % (kBand * output_tiles);
  const int width = row_tiles - band * kBand < kBand ? row_tiles - band * kBand : kBand;
  return {(band * kBand + place % width) * kRows, place / width * kPanels};
}

/// The blocks of all tiles.
template <int kRows, int kPanels>
Grid tiles(const Product& p) {
  return {.x = (p.panel_count + kPanels - 1) / kPanels * ((p.tokens + kRows - 1) / kRows)};
}

}  // namespace sala::cuda
