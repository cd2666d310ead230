#include "server/api.h"

#include <gtest/gtest.h>

#include "grammar/grammar.h"
#include "grammar/testing.h"
#include "text/thinking.h"

namespace sala {
namespace {

/// Expects a refusal that names `param` and says `words`.
template <class F>
void expect_refused(const F& parse, const std::string& param, const std::string& words) {
  try {
    parse();
    ADD_FAILURE() << "not refused: " << param;
  } catch (const ApiError& e) {
    EXPECT_EQ(e.status, 400);
    EXPECT_EQ(e.param, param);
    EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
  }
}

const std::string kHi = R"("messages":[{"role":"user","content":"hi"}])";

TEST(Api, ReadsWhatClientsSend) {
  const ChatCompletion c = parse_chat(
      R"({"model":"m","messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
          {"role":"user","content":"hi"}],"max_completion_tokens":7,"temperature":0.5,"top_p":1,"top_k":-1,"seed":-3,"stop":"x",
          "n":2,"stream":true,"stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":3,"logit_bias":{"5":-100},
          "user":"u","metadata":{},"store":false,"service_tier":null,"parallel_tool_calls":true,"response_format":{"type":"text"},
          "tools":[{"type":"web_search"},{"type":"function","function":{"name":"f"}}],"chat_template_kwargs":{"enable_thinking":false}})",
      {});
  EXPECT_EQ(c.messages[0]["role"], "system");
  EXPECT_EQ(c.messages[0]["content"], "ab");
  EXPECT_EQ(c.limit, 7);
  EXPECT_EQ(c.n, 2);
  EXPECT_TRUE(c.stream && c.usage_in_stream && c.logprobs);
  EXPECT_EQ(c.reply.logprobs, 3);
  EXPECT_EQ(c.reply.sampling.top_k, 0);
  EXPECT_EQ(c.reply.sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_EQ(c.reply.stop_strings, std::vector<std::string>{"x"});
  EXPECT_EQ(c.reply.sampling.logit_bias[0], std::pair(5, -100.0));
  EXPECT_EQ(c.tools.size(), 1U);
  EXPECT_FALSE(c.variables["enable_thinking"].get<bool>());
}

TEST(Api, ReadsWhatAReplyMaySay) {
  const auto expected = [](const std::string& prediction) {
    return parse_chat("{" + kHi + R"(,"prediction":)" + prediction + "}", {}).expected;
  };
  EXPECT_EQ(expected(R"({"type":"content","content":"yes"})"), "yes");
  EXPECT_EQ(
      expected(
          R"({"type":"content","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]})"),
      "ab");
  EXPECT_EQ(expected("null"), "");
  for (const char* wrong : {R"("yes")", R"({"content":"yes"})", R"({"type":"content"})",
                            R"({"type":"regex","content":"y"})"})
    expect_refused([&] { expected(wrong); }, "prediction", "content");
  expect_refused([&] { expected(R"({"type":"content","content":5})"); }, "prediction.content", "5");
}

TEST(Api, DefaultsAreTheModels) {
  const ChatCompletion c = parse_chat("{" + kHi + R"(,"temperature":null,"stop":null})",
                                      {.temperature = 0.3, .top_k = 9});
  EXPECT_EQ(c.reply.sampling.temperature, 0.3);
  EXPECT_EQ(c.reply.sampling.top_k, 9);
  EXPECT_FALSE(c.limit.has_value());
  EXPECT_EQ(parse_text(R"({"prompt":"a"})", {}).limit, 16);
}

TEST(Api, PromptsAreTextsOrTokensOrListsOfThem) {
  const auto prompts = [](const char* json) {
    return parse_text(fmt::format(R"({{"prompt":{}}})", json), {}).prompts;
  };
  EXPECT_EQ(prompts(R"("a")")[0].text, "a");
  EXPECT_EQ(prompts(R"(["a","b"])")[1].text, "b");
  EXPECT_EQ(prompts("[1,2]")[0].tokens, (std::vector<int>{1, 2}));
  EXPECT_EQ(prompts("[[1],[2,3]]")[1].tokens, (std::vector<int>{2, 3}));
}

TEST(Api, RefusesByName) {
  const auto chat = [](const std::string& more) {
    return [=] { parse_chat("{" + kHi + "," + more + "}", {}); };
  };
  expect_refused(chat(R"("temperature":"hot")"), "temperature", "\"hot\"");
  expect_refused(chat(R"("temperature":-1)"), "temperature", "from 0 to 100");
  expect_refused(chat(R"("n":9)"), "n", "from 1 to 8");
  expect_refused(chat(R"("n":1.5)"), "n", "whole");
  expect_refused(chat(R"("max_tokens":-1)"), "max_tokens", "-1");
  expect_refused(chat(R"("top_logprobs":21)"), "top_logprobs", "20");
  expect_refused(chat(R"("stop":["a",""])"), "stop", "1 to 1024");
  expect_refused(
      chat(R"("stop":["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])"),
      "stop", "at most 16");
  expect_refused(chat(R"("logit_bias":{"x":1})"), "logit_bias", "token id");
  expect_refused(chat(R"("logit_bias":{"1":101})"), "logit_bias", "-100 to 100");
  expect_refused(chat(R"("response_format":{"type":{}})"), "response_format", "json_schema");
  expect_refused(chat(R"("response_format":{"type":"json_schema"})"), "response_format",
                 "with a schema");
  expect_refused(chat(R"("response_format":{"type":"json_object"},"guided_regex":"a")"),
                 "guided_regex", "send one");
  expect_refused(chat(R"("structured_outputs":{"regex":"a","choice":["b"]})"),
                 "structured_outputs.choice", "send one");
  expect_refused(chat(R"("structured_outputs":{"lark":"a"})"), "structured_outputs.lark",
                 "expected json");
  expect_refused(chat(R"("guided_choice":[1])"), "guided_choice", "expected a text");
  expect_refused(chat(R"("guided_choice":[])"), "guided_choice", "array");
  expect_refused(chat(R"("grammar":5)"), "grammar", "expected a text");
  expect_refused(chat(R"("tool_choice":"required")"), "tool_choice", "no tools");
  expect_refused(chat(R"("tool_choice":"sometimes")"), "tool_choice", "expected");
  const auto tool = [&](const std::string& json) { return chat(R"("tools":[)" + json + "]"); };
  expect_refused(tool(R"({"type":"function"})"), "tools[0].function", "missing");
  expect_refused(tool(R"({"type":"function","function":"f"})"), "tools[0].function", "object");
  expect_refused(tool(R"({"type":"function","function":{}})"), "tools[0].function.name", "missing");
  expect_refused(tool(R"({"type":"function","function":{"name":5}})"), "tools[0].function.name",
                 "text");
  expect_refused(tool(R"({"type":"function","function":{"name":"f","parameters":[]}})"),
                 "tools[0].function.parameters", "object");
  expect_refused(chat(R"("messages":[{"role":"user","content":[{"type":{},"text":""}]}])"),
                 "messages[0].content", "texts only");
  expect_refused([] { parse_chat("{}", {}); }, "messages", "missing");
  expect_refused([] { parse_chat(R"({"messages":[]})", {}); }, "messages", "empty");
  expect_refused([] { parse_chat(R"({"messages":"hi"})", {}); }, "messages", "is \"hi\"");
  expect_refused(
      [] { parse_chat(R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})", {}); },
      "messages[0].content", "texts only");
  expect_refused([] { parse_text(R"({"prompt":[-1]})", {}); }, "prompt", "-1");
  expect_refused([] { parse_text(R"({"prompt":{}})", {}); }, "prompt", "expected");
  for (const char* body : {"", "[]", "{", "nonsense", "\xff"})
    EXPECT_THROW(parse_chat(body, {}), ApiError) << body;
  EXPECT_THROW(parse_chat(std::string(100000, '['), {}), ApiError);
}

TEST(Api, RefusesWhatItWouldHaveToIgnore) {
  const std::vector<std::pair<const char*, const char*>> asked = {
      {"functions", R"([{"name":"f"}])"},
      {"suffix", R"("end")"},
      {"best_of", "2"},
      {"min_tokens", "1"},
      {"echo", "true"},
      {"top_logprobs", "2"}};
  for (const auto& [name, value] : asked) {
    const std::string body = "{" + kHi + fmt::format(R"(,"{}":{}}})", name, value);
    expect_refused([&] { parse_chat(body, {}); }, name, name);
  }
  expect_refused([] { parse_text(R"({"prompt":"a","suffix":"b"})", {}); }, "suffix", "suffix");
  // What asks for nothing is no fault.
  parse_chat("{" + kHi +
                 R"(,"tool_choice":"auto","guided_json":null,"structured_outputs":{},"grammar":"",
                     "suffix":"","best_of":1,"min_tokens":0,"echo":false,"top_logprobs":0})",
             {});
  parse_text(R"({"prompt":"a","n":2,"best_of":2,"tool_choice":"none","echo":true})", {});
}

/// Whether replies of a request's form may be `text`.
bool may_be(const ReplyForm& form, std::string_view text) {
  Rules rules;
  const Language language = language_of(form, rules);
  Recogniser recogniser(std::make_shared<const Grammar>(language, rules));
  return testing::accepts(recogniser, text);
}

TEST(Api, ReadsWhatAReplyMayBe) {
  struct Case {
    const char *asked, *yes, *no;
  };
  const std::vector<Case> cases = {
      {R"("response_format":{"type":"json_object"})", R"({"a":[1]})", "[]"},
      {R"("response_format":{"type":"json_object","schema":{"const":1}})", "1", "2"},
      {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,
          "schema":{"type":"integer"}}})",
       "15", "\"15\""},
      {R"("response_format":{"type":"json_schema","schema":{"type":"null"}})", "null", "1"},
      {R"("structured_outputs":{"json":{"type":"integer"},"disable_any_whitespace":true})", "1",
       "a"},
      {R"("structured_outputs":{"json":"{\"type\":\"integer\"}"})", "1", "a"},
      {R"("structured_outputs":{"json_object":true})", "{}", "1"},
      {R"("structured_outputs":{"regex":"a+"})", "aa", "ba"},
      {R"("structured_outputs":{"choice":["a","b c"]})", "b c", "b"},
      {R"("structured_outputs":{"grammar":"root ::= [0-9]+"})", "42", "x"},
      {R"("guided_json":{"type":"boolean"})", "true", "1"},
      {R"("guided_regex":"[ab]")", "a", "c"},
      {R"("guided_choice":["x"])", "x", "y"},
      {R"("guided_grammar":"root ::= \"a\"")", "a", "b"},
      {R"("grammar":"root ::= \"a\"")", "a", "b"},
      {R"("json_schema":{})", "[1, true]", "x"}};
  for (const Case& c : cases)
    for (const ReplyForm& form :
         {parse_chat("{" + kHi + "," + c.asked + "}", {}).form,
          parse_text(std::string(R"({"prompt":"a",)") + c.asked + "}", {}).form}) {
      EXPECT_TRUE(may_be(form, c.yes)) << c.asked;
      EXPECT_FALSE(may_be(form, c.no)) << c.asked;
    }
  EXPECT_TRUE(may_be(parse_responses(R"({"input":"a","text":{"format":{"type":"json_schema",
      "name":"n","schema":{"const":1}}}})",
                                     {})
                         .form,
                     "1"));
  EXPECT_TRUE(may_be(parse_messages("{" + kHi + R"(,"output_config":{"format":{"type":
      "json_schema","schema":{"const":1}}}})",
                                    {})
                         .form,
                     "1"));
  // What is wrong in a form is told with its field.
  const auto language = [](const std::string& asked) {
    return [=] {
      Rules rules;
      language_of(parse_chat("{" + kHi + "," + asked + "}", {}).form, rules);
    };
  };
  expect_refused(language(R"("guided_json":{"not":{}})"), "guided_json", "\"not\"");
  expect_refused(language(R"("guided_json":"{")"), "guided_json", "not valid JSON");
  expect_refused(language(R"("guided_regex":"(")"), "guided_regex", "byte 1");
  expect_refused(language(R"("grammar":"x")"), "grammar", "line 1");
}

TEST(Api, KnowsTheNamesOfOtherServers) {
  const TextCompletion c = parse_text(R"({"prompt":"a","n_predict":9,"stop_token_ids":[3,4]})", {});
  EXPECT_EQ(c.limit, 9);
  EXPECT_EQ(c.stop_tokens, (std::vector<int>{3, 4}));
  EXPECT_EQ(parse_chat("{" + kHi + R"(,"thinking_token_budget":7})", {}).reply.thought_limit, 7);
  EXPECT_EQ(parse_chat("{" + kHi + R"(,"thinking_budget_tokens":0})", {}).reply.thought_limit, 0);
  EXPECT_FALSE(parse_chat("{" + kHi + R"(,"thinking_token_budget":-1})", {})
                   .reply.thought_limit.has_value());
  EXPECT_FALSE(parse_chat("{" + kHi + R"(,"n_predict":-1})", {}).limit.has_value());
  expect_refused([] { parse_text(R"({"prompt":"a","stop_token_ids":[-1]})", {}); },
                 "stop_token_ids", "-1");
  expect_refused([] { parse_text(R"({"prompt":"a","stop_token_ids":5})", {}); }, "stop_token_ids",
                 "array");
}

const std::string kTool =
    R"({"type":"function","function":{"name":"look","parameters":{"type":"object"}}})";

/// A conversation with a call, as each API tells it.
const std::string kChatCalls = R"("messages":[{"role":"system","content":"Be brief."},
    {"role":"user","content":"What is there?"},
    {"role":"assistant","content":null,"reasoning_content":"Where?",
     "tool_calls":[{"id":"c1","type":"function","function":{"name":"look","arguments":"{\"at\":\"sea\"}"}}]},
    {"role":"tool","tool_call_id":"c1","name":"look","content":"blue"}])";
const std::string kMessagesCalls =
    R"("max_tokens":5,"system":[{"type":"text","text":"Be brief."}],"messages":[
    {"role":"user","content":"What is there?"},
    {"role":"assistant","content":[{"type":"thinking","thinking":"Where?","signature":"s"},
      {"type":"redacted_thinking","data":"x"},{"type":"tool_use","id":"c1","name":"look","input":{"at":"sea"}}]},
    {"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":[{"type":"text","text":"blue"}]}]}])";
const std::string kResponsesCalls = R"("instructions":"Be brief.","input":[
    {"role":"user","content":[{"type":"input_text","text":"What is there?"}]},
    {"type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"Where?"}]},
    {"type":"function_call","call_id":"c1","name":"look","arguments":"{\"at\":\"sea\"}"},
    {"type":"function_call_output","call_id":"c1","output":"blue"}])";

/// Messages with their fields in one order.
Json sorted(const OrderedJson& messages) { return Json::parse(messages.dump()); }

TEST(Api, ToolsAreCalledAndAnswered) {
  const ChatCompletion c = parse_chat("{" + kChatCalls + R"(,"tools":[)" + kTool + "]}", {});
  EXPECT_EQ(c.messages[2]["content"], "");
  EXPECT_EQ(c.messages[2]["tool_calls"][0]["function"]["name"], "look");
  EXPECT_EQ(c.messages[2]["tool_calls"][0]["function"]["arguments"]["at"], "sea");
  EXPECT_EQ(c.messages[3]["tool_call_id"], "c1");
  EXPECT_EQ(c.tools.size(), 1U);
  EXPECT_FALSE(c.one_call);
  const auto with = [](const std::string& more) {
    return parse_chat("{" + kHi + R"(,"tools":[)" + kTool + "]," + more + "}", {});
  };
  EXPECT_TRUE(with(R"("tool_choice":"none")").tools.is_null());
  EXPECT_EQ(with(R"("tool_choice":"auto")").tools.size(), 1U);
  EXPECT_FALSE(with(R"("tool_choice":"auto")").must_call);
  EXPECT_TRUE(with(R"("tool_choice":"required")").must_call);
  EXPECT_EQ(with(R"("tool_choice":{"type":"function","function":{"name":"look"}})").must_call_tool,
            "look");
  EXPECT_TRUE(with(R"("parallel_tool_calls":false)").one_call);
  for (const char* calls : {R"("x")", R"([5])", R"([{"id":"c"}])", R"([{"function":{"name":5}}])"})
    expect_refused(
        [&] {
          parse_chat(
              fmt::format(R"({{"messages":[{{"role":"assistant","tool_calls":{}}}]}})", calls), {});
        },
        "messages[0].tool_calls", "expected");
  parse_chat(R"({"messages":[{"role":"assistant","content":"a","tool_calls":null}]})", {});
}

TEST(Api, AConversationIsTheSameInEveryApi) {
  const Json chat = sorted(parse_chat("{" + kChatCalls + "}", {}).messages);
  EXPECT_EQ(sorted(parse_messages("{" + kMessagesCalls + "}", {}).messages), chat);
  EXPECT_EQ(sorted(parse_responses("{" + kResponsesCalls + "}", {}).messages), chat);
}

TEST(Api, ReadsAnthropicsMessages) {
  const ChatCompletion c = parse_messages(
      R"({"model":"claude-x","max_tokens":9,"stop_sequences":["END"],"temperature":0.5,"top_k":3,"top_p":0.9,"stream":true,
          "metadata":{"user_id":"u"},"thinking":{"type":"disabled"},
          "system":[{"type":"text","text":"x-anthropic-billing-header: cch=1;"},
                    {"type":"text","text":"One.\nx-anthropic-billing-header: 2\nTwo.","cache_control":{"type":"ephemeral"}}],
          "tools":[{"name":"look","description":"Looks.","input_schema":{"type":"object"}},{"type":"web_search_20250305","name":"w"}],
          "tool_choice":{"type":"auto","disable_parallel_tool_use":true},
          "messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
                      {"role":"assistant","content":"c"},
                      {"role":"user","content":[{"type":"text","text":"Well:"},
                                                {"type":"tool_result","tool_use_id":"t","is_error":true,"content":"lost"},
                                                {"type":"text","text":"d"}]}]})",
      {});
  EXPECT_EQ(c.limit, 9);
  EXPECT_EQ(c.reply.stop_strings, std::vector<std::string>{"END"});
  EXPECT_EQ(c.reply.sampling.temperature, 0.5);
  EXPECT_EQ(c.reply.sampling.top_k, 3);
  EXPECT_TRUE(c.stream && c.one_call);
  EXPECT_EQ(c.variables["enable_thinking"], false);
  ASSERT_EQ(c.tools.size(), 1U);
  EXPECT_EQ(c.tools[0], OrderedJson::parse(
                            R"({"type":"function","function":{"name":"look","description":"Looks.",
                                "parameters":{"type":"object"}}})"));
  EXPECT_EQ(c.messages, OrderedJson::parse(R"([{"role":"system","content":"One.\nTwo."},
      {"role":"user","content":"a\nb"},{"role":"assistant","content":"c"},
      {"role":"user","content":"Well:"},{"role":"tool","tool_call_id":"t","content":"error: lost"},{"role":"user","content":"d"}])"));
  const auto thinking = [](const char* type) {
    return parse_messages("{" + kHi + R"(,"thinking":{"type":")" + type + "\"}}", {}).variables;
  };
  EXPECT_EQ(thinking("enabled")["enable_thinking"], true);
  EXPECT_EQ(thinking("adaptive")["enable_thinking"], true);
  EXPECT_TRUE(parse_messages("{" + kHi + R"(,"tool_choice":{"type":"none"},
      "tools":[{"name":"f","input_schema":{}}]})",
                             {})
                  .tools.is_null());
}

TEST(Api, AMessageOfNothingIsOne) {
  for (const char* content : {R"("")", "[]", R"([{"type":"text","text":""}])"})
    for (const char* role : {"user", "assistant"})
      EXPECT_EQ(
          parse_messages(
              fmt::format(R"({{"messages":[{{"role":"{}","content":{}}}]}})", role, content), {})
              .messages,
          OrderedJson::array({{{"role", role}, {"content", ""}}}));
}

TEST(Api, ManySystemMessagesAreOneInLinearTime) {
  std::string body = R"({"messages":[)";
  constexpr int kMany = 200'000;  // seconds, where each copies those before it
  for (int i = 0; i < kMany; ++i) body += R"({"role":"system","content":"a"},)";
  const ChatCompletion c = parse_messages(body + R"({"role":"user","content":"b"}]})", {});
  ASSERT_EQ(c.messages.size(), 2U);
  EXPECT_EQ(c.messages[0]["content"].get_ref<const std::string&>().size(), 3U * kMany - 2);
}

TEST(Api, RefusesMessagesByName) {
  const auto body = [](const std::string& more) {
    return [=] { parse_messages("{" + kHi + "," + more + "}", {}); };
  };
  const auto block = [](const std::string& role, const std::string& json) {
    return [=] {
      parse_messages(R"({"messages":[{"role":")" + role + R"(","content":[)" + json + "]}]}", {});
    };
  };
  expect_refused([] { parse_messages("{}", {}); }, "messages", "missing");
  expect_refused([] { parse_messages(R"({"messages":[5]})", {}); }, "messages[0]", "5");
  expect_refused([] { parse_messages(R"({"messages":[{"role":"tool","content":""}]})", {}); },
                 "messages[0].role", "assistant");
  expect_refused([] { parse_messages(R"({"messages":[{"role":"user"}]})", {}); },
                 "messages[0].content", "missing");
  expect_refused(block("user", R"({"type":"image","source":{}})"), "messages[0].content[0]",
                 "texts only");
  expect_refused(block("user", R"({"type":"tool_result"})"), "messages[0].content[0].tool_use_id",
                 "missing");
  expect_refused(block("user", R"({"type":"tool_use","id":"a","name":"f","input":{}})"),
                 "messages[0].content[0]", "texts only");
  expect_refused(block("assistant", R"({"type":"tool_use","id":"a","input":{}})"),
                 "messages[0].content.name", "missing");
  expect_refused(block("assistant", R"({"type":"tool_use","id":"a","name":"f","input":"x"})"),
                 "messages[0].content.input", "object");
  expect_refused(body(R"("system":5)"), "system", "5");
  expect_refused(body(R"("stop_sequences":"x")"), "stop_sequences", "array");
  expect_refused(body(R"("stop_sequences":[""])"), "stop_sequences", "1 to 1024");
  expect_refused(body(R"("thinking":{"type":"deep"})"), "thinking", "adaptive");
  expect_refused(body(R"("tools":[5])"), "tools[0]", "5");
  expect_refused(body(R"("tools":[{"input_schema":{}}])"), "tools[0].name", "missing");
  expect_refused(body(R"("tool_choice":{"type":"any"})"), "tool_choice", "no tools");
  expect_refused(body(R"("tool_choice":{"type":"tool"})"), "tool_choice.name", "missing");
  expect_refused(body(R"("output_config":{"format":{"type":"json_schema"}})"),
                 "output_config.format", "with a schema");
  expect_refused(body(R"("n":2)"), "n", "one");
}

TEST(Api, ReadsResponses) {
  const ChatCompletion c = parse_responses(
      R"({"model":"m","instructions":"Be brief.","max_output_tokens":9,"stream":true,"store":false,"prompt_cache_key":"k",
          "include":["reasoning.encrypted_content"],"reasoning":{"effort":"none","summary":"auto"},"parallel_tool_calls":false,
          "text":{"format":{"type":"text"},"verbosity":"low"},"truncation":"disabled","client_metadata":{},"metadata":{"a":"b"},
          "tools":[{"type":"function","name":"look","description":"Looks.","strict":false,"parameters":{"type":"object"}},
                   {"type":"web_search"},{"type":"namespace","name":"n","tools":[]}],
          "input":[{"type":"message","role":"developer","content":[{"type":"input_text","text":"No tables."}]},
                   {"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
                   {"type":"reasoning","summary":[],"encrypted_content":"sala-thought:Hm."},
                   {"type":"reasoning","summary":[],"encrypted_content":"gAAAA"},
                   {"type":"message","role":"assistant","content":[{"type":"output_text","text":"c","annotations":[]}]},
                   {"type":"function_call","call_id":"1","name":"look","arguments":"{ }"},
                   {"type":"function_call","call_id":"2","name":"look","arguments":"{}"},
                   {"type":"function_call_output","call_id":"1","output":[{"type":"input_text","text":"x"}]},
                   {"type":"function_call_output","call_id":"2","output":"y"}]})",
      {});
  EXPECT_EQ(c.limit, 9);
  EXPECT_EQ(c.session, "k");
  EXPECT_TRUE(c.stream && c.one_call && c.keep_thoughts);
  EXPECT_EQ(c.variables["enable_thinking"], false);
  ASSERT_EQ(c.tools.size(), 1U);
  EXPECT_EQ(c.tools[0]["function"]["description"], "Looks.");
  ASSERT_EQ(c.messages.size(), 5U);
  EXPECT_EQ(c.messages[0]["content"], "Be brief.\n\nNo tables.");
  EXPECT_EQ(c.messages[1]["content"], "a\nb");
  EXPECT_EQ(c.messages[2]["reasoning_content"], "Hm.");
  EXPECT_EQ(c.messages[2]["content"], "c");
  EXPECT_EQ(c.messages[2]["tool_calls"].size(), 2U);
  EXPECT_EQ(c.messages[3]["content"], "x");
  EXPECT_EQ(c.messages[4]["tool_call_id"], "2");
  EXPECT_EQ(c.told["metadata"]["a"], "b");
  EXPECT_EQ(c.told["parallel_tool_calls"], false);
  EXPECT_EQ(parse_responses(R"({"input":"hi"})", {}).messages,
            OrderedJson::parse(R"([{"role":"user","content":"hi"}])"));
  // So is a thought behind a reply, and a reply behind another one.
  EXPECT_EQ(parse_responses(R"({"input":[{"role":"assistant","content":"a"},
      {"type":"reasoning","content":[{"type":"reasoning_text","text":"b"}]},{"role":"assistant","content":"c"}]})",
                            {})
                .messages,
            OrderedJson::parse(R"([{"role":"assistant","content":"a"},
      {"role":"assistant","reasoning_content":"b","content":"c"}])"));
  EXPECT_EQ(
      parse_responses(
          R"({"input":[{"role":"assistant","content":"a"},{"role":"assistant","content":"b"}]})",
          {})
          .messages.size(),
      2U);
}

TEST(Api, RefusesResponsesByName) {
  const auto body = [](const std::string& more) {
    return [=] { parse_responses(R"({"input":"hi",)" + more + "}", {}); };
  };
  const auto item = [](const std::string& json) {
    return [=] { parse_responses(R"({"input":[)" + json + "]}", {}); };
  };
  expect_refused([] { parse_responses("{}", {}); }, "input", "missing");
  expect_refused([] { parse_responses(R"({"input":[]})", {}); }, "input", "empty");
  expect_refused([] { parse_responses(R"({"input":5})", {}); }, "input", "5");
  expect_refused(item("5"), "input[0]", "5");
  expect_refused(item(R"({"content":"a"})"), "input[0].role", "missing");
  expect_refused(item(R"({"role":"user","content":[{"type":"input_image"}]})"), "input[0].content",
                 "texts only");
  expect_refused(item(R"({"type":"item_reference","id":"x"})"), "input[0]", "item_reference");
  expect_refused(item(R"({"type":"function_call","call_id":"a","name":"f"})"), "input[0].arguments",
                 "missing");
  expect_refused(item(R"({"type":"reasoning"})"), "input", "nothing");
  expect_refused(body(R"("previous_response_id":"resp_1")"), "previous_response_id", "keeps no");
  expect_refused(body(R"("background":true)"), "background", "true");
  expect_refused(body(R"("tool_choice":"required")"), "tool_choice", "no tools");
  expect_refused(body(R"("tool_choice":{"type":"function"})"), "tool_choice.name", "missing");
  expect_refused(body(R"("text":{"format":{"type":"json_schema"}})"), "text.format",
                 "with a schema");
  expect_refused(body(R"("text":{"format":{"type":"json_object"}},"guided_regex":"a")"),
                 "text.format", "send one");
  expect_refused(body(R"("top_logprobs":2)"), "top_logprobs", "chat");
  expect_refused(body(R"("max_output_tokens":-1)"), "max_output_tokens", "-1");
  expect_refused(body(R"("tools":[{"type":"function"}])"), "tools[0].name", "missing");
}

TEST(ThinkingSplitter, SplitsWhereverTheTextIsCut) {
  const std::string text = "\n<think>a < b</think>\n\nso <think> stays";
  for (size_t step = 1; step <= text.size(); ++step) {
    ThinkingSplitter splitter(false);
    std::string thought, said;
    const auto add = [&](const ThinkingSplitter::Part& part) {
      thought += part.thought;
      said += part.said;
    };
    for (size_t at = 0; at < text.size(); at += step) add(splitter.push(text.substr(at, step)));
    add(splitter.flush());
    EXPECT_EQ(thought, "a < b") << step;
    EXPECT_EQ(said, "so <think> stays") << step;
  }
  ThinkingSplitter open(true);
  EXPECT_EQ(open.push("deep").thought, "deep");
  EXPECT_EQ(open.push("</th").thought, "");
  EXPECT_EQ(open.push("ink>hi").said, "hi");
  ThinkingSplitter plain(false);
  EXPECT_EQ(plain.push("<thi").said, "");
  EXPECT_EQ(plain.push("s is it").said, "<this is it");
}

}  // namespace
}  // namespace sala
