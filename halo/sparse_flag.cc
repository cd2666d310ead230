#include "sparse_flag.h"

#include <utility>

#include "base/error.h"

namespace sala::halo {

void add_sparse(CLI::App& command, std::string& value) {
  command
      .add_option("--sparse", value, "InfLLM-V2 of attention layers, in tokens and blocks; or none")
      ->capture_default_str();
}

std::optional<SparseConfig> read_sparse(const std::string& text) {
  if (text == "none") return std::nullopt;
  SparseConfig s;
  const std::pair<const char*, int*> known[] = {
      {"kernel", &s.kernel_size}, {"stride", &s.kernel_stride}, {"block", &s.block_size},
      {"init", &s.init_blocks},   {"window", &s.window_size},   {"topk", &s.topk},
      {"dense_len", &s.dense_len}};
  for (const std::string& word : CLI::detail::split(text, ',')) {
    const size_t equals = word.find('=');
    bool read = false;
    for (const auto& [name, value] : known)
      if (word.substr(0, equals) == name && equals != std::string::npos)
        read = CLI::detail::lexical_cast(word.substr(equals + 1), *value) && *value >= 0;
    if (!read)
      throw UsageError(
          fmt::format("--sparse holds \"{}\"; expected e.g. {}, or none", word, kDefaultSparse));
  }
  if (s.kernel_stride < 1 || s.block_size % s.kernel_stride != 0)
    throw UsageError(fmt::format("--sparse: block ({}) is not a multiple of stride ({})",
                                 s.block_size, s.kernel_stride));
  return s;
}

}  // namespace sala::halo
