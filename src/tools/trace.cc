// sala trace: what `sala run --trace-blocks` recorded, as a table and as a picture.
#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/json.h"
#include "tools/block_trace.h"
#include "tools/command.h"
#include "tools/output_file.h"

namespace sala {
namespace {

struct TraceCommand {
  std::string file, svg;
  int64_t rows = 16;
  bool json = false;

  void run() const;
};

/// How often each block was read, as a share of the tokens, layers and heads that could see it.
std::vector<double> shares(const BlockTrace& trace) {
  const auto blocks = static_cast<size_t>(trace.blocks());
  std::vector<double> reads(blocks + 1), could(blocks + 1);
  for (const auto& look : trace.looks) {
    const auto seen = static_cast<size_t>(look.position / trace.block_size + 1);
    could[0] += static_cast<double>(trace.lists());
    could[seen] -= static_cast<double>(trace.lists());
    for (const auto& list : look.lists)
      for (const auto& run : list) {
        reads[static_cast<size_t>(run.first)] += 1.0;
        reads[static_cast<size_t>(run.first + run.length)] -= 1.0;
      }
  }
  std::vector<double> out;
  double read = 0.0, visible = 0.0;
  for (size_t i = 0; i < blocks; ++i) {
    read += reads[i];
    visible += could[i];
    out.push_back(read / visible);
  }
  return out;
}

/// One object for each of at most `rows` stretches of the text.
Json spans(const BlockTrace& trace, int64_t rows) {
  const std::vector<double> share = shares(trace);
  const int64_t blocks = trace.blocks(), count = std::min(rows, blocks);
  Json out = Json::array();
  for (int64_t i = 0; i < count; ++i) {
    const auto begin = share.begin() + i * blocks / count;
    const auto end = share.begin() + (i + 1) * blocks / count;
    double sum = 0.0;
    for (auto at = begin; at != end; ++at) sum += *at;
    const auto hottest = std::max_element(begin, end);
    const auto block = static_cast<size_t>(hottest - share.begin());
    const auto token = [&](auto at) { return (at - share.begin()) * trace.block_size; };
    out.push_back({{"begin", token(begin)},
                   {"end", token(end)},
                   {"read", sum / static_cast<double>(end - begin)},
                   {"hottest", token(hottest)},
                   {"hottest_read", *hottest},
                   {"excerpt", block < trace.excerpts.size() ? trace.excerpts[block] : ""}});
  }
  return out;
}

void print_table(const Json& out) {
  fmt::print("{} tokens of prompt, {} looks of the answer, {} layers of {} heads\n",
             out["prompt_tokens"].dump(), out["looks"].dump(), out["layers"].size(),
             out["kv_heads"].dump());
  fmt::print("{:>23} {:>7}  {:>23}  begins with\n", "tokens", "read", "hottest block at");
  for (const Json& span : out["spans"]) {
    std::string excerpt = span["excerpt"];
    std::ranges::replace_if(
        excerpt, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
    fmt::print("{:>10} - {:>10} {:>6.1f}%  {:>14} ({:>5.1f}%)  {}\n", span["begin"].dump(),
               span["end"].dump(), 100.0 * span["read"].get<double>(), span["hottest"].dump(),
               100.0 * span["hottest_read"].get<double>(), excerpt);
  }
}

void TraceCommand::run() const {
  expect_output("--svg", svg);
  std::ifstream in(file, std::ios::binary);
  if (!in) fail("{}: cannot be read", file);
  const BlockTrace trace = read_trace(in, file);
  const Json out = {{"file", file},
                    {"block_size", trace.block_size},
                    {"kv_heads", trace.kv_heads},
                    {"layers", trace.layers},
                    {"prompt_tokens", trace.prompt_tokens},
                    {"looks", trace.looks.size()},
                    {"spans", spans(trace, rows)}};
  if (!svg.empty()) write_output("--svg", svg, trace_svg(trace));
  if (json)
    fmt::print("{}\n", out.dump(-1, ' ', false, Json::error_handler_t::replace));
  else
    print_table(out);
}

}  // namespace

void add_trace(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("trace", "Show which parts of a text an answer has read");
  auto trace = std::make_shared<TraceCommand>();
  command.add_option("file", trace->file, "what `sala run --trace-blocks` has written")->required();
  command.add_option("--rows", trace->rows, "stretches of the text in the table")
      ->check(number_from(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command.add_option("--svg", trace->svg, "picture to write: a heat map of answer against text");
  command.add_flag("--json", trace->json, "print one JSON object");
  read_environment(command);
  command.callback([trace] { trace->run(); });
}

}  // namespace sala
