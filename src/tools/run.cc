// sala run: a prompt in, a reply out.
#include <cstdio>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "engine/generate.h"
#include "tools/block_trace.h"
#include "tools/command.h"
#include "tools/sampling_flags.h"

namespace sala {
namespace {

struct RunCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  std::string prompt, file, system, trace_blocks;
  SamplingFlags sampling;
  int64_t limit = 512, logprobs = -1;
  bool raw = false, json = false;

  void run() const;
  std::vector<int> prompt_tokens(const ModelFiles& files) const;
};

double rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

std::vector<int> RunCommand::prompt_tokens(const ModelFiles& files) const {
  const Tokenizer& tokenizer = files.require_tokenizer();
  const std::string document = file.empty() ? "" : read_text(file);
  std::vector<int> tokens;
  const auto append = [&](std::string_view text, EncodeOptions options = {}) {
    if (text.empty()) return;
    const std::vector<int> more = tokenizer.encode(text, options);
    tokens.insert(tokens.end(), more.begin(), more.end());
  };
  if (raw) {
    if (!system.empty())
      throw UsageError("--system needs the chat template, which --raw leaves out");
    tokens = files.raw_prefix();
    append(document);
    append(prompt);
  } else {
    if (!files.chat_template)
      fail("{}: has no chat template; use --raw to give the prompt as it is", files.path.string());
    if (document.empty() && prompt.empty())
      fail("the prompt is empty; give text with -p or --file");
    OrderedJson messages = OrderedJson::array();
    if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
    const std::string content =
        document.empty() ? prompt : document + (prompt.empty() ? "" : "\n\n" + prompt);
    messages.push_back({{"role", "user"}, {"content", content}});
    append(files.chat_template->render(messages, nullptr, true), {.parse_special = true});
  }
  if (tokens.empty()) fail("the prompt is empty; give text with -p or --file");
  return tokens;
}

/// One object a token: what it is, its logprob, and the same of the most likely tokens there.
Json logprobs_json(const std::vector<Logprobs>& all, const Tokenizer& tokenizer) {
  const auto one = [&](const TokenLogprob& t) {
    return Json{{"id", t.token}, {"token", tokenizer.piece(t.token)}, {"logprob", t.logprob}};
  };
  Json out = Json::array();
  for (const Logprobs& place : all) {
    Json top = Json::array();
    for (const TokenLogprob& t : place.top) top.push_back(one(t));
    Json entry = one(place.chosen);
    entry["top"] = std::move(top);
    out.push_back(std::move(entry));
  }
  return out;
}

void RunCommand::run() const {
  if (logprobs >= 0 && !json) throw UsageError("--logprobs needs --json");
  LoadedModel loaded = load_model(model, OpenText::yes);
  const std::vector<int> tokens = prompt_tokens(loaded.files);
  const auto count = static_cast<int64_t>(tokens.size());

  RunOptions options = model.run_options();
  options.context = count + limit;
  Runner runner(*loaded.model, *loaded.device, options);

  GenerateOptions what{.limit = limit,
                       .sampling = sampling.over(loaded.files.sampling),
                       .stop = loaded.files.stop,
                       .stop_strings = sampling.stops,
                       .logprobs = logprobs};
  what.on_prompt_progress = prompt_progress(count);
  if (!json) {
    what.on_text = [](const std::string& text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
  }
  Hold hold = runner.open();
  std::optional<TraceWriter> trace;
  if (!trace_blocks.empty()) {
    trace.emplace(trace_blocks, loaded.files.config, *loaded.files.tokenizer, tokens,
                  hold.length());
    runner.on_blocks = [&](int layer, In lists, In counts) { trace->add(layer, lists, counts); };
  }
  const Generation reply = generate(runner, hold, *loaded.files.tokenizer, tokens, what);
  if (trace) trace->finish(reply.tokens, *loaded.files.tokenizer);
  const double prompt_rate = rate(count, reply.prompt_seconds);
  const double reply_rate = rate(reply.reply_steps, reply.reply_seconds);
  if (json) {
    const RunMemory memory = runner.memory();
    Json out = {{"text", reply.text},
                {"tokens", reply.tokens},
                {"finish_reason", name_of(reply.finish)},
                {"prompt_tokens", count},
                {"generated_tokens", reply.tokens.size()},
                {"prompt_tokens_per_second", prompt_rate},
                {"generated_tokens_per_second", reply_rate},
                {"load_seconds", loaded.load_seconds},
                {"threads", loaded.device->threads()},
                {"memory",
                 {{"weights", loaded.model->weight_bytes()},
                  {"kv", memory.cache.kv},
                  {"index", memory.cache.index},
                  {"state", memory.cache.state},
                  {"workspace", memory.workspace + loaded.device->scratch_bytes()}}}};
    if (logprobs >= 0) out["logprobs"] = logprobs_json(reply.logprobs, *loaded.files.tokenizer);
    fmt::print("{}\n", out.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    std::fputs("\n", stdout);
    std::fflush(stdout);  // before the line on standard error
    fmt::print(stderr,
               "[prompt: {} tokens, {:.1f} tokens/s; generation: {} tokens, {:.1f} tokens/s; {} "
               "threads]\n",
               count, prompt_rate, reply.tokens.size(), reply_rate, loaded.device->threads());
  }
}

}  // namespace

void add_run(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("run", "Answer a prompt");
  auto run = std::make_shared<RunCommand>();
  run->model.add_to(command);
  command.add_option("-p,--prompt", run->prompt, "the prompt");
  command.add_option("--file", run->file, "a text to put before the prompt");
  command.add_option("-n,--predict", run->limit, "tokens to generate at most")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  run->sampling.add_to(command);
  command
      .add_option(
          "--logprobs", run->logprobs,
          "with --json: the log probabilities of each token and of this many most likely ones")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  command.add_option("--trace-blocks", run->trace_blocks,
                     "file to write: the blocks that each token of the answer read (sala trace)");
  command.add_option("--system", run->system, "a system message");
  command.add_flag("--raw", run->raw, "give the texts as they are, without the chat template");
  command.add_flag("--json", run->json, "print one JSON object instead of streaming");
  read_environment(command);
  command.callback([run] { run->run(); });
}

}  // namespace sala
