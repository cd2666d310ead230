// sala run: a prompt in, a reply out.
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "base/json.h"
#include "engine/generate.h"
#include "tools/block_trace.h"
#include "tools/command.h"
#include "tools/constraint_flags.h"
#include "tools/output_file.h"
#include "tools/sampling_flags.h"
#include "tools/session_flags.h"
#include "tools/terminal.h"

namespace sala {
namespace {

struct RunCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  std::string prompt, file, system, trace_blocks;
  SamplingFlags sampling;
  ConstraintFlags constraint;
  int64_t limit = 512, logprobs = -1, thought_limit = -1;
  bool raw = false, json = false, save = false;
  SessionFlags session;

  void run() const;
  std::vector<int> prompt_tokens(const ModelFiles& files, const Manifest* before) const;
  Generation answer(Runner& runner, Hold& hold, const ModelFiles& files,
                    std::span<const int> tokens, const Interrupts& interrupts) const;
};

double rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

/// The ids to be read behind those of a session, if there is one before.
std::vector<int> RunCommand::prompt_tokens(const ModelFiles& files, const Manifest* before) const {
  const Tokenizer& tokenizer = files.require_tokenizer();
  const std::string document = file.empty() ? "" : read_input(file);
  std::vector<int> tokens;
  const auto append = [&](std::string_view text, EncodeOptions options = {}) {
    if (text.empty()) return;
    const std::vector<int> more = tokenizer.encode(text, options);
    tokens.insert(tokens.end(), more.begin(), more.end());
  };
  if (raw) {
    if (!system.empty())
      throw UsageError("--system needs the chat template, which --raw leaves out");
    if (before == nullptr || before->tokens == 0) tokens = files.raw_prefix();
    append(document);
    append(prompt);
    if (before != nullptr && before->tokens > 0) return tokens;  // maybe none: to go on writing
  } else {
    if (!files.chat_template)
      fail("{}: has no chat template; use --raw to give the prompt as it is", files.path.string());
    if (document.empty() && prompt.empty())
      fail("the prompt is empty; give text with -p or --file");
    const std::string content =
        document.empty() ? prompt : document + (prompt.empty() ? "" : "\n\n" + prompt);
    if (before != nullptr) return message_tokens(files, *before, system, content);
    OrderedJson messages = OrderedJson::array();
    if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
    messages.push_back({{"role", "user"}, {"content", content}});
    append(files.chat_template->render_for(tokenizer, messages, nullptr, true, nullptr),
           {.parse_special = true});
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

/// What `--json` tells of every run.
Json facts_json(const LoadedModel& loaded, const Runner& runner, const Generation& reply) {
  const RunMemory memory = runner.memory();
  const KvTraffic& traffic = runner.cache().traffic();
  return {{"text", reply.text},
          {"tokens", reply.tokens},
          {"finish_reason", name_of(reply.finish)},
          {"generated_tokens", reply.tokens.size()},
          {"prompt_tokens_per_second", rate(reply.prompt_read, reply.prompt_seconds)},
          {"drafted_tokens", reply.drafted},
          {"accepted_tokens", reply.accepted},
          {"generated_tokens_per_second", rate(reply.stepped, reply.reply_seconds)},
          {"load_seconds", loaded.load_seconds},
          {"threads", loaded.device->threads()},
          {"memory",
           {{"weights", loaded.model->weight_bytes()},
            {"kv", memory.cache.kv},
            {"index", memory.cache.index},
            {"state", memory.cache.state},
            {"workspace", memory.workspace + loaded.device->scratch_bytes()}}},
          {"kv_traffic",
           {{"blocks_used", traffic.blocks_used},
            {"blocks_read", traffic.blocks_read},
            {"bytes_read", traffic.bytes_read},
            {"blocks_written", traffic.blocks_written},
            {"bytes_written", traffic.bytes_written}}}};
}

std::string speed_line(const Generation& reply, size_t prompt, int threads) {
  std::string line =
      fmt::format("[prompt: {} tokens, {:.1f} tokens/s; generation: {} tokens, {:.1f} tokens/s",
                  prompt, rate(reply.prompt_read, reply.prompt_seconds), reply.tokens.size(),
                  rate(reply.stepped, reply.reply_seconds));
  if (reply.drafted > 0)
    line += fmt::format(", {} of {} drafted tokens accepted", reply.accepted, reply.drafted);
  return line + fmt::format("; {} threads]", threads);
}

std::string session_line(const std::string& name, const Session& session, int64_t before,
                         bool saved) {
  std::string line = fmt::format("[session {}: {} tokens before", name, before);
  line += saved ? fmt::format(", {} now", session.tokens().size()) : ", unchanged";
  if (!session.differences().empty())
    line += fmt::format("; inexact: {}", fmt::join(session.differences(), "; "));
  return line + "]";
}

/// The sequence for `prompt`, with what a session has of it; one token at least is left to read.
Hold begin(Runner& runner, const std::optional<Session>& session, std::span<const int> prompt) {
  if (!session) return runner.open(prompt);
  return session->restore(runner, std::min(std::ssize(session->tokens()), std::ssize(prompt) - 1));
}

Generation RunCommand::answer(Runner& runner, Hold& hold, const ModelFiles& files,
                              std::span<const int> tokens, const Interrupts& interrupts) const {
  GenerateOptions what{.limit = limit,
                       .sampling = sampling.over(files.sampling),
                       .stop = files.stop,
                       .stop_strings = sampling.stops,
                       .logprobs = logprobs,
                       .thought = raw ? Thought::none : files.thought_behind(tokens)};
  what.constraint = constraint.over(files, what.thought);
  if (thought_limit >= 0) what.thought_limit = thought_limit;
  what.on_prompt_progress = prompt_progress(std::ssize(tokens) - hold.length());
  what.cancelled = [&] { return interrupts.requested(); };
  if (!json) {
    what.on_text = [](const std::string& text) {
      if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() ||
          std::fflush(stdout) != 0)
        throw std::system_error(errno, std::generic_category());  // main says what was lost
    };
  }
  return generate(runner, hold, *files.tokenizer, tokens, what);
}

void RunCommand::run() const {
  if (logprobs >= 0 && !json) throw UsageError("--logprobs needs --json");
  if (save && !session.used()) throw UsageError("--save needs --session");
  expect_output("--trace-blocks", trace_blocks);  // wrong names are told before minutes of loading
  std::filesystem::path dir;
  if (session.used())
    dir = save ? session.directory.of(session.name) : session.directory.existing(session.name);
  LoadedModel loaded = load_model(model, OpenText::yes);
  RunOptions options = model.run_options();
  if (!trace_blocks.empty()) options.draft = 0;  // a trace is of tokens that stay
  std::optional<Session> kept;
  std::vector<int> tokens;
  if (session.used()) {
    make_room_for_snapshots(loaded.files.config, options);
    const auto access = save ? Session::Access::write : Session::Access::read;
    kept.emplace(open_session(dir, access, loaded, options, session.inexact));
    tokens.assign(kept->tokens().begin(), kept->tokens().end());
  }
  const auto before = std::ssize(tokens);
  const std::vector<int> added = prompt_tokens(loaded.files, kept ? &kept->manifest() : nullptr);
  tokens.insert(tokens.end(), added.begin(), added.end());
  tell_if_beyond(loaded.files.config, std::ssize(tokens));
  options.context = std::ssize(tokens) + limit;
  Runner runner(*loaded.model, *loaded.device, options);
  Hold hold = begin(runner, kept, tokens);
  const int64_t again = before - hold.length();
  std::optional<TraceWriter> trace;
  if (!trace_blocks.empty()) {
    trace.emplace(trace_blocks, loaded.files.config, *loaded.files.tokenizer, tokens,
                  hold.length());
    runner.on_blocks = [&](int layer, In lists, In counts) { trace->add(layer, lists, counts); };
  }
  const Interrupts interrupts;
  const Generation reply = answer(runner, hold, loaded.files, tokens, interrupts);
  if (trace) trace->finish(reply.tokens, *loaded.files.tokenizer);
  const bool cancelled = reply.finish == Finish::cancelled;
  const bool saves = save && !(cancelled && reply.tokens.empty());
  if (saves) {
    tokens.insert(tokens.end(), reply.tokens.begin(), reply.tokens.end());
    save_reply(*kept, runner, hold, tokens, !raw);
  }
  if (json) {
    Json out = facts_json(loaded, runner, reply);
    out["prompt_tokens"] = added.size();
    if (logprobs >= 0) out["logprobs"] = logprobs_json(reply.logprobs, *loaded.files.tokenizer);
    if (kept)
      out["session"] = {{"name", session.name},
                        {"tokens", before},
                        {"read_again", again},
                        {"saved", saves},
                        {"inexact", kept->differences()}};
    fmt::print("{}\n", out.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    std::fputs("\n", stdout);
    std::fflush(stdout);  // before the line on standard error
    tell("{}\n", speed_line(reply, added.size(), loaded.device->threads()));
    if (kept) tell("{}\n", session_line(session.name, *kept, before, saves));
  }
  if (cancelled) throw Interrupted();
}

}  // namespace

void add_run(CLI::App& app) {
  CLI::App& command = *app.add_subcommand("run", "Answer a prompt");
  auto run = std::make_shared<RunCommand>();
  run->model.add_to(command);
  run->model.add_draft_to(command);
  command.add_option("-p,--prompt", run->prompt, "the prompt");
  command.add_option("--file", run->file, "a text to put before the prompt");
  command.add_option("-n,--predict", run->limit, "tokens to generate at most")
      ->check(number_from(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  run->sampling.add_to(command);
  run->constraint.add_to(command);
  command
      .add_option("--reasoning-budget", run->thought_limit,
                  "tokens of the model's thought; -1: any number")
      ->check(number_from(int64_t{-1}, int64_t{1} << 30))
      ->capture_default_str();
  command
      .add_option(
          "--logprobs", run->logprobs,
          "with --json: the log probabilities of each token and of this many most likely ones")
      ->check(number_from(int64_t{0}, int64_t{1} << 20));
  command.add_option("--trace-blocks", run->trace_blocks,
                     "file to write: the blocks that each token of the answer read (sala trace)");
  command.add_option("--system", run->system, "a system message");
  command.add_flag("--raw", run->raw, "give the texts as they are, without the chat template");
  command.add_flag("--json", run->json, "print one JSON object instead of streaming");
  run->session.add_to(command);
  command.add_flag("--save", run->save,
                   "keep prompt and reply in the session, a new one if need be");
  read_environment(command);
  command.callback([run] { run->run(); });
}

}  // namespace sala
