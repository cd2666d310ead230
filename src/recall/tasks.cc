#include "recall/tasks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace sala {
namespace {

constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kHexDigits = "0123456789abcdef";

struct Fact {
  std::string key;
  std::vector<std::string> values;
};

std::string number(Random& random, int digits = 5) {
  return random_string(1, kDigits.substr(1), random) + random_string(digits - 1, kDigits, random);
}

using Maker = std::function<std::string(Random&)>;

std::string long_name(Random& random) { return invented_name(3, random); }

/// Facts whose keys differ.
std::vector<Fact> make_facts(int count, const Maker& name, Random& random,
                             const std::function<std::vector<std::string>(Random&)>& values) {
  std::vector<Fact> facts;
  while (static_cast<int>(facts.size()) < count) {
    std::string key = name(random);
    if (std::ranges::find(facts, key, &Fact::key) == facts.end())
      facts.push_back({std::move(key), values(random)});
  }
  return facts;
}

std::string needle(const std::string& key, const std::string& value) {
  return "The code of " + key + " is " + value + ". ";
}

/// Sentences at places of a filler of about `bytes` bytes: `depth` for the first one, anywhere for
/// the others.
std::string hide(const std::vector<std::string>& needles, int64_t bytes, double depth,
                 const Filler& filler, Random& random) {
  int64_t left = bytes;
  std::vector<std::pair<double, size_t>> places;
  for (size_t i = 0; i < needles.size(); ++i) {
    places.emplace_back(i == 0 ? depth : random.uniform(), i);
    left -= static_cast<int64_t>(needles[i].size());
  }
  std::ranges::sort(places);
  left = std::max<int64_t>(left, 0);
  std::string text;
  double from = 0.0;
  const auto fill = [&](double to) {
    const auto size = static_cast<int64_t>(std::llround((to - from) * static_cast<double>(left)));
    if (size > 0) text += filler(size, random);
    from = to;
  };
  for (const auto& [place, i] : places) {
    fill(place);
    text += needles[i];
  }
  fill(1.0);
  return text;
}

std::string list(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 < words.size() ? ", " : " and ";
    text += words[i];
  }
  return text;
}

RecallSample::Question ask(const std::vector<std::string>& keys,
                           const std::vector<std::string>& values) {
  const std::string many = keys.size() > 1 || values.size() > 1 ? "codes" : "code";
  const std::string verb = many == "code" ? " is" : " are";
  const std::string subject = "he " + many + " of " + list(keys);
  return {.text = "\nQuestion: What" + verb + " t" + subject + "?\nAnswer: T" + subject + verb,
          .answers = values,
          .reply = " " + list(values) + "."};
}

RecallSample needles(RecallTask task, int64_t bytes, double depth, int questions,
                     const Filler& filler, Random& random) {
  const bool many_keys = task == RecallTask::niah_multi_key || task == RecallTask::niah_multi_query;
  const int count = many_keys ? std::max(4, questions) : std::max(1, questions);
  const int values = task == RecallTask::niah_multi_value ? 3 : 1;
  const std::vector<Fact> facts = make_facts(count, long_name, random, [&](Random& from) {
    std::vector<std::string> made;
    for (int i = 0; i < values; ++i)
      made.push_back(task == RecallTask::niah_single_3 ? random_string(16, kHexDigits, from)
                                                       : number(from));
    return made;
  });
  RecallSample sample;
  for (int i = 0; i < questions; ++i) {
    const auto at = static_cast<size_t>(i);
    if (task != RecallTask::niah_multi_query) {
      sample.questions.push_back(ask({facts[at].key}, facts[at].values));
      continue;
    }
    std::vector<std::string> keys, answers;
    for (size_t j = 0; j < 3; ++j) {
      const Fact& fact = facts[(at + j) % facts.size()];
      keys.push_back(fact.key);
      answers.push_back(fact.values[0]);
    }
    sample.questions.push_back(ask(keys, answers));
  }
  std::vector<std::string> sentences;
  for (const Fact& fact : facts)
    for (const std::string& value : fact.values) sentences.push_back(needle(fact.key, value));
  const auto asked = static_cast<int64_t>(sample.questions[0].text.size());
  sample.context = hide(sentences, bytes - asked, depth, filler, random);
  return sample;
}

/// How a list writes its lines.
struct ListForm {
  std::string separator = ": ";
  int digits = 5;
  int key_bytes = 6;
  Maker key = long_name;
};

/// Another form for every list: from single letters that the value follows at once, where the last
/// byte says which line is meant, to names with words behind them, where it takes many. A model
/// that learns to find again learns the first ones first and the others from them.
ListForm any_form(int questions, Random& random) {
  constexpr std::string_view separators[] = {"", "", " ", "=", ": ", " is ", " -> "};
  ListForm form;
  form.separator = separators[random.below(std::size(separators))];
  form.digits = static_cast<int>(2 + random.below(4));
  // Enough keys that all lines asked for can differ.
  const int least = questions > 10 ? 2 : 1;
  const int length = static_cast<int>(least + random.below(4 - least));
  if (random.below(2) == 0) {
    form.key_bytes = length;
    form.key = [length](Random& from) {
      return random_string(length, "abcdefghijklmnopqrstuvwxyz", from);
    };
  } else {
    form.key_bytes = 2 * length;
    form.key = [length](Random& from) { return invented_name(length, from); };
  }
  return form;
}

RecallSample key_value(int64_t bytes, double depth, int questions, const ListForm& form,
                       Random& random) {
  const auto line = [&](const Fact& fact) {
    return fact.key + form.separator + fact.values[0] + "\n";
  };
  const int64_t line_bytes =
      form.key_bytes + static_cast<int64_t>(form.separator.size()) + form.digits + 1;
  const int64_t count = std::max<int64_t>({1, bytes / line_bytes - 1, questions});
  // Long lists repeat short keys; the asked ones must not.
  std::vector<Fact> asked = make_facts(questions, form.key, random, [&](Random& from) {
    return std::vector<std::string>{number(from, form.digits)};
  });
  std::vector<std::string> lines;
  for (int64_t i = 0; i < count - questions; ++i) {
    const Fact other{form.key(random), {number(random, form.digits)}};
    if (std::ranges::find(asked, other.key, &Fact::key) == asked.end())
      lines.push_back(line(other));
  }
  // A question ends where the value begins, but a space before it is the reply's.
  std::string before = form.separator, after;
  if (!before.empty() && before.back() == ' ') {
    before.pop_back();
    after = " ";
  }
  RecallSample sample;
  for (size_t i = 0; i < asked.size(); ++i) {
    const double place = i == 0 ? depth : random.uniform();
    const auto at = std::lround(place * static_cast<double>(lines.size()));
    lines.insert(lines.begin() + at, line(asked[i]));
    sample.questions.push_back({.text = (i == 0 ? "\n" : "") + asked[i].key + before,
                                .answers = asked[i].values,
                                .reply = after + asked[i].values[0] + "\n"});
  }
  for (const std::string& one : lines) sample.context += one;
  return sample;
}

RecallSample variables(int64_t bytes, double depth, int questions, const Filler& filler,
                       Random& random) {
  RecallSample sample;
  std::vector<std::string> sentences;
  const auto let = [&](const std::string& name, const std::string& what) {
    sentences.push_back("Let " + name + " be " + what + ". ");
  };
  for (int i = 0; i < questions; ++i) {
    const std::string first = invented_name(2, random), second = invented_name(3, random);
    const std::string value = number(random);
    let(first, value);
    let(second, first);
    sample.questions.push_back({.text = "\nThe value of " + second + " is",
                                .answers = {value},
                                .reply = " " + value + "."});
  }
  const auto asked = static_cast<int64_t>(sample.questions[0].text.size());
  sample.context = hide(sentences, bytes - asked, depth, filler, random);
  return sample;
}

RecallSample copy(int64_t bytes, int questions, Random& random) {
  const int64_t size = std::max<int64_t>(4, bytes / (questions + 1));
  const std::string text =
      random_string(static_cast<int>(size), "abcdefghijklmnopqrstuvwxyz0123456789", random) + "\n";
  RecallSample sample{.context = text, .questions = {}};
  // The first characters tell which string it is; the rest can be known.
  for (int i = 0; i < questions; ++i)
    sample.questions.push_back(
        {.text = text.substr(0, 2), .answers = {text.substr(2)}, .reply = text.substr(2)});
  return sample;
}

}  // namespace

std::string_view name_of(RecallTask task) {
  constexpr std::string_view names[] = {
      "niah_single_1",    "niah_single_2", "niah_single_3", "niah_multi_key", "niah_multi_value",
      "niah_multi_query", "key_value",     "pairs",         "variables",      "copy"};
  static_assert(std::size(names) == static_cast<size_t>(RecallTask::copy) + 1);
  return names[static_cast<size_t>(task)];
}

RecallSample make_recall(RecallTask task, int64_t bytes, double depth, int questions,
                         const Filler& filler, Random& random) {
  SALA_CHECK(questions >= 1, "{} questions", questions);
  switch (task) {
    case RecallTask::key_value:
      return key_value(bytes, depth, questions, {}, random);
    case RecallTask::pairs:
      return key_value(bytes, depth, questions, any_form(questions, random), random);
    case RecallTask::variables:
      return variables(bytes, depth, questions, filler, random);
    case RecallTask::copy:
      return copy(bytes, questions, random);
    default:
      return needles(task, bytes, depth, questions, filler, random);
  }
}

double recall_score(const RecallSample::Question& question, std::string_view reply) {
  const auto found = std::ranges::count_if(question.answers, [&](const std::string& a) {
    return reply.find(a) != std::string_view::npos;
  });
  return static_cast<double>(found) / static_cast<double>(question.answers.size());
}

}  // namespace sala
