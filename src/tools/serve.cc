// sala serve: answers OpenAI's and Anthropic's APIs over HTTP.
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <csignal>
#include <fstream>
#include <string_view>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/mutex.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "server/service.h"
#include "tools/session_flags.h"

namespace sala {
namespace {

/// Flags of other servers that change nothing here, and why.
struct Accepted {
  const char* flag;
  enum { none, optional, one } value;
  const char* why;
};
constexpr const char* kOneAttention = "there is one attention, and it is exact";
constexpr const char* kOneDevice = "one process, one device";
constexpr const char* kContext = "memory is what --ctx-size says";
constexpr const char* kKv = "--kv is the type of keys and values, --compute that of the rest";
constexpr const char* kFile = "weights are used in the type in which they are stored";
constexpr const char* kMapped = "weights are mapped where their file allows it";
constexpr const char* kBatching = "requests are always batched, and long prompts cut";
constexpr const char* kLog = "--quiet is the one setting of the log";
constexpr const char* kThoughts = "thoughts always come as reasoning_content";
constexpr const char* kCalls = "calls of tools are read as the chat template has them";
constexpr const char* kNoGraphs = "short steps of a GPU are captured always";
constexpr Accepted kAccepted[] = {
    {"--trust-remote-code", Accepted::none, "no code of a model is ever run"},
    {"--attention-backend", Accepted::one, kOneAttention},
    {"--flash-attn", Accepted::optional, kOneAttention},
    {"--skip-server-warmup", Accepted::none, "nothing is warmed up"},
    {"--no-warmup", Accepted::none, "nothing is warmed up"},
    {"--disable-cuda-graph", Accepted::none, kNoGraphs},
    {"--enforce-eager", Accepted::none, kNoGraphs},
    {"--enable-prefix-caching", Accepted::none, "it is on unless --no-prefix-cache"},
    {"--enable-chunked-prefill", Accepted::none, kBatching},
    {"--cont-batching", Accepted::none, kBatching},
    {"--batch-size", Accepted::one, "--prefill-chunk says how many tokens a step has"},
    {"--enable-metrics", Accepted::none, "/metrics is always there"},
    {"--metrics", Accepted::none, "/metrics is always there"},
    {"--jinja", Accepted::none, "chat templates are always rendered"},
    {"--reasoning-parser", Accepted::one, kThoughts},
    {"--reasoning-format", Accepted::one, kThoughts},
    {"--enable-auto-tool-choice", Accepted::none, kCalls},
    {"--tool-call-parser", Accepted::one, kCalls},
    {"--mem-fraction-static", Accepted::one, kContext},
    {"--gpu-memory-utilization", Accepted::one, kContext},
    {"--swap-space", Accepted::one, kContext},
    {"--block-size", Accepted::one, "a page is a block of the model"},
    {"--page-size", Accepted::one, "a page is a block of the model"},
    {"--tp-size,--tensor-parallel-size", Accepted::one, kOneDevice},
    {"--pp-size,--pipeline-parallel-size", Accepted::one, kOneDevice},
    {"--cache-type-k", Accepted::one, kKv},
    {"--cache-type-v", Accepted::one, kKv},
    {"--dtype", Accepted::one, kKv},
    {"--quantization", Accepted::one, kFile},
    {"--load-format", Accepted::one, kFile},
    {"--mlock", Accepted::none, kMapped},
    {"--no-mmap", Accepted::none, kMapped},
    {"--disable-log-requests,--no-enable-log-requests", Accepted::none, kLog},
    {"--disable-log-stats", Accepted::none, kLog},
    {"--log-level,--uvicorn-log-level", Accepted::one, kLog},
};

/// Short options of llama-server and vLLM: the parser would take several letters for several
/// options.
constexpr std::pair<std::string_view, const char*> kShort[] = {
    {"-np", "--parallel"},   {"-ub", "--ubatch-size"},   {"-ngl", "--n-gpu-layers"},
    {"-fa", "--flash-attn"}, {"-cb", "--cont-batching"}, {"-ctk", "--cache-type-k"},
    {"-tp", "--tp-size"},    {"-ctv", "--cache-type-v"}, {"-pp", "--pp-size"},
    {"-b", "--batch-size"},  {"-t", "--threads"},
};

/// Writes a line to stderr if it takes it at once: a reader that has stopped or gone and a full
/// disk must not stop the server. Counts what is lost, and says so when there is room again. Any
/// thread.
class Log {
 public:
  void write(std::string line) {
    const Lock lock(mutex_);
    if (lost_ > 0) line = fmt::format("{} lines were lost: nobody read them\n{}", lost_, line);
    line.resize(std::min<size_t>(line.size(), PIPE_BUF - 1));  // a pipe takes so much whole
    line += '\n';
    pollfd out{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    const bool written = ::poll(&out, 1, 0) == 1 &&
                         ::write(STDERR_FILENO, line.data(), line.size()) == std::ssize(line);
    lost_ = written ? 0 : lost_ + 1;
  }

 private:
  Mutex mutex_;
  int64_t lost_ SALA_GUARDED_BY(mutex_) = 0;
};

struct ServeCommand {
  ModelOptions model{.compute = "auto", .kv = "auto"};
  HttpOptions http{};
  int64_t context = 0, queue = 256, thought_limit = -1;
  int sequences = 8;
  int drain_seconds = 30;
  std::string name, key, key_file;
  SessionsDirectory sessions_directory;
  bool inexact = false;
  bool no_reuse = false, dense_as_sparse = false, quiet = false;

  void run();
  std::vector<std::string> keys() const;
  std::string started(const LoadedModel& loaded, const std::string& called, int port,
                      int64_t tokens, int64_t memory) const;
  int64_t room(const ModelConfig& config, const RunOptions& options, int64_t available) const;
};

std::vector<std::string> ServeCommand::keys() const {
  std::vector<std::string> keys;
  if (!key.empty()) keys.push_back(key);
  if (key_file.empty()) return keys;
  std::ifstream file(key_file);
  if (!file) fail("--api-key-file {}: cannot be read", key_file);
  for (std::string line; std::getline(file, line);) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0)
      line.pop_back();
    if (!line.empty() && line[0] != '#') keys.push_back(line);
  }
  if (keys.empty()) fail("--api-key-file {}: holds no key; expected one a line", key_file);
  return keys;
}

/// Tokens that fit in half of `available` bytes.
int64_t ServeCommand::room(const ModelConfig& config, const RunOptions& options,
                           int64_t available) const {
  if (context > 0) return context;
  const int page = config.page();
  const MemoryUse one = memory_of(cache_specs(config, options.kv), page, page);
  const int64_t pages = available / 2 / std::max<int64_t>(one.kv + one.index, 1);
  constexpr int64_t kMost = int64_t{1} << 20;
  return std::clamp<int64_t>(pages * page, page, kMost);
}

/// What the log begins with: where the server is, what it takes, and how to try it.
std::string ServeCommand::started(const LoadedModel& loaded, const std::string& called, int port,
                                  int64_t tokens, int64_t memory) const {
  const bool six = http.host.find(':') != std::string::npos;  // IPv6
  const std::string url =
      fmt::format("http://{}{}{}:{}", six ? "[" : "", http.host, six ? "]" : "", port);
  const bool chats = loaded.files.chat_template.has_value();
  std::string text = fmt::format(
      "sala serve: \"{}\" on {}; {} tokens for {} sequences, {:.2f} GB of memory\n  curl {}{}{} -d "
      "'{}'",
      called, url, tokens, sequences,
      static_cast<double>(memory + loaded.model->weight_bytes()) / 1e9, url,
      chats ? "/v1/chat/completions" : "/v1/completions",
      keys().empty() ? "" : " -H 'Authorization: Bearer KEY'",
      chats ? R"({"messages": [{"role": "user", "content": "Hello"}]})" : R"({"prompt": "Hello"})");
  const int64_t known = loaded.files.config.longest_known();
  if (known > 0 && tokens > known)
    text += fmt::format(
        "\nsala serve: the model was trained on texts of up to {} tokens; clients are told so "
        "(max_model_len), and what is longer is answered at their own risk",
        known);
  return text;
}

void ServeCommand::run() {
  const std::vector<std::string> secrets = keys();
  const bool loopback =
      http.host == "localhost" || http.host == "::1" || http.host.starts_with("127.");
  if (!loopback && secrets.empty())
    throw UsageError(fmt::format(
        "--host {} is open to other machines: give --api-key-file or --api-key", http.host));
  if (dense_as_sparse) model.sparse = "always";

  // Signals are waited for by a thread; all others have them blocked.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  LoadedModel loaded = load_model(model, OpenText::yes);
  loaded.files.require_tokenizer();
  RunOptions options = model.run_options();
  options.sequences = sequences + 1;  // one for a session that is loaded
  options.chunk = std::max(options.chunk, 2 * sequences);
  const Scheduler::Limits limits{.sequences = sequences,
                                 .step_tokens = options.chunk,
                                 .step_logits = 64,
                                 .step_drafts = options.draft};
  options.logits = sequences + limits.step_logits;
  const int64_t tokens = room(loaded.files.config, options, loaded.device->available());
  options.context = tokens + loaded.files.config.page();  // a page for the copy of a shared one
  make_room_for_snapshots(loaded.files.config, options, sequences + 8);
  Runner runner(*loaded.model, *loaded.device, options);
  Engine engine(runner, *loaded.files.tokenizer, limits, queue);

  Log log;
  ServiceOptions about{
      .name = name, .keys = secrets, .reuse = !no_reuse, .loopback = loopback, .log = {}};
  if (about.name.empty()) {
    const std::filesystem::path path =
        std::filesystem::absolute(loaded.files.path).lexically_normal();
    about.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  }
  if (!quiet) about.log = [&log](const std::string& line) { log.write(line); };
  about.context = tokens;
  if (thought_limit >= 0) about.thought_limit = thought_limit;
  const std::string called = about.name;
  Sessions sessions({.root = sessions_directory.root(),
                     .model = std::filesystem::absolute(loaded.files.path).string(),
                     .inexact = inexact,
                     .facts = [&] {
                       return session_facts(loaded.files, *loaded.model, *loaded.device, options);
                     }});
  Service service(loaded.files, engine, sessions, std::move(about));
  HttpServer server(http, [&](HttpRequest request, std::shared_ptr<Exchange> exchange) {
    service.handle(std::move(request), exchange);
  });
  log.write(started(loaded, called, server.port(), tokens, runner.memory().total()));
  std::thread waiter([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    log.write(fmt::format(
        "sala serve: ends; {} s for the requests that are there, none after another signal",
        drain_seconds));
    service.drain();
    std::thread hurry([&] {
      sigwait(&signals, &signal);
      engine.drain(std::chrono::seconds(0));
    });
    engine.drain(std::chrono::seconds(drain_seconds));
    pthread_kill(hurry.native_handle(), SIGTERM);  // there is nothing to hurry any more
    hurry.join();
    server.stop(std::chrono::seconds(5));
  });
  server.run();
  waiter.join();
}

}  // namespace

void add_serve(CLI::App& app) {
  CLI::App& command =
      *app.add_subcommand("serve", "Answer OpenAI's and Anthropic's APIs over HTTP");
  auto serve = std::make_shared<ServeCommand>();
  serve->model.add_to(command);
  serve->model.add_draft_to(command);
  command.remove_option(command.get_option("model"));
  command
      .add_option("model,--model,-m,--model-path", serve->model.model,
                  "Hugging Face model directory or .gguf file")
      ->required();
  command
      .add_option("--host", serve->http.host,
                  "address to listen on; others than this machine's own need a key")
      ->capture_default_str();
  command.add_option("--port", serve->http.port, "0 takes any that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command.add_option("--alias,-a,--served-model-name", serve->name,
                     "the model's name for clients [default: its file's]");
  command
      .add_option(
          "--ctx-size,-c,--max-model-len,--context-length,--max-total-tokens", serve->context,
          "tokens of all sequences together [default: what half of the memory has room for]")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  command
      .add_option("--parallel,--max-seqs,--max-num-seqs,--max-running-requests", serve->sequences,
                  "sequences at a time")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--prefill-chunk,--chunked-prefill-size,--max-num-batched-tokens,--ubatch-size",
                  serve->model.chunk, "the same as --chunk")
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--kv-cache-dtype", serve->model.kv, "the same as --kv");
  command.add_option("--queue", serve->queue, "requests that wait at a time; more get 429")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command.add_option("--api-key", serve->key, "clients must bring it; better in a file");
  command.add_option("--api-key-file", serve->key_file, "keys, one a line");
  command.add_option("--body-limit", serve->http.body_limit, "bytes of a request at most")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
  command.add_option("--connections", serve->http.connections, "at a time")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--drain-seconds", serve->drain_seconds,
                  "after SIGTERM, for the requests that are there")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  command
      .add_option("--reasoning-budget", serve->thought_limit,
                  "tokens of a thought, where a request does not say; -1: any number")
      ->check(number_from(int64_t{-1}, int64_t{1} << 30))
      ->capture_default_str();
  command.add_flag("--no-prefix-cache,--disable-radix-cache,--no-enable-prefix-caching",
                   serve->no_reuse, "read every prompt from its beginning");
  command.add_flag("--dense-as-sparse", serve->dense_as_sparse, "the same as --sparse always");
  serve->sessions_directory.add_to(command);
  command.add_flag("--inexact", serve->inexact, "take sessions that were computed otherwise");
  command.add_flag("--quiet", serve->quiet, "no line for each request");
  for (const Accepted& one : kAccepted) {
    const auto say = [one] {
      fmt::print(stderr, "sala serve: {} changes nothing: {}\n", one.flag, one.why);
    };
    CLI::Option* option = one.value == Accepted::none
                              ? command.add_flag_callback(one.flag, say)
                              : command.add_option_function<std::string>(
                                    one.flag, [say](const std::string&) { say(); });
    if (one.value == Accepted::optional) option->expected(0, 1);
    option->group("");
  }
  std::string others;
  for (const auto& [name, meant] : kShort)
    others += fmt::format("{}{} is {}", others.empty() ? "" : ", ", name, meant);
  command.footer(others + ".");
  read_environment(command);
  command.callback([serve] { serve->run(); });
}

void rename_serve_options(std::vector<std::string>& arguments) {
  for (std::string& argument : arguments) {
    const auto* const known = std::ranges::find(kShort, std::string_view(argument),
                                                [](const auto& one) { return one.first; });
    if (known != std::end(kShort)) argument = known->second;
    const bool is_word = argument.size() > 2 && argument[0] == '-' &&
                         std::isalpha(static_cast<unsigned char>(argument[1])) != 0 &&
                         std::isalpha(static_cast<unsigned char>(argument[2])) != 0;
    if (is_word) throw UsageError(fmt::format("sala serve has no option {}", argument));
  }
}

}  // namespace sala
