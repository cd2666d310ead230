#include "tools/sampling_flags.h"

#include <charconv>

#include "base/error.h"
#include "tools/command.h"

namespace sala {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 30;

template <class T>
std::optional<T> parse(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::pair<int, double>> parse_bias(std::string_view text) {
  const size_t split = text.find('=');
  if (split == std::string_view::npos) return std::nullopt;
  const auto id = parse<int>(text.substr(0, split));
  const auto value = parse<double>(text.substr(split + 1));
  if (!id || *id < 0 || !value || !(*value >= -1e4 && *value <= 1e4)) return std::nullopt;
  return std::pair(*id, *value);
}

}  // namespace

void SamplingFlags::add_to(CLI::App& command) {
  for (size_t i = 0; i < kSamplingNumbers.size(); ++i) {
    const SamplingNumber& n = kSamplingNumbers[i];
    command.add_option("--" + std::string(n.name), numbers[i], std::string(n.help))
        ->check(number_from(n.low, n.high));
  }
  command.add_option("--top-k", top_k, "sample among this many most likely tokens; 0: all")
      ->check(number_from(int64_t{0}, kMostTokens));
  command
      .add_option("--logit-bias", biases,
                  "ID=VALUE: adds VALUE to the logit of token ID; may be repeated")
      ->allow_extra_args(false)
      ->check([](const std::string& text) {
        return parse_bias(text) ? std::string()
                                : "\"" + text + "\"; expected ID=VALUE, such as 42=-100";
      });
  command.add_option("--stop", stops, "a text that ends the reply; may be repeated")
      ->allow_extra_args(false)
      ->check([](const std::string& text) {
        return text.empty() ? std::string("an empty text stops nothing") : std::string();
      });
  command.add_option("--seed", seed, "seed of the sampling")->capture_default_str();
}

SamplingParams SamplingFlags::over(SamplingParams params) const {
  for (size_t i = 0; i < kSamplingNumbers.size(); ++i)
    if (numbers[i]) params.*kSamplingNumbers[i].field = *numbers[i];
  if (top_k) params.top_k = *top_k;
  for (const std::string& bias : biases) params.logit_bias.push_back(parse_bias(bias).value());
  params.seed = seed;
  return params;
}

void set_sampling(SamplingParams& params, std::string_view key, const std::string& value) {
  for (const SamplingNumber& n : kSamplingNumbers) {
    if (n.name != key) continue;
    const auto number = parse<double>(value);
    if (!number || !(*number >= n.low && *number <= n.high))
      fail("{} is \"{}\"; expected a number from {} to {}", key, value, n.low, n.high);
    params.*n.field = *number;
    return;
  }
  if (key == "top-k") {
    const auto number = parse<int64_t>(value);
    if (!number || *number < 0 || *number > kMostTokens)
      fail("top-k is \"{}\"; expected a whole number from 0, which takes all", value);
    params.top_k = *number;
  } else if (key == "seed") {
    const auto number = parse<uint64_t>(value);
    if (!number) fail("seed is \"{}\"; expected a whole number from 0", value);
    params.seed = *number;
  } else {
    fail("there is no \"{}\" to set; /set alone shows what there is", key);
  }
}

std::string show_sampling(const SamplingParams& params) {
  std::string text;
  for (const SamplingNumber& n : kSamplingNumbers)
    text += fmt::format("{} {}\n", n.name, params.*n.field);
  return text + fmt::format("top-k {}\nseed {}\n", params.top_k, params.seed);
}

}  // namespace sala
