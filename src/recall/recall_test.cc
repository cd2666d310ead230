#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <set>

#include "recall/tasks.h"

namespace sala {
namespace {

constexpr RecallTask kHidden[] = {RecallTask::niah_single_1,    RecallTask::niah_single_2,
                                  RecallTask::niah_single_3,    RecallTask::niah_multi_key,
                                  RecallTask::niah_multi_value, RecallTask::niah_multi_query,
                                  RecallTask::key_value,        RecallTask::variables};

TEST(Recall, EveryAnswerIsInTheContextOnce) {
  for (const RecallTask task : kHidden) {
    Random random(1);
    const RecallSample sample = make_recall(task, 2000, 0.5, 2, plain_prose, random);
    ASSERT_EQ(sample.questions.size(), 2u) << name_of(task);
    for (const auto& question : sample.questions) {
      for (const std::string& answer : question.answers) {
        const size_t at = sample.context.find(answer);
        ASSERT_NE(at, std::string::npos) << name_of(task);
        EXPECT_EQ(sample.context.find(answer, at + 1), std::string::npos) << name_of(task);
      }
      EXPECT_EQ(recall_score(question, question.reply), 1.0) << name_of(task);
      EXPECT_EQ(recall_score(question, "12"), 0.0) << name_of(task);
    }
  }
}

TEST(Recall, LengthAndDepthAreWhatIsAskedFor) {
  for (const RecallTask task : kHidden) {
    for (const double depth : {0.0, 0.25, 1.0}) {
      Random random(2);
      const RecallSample sample = make_recall(task, 8000, depth, 1, plain_prose, random);
      const auto size = static_cast<double>(sample.context.size());
      EXPECT_NEAR(size + static_cast<double>(sample.questions[0].text.size()), 8000, 300)
          << name_of(task);
      const auto at = static_cast<double>(sample.context.find(sample.questions[0].answers[0]));
      EXPECT_NEAR(at / size, depth, 0.06) << name_of(task);
    }
  }
}

TEST(Recall, NamesAreThoseOfTheTasks) {
  EXPECT_EQ(name_of(RecallTask::niah_single_1), "niah_single_1");
  EXPECT_EQ(name_of(RecallTask::pairs), "pairs");
  EXPECT_EQ(name_of(RecallTask::copy), "copy");
}

TEST(Recall, IsAFunctionOfTheSeed) {
  const auto text = [](uint64_t seed) {
    Random random(seed);
    return make_recall(RecallTask::niah_multi_key, 500, 0.5, 1, plain_prose, random).context;
  };
  EXPECT_EQ(text(3), text(3));
  EXPECT_NE(text(3), text(4));
}

TEST(Recall, SeveralAnswersCountInParts) {
  Random random(5);
  const RecallSample sample =
      make_recall(RecallTask::niah_multi_value, 1000, 0.5, 1, repeated_sentences, random);
  const auto& question = sample.questions[0];
  ASSERT_EQ(question.answers.size(), 3u);
  EXPECT_NEAR(recall_score(question, "It is " + question.answers[1] + "."), 1.0 / 3.0, 1e-12);
}

TEST(Recall, PairsStandInTheListAsTheyAreAskedFor) {
  std::set<std::string> separators;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Random random(seed);
    const RecallSample sample = make_recall(RecallTask::pairs, 300, 0.5, 3, plain_prose, random);
    for (size_t i = 0; i < 3; ++i) {
      const auto& question = sample.questions[i];
      const std::string line = question.text.substr(i == 0 ? 1 : 0) + question.reply;
      EXPECT_NE(sample.context.find(line), std::string::npos) << line;
      const size_t digit = line.find_first_of("0123456789");
      separators.insert(std::isalpha(line[digit - 1]) ? "" : line.substr(digit - 1, 1));
    }
  }
  EXPECT_GT(separators.size(), 2u);
}

TEST(Recall, CopiesCanBeKnown) {
  Random random(6);
  const RecallSample sample = make_recall(RecallTask::copy, 100, 0.0, 3, plain_prose, random);
  for (const auto& question : sample.questions)
    EXPECT_EQ(question.text + question.reply, sample.context);
}

TEST(Filler, PassagesComeFromTheText) {
  const std::string text = "One is first. Two is second. Three is third. Four is last. ";
  Random random(7);
  const std::string passage = passages_of(text)(30, random);
  EXPECT_NE(passage.find(" is "), std::string::npos);
  EXPECT_LE(passage.size(), 32u);
}

TEST(Filler, ProseHasNoNumbersAndManySentences) {
  Random random(8);
  const std::string text = plain_prose(20000, random);
  EXPECT_EQ(text.find_first_of("0123456789"), std::string::npos);
  std::set<std::string> sentences;
  for (size_t at = 0, end; (end = text.find(". ", at)) != std::string::npos; at = end + 2)
    sentences.insert(text.substr(at, end - at));
  EXPECT_GT(sentences.size(), 300u);
}

TEST(Random, IsUniform) {
  Random random(9);
  double sum = 0.0;
  for (int i = 0; i < 10000; ++i) sum += random.uniform();
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
  EXPECT_NE(Random(1, 2).bits(), Random(2, 1).bits());
}

}  // namespace
}  // namespace sala
