#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "recall/filler.h"

namespace sala {

/// What must be remembered. The needle tasks follow RULER (Hsieh et al. 2024, arXiv 2404.06654).
enum class RecallTask : uint8_t {
  niah_single_1,     ///< one fact in sentences that repeat
  niah_single_2,     ///< one fact in prose
  niah_single_3,     ///< one fact in prose, its value 16 hexadecimal digits
  niah_multi_key,    ///< one of four facts that differ in their key
  niah_multi_value,  ///< all three values of one key
  niah_multi_query,  ///< the values of three of four keys
  key_value,         ///< one line of a list of keys and values that fills the whole context
  pairs,             ///< key_value with another separator and length of values in every document
  variables,         ///< the value of a name that is defined by another one
  copy,              ///< a random string, again and again
};

std::string_view name_of(RecallTask task);

/// A document and what is asked about it. All texts put together are one text.
struct RecallSample {
  std::string context;
  struct Question {
    std::string text;                  ///< ends where the first answer begins
    std::vector<std::string> answers;  ///< all of them, in any order, make the reply right
    std::string reply;                 ///< a right reply as a text that goes on, its end included
  };
  std::vector<Question> questions;
};

/// Makes a sample whose context and first question have about `bytes` bytes. The fact that is asked
/// for lies at `depth` of the context (0 its beginning, 1 its end); where a task has several facts
/// the others lie anywhere. `questions` is how many are asked at most, each about another fact.
RecallSample make_recall(RecallTask task, int64_t bytes, double depth, int questions,
                         const Filler& filler, Random& random);

/// The share of the answers that `reply` contains.
double recall_score(const RecallSample::Question& question, std::string_view reply);

}  // namespace sala
