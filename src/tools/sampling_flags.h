#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"

namespace sala {

/// A number of SamplingParams that the user can set: its flag is --<name>.
struct SamplingNumber {
  std::string_view name;
  double SamplingParams::* field;
  double low, high;
  std::string_view help;
};

inline constexpr std::array kSamplingNumbers = {
    SamplingNumber{"temp", &SamplingParams::temperature, 0.0, 100.0,
                   "temperature; 0 takes the most likely token [default: the model's]"},
    SamplingNumber{"top-p", &SamplingParams::top_p, 0.0, 1.0,
                   "sample from this share of probability [default: the model's]"},
    SamplingNumber{"min-p", &SamplingParams::min_p, 0.0, 1.0,
                   "leave out tokens less likely than this share of the most likely one"},
    SamplingNumber{"repeat-penalty", &SamplingParams::repetition_penalty, 1e-4, 1e4,
                   "divides the logits of tokens in prompt and reply; 1 changes nothing"},
    SamplingNumber{"presence-penalty", &SamplingParams::presence_penalty, -1e4, 1e4,
                   "subtracted from the logit of every token in the reply"},
    SamplingNumber{"frequency-penalty", &SamplingParams::frequency_penalty, -1e4, 1e4,
                   "the same for each time that it occurs there"},
};

/// The options of every command that writes text.
struct SamplingFlags {
  std::array<std::optional<double>, kSamplingNumbers.size()> numbers{};
  std::optional<int64_t> top_k;
  uint64_t seed = 0;
  std::vector<std::string> biases;  ///< "ID=VALUE"
  std::vector<std::string> stops;

  void add_to(CLI::App& command);
  /// What the user set over the model's `defaults`.
  SamplingParams over(SamplingParams defaults) const;
};

/// Sets the parameter `key`, named as its flag without the dashes, from text; for interactive use.
/// Throws Error that names the key and what it expects.
void set_sampling(SamplingParams& params, std::string_view key, const std::string& value);

/// All that set_sampling can set, "key value" a line.
std::string show_sampling(const SamplingParams& params);

}  // namespace sala
