#include "server/api.h"

#include <gtest/gtest.h>

#include "server/thinking.h"

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
  expect_refused(chat(R"("response_format":{"type":"json_object"})"), "response_format",
                 "text only");
  expect_refused(chat(R"("response_format":{"type":{}})"), "response_format", "text only");
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
      {"tool_choice", R"("required")"},
      {"tool_choice", R"({"type":"function","function":{"name":"f"}})"},
      {"guided_json", R"({"type":"object"})"},
      {"guided_choice", R"(["a"])"},
      {"structured_outputs", R"({"regex":"a"})"},
      {"grammar", R"("root ::= \"a\"")"},
      {"json_schema", R"({"type":"object"})"},
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

TEST(Api, KnowsTheNamesOfOtherServers) {
  const TextCompletion c = parse_text(R"({"prompt":"a","n_predict":9,"stop_token_ids":[3,4]})", {});
  EXPECT_EQ(c.limit, 9);
  EXPECT_EQ(c.stop_tokens, (std::vector<int>{3, 4}));
  EXPECT_FALSE(parse_chat("{" + kHi + R"(,"n_predict":-1})", {}).limit.has_value());
  expect_refused([] { parse_text(R"({"prompt":"a","stop_token_ids":[-1]})", {}); },
                 "stop_token_ids", "-1");
  expect_refused([] { parse_text(R"({"prompt":"a","stop_token_ids":5})", {}); }, "stop_token_ids",
                 "array");
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
