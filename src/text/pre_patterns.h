#pragma once

#include <string>
#include <vector>

namespace sala {

/// How a named pre-split of GGUF files ("tokenizer.ggml.pre") cuts a text; the names are
/// llama.cpp's, the expressions those of the models' tokenizer.json files.
struct PrePatterns {
  std::vector<std::string> patterns;  ///< applied one after the other
  bool ignore_merges = false;
  bool nfc = false;  ///< the text is brought to normal form C first
  bool adds_bos = false;
};

/// Looks a name up; throws Error naming `where` for one that is not known.
PrePatterns pre_patterns(const std::string& name, const std::string& where);

}  // namespace sala
