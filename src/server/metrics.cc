#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace sala {

void Metrics::Histogram::add(double value) {
  for (size_t i = 0; i < kBounds.size(); ++i)
    if (value <= kBounds[i]) ++counts[i];
  ++count;
  sum += value;
}

void Metrics::count_answer(int status) {
  const Lock lock(mutex_);
  ++answers_[status];
}

void Metrics::count_reply(const ReplyEvent& last) {
  const Usage& u = last.usage;
  const Lock lock(mutex_);
  ++replies_[last.finish ? std::string(name_of(*last.finish)) : "error"];
  if (u.generated == 0) return;
  first_token_.add(u.queue_seconds + u.prompt_seconds);
  whole_.add(u.queue_seconds + u.prompt_seconds + u.reply_seconds);
  if (u.generated > 1) per_token_.add(u.reply_seconds / static_cast<double>(u.generated - 1));
}

std::string Metrics::text(const Engine::Counters& e, const std::string& model) const {
  std::string out;
  std::string label;  // a model's name may hold what the format must escape
  for (const char c : model) {
    if (c == '\\' || c == '"') label += '\\';
    label += c == '\n' ? ' ' : c;
  }
  label = fmt::format("model_name=\"{}\"", label);
  const auto one = [&](const char* type, const char* name, const char* alias, const char* help,
                       double value) {
    for (const char* which : {name, alias})
      if (*which != 0)
        out += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n{0}{{{3}}} {4}\n", which, help, type,
                           label, value);
  };
  const auto number = [](int64_t x) { return static_cast<double>(x); };
  one("gauge", "sala:requests_running", "vllm:num_requests_running", "Requests that run.",
      number(e.running));
  one("gauge", "sala:requests_waiting", "vllm:num_requests_waiting", "Requests that wait.",
      number(e.waiting));
  const double used = e.pages > 0 ? 1.0 - number(e.free_pages) / number(e.pages) : 0.0;
  one("gauge", "sala:pages_used_ratio", "vllm:kv_cache_usage_perc",
      "Share of the pages that hold a text, running or remembered.", used);
  one("gauge", "sala:snapshot_bytes", "", "Bytes of snapshots of states.",
      number(e.snapshot_bytes));
  one("counter", "sala:prompt_tokens_total", "vllm:prompt_tokens_total", "Tokens of prompts.",
      number(e.prompt_tokens));
  one("counter", "sala:generated_tokens_total", "vllm:generation_tokens_total",
      "Tokens of replies.", number(e.generated_tokens));
  one("counter", "sala:drafted_tokens_total", "vllm:spec_decode_num_draft_tokens_total",
      "Tokens read because they were likely to come next.", number(e.drafted_tokens));
  one("counter", "sala:accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total",
      "Of them, those that came.", number(e.accepted_tokens));
  one("counter", "", "vllm:prefix_cache_queries_total", "Tokens of prompts.",
      number(e.prompt_tokens));
  one("counter", "sala:cached_tokens_total", "vllm:prefix_cache_hits_total",
      "Tokens of prompts whose memory was there.", number(e.cached_tokens));
  one("counter", "sala:read_again_tokens_total", "",
      "Cached tokens that were read to bring states up.", number(e.read_again_tokens));
  one("counter", "sala:preemptions_total", "vllm:num_preemptions_total",
      "Requests that gave up their memory for a time.", number(e.preemptions));
  one("counter", "sala:steps_total", "", "Steps of the model.", number(e.steps));
  one("counter", "sala:steps_ahead_total", "", "Of them, those launched before the last was done.",
      number(e.steps_ahead));
  one("counter", "sala:step_seconds_total", "", "Seconds in the model.", e.step_seconds);
  one("counter", "sala:schedule_seconds_total", "", "Seconds planning steps.", e.schedule_seconds);
  one("counter", "sala:sample_seconds_total", "", "Seconds choosing tokens and telling.",
      e.sample_seconds);

  const Lock lock(mutex_);
  const auto histogram = [&](const char* name, const char* alias, const char* help,
                             const Histogram& h) {
    for (const char* which : {name, alias}) {
      out += fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", which, help);
      for (size_t i = 0; i < Histogram::kBounds.size(); ++i)
        out += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", which, label, Histogram::kBounds[i],
                           h.counts[i]);
      out += fmt::format(
          "{0}_bucket{{{1},le=\"+Inf\"}} {2}\n{0}_sum{{{1}}} {3}\n{0}_count{{{1}}} {2}\n", which,
          label, h.count, h.sum);
    }
  };
  histogram("sala:time_to_first_token_seconds", "vllm:time_to_first_token_seconds",
            "From a request's arrival to its first token.", first_token_);
  histogram("sala:time_per_token_seconds", "vllm:time_per_output_token_seconds",
            "Between two tokens of a reply.", per_token_);
  histogram("sala:request_seconds", "vllm:e2e_request_latency_seconds",
            "From a request's arrival to its end.", whole_);
  out +=
      "# HELP sala:replies_total Replies by why they ended.\n# TYPE sala:replies_total counter\n";
  for (const auto& [why, count] : replies_)
    out += fmt::format("sala:replies_total{{{},finished_reason=\"{}\"}} {}\n", label, why, count);
  out +=
      "# HELP vllm:request_success_total Replies by why they ended.\n# TYPE "
      "vllm:request_success_total counter\n";
  for (const auto& [why, count] : replies_)
    out += fmt::format("vllm:request_success_total{{{},finished_reason=\"{}\"}} {}\n", label, why,
                       count);
  out +=
      "# HELP sala:http_answers_total Answers by HTTP status.\n# TYPE sala:http_answers_total "
      "counter\n";
  for (const auto& [status, count] : answers_)
    out += fmt::format("sala:http_answers_total{{status=\"{}\"}} {}\n", status, count);
  return out;
}

}  // namespace sala
