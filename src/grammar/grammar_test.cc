#include "grammar/grammar.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "grammar/gbnf.h"
#include "grammar/pattern.h"
#include "grammar/testing.h"
#include "text/unicode.h"

namespace sala {
namespace {

/// Whether a text is of the grammar.
bool accepts(const Grammar& grammar, std::string_view text) {
  Recogniser recogniser(std::make_shared<const Grammar>(grammar));
  return testing::accepts(recogniser, text);
}

TEST(Pattern, Matches) {
  struct Case {
    const char* pattern;
    std::vector<const char*> yes, no;
  };
  const std::vector<Case> cases = {
      {"abc", {"abc"}, {"", "ab", "abcd", "abd"}},
      {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
      {"a*b+c?", {"b", "aab", "bbc"}, {"", "a", "ac", "bcc"}},
      {"a{2}b{1,}c{0,2}", {"aab", "aabbbcc"}, {"ab", "aaab", "aabccc"}},
      {"(ab){9,11}", {"ababababababababab", "ababababababababababab"}, {"abababababababab"}},
      {"(?:x(y|z)+)?", {"", "xy", "xzzy"}, {"x", "y"}},
      {"(?<name>a)b", {"ab"}, {"a"}},
      {"[a-cx]", {"a", "b", "c", "x"}, {"d", "-", ""}},
      {"[^a-c]", {"d", "-", "ä", "日", "😀"}, {"a", "", "dd"}},
      {"[]-a]|x", {"x"}, {"a", "]"}},
      {"[a\\]-]", {"a", "]", "-"}, {"\\"}},
      {".", {"a", "é", "日", "😀"}, {"", "\n", "ab", "\xC3"}},
      {"\\d\\w\\s", {"1_ ", "9a\t"}, {"a1 ", "11"}},
      {"[\\d.]+", {"1.5"}, {"a"}},
      {"\\u00e4\\x41\\u{1F600}\\ud83d\\ude00", {"äA😀😀"}, {"äA😀"}},
      {"\\.\\*\\/\\$", {".*/$"}, {"a*/$"}},
      {"a{,2}", {"a{,2}"}, {"a", "aa"}},
      {"a+?b", {"aab"}, {"b"}},
      {"(a*)*b", {"b", "aaab"}, {"a"}},
      {"^ab$", {"ab"}, {"abc"}},
      {"[ä-ü]", {"ä", "ö", "ü"}, {"a", "z", "ý"}},
      {"[\\u07FF-\\u0800]", {"\u07FF", "\u0800"}, {"\u07FE", "\u0801"}},
  };
  for (const Case& c : cases) {
    const Language language = parse_pattern(c.pattern, true);
    const Grammar grammar(language);
    const Automaton automaton = determinised(language);
    for (const char* text : c.yes) {
      EXPECT_TRUE(accepts(grammar, text)) << c.pattern << " " << text;
      EXPECT_TRUE(automaton.accepts(text)) << c.pattern << " " << text;
    }
    for (const char* text : c.no) {
      EXPECT_FALSE(accepts(grammar, text)) << c.pattern << " " << text;
      EXPECT_FALSE(automaton.accepts(text)) << c.pattern << " " << text;
    }
  }
}

TEST(Pattern, MatchesAnywhere) {
  EXPECT_TRUE(accepts(Grammar(parse_pattern("b+", false)), "abba"));
  EXPECT_FALSE(accepts(Grammar(parse_pattern("b+", false)), "aa"));
  EXPECT_TRUE(accepts(Grammar(parse_pattern("^b", false)), "ba"));
  EXPECT_FALSE(accepts(Grammar(parse_pattern("^b", false)), "ab"));
  EXPECT_TRUE(accepts(Grammar(parse_pattern("b$|^c", false)), "ab"));
  EXPECT_TRUE(accepts(Grammar(parse_pattern("b$|^c", false)), "ca"));
  EXPECT_FALSE(accepts(Grammar(parse_pattern("b$|^c", false)), "ba"));
}

TEST(Pattern, SaysWhatIsWrong) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"a(b", "byte 3"},
      {"a)", "byte 1"},
      {"[a", "] is missing"},
      {"*a", "byte 0"},
      {"a**", "byte 2"},
      {"(?=a)", "group"},
      {"\\bword", "\\b"},
      {"\\1", "\\1"},
      {"[z-a]", "range"},
      {"a{3,2}", "repetition"},
      {"a{20000}", "10000"},
      {"a\\", "the end"},
      {"a^b", "byte 1"},
      {"\\xg0", "hexadecimal"},
      {"\xFF", "UTF-8"},
      {"a$b", "byte 1"},
      {"\\p{L}", "\\p"},
      {"\\u{110000", "no }"},
      {"\\u{110000}", "no character"},
      {"\\ud83d\\u0041", "surrogate"},
      {"[\\udc00]", "no character"},
  };
  for (const auto& [pattern, said] : cases) {
    try {
      parse_pattern(pattern, true);
      FAIL() << pattern;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(said), std::string::npos) << pattern << ": " << e.what();
    }
  }
  EXPECT_THROW(parse_pattern(std::string(101, '(') + std::string(101, ')'), true), Error);
  EXPECT_THROW(Grammar(parse_pattern("((((a{8}){8}){8}){8}){8}){8}){8}", true)), Error);
}

Grammar gbnf(std::string_view text) {
  Rules rules;
  const Language language = parse_gbnf(text, rules);
  return Grammar(language, rules);
}

TEST(Gbnf, Reads) {
  const Grammar arithmetic = gbnf(R"g(# sums
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t]*
)g");
  EXPECT_TRUE(accepts(arithmetic, "x +(1*y)=z\n"));
  EXPECT_TRUE(accepts(arithmetic, "((((1))))= 2\nx=y\n"));
  EXPECT_FALSE(accepts(arithmetic, "((1)= 2\n"));
  EXPECT_FALSE(accepts(arithmetic, "1 = 2"));
  const Grammar more = gbnf(
      "root ::= a{2,3} \"\\x41\\u00e4\" | [^\\n\\]]{1,} b?\n  | .\nb ::= \"!\"\na ::=\n \"u\"");
  for (const char* yes : {"uuAä", "uuuAä", "xyz!", "日", "\n"})
    EXPECT_TRUE(accepts(more, yes)) << yes;
  for (const char* no : {"", "x]", "]\n"}) EXPECT_FALSE(accepts(more, no)) << no;
}

TEST(Gbnf, KnowsNestingOfAnyDepth) {
  const Grammar nested = gbnf(R"g(root ::= "(" root ")" | "")g");
  const std::string deep(5000, '(');
  EXPECT_TRUE(accepts(nested, deep + std::string(5000, ')')));
  EXPECT_FALSE(accepts(nested, deep + std::string(4999, ')')));
}

TEST(Gbnf, SaysWhatIsWrong) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"root ::= x", "no rule \"x\""},
      {"x ::= \"a\"", "no rule \"root\""},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2"},
      {"root ::= \"a", "line 1"},
      {"root ::= (\"a\"", "line 1"},
      {"root = \"a\"", "::="},
      {"root ::= root \"a\" | \"b\"", "left recursion"},
      {"root ::= b root \"a\" | \"b\"\nb ::= \"x\"?", "left recursion"},
      {"root ::= \"a\" root", "no text at all"},
      {"root ::= [z-a]", "range"},
      {"root ::= \"\\q\"", "escape"},
      {"root ::= \"\\uD800\"", "no character"},
      {"root ::= [\\U00110000]", "no character"},
      {"root ::= \"a\"{2,1}", "repetition"},
      {"", "no rule \"root\""},
  };
  for (const auto& [text, said] : cases) {
    try {
      gbnf(text);
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(said), std::string::npos) << text << ": " << e.what();
    }
  }
}

TEST(Gbnf, ReadsManyChoicesAtOnce) {
  // Nothing here may take time by the square.
  std::string words = "root ::= \"w\"", nothings = "root ::= \"a\" (\"\"";
  for (int i = 0; i < 20'000; ++i) words += fmt::format(" | \"w{}\"", i);
  for (int i = 0; i < 2'000; ++i) nothings += " | x";
  const Grammar all = gbnf(words);
  EXPECT_TRUE(accepts(all, "w"));
  EXPECT_TRUE(accepts(all, "w19999"));
  EXPECT_FALSE(accepts(all, "w20000"));
  EXPECT_TRUE(accepts(gbnf(nothings + ")\nx ::= \"\""), "a"));
  std::string letters = "root ::= [";
  for (char32_t c = 0x4E00; c < 0x9E00; c += 2) append_utf8(letters, c);
  const Grammar some = gbnf(letters + "]");
  EXPECT_TRUE(accepts(some, to_utf8(0x9000)));
  EXPECT_FALSE(accepts(some, to_utf8(0x9001)));
}

TEST(Grammar, HasNoDeadEnds) {
  // A choice that cannot be finished is no choice.
  Recogniser recogniser(
      std::make_shared<const Grammar>(gbnf("root ::= \"a\" dead | \"b\"\ndead ::= \"c\" dead")));
  EXPECT_EQ(recogniser.next(recogniser.start(), 'a'), Recogniser::kNowhere);
  const Recogniser::Place end = recogniser.next(recogniser.start(), 'b');
  EXPECT_TRUE(recogniser.may_end(end));
  EXPECT_FALSE(recogniser.goes_on(end));
}

TEST(Grammar, RefusesWhatIsTooAmbiguous) {
  // Every split of the text into words is another way.
  const Grammar grammar = gbnf("root ::= x\nx ::= \"a\" x \"b\"? x? | \"a\" x x | \"a\"");
  Recogniser recogniser(std::make_shared<const Grammar>(grammar));
  Recogniser::Place place = recogniser.start();
  EXPECT_THROW(for (int i = 0; i < 10'000; ++i) place = recogniser.next(place, 'a'), Error);
}

TEST(Grammar, RefusesWhatTakesTooLong) {
  // Every byte leads to another place with hundreds of ways.
  Recogniser recogniser(std::make_shared<const Grammar>(gbnf("root ::= (.?){1500}")));
  const auto read = [&](int bytes) {
    Recogniser::Place place = recogniser.start();
    for (int i = 0; i < bytes; ++i) place = recogniser.next(place, 'a');
  };
  EXPECT_THROW(read(1400), Error);
  // What is known costs nothing, and each start may take its time.
  for (int i = 1; i < 40; ++i) read(20 * i);
}

TEST(Grammar, ForgetsAllButAPlace) {
  Recogniser recogniser(
      std::make_shared<const Grammar>(gbnf(R"g(root ::= "[" (root ("," root)*)? "]" | "x")g")));
  Recogniser::Place place = recogniser.start();
  for (const char c : std::string_view("[x,[[x],x,[")) {
    place = recogniser.next(place, static_cast<uint8_t>(c));
    place = recogniser.forget_all_but(place);
  }
  for (const char c : std::string_view("]]]")) {
    EXPECT_FALSE(recogniser.may_end(place));
    place = recogniser.next(place, static_cast<uint8_t>(c));
  }
  EXPECT_TRUE(recogniser.may_end(place));
  EXPECT_TRUE(recogniser.may_end(recogniser.forget_all_but(place)));
}

TEST(Language, Until) {
  const Grammar grammar(until("</think>"));
  EXPECT_TRUE(accepts(grammar, "</think>"));
  EXPECT_TRUE(accepts(grammar, "a </thin <</think>"));
  EXPECT_FALSE(accepts(grammar, "a</think>b"));
  EXPECT_FALSE(accepts(grammar, "a</think>b</think>"));
  EXPECT_FALSE(accepts(grammar, "a</think"));
  EXPECT_TRUE(accepts(Grammar(until("aab")), "aaab"));
}

}  // namespace
}  // namespace sala
