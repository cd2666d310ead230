// sala tokenize: text to token ids and back.
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "tools/command.h"

namespace sala {
namespace {

struct TokenizeCommand {
  std::string model, file;
  std::optional<std::string> prompt;
  std::optional<std::vector<int>> ids;
  bool special = false, json = false;

  void run() const;
};

void TokenizeCommand::run() const {
  if (ids && (prompt || !file.empty()))
    throw UsageError("--ids is what to turn into text; it takes no --prompt and no --file");
  const ModelFiles files = open_model(model, OpenText::yes);
  const Tokenizer& tokenizer = files.require_tokenizer();
  std::vector<int> tokens;
  if (ids) {
    tokens = *ids;
  } else {
    const std::string first = !file.empty() ? read_input(file) : prompt ? "" : read_input("-");
    tokens = tokenizer.encode(first + prompt.value_or(""), {.parse_special = special});
  }
  for (const int id : tokens)
    if (id < 0 || id >= tokenizer.size())
      fail("--ids holds {}; expected ids from 0 to {}", id, tokenizer.size() - 1);
  const std::string decoded = tokenizer.decode(tokens, false);
  if (json) {
    Json pieces = Json::array();
    for (const int id : tokens) pieces.push_back(tokenizer.piece(id));
    fmt::print(
        "{}\n",
        Json{{"ids", tokens}, {"pieces", pieces}, {"count", tokens.size()}, {"text", decoded}}.dump(
            -1, ' ', false, Json::error_handler_t::replace));
  } else if (ids) {
    fmt::print("{}\n", decoded);
  } else {
    fmt::print("{}\n", Json(tokens).dump());
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  auto tokenize = std::make_shared<TokenizeCommand>();
  command.add_option("model", tokenize->model, "Hugging Face model directory or .gguf file")
      ->required();
  command.add_option("-p,--prompt", tokenize->prompt, "the text [default: standard input]");
  command.add_option("--file", tokenize->file, "a text to put before it");
  command.add_option("--ids", tokenize->ids, "ids to turn into text instead, separated by commas")
      ->delimiter(',')
      ->check(number_from(0, std::numeric_limits<int>::max()));
  command.add_flag("--special", tokenize->special, "recognise special tokens written in the text");
  command.add_flag("--json", tokenize->json, "print one JSON object");
  read_environment(command);
  command.callback([tokenize] { tokenize->run(); });
}

}  // namespace sala
