#include "grammar/grammar.h"

#include <algorithm>
#include <bitset>
#include <functional>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace sala {
namespace {

using State = Grammar::State;

/// Writes languages down as states (Thompson 1968).
class Compiler {
 public:
  /// `most_copies`: what is repeated more often is written once and called.
  Compiler(std::vector<State>& states, const std::vector<Language>& rules, int most_copies)
      : states_(states), rules_(rules), most_copies_(most_copies), starts_(rules.size(), -1) {}

  /// The start of a piece whose end is an end.
  int add_whole(const LanguageNode& node) {
    const int start = add_state();
    at(add(node, start)).end = true;
    return start;
  }

  /// Rules are written when somebody calls them, one after the other.
  void add_rules() {
    while (!waiting_.empty()) {
      const auto [node, start] = waiting_.back();
      waiting_.pop_back();
      at(add(*node, start)).end = true;
    }
  }

 private:
  int add_state() {
    if (states_.size() >= kMostGrammarStates)
      fail("the grammar takes more than {} states; make its repetitions smaller",
           kMostGrammarStates);
    states_.emplace_back();
    return static_cast<int>(states_.size()) - 1;
  }
  State& at(int state) { return states_[static_cast<size_t>(state)]; }

  /// Adds `node` behind `from`; where it ends.
  int add(const LanguageNode& node, int from) {
    return std::visit([&](const auto& is) { return add(is, from); }, node.is);
  }

  int arc(int from, uint8_t first, uint8_t last) {
    const int to = add_state();
    at(from).arcs.push_back({first, last, to});
    return to;
  }

  int add(const LanguageNode::Literal& is, int from) {
    for (const char c : is.bytes)
      from = arc(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c));
    return from;
  }

  int add(const LanguageNode::Characters& is, int from) {
    const int end = add_state();
    for (const CodeRange& range : is.set.ranges())
      for (const std::vector<ByteRange>& row : utf8_rows(range)) {
        int at_byte = from;
        for (size_t i = 0; i + 1 < row.size(); ++i)
          at_byte = arc(at_byte, row[i].first, row[i].last);
        at(at_byte).arcs.push_back({row.back().first, row.back().last, end});
      }
    return end;
  }

  int add(const LanguageNode::Sequence& is, int from) {
    for (const Language& item : is.items) from = add(*item, from);
    return from;
  }

  int add(const LanguageNode::Either& is, int from) {
    const bool texts =
        is.choices.size() > 1 && std::ranges::all_of(is.choices, [](const auto& one) {
          return std::holds_alternative<LanguageNode::Literal>(one->is);
        });
    if (texts) return add_texts(is, from);
    const int end = add_state();
    for (const Language& choice : is.choices) {
      const int begin = add_state();
      at(from).empty.push_back(begin);
      const int to = add(*choice, begin);
      at(to).empty.push_back(end);
    }
    return end;
  }

  /// A choice of literals: those that begin alike share their states.
  int add_texts(const LanguageNode::Either& is, int from) {
    std::vector<std::string_view> texts;
    for (const Language& one : is.choices)
      texts.push_back(std::get<LanguageNode::Literal>(one->is).bytes);
    std::ranges::sort(texts);
    const int root = add_state(), end = add_state();
    at(from).empty.push_back(root);
    std::vector<int> path = {root};  // states behind each byte of the text before
    std::string_view before;
    for (const std::string_view text : texts) {
      const auto differs = std::ranges::mismatch(text, before).in1;
      path.resize(static_cast<size_t>(differs - text.begin()) + 1);
      for (const char c : text.substr(path.size() - 1))
        path.push_back(arc(path.back(), static_cast<uint8_t>(c), static_cast<uint8_t>(c)));
      std::vector<int>& empty = at(path.back()).empty;
      if (empty.empty()) empty.push_back(end);
      before = text;
    }
    return end;
  }

  int add(const LanguageNode::Repeated& is, int from) {
    const int called = std::max(is.least, is.most) > most_copies_ ? add_whole(*is.item) : -1;
    const auto item = [&](int at_item) {
      if (called < 0) return add(*is.item, at_item);
      const int back = add_state();
      at(at_item).calls.push_back({called, back});
      return back;
    };
    for (int i = 0; i < is.least; ++i) from = item(from);
    const int end = add_state();
    if (is.most == kUnbounded) {
      at(from).empty.push_back(end);
      const int again = item(end);
      at(again).empty.push_back(end);
      return end;
    }
    for (int i = is.least; i < is.most; ++i) {
      at(from).empty.push_back(end);
      from = item(from);
    }
    at(from).empty.push_back(end);
    return end;
  }

  int add(const LanguageNode::Rule& is, int from) {
    const auto id = static_cast<size_t>(is.id);
    if (starts_[id] < 0) {
      starts_[id] = add_state();
      waiting_.emplace_back(rules_[id].get(), starts_[id]);
    }
    const int back = add_state();
    at(from).calls.push_back({starts_[id], back});
    return back;
  }

  int add(const Automaton& is, int from) {
    const int first = static_cast<int>(states_.size()),
              end = first + static_cast<int>(is.states.size());
    for (size_t i = 0; i <= is.states.size(); ++i) add_state();
    at(from).empty.push_back(first);
    for (size_t i = 0; i < is.states.size(); ++i) {
      State& state = at(first + static_cast<int>(i));
      for (const Automaton::Arc& arc : is.states[i].arcs)
        state.arcs.push_back({arc.first, arc.last, first + arc.to});
      if (is.states[i].end) state.empty.push_back(end);
    }
    return end;
  }

  std::vector<State>& states_;
  const std::vector<Language>& rules_;
  int most_copies_;
  std::vector<int> starts_;  ///< of rules; -1: nobody calls it
  std::vector<std::pair<const LanguageNode*, int>> waiting_;
};

/// The smallest set of states that has every state of which `is(state, set)` is true; it must ask
/// the set only about states that the state leads to, and stay true when the set grows.
std::vector<bool> smallest_set(
    const std::vector<State>& states,
    const std::function<bool(const State&, const std::vector<bool>&)>& is) {
  std::vector<std::vector<int>> before(states.size());  // states that lead to each
  const auto lead = [&](int to, size_t from) {
    before[static_cast<size_t>(to)].push_back(static_cast<int>(from));
  };
  std::vector<int> open;
  for (size_t i = 0; i < states.size(); ++i) {
    for (const Automaton::Arc& arc : states[i].arcs) lead(arc.to, i);
    for (const int same : states[i].empty) lead(same, i);
    for (const Grammar::Call& call : states[i].calls) {
      lead(call.start, i);
      lead(call.back, i);
    }
    open.push_back(static_cast<int>(i));
  }
  std::vector<bool> set(states.size(), false);
  while (!open.empty()) {
    const auto id = static_cast<size_t>(open.back());
    open.pop_back();
    if (set[id] || !is(states[id], set)) continue;
    set[id] = true;
    open.insert(open.end(), before[id].begin(), before[id].end());
  }
  return set;
}

/// Which states can come to an end of their rule: with any bytes, or without.
std::vector<bool> reaching_end(const std::vector<State>& states, bool by_bytes) {
  return smallest_set(states, [&](const State& state, const std::vector<bool>& set) {
    const auto known = [&](int id) { return set[static_cast<size_t>(id)]; };
    return state.end || std::ranges::any_of(state.empty, known) ||
           (by_bytes && std::ranges::any_of(state.arcs, known, &Automaton::Arc::to)) ||
           std::ranges::any_of(state.calls, [&](const Grammar::Call& call) {
             return known(call.start) && known(call.back);
           });
  });
}

/// Whether a rule can come to a call of itself before any byte: then nobody can say how often it
/// was called. It is so where a call lies on a circle of steps without bytes (components by Tarjan
/// 1972).
bool begins_with_itself(const std::vector<State>& states) {
  const std::vector<bool> nothing = reaching_end(states, false);
  const auto steps = [&](int id) {
    const State& state = states[static_cast<size_t>(id)];
    std::vector<int> to = state.empty;
    for (const Grammar::Call& call : state.calls) {
      to.push_back(call.start);
      if (nothing[static_cast<size_t>(call.start)]) to.push_back(call.back);
    }
    return to;
  };
  struct Visit {
    int id;
    std::vector<int> to;
    size_t next = 0;
  };
  std::vector<int> number(states.size(), -1), lowest(states.size()), component(states.size(), -1);
  std::vector<int> waiting;  // visited, without a component yet
  int visited = 0;
  for (size_t first = 0; first < states.size(); ++first) {
    std::vector<Visit> path;
    const auto enter = [&](int id) {
      number[static_cast<size_t>(id)] = lowest[static_cast<size_t>(id)] = visited++;
      waiting.push_back(id);
      path.push_back({.id = id, .to = steps(id)});
    };
    if (number[first] < 0) enter(static_cast<int>(first));
    while (!path.empty()) {
      Visit& visit = path.back();
      int& low = lowest[static_cast<size_t>(visit.id)];
      if (visit.next < visit.to.size()) {
        const auto to = static_cast<size_t>(visit.to[visit.next++]);
        if (number[to] < 0)
          enter(static_cast<int>(to));
        else if (component[to] < 0)
          low = std::min(low, number[to]);
        continue;
      }
      const int id = visit.id, reached = low;
      path.pop_back();
      if (!path.empty()) {
        int& above = lowest[static_cast<size_t>(path.back().id)];
        above = std::min(above, reached);
      }
      if (reached != number[static_cast<size_t>(id)]) continue;
      for (int member = -1; member != id; waiting.pop_back()) {
        member = waiting.back();
        component[static_cast<size_t>(member)] = id;
      }
    }
  }
  for (size_t i = 0; i < states.size(); ++i)
    for (const Grammar::Call& call : states[i].calls)
      if (component[i] == component[static_cast<size_t>(call.start)]) return true;
  return false;
}

}  // namespace

Grammar::Grammar(const Language& language, const Rules& rules) {
  constexpr int kCopies = 8;
  Compiler compiler(states_, rules.list, kCopies);
  start_ = compiler.add_whole(*language);
  compiler.add_rules();
  prune();
  if (begins_with_itself(states_))
    fail(
        "a rule of the grammar begins with itself (left recursion); write it with * or +, or with "
        "the recursion at its end");
  find_classes();
  // A call in front of nothing but the end needs no way back: right recursion takes no room.
  const std::vector<bool> ends =
      smallest_set(states_, [](const State& state, const std::vector<bool>& set) {
        return state.arcs.empty() && state.calls.empty() &&
               (state.empty.empty()
                    ? state.end
                    : state.empty.size() == 1 && set[static_cast<size_t>(state.empty.front())]);
      });
  for (size_t i = 0; i < ends.size(); ++i) states_[i].only_end = ends[i];
}

void Grammar::prune() {
  const std::vector<bool> lives = reaching_end(states_, true);
  const auto dead = [&](int id) { return !lives[static_cast<size_t>(id)]; };
  if (dead(start_)) fail("no text at all satisfies it");
  for (State& state : states_) {
    std::erase_if(state.empty, dead);
    std::erase_if(state.arcs, [&](const Automaton::Arc& arc) { return dead(arc.to); });
    std::erase_if(state.calls,
                  [&](const Call& call) { return dead(call.start) || dead(call.back); });
  }
}

void Grammar::find_classes() {
  std::bitset<257> cuts;
  for (const State& state : states_)
    for (const Automaton::Arc& arc : state.arcs) {
      cuts.set(arc.first);
      cuts.set(size_t{arc.last} + 1);
    }
  for (size_t byte = 1; byte < 256; ++byte) {
    if (cuts.test(byte)) ++classes_;
    class_of_[byte] = static_cast<uint8_t>(classes_ - 1);
  }
}

Automaton determinised(const Language& language) {
  constexpr int64_t kMostWork = 10'000'000;  // looks at a state
  Grammar grammar;
  Compiler compiler(grammar.states_, {}, std::numeric_limits<int>::max());
  grammar.start_ = compiler.add_whole(*language);
  Automaton out;
  std::map<std::vector<int>, int> known;
  std::vector<std::vector<int>> sets;
  std::vector<bool> seen(grammar.states_.size());
  int64_t work = 0;
  const auto state_of = [&](std::vector<int> open) {
    std::vector<int> set;
    while (!open.empty()) {
      const int id = open.back();
      open.pop_back();
      if (seen[static_cast<size_t>(id)]) continue;
      seen[static_cast<size_t>(id)] = true;
      set.push_back(id);
      const State& state = grammar.state(id);
      SALA_CHECK(state.calls.empty(), "an automaton of a language with rules");
      open.insert(open.end(), state.empty.begin(), state.empty.end());
    }
    for (const int id : set) seen[static_cast<size_t>(id)] = false;
    work += static_cast<int64_t>(set.size());
    // Where a text without a byte leads to says nothing of its own.
    std::erase_if(set, [&](int id) {
      const State& state = grammar.state(id);
      return state.arcs.empty() && !state.end;
    });
    std::ranges::sort(set);
    const auto [at, fresh] = known.emplace(set, static_cast<int>(sets.size()));
    if (fresh) {
      if (sets.size() >= kMostStates || work > kMostWork)
        fail("an expression takes more than {} states; make its bounds smaller", kMostStates);
      out.states.push_back(
          {.end = std::ranges::any_of(set, [&](int id) { return grammar.state(id).end; })});
      sets.push_back(std::move(set));
    }
    return at->second;
  };
  state_of({grammar.start()});
  for (size_t i = 0; i < sets.size(); ++i) {
    // Between two cuts all bytes lead to the same.
    std::vector<int> cuts;
    for (const int id : sets[i])
      for (const Automaton::Arc& arc : grammar.state(id).arcs)
        cuts.insert(cuts.end(), {arc.first, arc.last + 1});
    std::ranges::sort(cuts);
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    std::vector<std::vector<int>> behind(cuts.size());
    for (const int id : sets[i])
      for (const Automaton::Arc& arc : grammar.state(id).arcs)
        for (auto at = std::ranges::lower_bound(cuts, arc.first); *at <= arc.last; ++at)
          behind[static_cast<size_t>(at - cuts.begin())].push_back(arc.to);
    std::vector<Automaton::Arc> arcs;
    for (size_t cut = 0; cut + 1 < cuts.size(); ++cut)
      if (!behind[cut].empty())
        arcs.push_back({static_cast<uint8_t>(cuts[cut]), static_cast<uint8_t>(cuts[cut + 1] - 1),
                        state_of(std::move(behind[cut]))});
    out.states[i].arcs = std::move(arcs);
  }
  return out;
}

}  // namespace sala
