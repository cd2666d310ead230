#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/cache.h"
#include "engine/drafter.h"

namespace sala {

/// A text that a sequence reads and writes, as the scheduler sees it.
struct Job {
  uint64_t id = 0;
  std::string caller{};
  std::vector<int> text{};       ///< the prompt, and the tokens that were chosen after it
  int64_t prompt = 0;            ///< tokens of the prompt
  int64_t limit = 0;             ///< tokens after it, at most
  std::vector<int64_t> marks{};  ///< lengths, ascending, at which a snapshot is wanted
  bool reuse = true;             ///< of remembered texts
  bool every_logit = false;      ///< the prompt's tokens have their logits wanted too
  std::vector<int> expected{};   ///< what may follow the prompt
  uint64_t after = 0;            ///< a job that reads the same prompt first; 0: none

  std::optional<Hold> hold{};  ///< while it runs
  int64_t cached = 0;          ///< tokens of the prompt that were remembered when it began
  int64_t read_again = 0;      ///< of these, those that were read to bring the states up
  int64_t preemptions = 0;
  Drafter drafter{};
  std::vector<int> draft{};  ///< the tokens behind `text` that the step reads too
  int64_t told = 0;          ///< of the prompt's tokens, those whose logits were given

  /// Tokens that are left to read: one while a reply is written.
  int64_t left() const { return static_cast<int64_t>(text.size()) - (hold ? hold->length() : 0); }
  bool reads_prompt() const { return !hold || hold->length() < prompt; }
};

/// Who runs, and how much of each text a step reads. Deterministic: a function of the jobs in the
/// order of their arrival. It sees the cache's accounting and no model. One thread at a time.
///
/// A step has every reply's next token; its other tokens go to the prompts that have least left to
/// read, but a quarter of them to the prompt that began first, so that none waits for ever. A long
/// prompt delays a reply by no more than one step. A job begins when there is room for all of its
/// prompt. A reply that finds no room for its next token takes it from the job that began last,
/// whose text stays remembered as long as nobody needs the pages.
class Scheduler {
 public:
  struct Limits {
    int sequences = 1;          ///< jobs that run at a time
    int64_t step_tokens = 512;  ///< twice `sequences` at least, so that prompts go on too
    int64_t step_logits = 64;   ///< of a step, beside one for each job
    /// Of step_logits, and of an eighth of step_tokens, those for drafts of what replies say next:
    /// fewer for each, the more replies there are.
    int64_t step_drafts = 0;
  };

  /// The cache has room for `limits.sequences` and must outlive the scheduler.
  Scheduler(Cache& cache, const Limits& limits);

  /// Whether a job of so many tokens can ever run.
  bool fits(int64_t tokens) const { return tokens <= longest(); }
  /// Tokens of the longest text: a page is left for the copy of one that is shared.
  int64_t longest() const { return (total_pages_ - 1) * page_; }
  const Limits& limits() const { return limits_; }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  bool idle() const { return waiting_.empty() && running_.empty(); }
  int64_t preemptions() const { return preemptions_; }

  /// Adds a job, which fits and has an id of its own.
  void add(Job job);
  Job* find(uint64_t id);
  /// Ends a job. What it has read stays remembered where `remembers`.
  void remove(uint64_t id, bool remembers);

  /// What a job does in a step.
  struct Part {
    Job* job;             ///< until it is removed
    int64_t tokens;       ///< of its text, from where its hold is
    int64_t logits;       ///< of the last tokens, which are wanted
    int64_t end;          ///< of its text, behind these tokens
    int64_t drafted = 0;  ///< tokens of its draft, behind those of the text
  };
  /// The next step: empty only when idle() or when every job waits for another. Room is made.
  std::vector<Part> plan();
  /// The step behind one that is committed and whose tokens nobody knows yet: the same replies'
  /// next tokens, but for those that end by their limit. Empty where plan() may want something
  /// else, as it may where something is drafted. Whoever removes a job has made it null in `parts`.
  std::vector<Part> plan_ahead(std::span<const Part> parts);
  /// The holds have advanced by a step.
  void commit(std::span<const Part> parts);

  /// Ids of all jobs, in the order of their arrival.
  std::vector<uint64_t> ids() const;
  /// The holds of all running jobs, for Cache::check_integrity.
  std::vector<const Hold*> holds() const;

 private:
  int64_t pages(int64_t tokens) const { return (tokens + page_ - 1) / page_; }
  int64_t room_wanted(const Job& job) const;
  int64_t pages_held() const;
  std::list<Job>::iterator next_waiting();
  void admit();
  bool begin(std::list<Job>::iterator job);
  void give_up(std::list<Job>::iterator job);
  bool grow(std::list<Job>::iterator job, int64_t tokens);
  int64_t draft(Job& job);
  void remember(Job& job);

  Cache& cache_;
  Limits limits_;
  int64_t page_, total_pages_;
  std::list<Job> waiting_;  ///< those that were given up first
  std::list<Job> running_;  ///< in the order in which they began
  bool admitted_ = false;   ///< none of those that wait can begin before a job comes or goes
  int64_t preemptions_ = 0;
};

}  // namespace sala
