#include "grammar/json_schema.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "grammar/grammar.h"
#include "grammar/testing.h"

namespace sala {
namespace {

class Accepts {
 public:
  explicit Accepts(const std::string& schema) : recogniser_(grammar(schema)) {}
  bool operator()(std::string_view text) { return testing::accepts(recogniser_, text); }

 private:
  static std::shared_ptr<const Grammar> grammar(const std::string& schema) {
    Rules rules;
    const Language language = json_language(OrderedJson::parse(schema), rules);
    return std::make_shared<const Grammar>(language, rules);
  }
  Recogniser recogniser_;
};

TEST(JsonSchema, Allows) {
  struct Case {
    const char* schema;
    std::vector<const char*> yes, no;
  };
  const std::vector<Case> cases = {
      {"true",
       {"null", "{}", "[]", R"({"a": [1, {"b": "c"}, -2.5e+10]})", "\"\\u00e4\\n\\ud83d\\ude00ä\"",
        "[\n  1,\n  2\n]"},
       {"", "nul", "{a}", "[1,]", "01", "1.", "+1", "\"\\ud83d\"", "\"\n\"", "\"\\x\"", "[1 2]",
        "{\"a\":1,}"}},
      {R"({"type": "object"})", {"{}", R"({"x":[{}]})"}, {"[]", "1"}},
      {R"({"type": "string"})", {R"("")", R"("a\"b")"}, {"\"", R"("a"b")", "1"}},
      {R"({"type": ["string", "null"]})", {R"("a")", "null"}, {"1"}},
      {R"({"type": "boolean"})", {"true", "false"}, {"null", "1"}},
      {R"({"enum": ["a\"b", 1, null, {"x": [true]}]})",
       {R"("a\"b")", "1", "null", R"({"x":[true]})"},
       {R"("a")", "2"}},
      {R"({"type": "string", "enum": ["a", 1]})", {R"("a")"}, {"1"}},
      {R"({"const": "ä"})", {"\"ä\""}, {"\"a\""}},
      {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"},
           "c": {}}, "required": ["b"]})",
       {R"({"b":""})", R"({"a":1,"b":""})", R"({"a": 1, "b": "", "c": [1]})",
        R"({"b":"","c":null})", "{\n  \"b\": \"\"\n}"},
       {"{}", R"({"a":1})", R"({"b":"","a":1})", R"({"a":1,"b":"",})", R"({"b":"","d":1})",
        R"({"b":1})", R"({"b":"" "c":1})"}},
      {R"({"properties": {"a": true}, "additionalProperties": {"type": "integer"}})",
       {"{}", R"({"a":""})", R"({"x":1})", R"({"a":[],"x":1,"ab":2})", R"({"":3})"},
       {R"({"x":""})", R"({"x":1,"a":2})", R"({"a":1,"a":1})"}},
      {R"({"type": "object", "additionalProperties": false})", {"{}", "{ }"}, {R"({"a":1})"}},
      {R"({"required": ["x"], "additionalProperties": {"type": "null"}})",
       {R"({"x":null})", R"({"x":null,"y":null})"},
       {"{}", R"({"y":null})", R"({"x":1})"}},
      {R"({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": true})",
       {"{}", R"({"ab":1})"},
       {R"({"A":1})"}},
      {R"({"type": "array", "items": {"type": "integer"}})", {"[]", "[1]", "[1, 2,3]"}, {"[\"\"]"}},
      {R"({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
       {"[1,2]", "[1,2,3]"},
       {"[]", "[1]", "[1,2,3,4]"}},
      {R"({"type": "array", "maxItems": 0})", {"[]", "[ ]"}, {"[1]"}},
      {R"({"type": "array", "minItems": 12, "items": {"const": 1}})",
       {"[1,1,1,1,1,1,1,1,1,1,1,1]", "[1,1,1,1,1,1,1,1,1,1,1,1,1]"},
       {"[1,1,1,1,1,1,1,1,1,1,1]"}},
      {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false})",
       {"[]", "[1]", R"([1,"a"])"},
       {R"(["a"])", R"([1,"a",2])"}},
      {R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"},
           "minItems": 2, "maxItems": 3})",
       {R"([1,"a"])", R"([1,"a",null])"},
       {"[1]", R"([1,"a",2])", R"([1,"a",null,null])"}},
      {R"({"prefixItems": [{"const": 1}, {"const": 2}], "maxItems": 1})", {"[]", "[1]"}, {"[1,2]"}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {R"("ab")", R"("äöü")", R"("a\n")", R"("😀😀")"},
       {R"("a")", R"("abcd")"}},
      {R"({"type": "string", "maxLength": 20})",
       {R"("")", R"("01234567890123456789")"},
       {R"("012345678901234567890")"}},
      {R"({"type": "string", "pattern": "^a.*\"$", "maxLength": 4})",
       {R"("a\"")", R"("abc\"")"},
       {R"("a")", R"("abcd\"")", R"("b\"")"}},
      {R"({"type": "string", "pattern": "[0-9]"})", {R"("x1y")"}, {R"("xy")"}},
      {R"({"type": "string", "format": "date"})",
       {R"("2026-11-28")"},
       {R"("2026-13-01")", R"("2026-02-29")", R"("1900-02-29")", R"("2026-11-31")",
        R"("0000-01-01")", R"("x")"}},
      {R"({"format": "date"})", {R"("2024-02-29")", R"("2000-02-29")", R"("0400-02-29")"}, {}},
      {R"({"type": "string", "format": "date-time"})",
       {R"("2026-11-28T10:00:00Z")", R"("2026-11-28T10:00:00.123+01:00")"},
       {R"("2026-11-28")"}},
      {R"({"type": "string", "format": "uuid"})",
       {R"("123e4567-e89b-12d3-a456-426614174000")"},
       {R"("123e4567")"}},
      {R"({"type": "string", "format": "ipv4"})",
       {R"("192.168.0.1")"},
       {R"("256.1.1.1")", R"("01.1.1.1")"}},
      {R"({"type": "string", "format": "email"})", {R"("a.b@c.de")"}, {R"("a.b")", R"("a@-c.de")"}},
      {R"({"type": "string", "format": "something"})", {R"("x")"}, {"1"}},
      {R"({"anyOf": [{"type": "string"}, {"type": "integer"}]})", {R"("a")", "1"}, {"1.5", "null"}},
      {R"({"type": "object", "properties": {"a": {"const": 1}},
           "oneOf": [{"required": ["a"]}, {"properties": {"b": {"const": 2}}, "required": ["b"]}]})",
       {R"({"a":1})", R"({"b":2})", R"({"a":1,"b":2})"},
       {"{}", R"({"a":2})"}},
      {R"({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                     {"properties": {"b": {"type": "integer"}, "a": {"minimum": 3}}}]})",
       {R"({"a":3})", R"({"a":4,"b":1})"},
       {"{}", R"({"a":2})", R"({"b":1})"}},
      {R"({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object",
           "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}}})",
       {"{}", R"({"of":[]})", R"({"of":[{"of":[{}]},{}]})"},
       {R"({"of":[1]})"}},
      {R"({"type": "array", "items": {"$ref": "#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"({"properties": {"x": {"$ref": "#/$defs/n", "maximum": 5, "description": "d"}},
           "$defs": {"n": {"type": "integer", "minimum": 3}}})",
       {R"({"x":3})", R"({"x":5})"},
       {R"({"x":2})", R"({"x":6})"}},
      {R"({"type": "integer", "nullable": true})", {"1", "null"}, {"\"\""}},
      {R"({"type": ["integer", "string"], "minLength": 1})", {"1", R"("a")"}, {R"("")"}},
      // What is said beside a list of values, of properties or of items counts too.
      {R"({"enum": ["a", "bb", 1, 20, 2.5], "minLength": 2, "minimum": 2})",
       {R"("bb")", "20", "2.5"},
       {R"("a")", "1"}},
      {R"({"enum": ["a", "b"], "const": "b"})", {R"("b")"}, {R"("a")"}},
      {R"({"enum": [{"k": [1, null]}]})", {R"({"k":[1,null]})", R"({"k": [1, null]})"}, {"{}"}},
      {R"({"allOf": [{"properties": {"a": {"const": 1}}, "additionalProperties": false},
                     {"properties": {"b": {"const": 2}}}]})",
       {"{}", R"({"a":1})"},
       {R"({"b":2})", R"({"a":1,"b":2})"}},
      {R"({"allOf": [{"prefixItems": [{"const": 1}, {"const": 2}]}, {"items": {"maximum": 1}}]})",
       {"[]", "[1]"},
       {"[1,2]", "[2]"}},
      {R"({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}],
           "unevaluatedProperties": false})",
       {R"({"a":1,"b":2})"},
       {R"({"a":1,"c":2})"}},
      {R"({"type": "object", "unevaluatedProperties": false})", {"{}"}, {R"({"a":1})"}},
      {R"({"properties": {"ab": {}, "c": {}}, "propertyNames": {"maxLength": 1}})",
       {"{}", R"({"c":1})"},
       {R"({"ab":1})"}},
      {R"({"propertyNames": {"allOf": [{"enum": ["a", "b"]}, {"const": "a"}]}})",
       {"{}", R"({"a":1})"},
       {R"({"b":1})"}},
      {R"({"propertyNames": false})", {"{}"}, {R"({"b":1})"}},
      {R"({"anyOf": [{"type": "null"}, {"required": ["a"], "properties": {"b": {}},
           "additionalProperties": false}]})",
       {"null"},
       {R"({"a":1})", R"({"b":1})", "{}"}},
      {R"({"minimum": 3, "exclusiveMinimum": 3, "maximum": 9, "exclusiveMaximum": 10})",
       {"3.1", "9"},
       {"3", "9.5"}},
      {R"({"$ref": "#/$defs/x", "nullable": true, "$defs": {"x": {"type": "integer"}}})",
       {"1", "null"},
       {R"("")"}},
      {R"({"pattern": "a\u0000b"})", {R"("a\u0000b")"}, {R"("a")", R"("ab")"}},
      {R"({"title": "t", "description": "d", "default": 1, "x-order": 2, "type": "null"})",
       {"null"},
       {"1"}},
  };
  for (const Case& c : cases) {
    Accepts accepts(c.schema);
    for (const char* text : c.yes) EXPECT_TRUE(accepts(text)) << c.schema << "\n" << text;
    for (const char* text : c.no) EXPECT_FALSE(accepts(text)) << c.schema << "\n" << text;
  }
}

/// All numbers of up to four characters, as JSON writes them without an exponent.
std::vector<std::string> short_numbers() {
  std::vector<std::string> all;
  const std::string letters = "-.0123456789";
  const std::function<void(std::string)> grow = [&](const std::string& text) {
    const bool digits = !text.empty() && text.find_first_of("0123456789") != std::string::npos;
    if (digits && text.back() != '.' && Json::accept(text)) all.push_back(text);
    if (text.size() < 4)
      for (const char c : letters) grow(text + c);
  };
  grow("");
  return all;
}

TEST(JsonSchema, KnowsWhichNumbersAreInARange) {
  const std::vector<std::string> texts = short_numbers();
  ASSERT_GT(texts.size(), 1'000U);
  const std::vector<std::string> ends = {"0",     "1",    "-1",   "5",     "10",   "99",    "100",
                                         "-10",   "-100", "0.5",  "-0.5",  "1.25", "9.99",  "-9.9",
                                         "10.01", "250",  "0.05", "-0.05", "1e3",  "1000.5"};
  const auto check = [&](const std::string& schema, const std::function<bool(double)>& inside,
                         bool whole) {
    std::unique_ptr<Accepts> accepts;
    try {
      accepts = std::make_unique<Accepts>(schema);
    } catch (const Error&) {  // no number at all
    }
    for (const std::string& text : texts) {
      const bool negative_zero = text.starts_with('-') && std::stod(text) == 0;
      if (negative_zero) continue;
      const bool right = inside(std::stod(text)) && !(whole && text.find('.') != std::string::npos);
      if ((accepts != nullptr && (*accepts)(text)) != right) ADD_FAILURE() << schema << " " << text;
    }
  };
  for (size_t i = 0; i < ends.size(); ++i) {
    const double a = std::stod(ends[i]);
    check(fmt::format(R"({{"minimum": {}}})", ends[i]), [&](double x) { return x >= a; }, false);
    check(
        fmt::format(R"({{"exclusiveMaximum": {}}})", ends[i]), [&](double x) { return x < a; },
        false);
    check(
        fmt::format(R"({{"type": "integer", "maximum": {}}})", ends[i]),
        [&](double x) { return x <= a; }, true);
    check(
        fmt::format(R"({{"type": "integer", "exclusiveMinimum": {}}})", ends[i]),
        [&](double x) { return x > a; }, true);
    const size_t j = (i * 7 + 3) % ends.size();
    const double b = std::stod(ends[j]);
    check(
        fmt::format(R"({{"minimum": {}, "maximum": {}}})", ends[i], ends[j]),
        [&](double x) { return a <= x && x <= b; }, false);
    check(
        fmt::format(R"({{"exclusiveMinimum": {}, "exclusiveMaximum": {}}})", ends[i], ends[j]),
        [&](double x) { return a < x && x < b; }, false);
  }
}

TEST(JsonSchema, NumbersOfAnySize) {
  Accepts accepts(R"({"minimum": -12345678901234567890, "maximum": 1e20})");
  EXPECT_TRUE(accepts("123456789012345678"));
  EXPECT_TRUE(accepts("-123456789012345678"));
  EXPECT_FALSE(accepts("1234567890123456789"));  // as many digits as are written
}

TEST(JsonSchema, SaysWhatIsWrong) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({"properties": {"a": {"not": {}}}})", "at /properties/a has \"not\": {}"},
      {R"({"type": "integer", "multipleOf": 3})", "multipleOf"},
      {R"({"type": "text"})", "expected object, array"},
      {R"({"type": 1})", "\"type\": 1"},
      {"1", "at its root has 1"},
      {R"({"$ref": "http://x/y"})", "within the schema"},
      {R"({"$ref": "#/$defs/x"})", "which is not in the schema"},
      {R"({"$ref": "#"})", "no text at all"},
      {"false", "no text at all"},
      {R"({"anyOf": []})", "expected an array"},
      {R"({"enum": 1})", "expected an array"},
      {R"j({"type": "string", "pattern": "(?=a)"})j", "pattern that cannot be used"},
      {R"({"type": "string", "minLength": -1})", "from 0 to"},
      {R"({"type": "string", "maxLength": 1000000})", "from 0 to"},
      {R"({"type": "array", "minItems": 2, "maxItems": 1})", "smaller than"},
      {R"({"type": "string", "minLength": 3, "maxLength": 2})", "smaller than"},
      {R"({"minimum": "1"})", "expected a number"},
      {R"({"minimum": 2, "maximum": 1})", "no text at all"},
      {R"({"properties": 1})", "expected an object"},
      {R"({"required": 1, "properties": {}})", "array of texts"},
      {R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})", "cannot be combined"},
      {R"({"unevaluatedItems": false})", "unevaluatedItems"},
      {R"({"allOf": [{"unevaluatedProperties": false}, {"properties": {"a": {}}}]})",
       "beside them"},
      {R"({"properties": {"a": {"$id": "http://x/", "$ref": "#/$defs/n"}}, "$defs": {"n": {}}})",
       "leave the $id out"},
      {R"({"enum": [{"a": 1}], "required": ["a"]})", "restricts what is in it"},
      {R"({"propertyNames": {"anyOf": [{"maxLength": 1}]}})", "without it"},
      {R"({"nullable": 1})", "true or false"},
      {R"({"required": "a"})", "array of texts"},
      {R"({"pattern": "\\ud83d"})", "no character"},
      {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
       "no text at all"},
  };
  for (const auto& [schema, said] : cases) {
    try {
      Accepts accepts(schema);
      ADD_FAILURE() << schema;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(said), std::string::npos) << schema << ": " << e.what();
    }
  }
}

TEST(JsonSchema, IsBounded) {
  // Each level doubles what is below it.
  std::string defs;
  for (int i = 0; i < 40; ++i)
    defs += fmt::format(
        R"("d{0}": {{"minLength": {0}, "anyOf": [{{"$ref": "#/$defs/d{1}"}}, {{"$ref": "#/$defs/d{1}"}}]}}, )",
        i, i + 1);
  const std::string schema =
      R"({"$ref": "#/$defs/d0", "$defs": {)" + defs + R"("d40": {"type": "string"}}})";
  Accepts shares(schema);
  EXPECT_TRUE(shares("\"" + std::string(39, 'x') + "\""));
  EXPECT_FALSE(shares("\"" + std::string(38, 'x') + "\""));
  // Schemas that contain themselves, and more each time.
  for (
      const char* endless :
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a", "type": "object"}}}}})",
       R"({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
            "$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/a"}}},
                      "b": {"properties": {"x": {"$ref": "#/$defs/b"}}}}})",
       R"({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {"allOf": [
            {"$ref": "#/$defs/a"}, {"properties": {"x": {"required": ["q"]}}}]}}}}})"}) {
    Accepts accepts(endless);
    EXPECT_TRUE(accepts(R"({"x":{}})")) << endless;
    EXPECT_FALSE(accepts(R"({"x":1})")) << endless;
  }
  // Two schemas that lead to each other say what both say.
  Accepts round(R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b", "minLength": 1},
                    "b": {"$ref": "#/$defs/a", "maxLength": 2}}})");
  EXPECT_TRUE(round(R"("ab")"));
  EXPECT_FALSE(round(R"("")"));
  EXPECT_FALSE(round(R"("abc")"));
  // Branches times branches times branches.
  std::string branches;
  for (int i = 0; i < 40; ++i)
    branches += fmt::format(R"({}{{"minLength": {}}})", i ? ", " : "", i);
  branches = R"({"anyOf": [)" + branches + "]}";
  EXPECT_THROW(Accepts(R"({"allOf": [)" + branches + ", " + branches +
                       R"(, {"anyOf": [{"maxLength": 3}]}]})"),
               Error);
  // Expressions whose automata would be too large, or take too long to find so.
  for (const char* pattern : {"^(a?){5000}$", "^[ab]*a[ab]{1000}$", "x.{12}y"})
    EXPECT_THROW(Accepts(fmt::format(R"({{"pattern": "{}", "maxLength": 3000}})", pattern)), Error);
  // Many values are as good as few.
  std::string values;
  for (int i = 0; i < 10'000; ++i) values += fmt::format(R"({}"value {}")", i ? ", " : "", i);
  Accepts listed(R"({"enum": [)" + values + "]}");
  EXPECT_TRUE(listed(R"("value 9999")"));
  EXPECT_FALSE(listed(R"("value 10000")"));
  // Many properties are as good as few.
  std::string properties;
  for (int i = 0; i < 1000; ++i)
    properties += fmt::format(R"({}"p{}": {{"type": "integer"}})", i ? ", " : "", i);
  Accepts accepts(R"({"type": "object", "properties": {)" + properties + "}}");
  EXPECT_TRUE(accepts(R"({"p1": 1, "p999": 2})"));
  EXPECT_FALSE(accepts(R"({"p2": 1, "p1": 2})"));
}

}  // namespace
}  // namespace sala
