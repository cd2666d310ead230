#include "tools/session_flags.h"

#include "base/error.h"
#include "base/json.h"
#include "session/sessions.h"

namespace sala {

void SessionsDirectory::add_to(CLI::App& command) {
  command.add_option("--sessions-dir", path,
                     "where sessions are [default: sala/sessions in the user's data directory]");
}

std::filesystem::path SessionsDirectory::root() const {
  return path.empty() ? default_sessions_directory() : std::filesystem::path(path);
}

std::filesystem::path SessionsDirectory::of(const std::string& name) const {
  return session_directory(root(), name);
}

std::filesystem::path SessionsDirectory::existing(const std::string& name) const {
  std::filesystem::path dir = of(name);
  if (!StoredSession::exists(dir) && !StoredSession::is_abandoned(dir))  // which can be deleted
    fail("{}: there is no session {}; sala session list shows those that there are",
         root().string(), name);
  return dir;
}

void SessionFlags::add_to(CLI::App& command) {
  command.add_option("--session", name, "go on from the session of this name");
  directory.add_to(command);
  command.add_flag("--inexact", inexact,
                   "take a session that was computed with other weights, compute type or machine");
}

Session open_session(const std::filesystem::path& dir, Session::Access access,
                     const LoadedModel& loaded, const RunOptions& options, bool inexact) {
  const SessionFacts here = session_facts(loaded.files, *loaded.model, *loaded.device, options);
  if (access == Session::Access::write && !StoredSession::exists(dir))
    return Session::create(dir, std::filesystem::absolute(loaded.files.path).string(), here);
  return Session::open(dir, access, here, inexact);
}

namespace {

OrderedJson message(const char* role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

/// What the template writes between an answer and the next one, for `tokenizer`.
std::string later_message(const ChatTemplate& chat, const Tokenizer& tokenizer,
                          const std::string& text) {
  const std::string answer = "An answer.";
  OrderedJson messages = OrderedJson::array({message("user", "A question?")});
  const std::string before = chat.render_for(tokenizer, messages, nullptr, true, nullptr) + answer;
  messages.push_back(message("assistant", answer));
  messages.push_back(message("user", text));
  const std::string all = chat.render_for(tokenizer, messages, nullptr, true, nullptr);
  if (!all.starts_with(before))
    fail(
        "this model's chat template changes earlier messages when one is added, so that a session "
        "cannot go on with another message; use --raw");
  return all.substr(before.size());
}

}  // namespace

std::vector<int> message_tokens(const ModelFiles& files, const Manifest& session,
                                const std::string& system, const std::string& text) {
  const Tokenizer& tokenizer = files.require_tokenizer();
  if (!files.chat_template)
    fail("{}: has no chat template; use --raw to give the text as it is", files.path.string());
  if (!session.turns.empty()) {
    if (!system.empty())
      fail("a system message comes before the first message, and the session has messages");
    return tokenizer.encode(later_message(*files.chat_template, tokenizer, text),
                            {.parse_special = true});
  }
  OrderedJson messages = OrderedJson::array();
  if (!system.empty()) messages.push_back(message("system", system));
  messages.push_back(message("user", text));
  std::vector<int> tokens =
      tokenizer.encode(files.chat_template->render_for(tokenizer, messages, nullptr, true, nullptr),
                       {.parse_special = true});
  // Where texts begin with BOS the session has it already.
  const std::vector<int> bos = files.raw_prefix();
  if (session.tokens > 0 && !bos.empty() && !tokens.empty() && tokens[0] == bos[0])
    tokens.erase(tokens.begin());
  return tokens;
}

void save_reply(Session& session, Runner& runner, Hold& hold, std::span<const int> text,
                bool message) {
  runner.read(hold, text, {});
  session.save(runner, hold, text, message ? std::optional<int64_t>(0) : std::nullopt);
}

}  // namespace sala
