// Tokenises what it is told, so that other tokenizers can be compared with ours.
//
// tokenize_lines MODEL: MODEL is a Hugging Face directory, or a .json file with the keys of
// GgufVocab. Each line of standard input is a JSON object with one of
//   {"encode": text, "special": bool}              -> [id, ...]
//   {"hex": bytes as hexadecimal, "special": bool} -> [id, ...]
//   {"decode": [id, ...], "skip": bool}            -> text
//   {"stream": [id, ...], "skip": bool}            -> [text of each push..., text of flush]
//   {"time": path}                                 -> {"bytes", "ids", "seconds", "memory"} of one
//   encode of a file; memory: bytes by which the process's peak grew
// and each line of standard output is the answer as JSON, or {"error": text}.

#include <ctime>
#include <fstream>
#include <iostream>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "lines.h"
#include "text/tokenizer.h"

namespace {

using sala::Json;

std::unique_ptr<sala::Tokenizer> open(const std::string& path) {
  if (!path.ends_with(".json")) return sala::Tokenizer::from_directory(path);
  const Json json = sala::read_json(path);
  sala::GgufVocab vocab;
  vocab.model = json.value("model", "");
  vocab.pre = json.value("pre", "");
  vocab.tokens = json.at("tokens").get<std::vector<std::string>>();
  vocab.scores = json.value("scores", std::vector<float>());
  vocab.types = json.value("token_type", std::vector<int>());
  vocab.merges = json.value("merges", std::vector<std::string>());
  vocab.bos = json.value("bos_token_id", -1);
  vocab.eos = json.value("eos_token_id", -1);
  vocab.unk = json.value("unknown_token_id", -1);
  vocab.add_space_prefix = json.value("add_space_prefix", true);
  return sala::Tokenizer::from_gguf(vocab, path);
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

/// Time that this thread has had, so that a busy machine tells no lies.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

/// The most memory that this process has had, in bytes (getrusage counts the parent's before exec
/// too).
int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

Json time_file(const sala::Tokenizer& tokenizer, const std::string& path) {
  const std::string text = sala::read_text(path);
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew: loading is not counted
  const int64_t before = peak_bytes();
  const double start = cpu_seconds();
  const auto ids = tokenizer.encode(text);
  return {{"bytes", text.size()},
          {"ids", ids.size()},
          {"seconds", cpu_seconds() - start},
          {"memory", peak_bytes() - before}};
}

Json answer(const sala::Tokenizer& tokenizer, const Json& question) {
  const sala::EncodeOptions options{.parse_special = question.value("special", true)};
  const bool skip = question.value("skip", false);
  if (question.contains("encode"))
    return tokenizer.encode(question["encode"].get<std::string>(), options);
  if (question.contains("hex")) return tokenizer.encode(from_hex(question["hex"]), options);
  if (question.contains("time")) return time_file(tokenizer, question["time"]);
  if (question.contains("decode"))
    return tokenizer.decode(question["decode"].get<std::vector<int>>(), skip);
  sala::Detokenizer stream(tokenizer, skip);
  Json parts = Json::array();
  for (const int id : question.at("stream")) parts.push_back(stream.push(id));
  parts.push_back(stream.flush());
  return parts;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines MODEL\n";
    return 2;
  }
  const auto tokenizer = open(argv[1]);
  if (tokenizer == nullptr) sala::fail("{}: no tokenizer files there", argv[1]);
  answer_lines([&](const std::string& line) { return answer(*tokenizer, Json::parse(line)); });
  return 0;
} catch (const std::exception& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
