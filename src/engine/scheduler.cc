#include "engine/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "engine/runner.h"

namespace sala {
namespace {

/// Tokens of a reply for which a job must find room before it begins. Short of it, two long
/// replies would take each other's pages in turn.
constexpr int64_t kReplyRoom = 256;

/// Tokens of a prompt in front of what is expected behind it.
constexpr size_t kPromptEnd = 8;

}  // namespace

Scheduler::Scheduler(Cache& cache, const Limits& limits)
    : cache_(cache), limits_(limits), page_(cache.page()), total_pages_(cache.free_pages()) {
  SALA_CHECK(limits.sequences <= cache.free_slots(), "{} sequences in {} slots", limits.sequences,
             cache.free_slots());
  SALA_CHECK(limits.step_tokens >= 2 * limits.sequences, "{} tokens a step for {} sequences",
             limits.step_tokens, limits.sequences);
  SALA_CHECK(limits.step_drafts <= limits.step_logits, "{} drafts and {} rows of logits a step",
             limits.step_drafts, limits.step_logits);
}

void Scheduler::add(Job job) {
  SALA_CHECK(find(job.id) == nullptr && !job.hold, "job {}", job.id);
  SALA_CHECK(job.prompt > 0 && job.prompt == std::ssize(job.text) && fits(job.prompt + job.limit),
             "job {} of {} tokens", job.id, job.prompt);
  // Behind the prompt's end, so that its first token is found there.
  if (!job.expected.empty()) {
    const auto end = std::span(job.text).last(std::min<size_t>(job.text.size(), kPromptEnd));
    job.expected.insert(job.expected.begin(), end.begin(), end.end());
  }
  job.drafter = Drafter(limits_.step_drafts, std::exchange(job.expected, {}));
  waiting_.push_back(std::move(job));
  admitted_ = false;
}

Job* Scheduler::find(uint64_t id) {
  for (std::list<Job>* jobs : {&running_, &waiting_})
    for (Job& job : *jobs)
      if (job.id == id) return &job;
  return nullptr;
}

void Scheduler::remove(uint64_t id, bool remembers) {
  Job* job = find(id);
  SALA_CHECK(job != nullptr, "no job {}", id);
  if (job->hold && remembers) remember(*job);
  const auto is_it = [&](const Job& one) { return one.id == id; };
  admitted_ = false;
  running_.remove_if(is_it);
  waiting_.remove_if(is_it);
}

void Scheduler::remember(Job& job) {
  if (job.hold->kept() == 0) return;
  SALA_CHECK(job.hold->kept() <= std::ssize(job.text), "{} tokens of a text of {}",
             job.hold->kept(), job.text.size());
  cache_.snapshot(*job.hold);
  cache_.remember(*job.hold, std::span(job.text).first(static_cast<size_t>(job.hold->kept())));
}

int64_t Scheduler::room_wanted(const Job& job) const {
  const auto reply = job.limit - (std::ssize(job.text) - job.prompt);
  return pages(std::ssize(job.text) + std::min(reply, kReplyRoom));
}

int64_t Scheduler::pages_held() const {
  int64_t held = 0;  // shared pages count twice: then a job waits that could have begun
  for (const Job& job : running_) held += std::ssize(job.hold->pages());
  return held;
}

/// The job that begins next: one that was given up, else the first of the caller who has fewest
/// running.
std::list<Job>::iterator Scheduler::next_waiting() {
  std::map<std::string, int64_t> running;
  for (const Job& job : running_) ++running[job.caller];
  auto best = waiting_.end();
  for (auto job = waiting_.begin(); job != waiting_.end(); ++job) {
    const Job* first = job->after != 0 ? find(job->after) : nullptr;
    if (first != nullptr && first->reads_prompt()) continue;
    if (job->preemptions > 0) return job;
    if (best == waiting_.end() || running[job->caller] < running[best->caller]) best = job;
  }
  return best;
}

bool Scheduler::begin(std::list<Job>::iterator job) {
  // Growing forgets remembered texts, so it is not tried without a chance.
  if (!running_.empty() && pages_held() + room_wanted(*job) > total_pages_) return false;
  const auto known = std::span(job->text).first(job->text.size() - 1);
  job->hold.emplace(job->reuse && !job->every_logit ? cache_.open(known) : cache_.open());
  const int64_t again = job->hold->kept() - job->hold->length();
  if (job->preemptions == 0) job->cached = job->hold->kept();
  if (!job->hold->grow(job->left())) {
    job->hold.reset();
    job->cached = job->preemptions == 0 ? 0 : job->cached;
    return false;
  }
  job->read_again += again;
  running_.splice(running_.end(), waiting_, job);
  return true;
}

void Scheduler::admit() {
  while (running() < limits_.sequences) {
    const auto job = next_waiting();
    if (job == waiting_.end() || !begin(job)) return;
  }
}

void Scheduler::give_up(std::list<Job>::iterator job) {
  remember(*job);
  job->hold.reset();
  ++job->preemptions;
  ++preemptions_;
  waiting_.splice(waiting_.begin(), running_, job);
  admitted_ = false;
}

/// Makes room for the job's next tokens, at the cost of those that began after it. False when the
/// job has been given up itself.
bool Scheduler::grow(std::list<Job>::iterator job, int64_t tokens) {
  while (!job->hold->grow(tokens)) {
    const auto last = std::prev(running_.end());
    SALA_CHECK(last != job || running() > 1, "job {} does not fit alone", job->id);
    give_up(last);
    if (last == job) return false;
  }
  return true;
}

/// Drafts what follows a reply: how many tokens.
int64_t Scheduler::draft(Job& job) {
  const int64_t written = std::ssize(job.text) - job.prompt;
  const int64_t all = std::min(limits_.step_drafts, limits_.step_tokens / 8);
  // The end of a prompt is remembered as it is.
  const int64_t most = written == 0 ? 0
                                    : std::min({all / running(), job.limit - written - 1,
                                                cache_.undoable(std::ssize(job.text))});
  job.draft = job.drafter.draft(job.text, most);
  return std::ssize(job.draft);
}

std::vector<Scheduler::Part> Scheduler::plan() {
  admit();
  admitted_ = true;
  // Replies first; in the order in which they began, so that it is later ones that are given up.
  std::vector<Part> parts;
  for (auto job = running_.begin(); job != running_.end();) {
    const auto next = std::next(job);
    if (job->left() == 1 && grow(job, 1)) {
      int64_t drafted = draft(*job);
      if (!job->hold->grow(1 + drafted)) drafted = 0;  // nobody gives up room for a draft
      parts.push_back({&*job, 1, 1 + drafted, job->hold->length() + 1, drafted});
    }
    // grow() may have taken away what came next.
    job = next != running_.end() && next->hold ? next : running_.end();
  }
  // Shared evenly, all prompts would end as late as the last of them. The part that is kept for the
  // oldest is what no stream of shorter ones can take from it.
  std::vector<Job*> prompts;  // those with least left first, else the older one
  const Job* oldest = nullptr;
  for (Job& job : running_) {
    if (job.left() <= 1) continue;
    if (oldest == nullptr) oldest = &job;
    prompts.insert(std::ranges::upper_bound(prompts, job.left(), {}, &Job::left), &job);
  }
  if (prompts.empty()) return parts;
  int64_t tokens = limits_.step_tokens, logits = limits_.step_logits;
  for (const Part& part : parts) {
    tokens -= 1 + part.drafted;
    logits -= part.drafted;
  }
  int64_t kept_tokens = std::min(oldest->left(), (tokens + 3) / 4), kept_logits = (logits + 3) / 4;
  for (Job* prompt : prompts) {
    Job& job = *prompt;
    if (prompt == oldest) kept_tokens = kept_logits = 0;
    const int64_t at = job.hold->length();
    int64_t count = std::min(job.left(), tokens - kept_tokens);
    for (const int64_t mark : job.marks)
      if (mark > at) count = std::min(count, mark - at);
    const bool tells = job.every_logit && at < job.prompt;
    if (tells) count = std::min(count, logits - kept_logits);
    if (count <= 0) continue;
    const bool ends = count == job.left();
    parts.push_back({&job, count, tells ? count : ends ? 1 : 0, at + count});
    tokens -= count;
    if (tells) logits -= count;
  }
  return parts;
}

std::vector<Scheduler::Part> Scheduler::plan_ahead(std::span<const Part> parts) {
  if (!admitted_ && !waiting_.empty()) return {};
  std::vector<Part> ahead;
  int64_t jobs = 0;
  for (const Part& part : parts) {
    if (part.job == nullptr) continue;
    ++jobs;
    Job& job = *part.job;
    if (part.drafted > 0 || draft(job) > 0) return {};
    if (part.end <= job.prompt || part.end < std::ssize(job.text)) return {};
    if (part.end + 1 - job.prompt >= job.limit) continue;
    if (!job.hold->grow(1)) return {};
    ahead.push_back({&job, 1, 1, part.end + 1});
  }
  if (jobs < running()) return {};
  return ahead;
}

void Scheduler::commit(std::span<const Part> parts) {
  for (const Part& part : parts) {
    Job& job = *part.job;
    const int64_t now = part.end, before = now - part.tokens;
    const bool marked = std::ranges::find(job.marks, now) != job.marks.end();
    if (marked || now / kSnapshotEvery > before / kSnapshotEvery) cache_.snapshot(*job.hold);
    // From now on its last page is shared: only a reply, which asks for room at every token, may
    // be in that place.
    if (before < job.prompt && now == std::ssize(job.text)) remember(job);
  }
}

std::vector<uint64_t> Scheduler::ids() const {
  std::vector<uint64_t> ids;
  for (const std::list<Job>* jobs : {&running_, &waiting_})
    for (const Job& job : *jobs) ids.push_back(job.id);
  std::ranges::sort(ids);
  return ids;
}

std::vector<const Hold*> Scheduler::holds() const {
  std::vector<const Hold*> holds;
  for (const Job& job : running_) holds.push_back(&*job.hold);
  return holds;
}

}  // namespace sala
