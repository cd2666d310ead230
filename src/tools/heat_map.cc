#include "tools/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace sala {
namespace {

// In pixels.
constexpr double kCell = 44, kHigh = 24, kLabel = 76, kTitle = 44, kGap = 24;
constexpr size_t kPerLine = 3;

/// From red through yellow to green.
std::string colour(double score) {
  const double s = std::clamp(score, 0.0, 1.0);
  const auto part = [](double x) {
    return static_cast<int>(std::lround(80 + 150 * std::clamp(x, 0.0, 1.0)));
  };
  return fmt::format("#{:02x}{:02x}50", part(2.0 - 2.0 * s), part(2.0 * s));
}

std::string text(double x, double y, const char* anchor, const std::string& what) {
  return fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, what);
}

std::string draw(const HeatMap& map, double x0, double y0) {
  std::string out = text(x0, y0 + 16, "start", map.title);
  for (size_t c = 0; c < map.columns.size(); ++c)
    out += text(x0 + kLabel + (static_cast<double>(c) + 0.5) * kCell, y0 + 38, "middle",
                map.columns[c]);
  for (size_t r = 0; r < map.rows.size(); ++r) {
    const double y = y0 + kTitle + static_cast<double>(r) * kHigh;
    out += text(x0 + kLabel - 6, y + 16, "end", map.rows[r]);
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const double x = x0 + kLabel + static_cast<double>(c) * kCell;
      out += fmt::format(
          "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" stroke=\"white\"/>\n", x,
          y, kCell, kHigh, colour(map.scores[r][c]));
      out += text(x + kCell / 2, y + 16, "middle", fmt::format("{:.0f}", 100 * map.scores[r][c]));
    }
  }
  return out;
}

}  // namespace

std::string heat_maps_svg(const std::vector<HeatMap>& maps) {
  double width = 0.0, y = kGap;
  std::string body;
  for (size_t first = 0; first < maps.size(); first += kPerLine) {
    double x = kGap, high = 0.0;
    for (size_t i = first; i < std::min(first + kPerLine, maps.size()); ++i) {
      body += draw(maps[i], x, y);
      x += kLabel + kCell * static_cast<double>(maps[i].columns.size()) + kGap;
      high = std::max(high, kTitle + kHigh * static_cast<double>(maps[i].rows.size()));
    }
    width = std::max(width, x);
    y += high + kGap;
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"white\"/>\n{2}</svg>\n",
      width, y, body);
}

}  // namespace sala
