// sala logits: the logits of given token ids, for parity checks.
#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "tools/command.h"
#include "tools/npy.h"
#include "tools/output_file.h"

namespace sala {
namespace {

/// The blocks that every query read, collected step by step.
class BlockRecord {
 public:
  BlockRecord(const ModelConfig& config, std::string policy)
      : policy_(std::move(policy)), block_(config.page()) {
    if (!config.attention.sparse) return;
    for (int i = 0; i < config.layers(); ++i)
      if (config.mixers[static_cast<size_t>(i)] == MixerKind::attention) layers_.push_back(i);
    blocks_.assign(layers_.size(), Json::array());
    for (Json& layer : blocks_)
      layer.insert(layer.end(), static_cast<size_t>(config.attention.kv_heads), Json::array());
  }

  void add(int layer, In lists, In counts) {
    const auto at = static_cast<size_t>(std::ranges::find(layers_, layer) - layers_.begin());
    for (int64_t t = 0; t < counts.dim[0]; ++t) {
      for (int64_t g = 0; g < counts.dim[1]; ++g) {
        Json& rows = blocks_[at][static_cast<size_t>(g)];
        const auto position = static_cast<int64_t>(rows.size());
        const int32_t count = counts.row<int32_t>(t)[g];
        const int32_t* list = lists.row<int32_t>(t) + g * lists.stride[1];
        Json row = Json::array();
        for (int64_t i = 0; i < (count < 0 ? position / block_ + 1 : count); ++i)
          row.push_back(count < 0 ? i : int64_t{list[i]});
        rows.push_back(std::move(row));
      }
    }
  }

  std::string text() const {
    return Json{
        {"policy", policy_}, {"block_size", block_}, {"layers", layers_}, {"blocks", blocks_}}
        .dump();
  }

 private:
  std::string policy_;
  int block_;
  std::vector<int> layers_;
  std::vector<Json> blocks_;
};

struct LogitsCommand {
  ModelOptions model{.compute = "f32", .kv = "f32"};
  std::string tokens, out, blocks;
  int64_t last = 0;

  void run() const;
  std::vector<int> read_tokens(int64_t vocab) const;
};

std::vector<int> LogitsCommand::read_tokens(int64_t vocab) const {
  const Json json = read_json(tokens);
  if (!json.is_array() || json.empty())
    fail("{}: expected a non-empty JSON array of token ids", tokens);
  std::vector<int> ids;
  for (const Json& id : json) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab)
      fail("{}: entry {} is {}; expected a token id from 0 to {}", tokens, ids.size(), id.dump(),
           vocab - 1);
    ids.push_back(id.get<int>());
  }
  return ids;
}

void LogitsCommand::run() const {
  OutputFile file("--out", out);  // a wrong name is told before minutes of loading
  expect_output("--blocks", blocks);
  LoadedModel loaded = load_model(model, OpenText::no);
  const std::vector<int> ids = read_tokens(loaded.files.config.vocab);
  const auto count = static_cast<int64_t>(ids.size());
  const int64_t rows = last > 0 ? std::min(last, count) : count;

  RunOptions options = model.run_options();
  options.context = count;
  options.chunk = static_cast<int>(std::min<int64_t>(options.chunk, count));
  options.logits = std::min<int64_t>(rows, options.chunk);
  Runner runner(*loaded.model, *loaded.device, options);
  BlockRecord record(loaded.files.config, model.sparse);
  if (!blocks.empty())
    runner.on_blocks = [&](int layer, In lists, In counts) { record.add(layer, lists, counts); };

  file.write(npy_header(rows, loaded.files.config.vocab));
  Hold hold = runner.open();
  runner.read(hold, ids,
              {.wanted = rows,
               .on_logits =
                   [&](In logits) {
                     file.write({reinterpret_cast<const char*>(logits.as<float>()),
                                 static_cast<size_t>(logits.size()) * sizeof(float)});
                   },
               .on_progress =
                   [progress = prompt_progress(count)](int64_t done) {
                     progress(done);
                     return true;
                   }});
  file.finish();
  if (!blocks.empty()) write_output("--blocks", blocks, record.text());
}

}  // namespace

void add_logits(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("logits", "Write the logits of given token ids");
  auto logits = std::make_shared<LogitsCommand>();
  logits->model.add_to(command);
  command.add_option("--tokens", logits->tokens, "JSON array of token ids")->required();
  command.add_option("--out", logits->out, "float32 .npy file to write, [positions, vocabulary]")
      ->required();
  command.add_option("--last", logits->last, "only the last N positions [default: all]")
      ->check(number_from(int64_t{1}, int64_t{1} << 40));
  command.add_option("--blocks", logits->blocks,
                     "JSON file to write: the blocks that each position read");
  read_environment(command);
  command.callback([logits] { logits->run(); });
}

}  // namespace sala
