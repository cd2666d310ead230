#include "text/tool_calls.h"

#include <algorithm>
#include <utility>

#include "text/json_progress.h"
#include "text/tool_call_reader.h"
#include "text/tool_schemas.h"

namespace sala {
namespace {

constexpr size_t kMaxCall = 1 << 20;

}  // namespace

/// Bytes go one by one through the same steps, so that cuts cannot matter.
struct ToolCallSplitter::State {
  State(ToolFormat as, const OrderedJson& tools_of_request)
      : format(as),
        tools(tools_of_request),
        marks(tools.empty() ? opening_marks(ToolFormat::none) : opening_marks(as)) {
    for (const OpeningMark& mark : marks) longest = std::max(longest, mark.text.size());
  }

  const ToolFormat format;
  const ToolSchemas tools;
  const std::vector<OpeningMark> marks;
  size_t longest = 0;  // of the marks

  enum class After : uint8_t { nothing, text, call };
  After after = After::nothing;  // what the reply ended with, white space aside
  std::string space;             // not said: a call may follow
  std::string waiting;           // the beginning of a mark; in a call, the mark and all behind it
  std::unique_ptr<ToolCallReader> reader;  // in a call

  Part part;

  void step(char c);
  void step_text(char c);
  void step_call(char c);
  void end_call();
  void give_up_call();
  void say_waiting();
  bool stands_right(const OpeningMark& each) const;
};

bool ToolCallSplitter::State::stands_right(const OpeningMark& each) const {
  if (each.place == OpeningMark::Place::after_call) return after == After::call;
  return each.place == OpeningMark::Place::anywhere || after != After::text;
}

void ToolCallSplitter::State::step(char c) { reader ? step_call(c) : step_text(c); }

void ToolCallSplitter::State::step_text(char c) {
  if (waiting.empty() && is_json_space(c)) {
    if (after != After::call) space += c;
    return;
  }
  waiting += c;
  const auto mark = std::ranges::find_if(marks, [&](const OpeningMark& each) {
    return stands_right(each) && each.text.starts_with(waiting);
  });
  if (mark == marks.end()) {
    // A mark holds its first byte once: of what began like one, only this byte can begin another.
    waiting.pop_back();
    const bool began = !waiting.empty();
    say_waiting();
    if (began)
      step_text(c);
    else
      part.said += c;
    return;
  }
  if (waiting != mark->text) return;
  reader = tool_call_reader(format, mark->text, tools);
  if (!reader) waiting.clear();
}

void ToolCallSplitter::State::step_call(char c) {
  waiting += c;
  if (waiting.size() > kMaxCall) return give_up_call();
  const ToolCallReader::Is is = reader->step(c);
  if (is == ToolCallReader::Is::whole) end_call();
  if (is == ToolCallReader::Is::broken) give_up_call();
}

void ToolCallSplitter::State::end_call() {
  auto calls = reader->calls();
  reader = nullptr;
  if (!calls) return say_waiting();
  for (ToolCall& call : *calls) part.calls.push_back(std::move(call));
  space.clear();
  waiting.clear();
  after = After::call;
}

/// What waited is text. Only its end can begin another call: what a call's inside holds is not
/// looked at twice, so that no text takes more than linear time.
void ToolCallSplitter::State::give_up_call() {
  reader = nullptr;
  size_t cut = waiting.rfind('<');
  if (cut == std::string::npos || cut == 0 || waiting.size() - cut > longest)
    cut = waiting.size() - 1;
  while (is_json_space(waiting[cut - 1])) --cut;  // a call's neighbour, maybe
  const std::string rest = waiting.substr(cut);
  waiting.resize(cut);
  say_waiting();
  for (const char c : rest) step(c);
}

void ToolCallSplitter::State::say_waiting() {
  part.said += std::exchange(space, {});
  part.said += std::exchange(waiting, {});
  after = After::text;
}

ToolCallSplitter::ToolCallSplitter(ToolFormat format, const OrderedJson& tools)
    : state_(new State(format, tools)) {}
ToolCallSplitter::~ToolCallSplitter() = default;
ToolCallSplitter::ToolCallSplitter(ToolCallSplitter&&) noexcept = default;
ToolCallSplitter& ToolCallSplitter::operator=(ToolCallSplitter&&) noexcept = default;

ToolCallSplitter::Part ToolCallSplitter::push(std::string_view piece) {
  State& s = *state_;
  if (s.marks.empty()) return {std::string(piece), {}};
  for (const char c : piece) s.step(c);
  return std::exchange(s.part, {});
}

ToolCallSplitter::Part ToolCallSplitter::flush() {
  State& s = *state_;
  if (s.reader && s.reader->may_end()) s.end_call();
  s.reader = nullptr;
  s.say_waiting();
  s.after = State::After::nothing;
  return std::exchange(s.part, {});
}

}  // namespace sala
