#include "text/unicode.h"

#include <gtest/gtest.h>

namespace sala {
namespace {

TEST(Unicode, DecodesOnlyWellFormedCharacters) {
  EXPECT_EQ(decode_utf8("a").code, U'a');
  EXPECT_EQ(decode_utf8("\xE4\xBD\xA0").code, U'你');
  EXPECT_EQ(decode_utf8("\xF0\x9F\x99\x82").length, 4);
  for (const char* bad : {"", "\x80", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80",
                          "\xF4\x90\x80\x80", "\xF5", "\xE4\xBD", "\xE4x"})
    EXPECT_EQ(decode_utf8(bad).length, 0) << bad;
}

TEST(Unicode, KnowsWhatMayStillBecomeACharacter) {
  EXPECT_EQ(incomplete_utf8("\xE4"), 1);
  EXPECT_EQ(incomplete_utf8("\xE4\xBD"), 2);
  EXPECT_EQ(incomplete_utf8("\xE4\xBD\xA0"), 0);
  EXPECT_EQ(incomplete_utf8("\xED\xA0"), 0);
  EXPECT_EQ(incomplete_utf8("a"), 0);
}

TEST(Unicode, RepairsAsEachReferenceDoes) {
  EXPECT_EQ(repair_utf8("a\xE4\xBD"
                        "b",
                        Repair::kMaximalSubpart),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(repair_utf8("a\xE4\xBD"
                        "b",
                        Repair::kEachByte),
            "a\xEF\xBF\xBD\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(repair_utf8("12345678\xFF", Repair::kEachByte), "12345678\xEF\xBF\xBD");
}

TEST(Unicode, NormalisesAcrossAsciiBoundaries) {
  EXPECT_EQ(normalize_utf8("xe\xCC\x81y", NormalForm::kNfc), "x\xC3\xA9y");
  EXPECT_EQ(normalize_utf8("x\xC3\xA9y", NormalForm::kNfd), "xe\xCC\x81y");
  EXPECT_EQ(normalize_utf8("\xEF\xAC\x81"
                           "A",
                           NormalForm::kNfkc),
            "fiA");
  EXPECT_EQ(normalize_utf8("plain", NormalForm::kNfkd), "plain");
  EXPECT_EQ(normalize_utf8("", NormalForm::kNfc), "");
}

}  // namespace
}  // namespace sala
