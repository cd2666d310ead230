#include "data.h"

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint.h"

namespace sala::halo {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEndOfText = "<|endoftext|>";
// What a recall document says besides its answers counts this much: it is mostly random names and
// filler, of which there is better text.
constexpr float kRest = 0.1f;
constexpr double kHeldOut = 0.02;
// Streams of random numbers for held-out sequences; training counts from 0.
constexpr uint64_t kHeldOutText = uint64_t{1} << 60, kHeldOutRecall = uint64_t{1} << 61;

/// The letter that byte-level BPE writes for a byte (GPT-2's bytes_to_unicode), in UTF-8.
std::string byte_letter(int byte, int& others) {
  const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const int code = printable ? byte : 256 + others++;
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

}  // namespace

const std::vector<TaskShare>& usual_tasks() {
  static const std::vector<TaskShare> tasks = {{RecallTask::pairs, 25},
                                               {RecallTask::key_value, 15},
                                               {RecallTask::niah_multi_key, 15},
                                               {RecallTask::niah_single_2, 10},
                                               {RecallTask::copy, 10},
                                               {RecallTask::variables, 8},
                                               {RecallTask::niah_single_1, 6},
                                               {RecallTask::niah_single_3, 5},
                                               {RecallTask::niah_multi_value, 3},
                                               {RecallTask::niah_multi_query, 3}};
  return tasks;
}

void write_byte_tokenizer(const fs::path& dir) {
  fs::create_directories(dir);
  Json vocab = Json::object();
  int others = 0;
  for (int byte = 0; byte < 256; ++byte) vocab[byte_letter(byte, others)] = byte;
  const Json level = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", false}};
  const Json added = {{"id", 256},       {"content", kEndOfText}, {"single_word", false},
                      {"lstrip", false}, {"rstrip", false},       {"normalized", false},
                      {"special", true}};
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"vocab", vocab},
                      {"merges", Json::array()}};
  const Json tokenizer = {
      {"version", "1.0"},          {"truncation", nullptr}, {"padding", nullptr},
      {"added_tokens", {added}},   {"normalizer", nullptr}, {"pre_tokenizer", level},
      {"post_processor", nullptr}, {"decoder", level},      {"model", model}};
  const Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"bos_token", kEndOfText},
                       {"eos_token", kEndOfText},
                       {"add_bos_token", true}};
  std::ofstream(dir / "tokenizer.json") << tokenizer.dump(1) << "\n";
  std::ofstream(dir / "tokenizer_config.json") << config.dump(1) << "\n";
}

int64_t pack(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const fs::path& out) {
  if (!tokenizer.eos()) fail("the tokenizer has no eos_token, which divides documents");
  std::vector<int> tokens;
  for (const fs::path& file : files) {
    tokens.push_back(*tokenizer.eos());
    const std::vector<int> more = tokenizer.encode(read_text(file));
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  tokens.push_back(*tokenizer.eos());
  write_safetensors(out, {{"tokens", torch::tensor(tokens, torch::kInt)}});
  return static_cast<int64_t>(tokens.size());
}

Data::Data(DataOptions options, const fs::path& tokenizer_dir)
    : options_(std::move(options)), tokenizer_(Tokenizer::from_directory(tokenizer_dir)) {
  if (tokenizer_ == nullptr) fail("{}: has no tokenizer", tokenizer_dir.string());
  if (!tokenizer_->eos()) fail("{}: the tokenizer has no eos_token", tokenizer_dir.string());
  end_of_text_ = *tokenizer_->eos();
  Random random(0);
  const std::string prose = plain_prose(4000, random);
  bytes_per_token_ =
      static_cast<double>(prose.size()) / static_cast<double>(tokenizer_->encode(prose).size());
  if (options_.data.empty()) return;
  const Weights file = read_tensors(options_.data);
  if (!file.contains("tokens") || file.at("tokens").scalar_type() != torch::kInt)
    fail("{}: expected a tensor \"tokens\" of type I32, as sala-halo pack writes it",
         options_.data);
  tokens_ = file.at("tokens").reshape(-1);
  trained_ = static_cast<int64_t>(static_cast<double>(tokens_.numel()) * (1.0 - kHeldOut));
}

Batch Data::draw(int64_t first, int64_t count, int64_t context) const {
  std::vector<Row> rows;
  for (int64_t i = first; i < first + count; ++i) {
    Random random(options_.seed, static_cast<uint64_t>(i));
    rows.push_back(random.uniform() < options_.recall ? recall(context, random)
                                                      : text(context, false, random));
  }
  return stack(std::move(rows), context);
}

Batch Data::held_out(int64_t count, int64_t context, bool of_recall) const {
  std::vector<Row> rows;
  for (int64_t i = 0; i < count; ++i) {
    Random random(of_recall ? kHeldOutRecall : kHeldOutText, static_cast<uint64_t>(i));
    rows.push_back(of_recall ? recall(context, random) : text(context, true, random));
  }
  return stack(std::move(rows), context);
}

Data::Row Data::text(int64_t context, bool held_out, Random& random) const {
  Row row;
  if (!tokens_.defined()) {
    row.ids.push_back(end_of_text_);
    row.weights.push_back(1.0f);
    row.answers.push_back(0);
    add(row,
        plain_prose(static_cast<int64_t>(static_cast<double>(context) * bytes_per_token_ * 1.2),
                    random),
        false);
  } else {
    const int64_t from = held_out ? trained_ : 0;
    const int64_t room = (held_out ? tokens_.numel() : trained_) - from - (context + 1);
    if (room < 0)
      fail("{}: {} tokens{} are fewer than a sequence of {}; give more text or a shorter --ctx",
           options_.data, room + context + 1, held_out ? " held out" : "", context + 1);
    const int32_t* at = tokens_.data_ptr<int32_t>() + from + random.below(room + 1);
    row.ids.assign(at, at + context + 1);
    row.answers.assign(row.ids.size(), 0);
  }
  row.weights.assign(row.ids.size(), 1.0f);
  return row;
}

Filler Data::filler(Random& random) const {
  const int64_t kind = random.below(tokens_.defined() ? 4 : 2);
  if (kind == 0) return repeated_sentences;
  if (kind == 1) return plain_prose;
  return [this](int64_t bytes, Random& from) {
    const auto count = std::min<int64_t>(
        trained_, static_cast<int64_t>(static_cast<double>(bytes) / bytes_per_token_) + 1);
    const int32_t* at = tokens_.data_ptr<int32_t>() + from.below(trained_ - count + 1);
    return tokenizer_->decode({at, static_cast<size_t>(count)}, true) + " ";
  };
}

Data::Row Data::recall(int64_t context, Random& random) const {
  int64_t shares = 0;
  for (const TaskShare& task : options_.tasks) shares += task.share;
  Row row;
  row.recall = true;
  while (static_cast<int64_t>(row.ids.size()) <= context) {
    int64_t draw = random.below(shares);
    auto chosen = options_.tasks.begin();
    while (draw >= chosen->share) draw -= (chosen++)->share;
    const RecallTask task = chosen->task;
    // Documents of all sizes up to the whole sequence.
    const double room = static_cast<double>(context + 1) - static_cast<double>(row.ids.size());
    const double bytes = std::max(48.0, room * bytes_per_token_ * (0.1 + 0.9 * random.uniform()));
    const bool dense = task == RecallTask::key_value || task == RecallTask::pairs;
    // Half of a list is asked for, or what fits behind some sentences.
    const double each = dense ? 13.0 : task == RecallTask::copy ? 40.0 : 90.0;
    const double part = dense || task == RecallTask::copy ? 0.5 : 0.4;
    const int64_t questions = std::clamp<int64_t>(static_cast<int64_t>(bytes * part / each), 1, 40);
    const double asked = static_cast<double>(questions) * each;
    const auto size = static_cast<int64_t>(std::max(24.0, bytes - asked + each));
    add_document(row, make_recall(task, size, random.uniform(), static_cast<int>(questions),
                                  filler(random), random));
  }
  return row;
}

void Data::add_document(Row& row, const RecallSample& sample) const {
  row.ids.push_back(end_of_text_);
  row.weights.push_back(kRest);
  row.answers.push_back(0);
  add(row, sample.context, false);
  for (const auto& question : sample.questions) {
    add(row, question.text, false);
    add(row, question.reply, true);
  }
}

void Data::add(Row& row, const std::string& text, bool answer) const {
  const std::vector<int> ids = tokenizer_->encode(text);
  row.ids.insert(row.ids.end(), ids.begin(), ids.end());
  row.weights.insert(row.weights.end(), ids.size(), answer ? 1.0f : kRest);
  row.answers.insert(row.answers.end(), ids.size(), answer ? 1 : 0);
}

Batch Data::stack(std::vector<Row> rows, int64_t context) {
  const auto count = static_cast<int64_t>(rows.size());
  Batch batch{.ids = torch::empty({count, context + 1}, torch::kLong),
              .weights = torch::empty({count, context}, torch::kFloat),
              .answers = torch::empty({count, context}, torch::kBool),
              .recall = torch::empty({count, 1}, torch::kBool)};
  for (int64_t b = 0; b < count; ++b) {
    const Row& row = rows[static_cast<size_t>(b)];
    std::copy_n(row.ids.begin(), context + 1, batch.ids[b].data_ptr<int64_t>());
    // The weight and the mark of a prediction are those of the token that is predicted.
    std::copy_n(row.weights.begin() + 1, context, batch.weights[b].data_ptr<float>());
    std::copy_n(row.answers.begin() + 1, context, batch.answers[b].data_ptr<bool>());
    batch.recall[b][0] = row.recall;
  }
  return batch;
}

}  // namespace sala::halo
