// Anthropic's messages.
#include "server/block_reply.h"
#include "server/errors.h"
#include "server/reply_formats.h"

namespace sala {

namespace {

/// Clients send a thought back only where it is signed. Nobody needs to check that it is this
/// server's.
constexpr const char* kSignature = "sala";

class MessagesReply : public BlockReply {
 public:
  MessagesReply(const Tokenizer& tokenizer, Options options, std::vector<std::vector<int>> prompts)
      : BlockReply("msg_", tokenizer, std::move(options), std::move(prompts)) {}

 private:
  OrderedJson error(const std::string& message) const override {
    return anthropic_error(500, message);
  }
  OrderedJson whole() override {
    OrderedJson json = message_json();
    const std::vector<ReplyPart>& parts = choice().parts;
    for (size_t i = 0; i < parts.size(); ++i) {
      OrderedJson block = block_json(i, parts[i]);
      switch (parts[i].kind) {
        case ReplyPart::Kind::thought:
          block["thinking"] = parts[i].text;
          block["signature"] = kSignature;
          break;
        case ReplyPart::Kind::said:
          block["text"] = parts[i].text;
          break;
        case ReplyPart::Kind::call:
          block["input"] = OrderedJson::parse(parts[i].text, nullptr, false);
          break;
      }
      json["content"].push_back(block);
    }
    json.update(ending_json());
    json["usage"] = usage_json();
    return json;
  }
  void send_begin(Exchange& exchange) override {
    OrderedJson message = message_json();
    message.update({{"stop_reason", nullptr}, {"stop_sequence", nullptr}});
    message["usage"] = usage_json();
    send({{"type", "message_start"}, {"message", message}}, exchange);
  }
  void open(size_t index, const ReplyPart& part, Exchange& exchange) override {
    send({{"type", "content_block_start"},
          {"index", index},
          {"content_block", block_json(index, part)}},
         exchange);
  }
  void grow(size_t index, const ReplyPart& part, const std::string& more,
            Exchange& exchange) override {
    switch (part.kind) {
      case ReplyPart::Kind::thought:
        return send_delta(index, {{"type", "thinking_delta"}, {"thinking", more}}, exchange);
      case ReplyPart::Kind::said:
        return send_delta(index, {{"type", "text_delta"}, {"text", more}}, exchange);
      case ReplyPart::Kind::call:
        return send_delta(index, {{"type", "input_json_delta"}, {"partial_json", more}}, exchange);
    }
  }
  void close(size_t index, const ReplyPart& part, Exchange& exchange) override {
    if (part.kind == ReplyPart::Kind::thought)
      send_delta(index, {{"type", "signature_delta"}, {"signature", kSignature}}, exchange);
    send({{"type", "content_block_stop"}, {"index", index}}, exchange);
  }
  void finish(Exchange& exchange) override {
    send({{"type", "message_delta"}, {"delta", ending_json()}, {"usage", usage_json()}}, exchange);
    send({{"type", "message_stop"}}, exchange);
  }

  void send_delta(size_t index, const OrderedJson& delta, Exchange& exchange) const {
    send({{"type", "content_block_delta"}, {"index", index}, {"delta", delta}}, exchange);
  }

  OrderedJson message_json() const {
    return {{"id", id()},
            {"type", "message"},
            {"role", "assistant"},
            {"model", options().model},
            {"content", OrderedJson::array()}};
  }
  /// A block that is still empty.
  OrderedJson block_json(size_t index, const ReplyPart& part) const {
    switch (part.kind) {
      case ReplyPart::Kind::thought:
        return {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
      case ReplyPart::Kind::said:
        return {{"type", "text"}, {"text", ""}};
      case ReplyPart::Kind::call:
        return {{"type", "tool_use"},
                {"id", id_of("toolu_", 0, index)},
                {"name", part.name},
                {"input", OrderedJson::object()}};
    }
    panic("unknown part", __FILE__, __LINE__);
  }
  OrderedJson ending_json() const {
    // A server that ends has paused the turn, which may go on with another one.
    const char* reason = choice().calls_tools()              ? "tool_use"
                         : choice().finish == Finish::length ? "max_tokens"
                         : choice().finish != Finish::stop   ? "pause_turn"
                         : !choice().stopped_by.empty()      ? "stop_sequence"
                                                             : "end_turn";
    return {{"stop_reason", reason},
            {"stop_sequence", reason == std::string_view("stop_sequence")
                                  ? OrderedJson(choice().stopped_by)
                                  : OrderedJson()}};
  }
  OrderedJson usage_json() const {
    const Usage usage = this->usage();
    return {{"input_tokens", usage.prompt - usage.cached},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", usage.cached},
            {"output_tokens", usage.generated}};
  }
};

}  // namespace

std::unique_ptr<Reply> messages_reply(const Tokenizer& tokenizer, Reply::Options options,
                                      std::vector<std::vector<int>> prompts) {
  return std::make_unique<MessagesReply>(tokenizer, std::move(options), std::move(prompts));
}

}  // namespace sala
