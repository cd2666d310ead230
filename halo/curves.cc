#include "curves.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace sala::halo {
namespace {

using Curve = std::vector<std::pair<double, double>>;

// One chart, in pixels.
constexpr double kWidth = 640, kHeight = 180, kLeft = 60, kRight = 20, kTop = 30, kBottom = 30;

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     text);
}

/// One chart whose upper left corner is at (0, y0).
std::string chart(const std::string& name, const Curve& curve, double y0) {
  double low = curve[0].second, high = low;
  for (const auto& [x, y] : curve) {
    low = std::min(low, y);
    high = std::max(high, y);
  }
  if (high <= low) high = low + 1e-9;
  const double last = std::max(curve.back().first, 1.0);
  const auto px = [&](double x) { return kLeft + x / last * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) {
    return y0 + kTop + (high - y) / (high - low) * (kHeight - kTop - kBottom);
  };
  std::string points;
  for (const auto& [x, y] : curve) points += fmt::format("{:.1f},{:.1f} ", px(x), py(y));
  std::string out =
      text_at(kLeft, y0 + 18, "start", fmt::format("{}: {:.4g}", name, curve.back().second));
  for (const double y : {low, (low + high) / 2, high}) {
    out += fmt::format(
        "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n", kLeft,
        kWidth - kRight, py(y), py(y));
    out += text_at(kLeft - 6, py(y) + 4, "end", fmt::format("{:.3g}", y));
  }
  for (const double x : {0.0, last / 2, last})
    out += text_at(px(x), y0 + kHeight - 12, "middle", fmt::format("{:.3g}M", x / 1e6));
  return out + fmt::format(
                   "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f5fa8\" "
                   "stroke-width=\"1.5\"/>\n",
                   points);
}

}  // namespace

void write_curves(const std::filesystem::path& log, const std::filesystem::path& svg) {
  const std::set<std::string> axes = {"step", "tokens", "seconds", "tokens_per_second"};
  std::map<std::string, Curve> curves;
  std::ifstream file(log);
  for (std::string line; std::getline(file, line);) {
    const Json json = parse_json(line, log.string());
    for (const auto& [name, value] : json.items())
      if (!axes.contains(name) && value.is_number())
        curves[name].emplace_back(json.at("tokens").get<double>(), value.get<double>());
  }
  if (curves.empty()) return;
  std::string charts;
  double y = 0.0;
  for (const char* first : {"loss"}) {
    if (!curves.contains(first)) continue;
    charts += chart(first, curves[first], y);
    curves.erase(first);
    y += kHeight;
  }
  for (const auto& [name, curve] : curves) {
    charts += chart(name, curve, y);
    y += kHeight;
  }
  std::ofstream(svg) << fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"white\"/>\n{2}</svg>\n",
      kWidth, y, charts);
}

}  // namespace sala::halo
