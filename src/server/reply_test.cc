#include <gtest/gtest.h>

#include "base/json.h"
#include "server/reply_formats.h"

namespace sala {
namespace {

using Events = std::vector<OrderedJson>;

/// An exchange that keeps what it is given.
class Kept : public Exchange {
 public:
  void respond(int code, std::string, std::string text, HttpHeaders) override {
    status = code;
    body = std::move(text);
    ended = true;
  }
  void begin_stream(HttpHeaders) override {}
  void send(std::string piece) override { body += piece; }
  void end() override { ended = true; }
  void on_gone(std::function<void()>) override {}
  void post(std::function<void()> work) override { work(); }

  OrderedJson json() const { return parse_ordered_json(body, "the answer"); }
  /// The events of a stream; where they have a line for their type, it is that of their JSON.
  Events events() const {
    Events events;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      std::string event = body.substr(at, end - at);
      at = end + 2;
      std::string type;
      if (event.starts_with("event: ")) {
        type = event.substr(7, event.find('\n') - 7);
        event.erase(0, event.find('\n') + 1);
      }
      if (event == "data: [DONE]" || event.starts_with(":")) continue;
      EXPECT_TRUE(event.starts_with("data: ")) << event;
      events.push_back(parse_ordered_json(event.substr(6), "an event"));
      EXPECT_EQ(events.back().value("type", ""), type);
    }
    return events;
  }

  int status = 0;
  std::string body;
  bool ended = false;
};

/// One that knows the printable bytes, each as itself.
const Tokenizer& tokenizer() {
  static const auto tokenizer = [] {
    GgufVocab vocab;
    vocab.model = "gpt2";
    vocab.pre = "smollm";
    for (char c = '!'; c <= '~'; ++c) vocab.tokens.emplace_back(1, c);
    for (const char* letter : {"Ġ", "Ċ"}) vocab.tokens.emplace_back(letter);
    return Tokenizer::from_gguf(vocab, "test.gguf");
  }();
  return *tokenizer;
}

const std::string kText =
    "<think>Where?</think>\n\nI look.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": "
    "\"sea\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"go\", \"arguments\": {}}\n</tool_call>";
const std::string kArguments = R"({"at": "sea"})";

Reply::Options options(bool stream = false) {
  return {.number = "17",
          .model = "m",
          .stream = stream,
          .chat = true,
          .tool_format = ToolFormat::hermes,
          .tools = OrderedJson::parse(R"([{"type": "function", "function": {"name": "look"}},
                                          {"type": "function", "function": {"name": "go"}}])"),
          .told = {{"store", false}}};
}

struct Ending {
  Finish finish = Finish::stop;
  std::string stopped_by{};
};

/// What goes out where `text` is written in pieces of `step` bytes, behind a prompt of 9 tokens, 4
/// of them known.
Kept answer(ReplyFormat& format, const Reply::Options& options, const std::string& text = kText,
            size_t step = 7, const Ending& ending = {}) {
  const auto reply = format(tokenizer(), options, {std::vector<int>(9, 1)});
  Kept kept;
  Usage usage{.prompt = 9, .cached = 4};
  reply->hear(0, {.prompt_read = 9, .usage = usage}, kept);
  for (size_t at = 0; at < text.size(); at += step) {
    ++usage.generated;
    reply->hear(0, {.tokens = {1}, .text = text.substr(at, step), .usage = usage}, kept);
  }
  reply->hear(0, {.finish = ending.finish, .stopped_by = ending.stopped_by, .usage = usage}, kept);
  EXPECT_TRUE(kept.ended && reply->over());
  return kept;
}

std::vector<std::string> types_of(const Events& events) {
  std::vector<std::string> types;
  for (const OrderedJson& event : events) types.push_back(event["type"]);
  return types;
}

/// A chat's message as its clients put it together.
OrderedJson put_together(const Events& events) {
  OrderedJson message = {{"role", events[0]["choices"][0]["delta"]["role"]}, {"content", ""}};
  const auto add = [](OrderedJson& text, const OrderedJson& more) {
    text = (text.is_null() ? std::string() : text.get<std::string>()) + more.get<std::string>();
  };
  for (const OrderedJson& event : events) {
    const OrderedJson& delta = event["choices"][0]["delta"];
    for (const char* field : {"content", "reasoning_content"})
      if (delta.contains(field)) add(message[field], delta[field]);
    if (!delta.contains("tool_calls")) continue;
    for (OrderedJson call : delta["tool_calls"]) {
      EXPECT_EQ(call["index"], message.value("tool_calls", OrderedJson::array()).size());
      call.erase("index");
      message["tool_calls"].push_back(call);
    }
  }
  return message;
}

TEST(ChatReply, HasThoughtTextAndCalls) {
  const OrderedJson json = answer(chat_reply, options()).json();
  const OrderedJson& choice = json["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  const OrderedJson& message = choice["message"];
  EXPECT_EQ(message["content"], "I look.");
  EXPECT_EQ(message["reasoning_content"], "Where?");
  ASSERT_EQ(message["tool_calls"].size(), 2U);
  EXPECT_EQ(message["tool_calls"][0]["type"], "function");
  EXPECT_EQ(message["tool_calls"][0]["function"],
            OrderedJson({{"name", "look"}, {"arguments", kArguments}}));
  EXPECT_EQ(message["tool_calls"][1]["function"]["name"], "go");
  const std::string id = message["tool_calls"][0]["id"];
  EXPECT_TRUE(id.starts_with("call_")) << id;
  EXPECT_NE(id, message["tool_calls"][1]["id"].get<std::string>());
  EXPECT_EQ(json["usage"]["prompt_tokens"], 9);
  EXPECT_GT(json["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
}

TEST(ChatReply, StreamsWhatItWouldSayAtOnce) {
  const OrderedJson whole = answer(chat_reply, options()).json()["choices"][0];
  for (size_t step = 1; step <= kText.size(); ++step) {
    const Kept kept = answer(chat_reply, options(true), kText, step);
    const Events events = kept.events();
    EXPECT_EQ(put_together(events), whole["message"]) << step;
    EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "tool_calls");
    EXPECT_EQ(events.front()["choices"][0]["finish_reason"], nullptr);
    EXPECT_TRUE(kept.body.ends_with("data: [DONE]\n\n"));
  }
}

TEST(ChatReply, ContentIsNullOnlyBesideCalls) {
  const std::string call = kText.substr(kText.find("<tool_call>"));
  EXPECT_EQ(answer(chat_reply, options(), call).json()["choices"][0]["message"]["content"],
            nullptr);
  EXPECT_EQ(answer(chat_reply, options(), "").json()["choices"][0]["message"],
            OrderedJson({{"role", "assistant"}, {"content", ""}}));
}

TEST(ChatReply, WithoutToolsEverythingIsText) {
  Reply::Options without = options();
  without.tools = nullptr;
  const OrderedJson choice = answer(chat_reply, without).json()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_EQ(choice["message"]["content"], kText.substr(kText.find("I look.")));
}

TEST(ChatReply, OneCallEndsWhatIsTold) {
  for (const bool stream : {false, true}) {
    Reply::Options one = options(stream);
    one.one_call = true;
    const Kept kept = answer(chat_reply, one, kText + "\nand more");
    const OrderedJson message =
        stream ? put_together(kept.events()) : kept.json()["choices"][0]["message"];
    EXPECT_EQ(message["content"], "I look.");
    ASSERT_EQ(message["tool_calls"].size(), 1U);
    EXPECT_EQ(message["tool_calls"][0]["function"]["name"], "look");
  }
}

TEST(ChatReply, AReplyThatIsCutOffCallsNothing) {
  const OrderedJson choice =
      answer(chat_reply, options(), kText, 7, {Finish::length}).json()["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 2U);
}

TEST(ChatReply, APromptOfSeveralChoicesCountsOnce) {
  const auto prompt_tokens = [](const std::vector<std::vector<int>>& prompts) {
    const auto reply = chat_reply(tokenizer(), options(), prompts);
    Kept kept;
    for (size_t i = 0; i < prompts.size(); ++i)
      reply->hear(
          i, {.tokens = {1}, .text = "a", .finish = Finish::stop, .usage = {.generated = 1}}, kept);
    const OrderedJson usage = kept.json()["usage"];
    EXPECT_EQ(usage["completion_tokens"], prompts.size());
    return usage["prompt_tokens"].get<int>();
  };
  EXPECT_EQ(prompt_tokens({{1, 2, 3}, {1, 2, 3}}), 3);
  EXPECT_EQ(prompt_tokens({{1, 2, 3}, {1, 2}}), 5);
}

TEST(MessagesReply, HasBlocks) {
  const OrderedJson json = answer(messages_reply, options()).json();
  EXPECT_EQ(json["type"], "message");
  EXPECT_EQ(json["role"], "assistant");
  EXPECT_EQ(json["stop_reason"], "tool_use");
  const OrderedJson& content = json["content"];
  ASSERT_EQ(content.size(), 4U);
  EXPECT_EQ(content[0]["thinking"], "Where?");
  EXPECT_EQ(content[1], OrderedJson({{"type", "text"}, {"text", "I look."}}));
  EXPECT_EQ(content[2]["type"], "tool_use");
  EXPECT_EQ(content[2]["name"], "look");
  EXPECT_EQ(content[2]["input"], OrderedJson({{"at", "sea"}}));
  EXPECT_NE(content[2]["id"], content[3]["id"]);
  EXPECT_EQ(json["usage"]["input_tokens"], 5);
  EXPECT_EQ(json["usage"]["cache_read_input_tokens"], 4);
  EXPECT_GT(json["usage"]["output_tokens"], 0);
}

TEST(MessagesReply, StreamsBlocksOneAfterTheOther) {
  const OrderedJson whole = answer(messages_reply, options()).json();
  for (size_t step = 1; step <= kText.size(); ++step) {
    const Events events = answer(messages_reply, options(true), kText, step).events();
    ASSERT_EQ(events.front()["type"], "message_start");
    EXPECT_EQ(events.front()["message"]["usage"]["cache_read_input_tokens"], 4);
    OrderedJson content = OrderedJson::array();
    std::string partial;
    for (const OrderedJson& event : events) {
      if (event["type"] == "content_block_start") {
        ASSERT_EQ(event["index"], content.size());
        content.push_back(event["content_block"]);
        partial.clear();
      } else if (event["type"] == "content_block_delta") {
        ASSERT_EQ(event["index"], content.size() - 1);
        for (const char* field : {"text", "thinking", "signature"})
          if (event["delta"].contains(field))
            content.back()[field] =
                content.back()[field].get<std::string>() + event["delta"][field].get<std::string>();
        if (event["delta"]["type"] == "input_json_delta") partial += event["delta"]["partial_json"];
      } else if (event["type"] == "content_block_stop") {
        if (content.back()["type"] == "tool_use")
          content.back()["input"] = parse_ordered_json(partial, "an input");
      }
    }
    EXPECT_EQ(content, whole["content"]) << step;
    const OrderedJson& end = events[events.size() - 2];
    EXPECT_EQ(end["type"], "message_delta");
    EXPECT_EQ(end["delta"]["stop_reason"], "tool_use");
    EXPECT_GT(end["usage"]["output_tokens"], 0);
    EXPECT_EQ(events.back()["type"], "message_stop");
  }
}

TEST(MessagesReply, ACallIsToldAsSoonAsItIsWhole) {
  const auto reply = messages_reply(tokenizer(), options(true), {{1}});
  Kept kept;
  reply->hear(0,
              {.tokens = {1}, .text = kText.substr(0, kText.find("<tool_call>\n{\"name\": \"go"))},
              kept);
  EXPECT_EQ(types_of(kept.events()).back(), "content_block_stop");
  EXPECT_EQ(kept.events().back()["index"], 2);
}

TEST(MessagesReply, SaysWhyItStopped) {
  const auto stops = [](const Ending& ending, const std::string& text = "hi") {
    const OrderedJson json = answer(messages_reply, options(), text, 1, ending).json();
    return std::pair(json["stop_reason"], json["stop_sequence"]);
  };
  using Pair = std::pair<OrderedJson, OrderedJson>;
  EXPECT_EQ(stops({}), Pair("end_turn", nullptr));
  EXPECT_EQ(stops({Finish::length}), Pair("max_tokens", nullptr));
  EXPECT_EQ(stops({Finish::stop, "END"}), Pair("stop_sequence", "END"));
  EXPECT_EQ(stops({Finish::stop, "END"}, kText), Pair("tool_use", nullptr));
  EXPECT_EQ(stops({Finish::cancelled}), Pair("pause_turn", nullptr));
}

TEST(ResponsesReply, HasItems) {
  Reply::Options keeping = options();
  keeping.keep_thoughts = true;
  const OrderedJson json = answer(responses_reply, keeping).json();
  EXPECT_EQ(json["status"], "completed");
  EXPECT_EQ(json["store"], false);
  const OrderedJson& output = json["output"];
  ASSERT_EQ(output.size(), 4U);
  EXPECT_EQ(output[0]["type"], "reasoning");
  EXPECT_EQ(output[0]["content"][0]["text"], "Where?");
  EXPECT_EQ(output[0]["encrypted_content"], std::string(kKeptThought) + "Where?");
  EXPECT_EQ(output[1]["content"][0]["text"], "I look.");
  EXPECT_EQ(output[2]["type"], "function_call");
  EXPECT_EQ(output[2]["name"], "look");
  EXPECT_EQ(output[2]["arguments"], kArguments);
  EXPECT_NE(output[2]["call_id"], output[3]["call_id"]);
  EXPECT_EQ(json["usage"]["input_tokens_details"]["cached_tokens"], 4);
  EXPECT_GT(json["usage"]["output_tokens_details"]["reasoning_tokens"], 0);
  EXPECT_FALSE(
      answer(responses_reply, options()).json()["output"][0].contains("encrypted_content"));
}

TEST(ResponsesReply, StreamsItemsOneAfterTheOther) {
  OrderedJson whole = answer(responses_reply, options()).json();
  for (size_t step = 1; step <= kText.size(); ++step) {
    const Events events = answer(responses_reply, options(true), kText, step).events();
    std::map<size_t, std::string> grown;
    OrderedJson items = OrderedJson::array();
    for (size_t i = 0; i < events.size(); ++i) {
      const OrderedJson& event = events[i];
      const std::string type = event["type"];
      ASSERT_EQ(event["sequence_number"], i);
      if (type.ends_with(".delta")) grown[event["output_index"]] += event["delta"];
      if (type == "response.output_item.done") items.push_back(event["item"]);
      if (type == "response.output_text.done") {
        EXPECT_EQ(event["text"], "I look.");
      }
    }
    EXPECT_EQ(items, whole["output"]) << step;
    EXPECT_EQ(grown[0], "Where?");
    EXPECT_EQ(grown[1], "I look.");
    EXPECT_EQ(grown[2], kArguments);
    OrderedJson last = events.back()["response"];
    EXPECT_EQ(events.back()["type"], "response.completed");
    last.erase("usage");  // there are as many tokens as pieces here
    OrderedJson want = whole;
    want.erase("usage");
    EXPECT_EQ(last, want);
  }
  const auto types = types_of(answer(responses_reply, options(true), "hi", 1).events());
  EXPECT_EQ(types,
            (std::vector<std::string>{"response.created", "response.in_progress",
                                      "response.output_item.added", "response.content_part.added",
                                      "response.output_text.delta", "response.output_text.delta",
                                      "response.output_text.done", "response.content_part.done",
                                      "response.output_item.done", "response.completed"}));
}

TEST(ResponsesReply, SaysThatItIsIncomplete) {
  const OrderedJson json =
      answer(responses_reply, options(), "<think>Hm.</think>hi", 1, {Finish::length}).json();
  EXPECT_EQ(json["status"], "incomplete");
  EXPECT_EQ(json["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(json["output"][0]["status"], "completed");
  EXPECT_EQ(json["output"][1]["status"], "incomplete");
  const Events events = answer(responses_reply, options(true), "hi", 1, {Finish::length}).events();
  EXPECT_EQ(events.back()["type"], "response.incomplete");
}

TEST(Reply, TellsAnErrorInItsFormat) {
  const auto failed = [](ReplyFormat& format, bool stream) {
    const auto reply = format(tokenizer(), options(stream), {{1}});
    Kept kept;
    reply->hear(0, {.tokens = {1}, .text = "hi"}, kept);
    reply->hear(0, {.error = "the disk is gone"}, kept);
    EXPECT_TRUE(kept.ended && reply->over());
    EXPECT_EQ(reply->status(), 500);
    EXPECT_EQ(kept.status, stream ? 0 : 500);
    return stream ? kept.events().back() : kept.json();
  };
  for (const bool stream : {false, true}) {
    EXPECT_EQ(failed(chat_reply, stream)["error"]["message"], "the disk is gone");
    EXPECT_EQ(failed(messages_reply, stream)["error"]["type"], "api_error");
    const OrderedJson last = failed(responses_reply, stream);
    const OrderedJson& response = stream ? last["response"] : last;
    EXPECT_EQ(response["error"]["message"], "the disk is gone");
    if (!stream) continue;
    EXPECT_EQ(last["type"], "response.failed");
    EXPECT_EQ(response["status"], "failed");
  }
  // Before anything was written too, a stream has its beginning.
  const auto reply = responses_reply(tokenizer(), options(true), {{1}});
  Kept kept;
  reply->hear(0, {.error = "no page"}, kept);
  EXPECT_EQ(
      types_of(kept.events()),
      (std::vector<std::string>{"response.created", "response.in_progress", "response.failed"}));
}

}  // namespace
}  // namespace sala
