#include "tools/bench_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>

namespace sala {
namespace {

constexpr int kWidth = 640, kHeight = 320, kLeft = 60, kTop = 30, kBottom = 40, kLegend = 220;

struct Line {
  std::string name;
  std::vector<const BenchRow*> rows;
};

std::vector<Line> lines_of(const std::vector<BenchRow>& rows) {
  std::map<std::pair<bool, int64_t>, Line> lines;
  for (const BenchRow& row : rows) {
    const bool gen = row.what.phase == BenchCase::Phase::gen;
    Line& line = lines[{gen, row.what.tokens}];
    line.name = gen ? "generated" : fmt::format("prompt of {}", row.what.tokens);
    line.rows.push_back(&row);
  }
  std::vector<Line> out;
  for (auto& [key, line] : lines) {
    std::ranges::sort(line.rows, {}, [](const BenchRow* row) { return row->what.depth; });
    out.push_back(std::move(line));
  }
  return out;
}

}  // namespace

std::string bench_svg(const std::vector<BenchRow>& rows) {
  constexpr std::array kColours = {"#124a8c", "#b3541e", "#2e7d32", "#7b1fa2", "#555555"};
  int64_t deepest = 1;
  for (const BenchRow& row : rows) deepest = std::max(deepest, row.what.depth);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
      "font-family=\"monospace\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"#fff\"/>\n<text x=\"{}\" y=\"18\">Tokens per second, of each line's most, against "
      "the "
      "tokens in front</text>\n<path d=\"M{} {}V{}H{}\" fill=\"none\" stroke=\"#000\"/>\n",
      kLeft + kWidth + kLegend, kTop + kHeight + kBottom, kLeft, kLeft, kTop, kTop + kHeight,
      kLeft + kWidth);
  const auto out = std::back_inserter(svg);
  const auto x = [&](int64_t depth) {
    return kLeft + kWidth * static_cast<double>(depth) / static_cast<double>(deepest);
  };
  size_t colour = 0;
  for (const Line& line : lines_of(rows)) {
    const BenchRow* best =
        *std::ranges::max_element(line.rows, {}, [](const BenchRow* row) { return row->tokens; });
    const char* ink = kColours[colour % kColours.size()];
    std::string points;
    for (const BenchRow* row : line.rows) {
      const double y = kTop + kHeight * (1 - row->tokens / best->tokens);
      fmt::format_to(std::back_inserter(points), "{:.1f},{:.1f} ", x(row->what.depth), y);
      fmt::format_to(out,
                     "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>{} behind {}: "
                     "{:.2f} tokens/s</title></circle>\n",
                     x(row->what.depth), y, ink, line.name, row->what.depth, row->tokens);
      fmt::format_to(out, "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                     x(row->what.depth), kTop + kHeight + 16, row->what.depth);
    }
    fmt::format_to(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\"/>\n", points, ink);
    fmt::format_to(out, "<text x=\"{}\" y=\"{}\" fill=\"{}\">{}: 100 % is {:.1f}</text>\n",
                   kLeft + kWidth + 10, kTop + 16 * (colour + 1), ink, line.name, best->tokens);
    ++colour;
  }
  return svg + "</svg>\n";
}

}  // namespace sala
