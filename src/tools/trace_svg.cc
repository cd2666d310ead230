#include <algorithm>
#include <array>
#include <iterator>

#include "base/error.h"
#include "tools/block_trace.h"

namespace sala {
namespace {

constexpr int64_t kMostColumns = 256, kMostRows = 200;
constexpr int kWidth = 1024, kLeft = 150, kTop = 40, kBottom = 40;
constexpr int kLevels = 16;

/// `count` things laid into at most `most` cells of nearly equal size.
struct Axis {
  int64_t count = 0, cells = 0;

  Axis(int64_t number, int64_t most) : count(number), cells(std::min(number, most)) {}
  int64_t begin(int64_t cell) const { return cell * count / cells; }
};

/// Text inside XML: what may not stand there is escaped or left out.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\n':
      case '\t':
        out += ' ';
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20) out += c;
    }
  }
  return out;
}

/// For each column the share of layers, heads and tokens [first, last) that read a block there.
std::vector<double> shares(const BlockTrace& trace, const Axis& columns, int64_t first,
                           int64_t last) {
  std::vector<double> reads(static_cast<size_t>(columns.count) + 1);
  for (int64_t i = first; i < last; ++i)
    for (const auto& list : trace.looks[static_cast<size_t>(i)].lists)
      for (const auto& run : list) {
        reads[static_cast<size_t>(run.first)] += 1.0;
        reads[static_cast<size_t>(run.first + run.length)] -= 1.0;
      }
  for (size_t i = 1; i < reads.size(); ++i) reads[i] += reads[i - 1];
  std::vector<double> out;
  const auto lists = static_cast<double>((last - first) * trace.lists());
  for (int64_t c = 0; c < columns.cells; ++c) {
    const int64_t begin = columns.begin(c), end = columns.begin(c + 1);
    double sum = 0.0;
    for (int64_t block = begin; block < end; ++block) sum += reads[static_cast<size_t>(block)];
    out.push_back(sum / (lists * static_cast<double>(end - begin)));
  }
  return out;
}

/// The cells of one row, neighbours of one level drawn as one.
void draw_row(std::string& svg, const std::vector<double>& row, double y, double height) {
  const double width = static_cast<double>(kWidth) / static_cast<double>(row.size());
  const auto level = [&](size_t i) {
    return row[i] <= 0.0 ? 0 : std::max(1, static_cast<int>(row[i] * kLevels + 0.5));
  };
  for (size_t i = 0; i < row.size();) {
    size_t end = i + 1;
    while (end < row.size() && level(end) == level(i)) ++end;
    if (level(i) > 0)
      fmt::format_to(std::back_inserter(svg),
                     "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
                     "fill-opacity=\"{:.2f}\"/>",
                     kLeft + static_cast<double>(i) * width, y,
                     static_cast<double>(end - i) * width, height,
                     static_cast<double>(level(i)) / kLevels);
    i = end;
  }
}

void draw_axis(std::string& svg, const BlockTrace& trace, double bottom) {
  constexpr int kTicks = 8;
  const int64_t tokens = trace.blocks() * trace.block_size;
  for (int i = 0; i <= kTicks; ++i)
    fmt::format_to(std::back_inserter(svg),
                   "<text x=\"{}\" y=\"{:.0f}\" text-anchor=\"middle\">{}</text>",
                   kLeft + kWidth * i / kTicks, bottom + 16, tokens * i / kTicks);
  const double end = kLeft + static_cast<double>(kWidth) *
                                 static_cast<double>(trace.prompt_tokens) /
                                 static_cast<double>(tokens);
  fmt::format_to(std::back_inserter(svg),
                 "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2:.0f}\" stroke=\"#c33\"/>",
                 end, kTop, bottom);
}

}  // namespace

std::string trace_svg(const BlockTrace& trace) {
  const Axis columns(trace.blocks(), kMostColumns);
  const Axis rows(static_cast<int64_t>(trace.looks.size()), kMostRows);
  const double height = rows.cells > 60 ? 5.0 : 14.0;
  const double bottom = kTop + height * static_cast<double>(rows.cells);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{:.0f}\" "
      "font-family=\"monospace\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"#fff\"/>\n<text x=\"{}\" y=\"20\">Blocks that each token of the answer read: darker "
      "where more layers and heads did; position in the text below, red: end of the "
      "prompt</text>\n",
      kLeft + kWidth + 40, bottom + kBottom, kLeft);
  for (int64_t r = 0; r < rows.cells; ++r) {
    const int64_t first = rows.begin(r), last = rows.begin(r + 1);
    const double y = kTop + height * static_cast<double>(r);
    std::string text;
    for (int64_t i = first; i < last && i < static_cast<int64_t>(trace.pieces.size()); ++i)
      text += trace.pieces[static_cast<size_t>(i)];
    fmt::format_to(std::back_inserter(svg), "<g fill=\"#124a8c\"><title>{}: {}</title>", first,
                   escaped(text));
    draw_row(svg, shares(trace, columns, first, last), y, height);
    svg += "</g>\n";
    if (height > 10.0)
      fmt::format_to(std::back_inserter(svg),
                     "<text x=\"{}\" y=\"{:.0f}\" text-anchor=\"end\">{}</text>\n", kLeft - 6,
                     y + height - 3, escaped(text));
  }
  draw_axis(svg, trace, bottom);
  return svg + "\n</svg>\n";
}

}  // namespace sala
