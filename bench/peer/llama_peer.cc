// What llama.cpp says and how fast: the other side of scripts/compare_llama_cpp.py, linked against
// a llama.cpp that the user has built. Nothing of llama.cpp is copied here.
//
//   llama_peer logits MODEL IDS.json OUT.f32 THREADS f32|f16    teacher-forced logits [T, vocab],
//   raw little-endian f32 llama_peer greedy MODEL IDS.json OUT.json THREADS N         N greedy
//   tokens: {"ids": [...], "gaps": [...]} llama_peer speed MODEL IDS.json OUT.json THREADS N
//   {"prompt_seconds", "generation_seconds"} of N tokens llama_peer tokenize MODEL TEXT_FILE
//   OUT.json                ids of a text, special tokens not parsed, no BOS added
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "llama.h"

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "llama_peer: %s\n", why.c_str());
  std::exit(1);
}

std::string read_file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) die(std::string("cannot read ") + path);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<llama_token> read_ids(const char* path) {
  std::vector<llama_token> ids;
  const std::string text = read_file(path);
  for (const char* p = text.c_str(); *p;) {
    char* end = nullptr;
    const long id = std::strtol(p, &end, 10);
    if (end == p) {
      ++p;
    } else {
      ids.push_back(static_cast<llama_token>(id));
      p = end;
    }
  }
  return ids;
}

template <class T>
void write_array(std::FILE* out, const char* name, const std::vector<T>& values) {
  std::fprintf(out, "\"%s\": [", name);
  for (size_t i = 0; i < values.size(); ++i)
    std::fprintf(out, "%s%.9g", i ? ", " : "", static_cast<double>(values[i]));
  std::fprintf(out, "]");
}

struct Peer {
  llama_model* model = nullptr;
  llama_context* context = nullptr;
  int vocab = 0;

  explicit Peer(const char* path) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    model = llama_model_load_from_file(path, params);
    if (!model) die(std::string("llama.cpp cannot load ") + path);
    vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
  }
  ~Peer() {
    if (context) llama_free(context);
    llama_model_free(model);
  }

  void open(int tokens, int threads, bool f32_kv, bool all_logits) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(std::max(tokens, 256));
    params.n_batch = params.n_ctx;
    params.n_outputs_max = all_logits ? params.n_batch : 1;
    params.n_threads = params.n_threads_batch = threads;
    if (f32_kv) {
      params.type_k = params.type_v = GGML_TYPE_F32;
      // Its flash attention rounds f32 keys and values to f16 first.
      params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    context = llama_init_from_model(model, params);
    if (!context) die("llama.cpp cannot open a context");
  }

  void decode(std::vector<llama_token>& ids, bool all_logits) {
    llama_batch batch = llama_batch_get_one(ids.data(), static_cast<int32_t>(ids.size()));
    std::vector<int8_t> wanted(ids.size(), 1);
    if (all_logits) batch.logits = wanted.data();
    if (llama_decode(context, batch) != 0) die("llama_decode failed");
  }

  llama_token best(float* gap) const {
    const float* logits = llama_get_logits_ith(context, -1);
    const auto first = static_cast<int>(std::max_element(logits, logits + vocab) - logits);
    float second = -1e30f;
    for (int i = 0; i < vocab; ++i)
      if (i != first) second = std::max(second, logits[i]);
    *gap = logits[first] - second;
    return first;
  }
};

void logits(Peer& peer, std::vector<llama_token> ids, const char* out, int threads, bool f32_kv) {
  peer.open(static_cast<int>(ids.size()), threads, f32_kv, true);
  peer.decode(ids, true);
  std::ofstream file(out, std::ios::binary);
  for (size_t i = 0; i < ids.size(); ++i) {
    const float* row = llama_get_logits_ith(peer.context, static_cast<int32_t>(i));
    file.write(reinterpret_cast<const char*>(row),
               static_cast<std::streamsize>(sizeof(float)) * peer.vocab);
  }
}

struct Generated {
  std::vector<llama_token> ids;
  std::vector<float> gaps;
  double prompt_seconds = 0, generation_seconds = 0;
};

Generated generate(Peer& peer, std::vector<llama_token> ids, int threads, int count) {
  peer.open(static_cast<int>(ids.size()) + count, threads, false, false);
  std::vector<llama_token> warm_up(ids.begin(), ids.begin() + 1);
  peer.decode(warm_up, false);
  llama_memory_clear(llama_get_memory(peer.context), true);
  Generated result;
  auto start = Clock::now();
  const auto lap = [&start] {
    const auto now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(start, now)).count();
  };
  for (int n = 0; n < count; ++n) {
    peer.decode(ids, false);
    float gap = 0;
    ids.assign(1, peer.best(&gap));
    result.ids.push_back(ids[0]);
    result.gaps.push_back(gap);
    if (n == 0) result.prompt_seconds = lap();
  }
  result.generation_seconds = lap();
  return result;
}

std::vector<llama_token> tokenize(const Peer& peer, const std::string& text) {
  std::vector<llama_token> ids(text.size() + 16);
  const int n = llama_tokenize(llama_model_get_vocab(peer.model), text.data(),
                               static_cast<int32_t>(text.size()), ids.data(),
                               static_cast<int32_t>(ids.size()), false, false);
  if (n < 0) die("llama_tokenize failed");
  ids.resize(static_cast<size_t>(n));
  return ids;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 4 ? argv[1] : "";
  if (!(command == "tokenize" && argc == 5) && argc != 7)
    die("usage: llama_peer logits|greedy|speed MODEL IDS OUT THREADS KV|N, or llama_peer tokenize "
        "MODEL TEXT OUT");
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  Peer peer(argv[2]);
  if (command == "logits") {
    logits(peer, read_ids(argv[3]), argv[4], std::atoi(argv[5]), std::string(argv[6]) == "f32");
    return 0;
  }
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> out(std::fopen(argv[4], "w"), std::fclose);
  if (!out) die(std::string("cannot write ") + argv[4]);
  if (command == "tokenize") {
    std::fprintf(out.get(), "{");
    write_array(out.get(), "ids", tokenize(peer, read_file(argv[3])));
    std::fprintf(out.get(), "}\n");
    return 0;
  }
  const Generated result =
      generate(peer, read_ids(argv[3]), std::atoi(argv[5]), std::atoi(argv[6]));
  std::fprintf(out.get(), "{");
  write_array(out.get(), "ids", result.ids);
  std::fprintf(out.get(), ", ");
  write_array(out.get(), "gaps", result.gaps);
  std::fprintf(out.get(), ", \"prompt_seconds\": %.6f, \"generation_seconds\": %.6f}\n",
               result.prompt_seconds, result.generation_seconds);
  return 0;
}
