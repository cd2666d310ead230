#include "engine/engine.h"

#include <algorithm>
#include <future>
#include <utility>

#include "base/error.h"

namespace sala {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

Engine::Engine(Runner& runner, const Tokenizer& tokenizer, const Scheduler::Limits& limits,
               int64_t queue)
    : runner_(runner),
      tokenizer_(tokenizer),
      queue_limit_(queue),
      scheduler_(runner.cache(), limits) {
  SALA_CHECK(runner.options().logits >= limits.sequences + limits.step_logits,
             "room for {} rows of logits", runner.options().logits);
  now_.pages = runner.cache().free_pages();
  publish();
  thread_ = std::thread([this] { loop(); });
}

Engine::~Engine() {
  {
    const Lock lock(mutex_);
    draining_ = stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

std::vector<Engine::Submitted> Engine::submit(std::vector<Request> requests) {
  const auto arrived = Clock::now();
  const int64_t vocab = runner_.model().config().vocab;
  std::vector<Task> tasks;
  tasks.reserve(requests.size());
  for (Request& request : requests) {
    SALA_CHECK(scheduler_.fits(std::ssize(request.prompt) + request.reply.limit),
               "{} tokens do not fit", request.prompt.size());
    Writer writer(tokenizer_, request.prompt, vocab, request.reply);
    tasks.push_back(
        {.request = std::move(request), .writer = std::move(writer), .arrived = arrived});
  }
  std::vector<Submitted> out(tasks.size());
  {
    const Lock lock(mutex_);
    const bool full = queue_ + std::ssize(arrived_) + std::ssize(tasks) > queue_limit_;
    if (draining_ || full) {
      for (Submitted& one : out) one.refusal = draining_ ? Refusal::draining : Refusal::full;
      return out;
    }
    const uint64_t first = next_id_;
    for (size_t i = 0; i < tasks.size(); ++i) {
      out[i].id = next_id_++;
      if (i > 0 && tasks[i].request.after != 0) tasks[i].request.after = first;
      arrived_.emplace_back(out[i].id, std::move(tasks[i]));
    }
    alive_ += std::ssize(tasks);
  }
  wake_.notify_one();
  return out;
}

void Engine::cancel(uint64_t id) {
  {
    const Lock lock(mutex_);
    cancelled_.push_back(id);
  }
  wake_.notify_one();
}

void Engine::call(const std::function<void(Runner&)>& work) {
  std::promise<void> done;
  {
    const Lock lock(mutex_);
    if (stopping_) fail("the engine has stopped");
    calls_.emplace_back([&] {
      try {
        work(runner_);
        done.set_value();
      } catch (...) {
        done.set_exception(std::current_exception());
      }
    });
  }
  wake_.notify_one();
  done.get_future().get();
}

bool Engine::drain(std::chrono::milliseconds time) {
  const auto end = Clock::now() + time;
  const Lock lock(mutex_);
  draining_ = true;
  while (alive_ > 0)
    if (!ended_.wait_until(mutex_, end)) break;
  if (alive_ == 0) return true;
  stopping_ = true;
  wake_.notify_all();
  while (alive_ > 0) ended_.wait(mutex_);
  return false;
}

Engine::Counters Engine::counters() const {
  const Lock lock(mutex_);
  Counters counters = counters_;
  counters.waiting += std::ssize(arrived_);
  return counters;
}

void Engine::publish() {
  now_.waiting = scheduler_.waiting();
  now_.running = scheduler_.running();
  now_.preemptions = scheduler_.preemptions();
  now_.free_pages = runner_.cache().free_pages();
  now_.snapshot_bytes = runner_.cache().snapshot_bytes();
  const Lock lock(mutex_);
  queue_ = now_.waiting;
  counters_ = now_;
}

/// Whether other threads want something.
bool Engine::asked() const {
  return stopping_ || !arrived_.empty() || !cancelled_.empty() || !calls_.empty();
}

bool Engine::nobody_asks() const {
  const Lock lock(mutex_);
  return !asked();
}

void Engine::loop() {
  for (bool stop = false; !stop || !tasks_.empty();) {
    {
      const Lock lock(mutex_);
      while (!asked() && scheduler_.idle() && on_its_way_.empty()) wake_.wait(mutex_);
      stop = stopping_ && on_its_way_.empty();  // what was asked before it is taken in first
    }
    if (on_its_way_.empty()) {
      take_in();
      if (stop)
        for (const uint64_t id : scheduler_.ids()) end(id, {.finish = Finish::cancelled});
    }
    if (!scheduler_.idle() || !on_its_way_.empty()) step();
    publish();
  }
}

/// What other threads have asked for since the last step.
void Engine::take_in() {
  std::vector<std::pair<uint64_t, Task>> arrived;
  std::vector<uint64_t> cancelled;
  std::deque<std::function<void()>> calls;
  {
    const Lock lock(mutex_);
    arrived.swap(arrived_);
    cancelled.swap(cancelled_);
    calls.swap(calls_);
    queue_ += std::ssize(arrived);
  }
  for (auto& [id, task] : arrived) {
    const Request& r = task.request;
    scheduler_.add({.id = id,
                    .caller = r.caller,
                    .text = r.prompt,
                    .prompt = std::ssize(r.prompt),
                    .limit = r.reply.limit,
                    .marks = r.marks,
                    .reuse = r.reuse,
                    .every_logit = r.prompt_logprobs,
                    .expected = std::move(task.request.expected),
                    .after = r.after});
    tasks_.emplace(id, std::move(task));
  }
  for (const uint64_t id : cancelled)
    if (tasks_.contains(id)) end(id, {.finish = Finish::cancelled});
  for (const auto& call : calls) call();
}

void Engine::step() {
  try {
    advance();
  } catch (const Error& e) {
    // A page that cannot be read or written: what has been done to the sequences is unknown. Only
    // jobs with a hold have one.
    runner_.forget_launched();
    on_its_way_.clear();
    for (const uint64_t id : scheduler_.ids()) {
      Job& job = *scheduler_.find(id);
      if (!job.hold) continue;
      job.hold.reset();
      end(id, {.error = e.what()});
    }
  }
}

/// One step, and the launch of the one behind it where the device can have it before this one's
/// tokens are known: then it works while they are told.
void Engine::advance() {
  if (on_its_way_.empty()) on_its_way_ = launch({});
  if (on_its_way_.empty()) return;
  const Parts parts = std::exchange(on_its_way_, {});
  if (runner_.can_go_ahead() && nobody_asks()) on_its_way_ = launch(parts);
  if (!on_its_way_.empty()) ++now_.steps_ahead;
  const auto start = Clock::now();
  const In all = runner_.finish();
  const auto computed = Clock::now();
  ++now_.steps;
  now_.step_seconds += seconds(computed - start);
  int64_t row = 0;
  for (const Scheduler::Part& part : parts) {
    const int drawn = part.logits == 1 ? runner_.drawn()[static_cast<size_t>(row)] : kNoToken;
    if (part.job != nullptr) hear(part, sala::rows(all, row, part.logits), drawn);
    row += part.logits;
  }
  now_.sample_seconds += seconds(Clock::now() - computed);
}

/// Plans and launches a step; where the step `before` is not finished, with the tokens that are
/// drawn in it: its parts have a row of logits each.
Engine::Parts Engine::launch(const Parts& before) {
  const auto start = Clock::now();
  Parts parts = before.empty() ? scheduler_.plan() : scheduler_.plan_ahead(before);
  if (parts.empty()) return parts;
  std::vector<int> drawn(parts.size());
  std::vector<std::vector<int>> with_draft(parts.size());
  std::vector<Runner::Row> rows;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [job, tokens, logits, end, drafted] = parts[i];
    Task& task = tasks_.at(job->id);
    if (task.began == Clock::time_point{}) task.began = start;
    std::span<const int> text;
    if (before.empty()) {
      text = std::span(job->text).subspan(static_cast<size_t>(end - tokens),
                                          static_cast<size_t>(tokens));
    } else {
      drawn[i] = drawn_id(std::ranges::find(before, job, &Scheduler::Part::job) - before.begin());
      text = {&drawn[i], 1};
    }
    if (drafted > 0) {
      with_draft[i].assign(text.begin(), text.end());
      with_draft[i].insert(with_draft[i].end(), job->draft.begin(), job->draft.end());
      text = with_draft[i];
    }
    rows.push_back(
        {.hold = *job->hold,
         .tokens = text,
         .logits = logits,
         .prompt = job->prompt,
         .draw = job->every_logit ? std::nullopt : task.writer.draw(before.empty() ? 0 : 1)});
  }
  const auto planned = Clock::now();
  now_.schedule_seconds += seconds(planned - start);
  runner_.launch(rows);
  scheduler_.commit(parts);
  now_.step_seconds += seconds(Clock::now() - planned);
  return parts;
}

void Engine::hear(const Scheduler::Part& part, In logits, int drawn) {
  Job& job = *part.job;
  Task& task = tasks_.at(job.id);
  const int64_t now = part.end, before = now - part.tokens;
  ReplyEvent event;
  event.prompt_read = std::min(now, job.prompt);
  try {
    if (job.every_logit && before < job.prompt) hear_prompt(task, job, before, logits, event);
    if (task.request.on_read && before < job.prompt && now == job.prompt)
      task.request.on_read(runner_, *job.hold);
    // A reply goes on when all of its text has been read; after a preemption that takes steps.
    if (part.logits > 0 && now == std::ssize(job.text)) write(task, part, logits, drawn, event);
  } catch (const Error& e) {
    event.error = e.what();
  }
  task.usage.cached = job.cached;
  task.usage.read_again = job.read_again;
  task.usage.preemptions = job.preemptions;
  if (event.finish || !event.error.empty()) return end(job.id, std::move(event));
  event.usage = task.usage;
  task.request.on_event(event);
}

void Engine::hear_prompt(Task& task, Job& job, int64_t before, In logits, ReplyEvent& event) {
  // Row i has the logits of the token behind before + i.
  Sampler plain({}, runner_.model().config().vocab);
  for (int64_t i = 0; i < logits.dim[0]; ++i) {
    const int64_t next = before + i + 1;
    if (next >= job.prompt || next <= job.told) continue;
    const std::span<const float> row(logits.row<float>(i), static_cast<size_t>(logits.dim[1]));
    event.prompt_logprobs.push_back(
        plain.logprobs(row, job.text[static_cast<size_t>(next)],
                       std::max<int64_t>(task.request.reply.logprobs, 0)));
    job.told = next;
  }
}

void Engine::write(Task& task, const Scheduler::Part& part, In logits, int drawn,
                   ReplyEvent& event) {
  Job& job = *part.job;
  if (task.first_token == Clock::time_point{}) task.first_token = Clock::now();
  const auto draft = std::span(job.draft).first(static_cast<size_t>(part.drafted));
  const In last = rows(logits, logits.dim[0] - 1 - part.drafted, 1 + part.drafted);
  const int64_t came = task.writer.follow(draft, last, drawn, [&](Writer::Piece piece) {
    if (piece.token) {
      event.tokens.push_back(*piece.token);
      job.text.push_back(*piece.token);
      ++task.usage.generated;
    } else if (draft.empty() && job.hold->length() > std::ssize(job.text)) {
      job.text.push_back(drawn);  // a step on its way reads it
    }
    if (piece.logprobs) event.logprobs.push_back(std::move(*piece.logprobs));
    event.text += piece.text;
  });
  if (!draft.empty()) runner_.cache().roll_back(*job.hold, part.end + came);
  task.usage.drafted += part.drafted;
  task.usage.accepted += came;
  event.finish = task.writer.finish();
}

void Engine::end(uint64_t id, ReplyEvent event) {
  const auto node = tasks_.extract(id);
  Task& task = node.mapped();
  for (Scheduler::Part& part : on_its_way_)
    if (part.job != nullptr && part.job->id == id) part.job = nullptr;
  scheduler_.remove(id, task.request.reuse && event.error.empty());
  if (event.error.empty()) {
    event.text += task.writer.flush();
    if (const auto finish = task.writer.finish()) event.finish = finish;
    event.stopped_by = task.writer.stopped_by();
  }
  const auto now = Clock::now();
  Usage& usage = task.usage;
  usage.prompt = std::ssize(task.request.prompt);
  const bool began = task.began != Clock::time_point{},
             wrote = task.first_token != Clock::time_point{};
  usage.queue_seconds = seconds((began ? task.began : now) - task.arrived);
  if (began) usage.prompt_seconds = seconds((wrote ? task.first_token : now) - task.began);
  if (wrote) usage.reply_seconds = seconds(now - task.first_token);
  event.usage = usage;
  ++now_.requests;
  now_.prompt_tokens += usage.prompt;
  now_.cached_tokens += usage.cached;
  now_.read_again_tokens += usage.read_again;
  now_.generated_tokens += usage.generated;
  now_.drafted_tokens += usage.drafted;
  now_.accepted_tokens += usage.accepted;
  task.request.on_event(event);
  const Lock lock(mutex_);
  if (--alive_ == 0) ended_.notify_all();
}

}  // namespace sala
