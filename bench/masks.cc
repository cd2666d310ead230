// What it costs to say which tokens may come next, on a model's vocabulary.
//
//   masks MODEL [SCHEMA BEFORE BEHIND]
//
// MODEL is a .gguf file or a directory with a tokenizer. For typical places in a reply:
// milliseconds of the first mask of a matcher; of the masks of the tokens behind it, a mask each;
// and microseconds of a mask that is known.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "engine/open.h"
#include "grammar/constraints.h"
#include "grammar/json_schema.h"

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(const auto& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.empty() ? 0.0 : values[values.size() / 2];
}

struct Case {
  std::string name, schema, before, behind;
  sala::Thought thought = sala::Thought::none;
};

void run(const std::string& path, const std::vector<std::string>& own) {
  const bool directory = std::filesystem::is_directory(path);
  const auto tokenizer = directory
                             ? sala::Tokenizer::from_directory(path)
                             : std::move(sala::open_model(path, sala::OpenText::yes).tokenizer);
  if (tokenizer == nullptr) sala::fail("{}: no tokenizer there", path);
  const sala::Constraints constraints(*tokenizer, tokenizer->size());
  static constexpr const char* kObject = R"({"type": "object", "properties": {
      "title": {"type": "string"}, "n": {"type": "number", "minimum": -10.5, "maximum": 1000},
      "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
      "summary": {"type": "string", "maxLength": 500}, "day": {"type": "string", "format": "date"},
      "more": {"type": "object", "properties": {"text": {"type": "string"}, "ok": {"type": "boolean"}}}}})";
  std::vector<Case> cases = {
      {"beginning", kObject, "", "{\"title\": \""},
      {"name of a property", kObject, "{\"title\": \"A walk\", ", "\"n\": 12"},
      {"string", kObject, "{\"title\": \"A", " walk in the park near the old mill, with"},
      {"string, any JSON", "{}", "{\"title\": \"A", " walk in the park near the old mill, with"},
      {"nested string", kObject, "{\"title\": \"A walk\", \"more\": {\"text\": \"A",
       " walk in the"},
      {"number", kObject, "{\"title\": \"A walk\", \"n\": ", "123.456789"},
      {"choice", kObject, "{\"tags\": [\"", "red\", \"green\", \"blue\"]"},
      {"string of up to 500", kObject, "{\"summary\": \"A",
       " walk in the park near the old mill, with Anna and her two dogs; it rained"},
      {"date", kObject, "{\"day\": \"", "2026-11-28\"}"},
      {"thought", kObject, "So what is asked", " is a walk in the park near the old mill",
       sala::Thought::begun},
  };
  if (!own.empty()) cases = {{own[0], sala::read_text(own[0]), own[1], own[2]}};
  fmt::print("{} tokens\n{:<22}{:>10}{:>10}{:>10}{:>10}\n", tokenizer->size(), "place", "first ms",
             "next ms", "known us", "tokens");
  for (const Case& c : cases) {
    sala::Rules rules;
    const sala::Language language = sala::behind_thought(
        c.thought, sala::json_language(sala::OrderedJson::parse(c.schema), rules));
    const sala::Constraint constraint = constraints.of(language, rules);
    std::vector<double> first, next, all_known;
    int count = 0;
    for (int round = 0; round < 9; ++round) {
      std::vector<double> known;
      sala::Matcher matcher(constraint, {*tokenizer->eos()});
      const std::string all = c.before + c.behind;
      size_t read = 0;
      for (const int token : tokenizer->encode(all)) {
        if (read >= c.before.size()) {
          (known.empty() ? first : next).push_back(milliseconds([&] { matcher.allowed(); }));
          known.push_back(milliseconds([&] { matcher.allowed(); }));
          if (known.size() == 1)
            for (const uint64_t word : matcher.allowed()) count += std::popcount(word);
        }
        read += tokenizer->bytes_of(token, read == 0).size();
        matcher.accept(token);
      }
      all_known.insert(all_known.end(), known.begin(), known.end());
    }
    fmt::print("{:<22}{:>10.3f}{:>10.3f}{:>10.2f}{:>10}\n", c.name, median(first), median(next),
               1e3 * median(all_known), count / 9);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 5) {
    std::fprintf(stderr, "usage: masks MODEL [SCHEMA BEFORE BEHIND]\n");
    return 2;
  }
  run(argv[1], {argv + 2, argv + argc});
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
