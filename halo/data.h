#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ops.h"
#include "recall/tasks.h"
#include "text/tokenizer.h"

namespace sala::halo {

/// Writes a byte-level tokenizer to a model directory: a token for each byte, and <|endoftext|>,
/// which begins a text and ends it. The engine reads it as any other.
void write_byte_tokenizer(const std::filesystem::path& dir);

/// Packs texts, one file a document, each with the tokenizer's end of text in front, as one list of
/// token ids: the tensor "tokens" (I32) of a safetensors file. Gives the number of tokens.
int64_t pack(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
             const std::filesystem::path& out);

/// Some sequences for one forward. Row b learns ids[b, t + 1] from ids[b, 0..t].
struct Batch {
  Tensor ids;      ///< int64 [B, T + 1]
  Tensor weights;  ///< f32 [B, T]: how much each prediction counts
  Tensor answers;  ///< bool [B, T]: predictions that the context determines
  Tensor recall;   ///< bool [B, 1]: rows of recall documents; the others are text
};

/// A kind of recall documents and how often it comes, relative to the others.
struct TaskShare {
  RecallTask task;
  int64_t share;
};

/// Lists of keys and values above all, some of everything else.
const std::vector<TaskShare>& usual_tasks();

/// Where sequences come from.
struct DataOptions {
  std::string data;     ///< file of `pack`; empty: generated prose
  double recall = 0.5;  ///< share of sequences made of recall documents
  std::vector<TaskShare> tasks = usual_tasks();
  uint64_t seed = 0;
};

/// Sequences without end, each a function of the options and its number alone: windows of the
/// packed text, and recall documents end to end. The last 2 % of the text are held out.
class Data {
 public:
  Data(DataOptions options, const std::filesystem::path& tokenizer_dir);

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  /// Sequences [first, first + count) of T = context tokens.
  Batch draw(int64_t first, int64_t count, int64_t context) const;
  /// Sequences that no training sees: text alone, or recall documents alone.
  Batch held_out(int64_t count, int64_t context, bool recall) const;

 private:
  struct Row {
    std::vector<int64_t> ids;
    std::vector<float> weights;
    std::vector<char> answers;
    bool recall = false;
  };

  Row text(int64_t context, bool held_out, Random& random) const;
  Row recall(int64_t context, Random& random) const;
  void add_document(Row& row, const RecallSample& sample) const;
  void add(Row& row, const std::string& text, bool answer) const;
  Filler filler(Random& random) const;
  static Batch stack(std::vector<Row> rows, int64_t context);

  DataOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Tensor tokens_;        ///< int32 [N], or undefined
  int64_t trained_ = 0;  ///< tokens_ [0, trained_) are for training
  int64_t end_of_text_ = 0;
  double bytes_per_token_ = 1.0;
};

}  // namespace sala::halo
