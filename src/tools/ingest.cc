// sala session ingest and append: texts into a session.
#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/json.h"
#include "tools/progress.h"
#include "tools/session_flags.h"
#include "tools/terminal.h"

namespace sala {
namespace {

using Clock = std::chrono::steady_clock;

/// What may be lost when the program is killed.
constexpr int64_t kCommitTokens = 4096;
constexpr std::chrono::seconds kCommitTime{30};

struct IngestCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  std::string name;
  std::vector<std::string> files;
  SessionsDirectory directory;
  bool inexact = false, appends = false;

  void run() const;
  std::vector<int> text(const ModelFiles& model_files, std::span<const std::string> texts,
                        std::span<const int32_t> before) const;
  void read(Session& session, Runner& runner, const std::vector<int>& text) const;
};

/// The whole text that the session will have.
std::vector<int> IngestCommand::text(const ModelFiles& model_files,
                                     std::span<const std::string> texts,
                                     std::span<const int32_t> before) const {
  std::vector<int> tokens(before.begin(), before.end());
  if (!appends || tokens.empty()) tokens = model_files.raw_prefix();
  for (const std::string& one : texts) {
    const std::vector<int> more = model_files.require_tokenizer().encode(one);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  if (tokens.empty()) fail("the files are empty; there is nothing to keep");
  if (appends) return tokens;
  const auto same = std::ranges::mismatch(before, tokens).in1 - before.begin();
  if (same < std::ssize(before))
    fail(
        "session {} has another text than these files from token {} on: give the files that it was "
        "made of, or another name; sala session append adds to it",
        name, same);
  return tokens;
}

void IngestCommand::read(Session& session, Runner& runner, const std::vector<int>& tokens) const {
  const auto total = std::ssize(tokens);
  const Interrupts interrupts;
  Hold hold = session.restore(runner, std::ssize(session.tokens()));
  Progress bar("reading", "tokens");
  const int64_t begin = hold.length();
  int64_t saved = hold.kept();
  auto saved_at = Clock::now();
  const auto save = [&] {
    session.save(runner, hold, std::span(tokens).first(static_cast<size_t>(hold.kept())));
    saved = hold.kept();
    saved_at = Clock::now();
  };
  const auto on_progress = [&](int64_t done) {
    bar.update(done, total - begin);
    if (interrupts.requested()) return false;
    const bool is_due =
        hold.length() - saved >= kCommitTokens || Clock::now() - saved_at >= kCommitTime;
    // What is appended counts as a whole or not at all.
    if (!appends && hold.length() > saved && is_due) save();
    return true;
  };
  const bool whole = runner.read(hold, tokens, {.on_progress = on_progress});
  bar.clear();
  if (whole || (!appends && hold.length() > saved)) save();
  if (!whole && appends) fail("interrupted; nothing was added to session {}", name);
  if (!whole)
    fail("interrupted; {} of {} tokens are saved: the same command goes on from there", saved,
         total);
}

void IngestCommand::run() const {
  const std::filesystem::path dir = appends ? directory.existing(name) : directory.of(name);
  std::vector<std::string> texts;  // what is wrong with one is told before minutes of loading
  for (const std::string& file : files) texts.push_back(read_input(file));
  LoadedModel loaded = load_model(model, OpenText::yes);
  RunOptions options = model.run_options();
  make_room_for_snapshots(loaded.files.config, options);
  Session session = open_session(dir, Session::Access::write, loaded, options, inexact);
  const auto before = std::ssize(session.tokens());
  const std::vector<int> tokens = text(loaded.files, texts, session.tokens());
  const auto total = std::ssize(tokens);
  if (before == total && !appends) {
    tell("[session {}: has these {} tokens already]\n", name, total);
    return;
  }
  if (before > 0 && !appends)
    tell("[session {}: goes on from token {} of {}]\n", name, before, total);
  tell_if_beyond(loaded.files.config, total);
  options.context = total;
  Runner runner(*loaded.model, *loaded.device, options);
  const auto start = Clock::now();
  read(session, runner, tokens);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  tell("[session {}: {} tokens, {} of them new, {:.1f} tokens/s]\n", name, total, total - before,
       static_cast<double>(total - before) / seconds);
}

void add(CLI::App& app, const char* name, const char* what, bool appends) {
  CLI::App& command = *app.add_subcommand(name, what);
  auto ingest = std::make_shared<IngestCommand>();
  ingest->appends = appends;
  ingest->model.add_to(command);
  command.add_option("name", ingest->name, "the session")->required();
  command.add_option("files", ingest->files, "texts, one after another")->required();
  ingest->directory.add_to(command);
  command.add_flag("--inexact", ingest->inexact,
                   "go on with a session that was computed otherwise");
  read_environment(command);
  command.callback([ingest] { ingest->run(); });
}

}  // namespace

void add_session_ingest(CLI::App& app) {
  add(app, "ingest", "Read texts into a new session, or go on where that was interrupted", false);
  add(app, "append", "Add texts to the end of a session", true);
}

}  // namespace sala
