#include "recall/filler.h"

#include <array>
#include <string_view>

namespace sala {
namespace {

template <size_t N>
std::string_view pick(const std::array<std::string_view, N>& words, Random& random) {
  return words[static_cast<size_t>(random.below(static_cast<int64_t>(N)))];
}

constexpr std::array<std::string_view, 5> kRepeated = {"The river is wide. ", "The road is long. ",
                                                       "The stone is cold. ", "Here we stand. ",
                                                       "Then we go on. "};

constexpr std::array<std::string_view, 24> kWho = {
    "the baker",    "an old sailor", "the teacher",   "a tall woman",  "the gardener",
    "my neighbour", "the farmer",    "a young nurse", "the painter",   "the miller",
    "her brother",  "the captain",   "a quiet man",   "the doctor",    "the tailor",
    "our guide",    "the shepherd",  "a stranger",    "the fisherman", "the clerk",
    "his aunt",     "the carpenter", "a student",     "the driver"};
constexpr std::array<std::string_view, 20> kDid = {
    "carried",  "painted", "sold",   "found",    "repaired", "washed", "counted",
    "borrowed", "watched", "opened", "forgot",   "moved",    "built",  "lost",
    "cleaned",  "bought",  "showed", "returned", "kept",     "sent"};
constexpr std::array<std::string_view, 24> kWhat = {
    "a basket of apples", "the old boat",    "two chairs",        "a letter",
    "the green door",     "some bread",      "a wooden box",      "the heavy lamp",
    "three books",        "a blue coat",     "the garden tools",  "a bag of flour",
    "the small clock",    "a warm blanket",  "the broken wheel",  "an empty bottle",
    "the long rope",      "a silver spoon",  "the kitchen table", "a new map",
    "the red bicycle",    "a pair of shoes", "the iron gate",     "a pot of honey"};
constexpr std::array<std::string_view, 20> kWhere = {
    "near the harbour",   "behind the church", "in the market",    "at the station",
    "under the bridge",   "by the lake",       "in the old house", "on the hill",
    "outside the school", "at the mill",       "in the garden",    "along the road",
    "across the street",  "in the village",    "beside the well",  "at the inn",
    "in the barn",        "by the fire",       "near the forest",  "at home"};
constexpr std::array<std::string_view, 14> kWhen = {
    "In the morning",   "After lunch",     "On Sunday",          "Late at night", "Before the rain",
    "Last winter",      "In early spring", "When the bell rang", "That evening",  "At noon",
    "During the feast", "A week later",    "Once again",         "Without a word"};

std::string sentence(Random& random) {
  std::string text;
  if (random.below(2) == 0) text.append(pick(kWhen, random)).append(", ");
  const bool begins = text.empty();
  text.append(pick(kWho, random));
  if (begins) text[0] = static_cast<char>(text[0] - 'a' + 'A');
  text.append(" ").append(pick(kDid, random)).append(" ").append(pick(kWhat, random));
  if (random.below(3) != 0) text.append(" ").append(pick(kWhere, random));
  return text + ". ";
}

}  // namespace

std::string repeated_sentences(int64_t bytes, Random& random) {
  std::string text;
  for (auto i = static_cast<size_t>(random.below(kRepeated.size()));
       static_cast<int64_t>(text.size()) < bytes; ++i)
    text.append(kRepeated[i % kRepeated.size()]);
  return text;
}

std::string plain_prose(int64_t bytes, Random& random) {
  std::string text;
  while (static_cast<int64_t>(text.size()) < bytes) text += sentence(random);
  return text;
}

Filler passages_of(const std::string& text) {
  return [&text](int64_t bytes, Random& random) {
    std::string passage;
    size_t at = static_cast<size_t>(random.below(static_cast<int64_t>(text.size())));
    if (const size_t dot = text.find(". ", at); dot != std::string::npos) at = dot + 2;
    while (static_cast<int64_t>(passage.size()) < bytes) {
      passage.append(text, at, static_cast<size_t>(bytes) - passage.size());
      at = 0;
    }
    // Whole sentences, unless the text has none.
    if (const size_t dot = passage.rfind(". ");
        dot != std::string::npos && dot > passage.size() / 2)
      passage.resize(dot + 1);
    return passage + " ";
  };
}

std::string invented_name(int syllables, Random& random) {
  std::string name;
  for (int i = 0; i < syllables; ++i) {
    name += random_string(1, "bdfghklmnprstvz", random);
    name += random_string(1, "aeiou", random);
  }
  return name;
}

std::string random_string(int count, std::string_view alphabet, Random& random) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += alphabet[static_cast<size_t>(random.below(static_cast<int64_t>(alphabet.size())))];
  return text;
}

}  // namespace sala
