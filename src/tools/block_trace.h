#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <istream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/runner.h"
#include "text/tokenizer.h"

namespace sala {

/// Which blocks every token of an answer read, written while it is generated: JSON lines.
///
///   {"format": "sala-trace", "version": 1, "block_size", "kv_heads", "layers": [index, ...],
///    "prompt_tokens", "excerpts": [the first words of each block of the prompt, ...]}
///   {"position": of the token that looked, "blocks": [one run list for each layer and key-value
///    head, layer by layer]}
///   ...
///   {"tokens": [id, ...], "pieces": [text, ...]}
///
/// A run list is first, length, first, length, ...: ascending runs of neighbouring blocks. Line i
/// of the second kind chose what token i of the answer was made from. The last line is missing when
/// the run was interrupted.
class TraceWriter {
 public:
  /// Begins the file. `prompt` is the whole prompt, of which the sequence has read `read` tokens.
  /// Throws Error when the model chooses no blocks or the file cannot be written.
  TraceWriter(const std::filesystem::path& path, const ModelConfig& config,
              const Tokenizer& tokenizer, std::span<const int> prompt, int64_t read);

  /// Hears a layer of a step (Runner::on_blocks). Of a step's tokens only the last one matters, and
  /// only from the end of the prompt on.
  void add(int layer, In lists, In counts);
  /// Ends the file with the answer's tokens.
  void finish(std::span<const int> tokens, const Tokenizer& tokenizer);

 private:
  void append_runs(int64_t position, In lists, In counts, int64_t head);

  std::string path_;
  std::ofstream file_;
  int64_t block_ = 0, prompt_ = 0, done_ = 0;
  std::vector<int> layers_;
  std::string line_;
};

/// A trace read back, every number checked.
struct BlockTrace {
  struct Run {
    int64_t first = 0, length = 0;
  };
  /// What one token of the answer read.
  struct Look {
    int64_t position = 0;
    std::vector<std::vector<Run>> lists;  ///< [layers * kv_heads]
  };

  int64_t block_size = 0, kv_heads = 0, prompt_tokens = 0;
  std::vector<int> layers;
  std::vector<std::string> excerpts;
  std::vector<Look> looks;
  std::vector<std::string> pieces;  ///< of the answer; empty when the run was interrupted

  int64_t lists() const { return kv_heads * static_cast<int64_t>(layers.size()); }
  /// Blocks of the text that the last look could see.
  int64_t blocks() const;
};

/// Reads what a TraceWriter wrote; `name` stands for the file in messages. Throws Error naming the
/// line.
BlockTrace read_trace(std::istream& file, const std::string& name);

/// The heat map: a column for a stretch of the text, a row for some tokens of the answer, the
/// colour by the share of layers and heads that read a block there.
std::string trace_svg(const BlockTrace& trace);

}  // namespace sala
