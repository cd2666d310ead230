#pragma once

#include <string>
#include <vector>

namespace sala {

/// Scores in [0, 1] by length and depth, one picture with a title.
struct HeatMap {
  std::string title;
  std::vector<std::string> columns;         ///< labels of depths
  std::vector<std::string> rows;            ///< labels of lengths
  std::vector<std::vector<double>> scores;  ///< [rows][columns]
};

/// The maps side by side as an SVG; green is right, red is wrong.
std::string heat_maps_svg(const std::vector<HeatMap>& maps);

}  // namespace sala
