// OpenAI's responses.
#include "server/block_reply.h"
#include "server/reply_formats.h"

namespace sala {
namespace {

class ResponsesReply : public BlockReply {
 public:
  ResponsesReply(const Tokenizer& tokenizer, Options options, std::vector<std::vector<int>> prompts)
      : BlockReply("resp_", tokenizer, std::move(options), std::move(prompts)) {}

 private:
  void send_error(const std::string& message, Exchange& exchange) override {
    OrderedJson response = response_json(false);
    response["status"] = "failed";
    response["error"] = {{"code", "server_error"}, {"message", message}};
    send_numbered({{"type", "response.failed"}, {"response", response}}, exchange);
  }
  OrderedJson whole() override { return response_json(true); }
  void send_begin(Exchange& exchange) override {
    for (const char* type : {"response.created", "response.in_progress"})
      send_numbered({{"type", type}, {"response", response_json(false)}}, exchange);
  }
  void open(size_t index, const ReplyPart& part, Exchange& exchange) override {
    const OrderedJson item = item_json(index, part, "in_progress", false);
    send_numbered({{"type", "response.output_item.added"}, {"output_index", index}, {"item", item}},
                  exchange);
    if (part.kind != ReplyPart::Kind::call)
      send_text("response.content_part.added", index, part, {{"part", content_json(part, false)}},
                exchange);
  }
  void grow(size_t index, const ReplyPart& part, const std::string& more,
            Exchange& exchange) override {
    send_text(fmt::format("response.{}.delta", word_of(part)), index, part, {{"delta", more}},
              exchange);
  }
  void close(size_t index, const ReplyPart& part, Exchange& exchange) override {
    const bool call = part.kind == ReplyPart::Kind::call;
    OrderedJson text = {{call ? "arguments" : "text", part.text}};
    if (call) text["name"] = part.name;
    send_text(fmt::format("response.{}.done", word_of(part)), index, part, text, exchange);
    if (!call)
      send_text("response.content_part.done", index, part, {{"part", content_json(part, true)}},
                exchange);
    send_numbered({{"type", "response.output_item.done"},
                   {"output_index", index},
                   {"item", item_json(index, part, status_of(index), true)}},
                  exchange);
  }
  void finish(Exchange& exchange) override {
    const OrderedJson response = response_json(true);
    send_numbered(
        {{"type", response["status"] == "completed" ? "response.completed" : "response.incomplete"},
         {"response", response}},
        exchange);
  }

  void send_numbered(OrderedJson event, Exchange& exchange) {
    event["sequence_number"] = sent_++;
    send(event, exchange);
  }
  /// An event of the text of an item.
  void send_text(const std::string& type, size_t index, const ReplyPart& part,
                 const OrderedJson& more, Exchange& exchange) {
    OrderedJson event = {
        {"type", type}, {"item_id", id_of(prefix_of(part), 0, index)}, {"output_index", index}};
    if (part.kind != ReplyPart::Kind::call) event["content_index"] = 0;
    event.update(more);
    if (type.starts_with("response.output_text")) event["logprobs"] = OrderedJson::array();
    send_numbered(event, exchange);
  }

  static const char* word_of(const ReplyPart& part) {
    return part.kind == ReplyPart::Kind::thought ? "reasoning_text"
           : part.kind == ReplyPart::Kind::said  ? "output_text"
                                                 : "function_call_arguments";
  }
  static const char* prefix_of(const ReplyPart& part) {
    return part.kind == ReplyPart::Kind::thought ? "rs_"
           : part.kind == ReplyPart::Kind::said  ? "msg_"
                                                 : "fc_";
  }
  /// The text of an item, or the place where it will be.
  static OrderedJson content_json(const ReplyPart& part, bool whole) {
    OrderedJson json = {{"type", word_of(part)}, {"text", whole ? part.text : std::string()}};
    if (part.kind == ReplyPart::Kind::said) {
      json["annotations"] = OrderedJson::array();
      json["logprobs"] = OrderedJson::array();
    }
    return json;
  }
  OrderedJson item_json(size_t index, const ReplyPart& part, const char* status, bool whole) const {
    const std::string id = id_of(prefix_of(part), 0, index);
    if (part.kind == ReplyPart::Kind::call)
      return {{"type", "function_call"},
              {"id", id},
              {"call_id", id_of("call_", 0, index)},
              {"name", part.name},
              {"arguments", whole ? part.text : std::string()},
              {"status", status}};
    OrderedJson content = OrderedJson::array();
    if (whole) content.push_back(content_json(part, true));
    if (part.kind == ReplyPart::Kind::said)
      return {{"type", "message"},
              {"id", id},
              {"role", "assistant"},
              {"content", content},
              {"status", status}};
    OrderedJson json = {{"type", "reasoning"},
                        {"id", id},
                        {"summary", OrderedJson::array()},
                        {"content", content},
                        {"status", status}};
    if (options().keep_thoughts && whole)
      json["encrypted_content"] = std::string(kKeptThought) + part.text;
    return json;
  }
  /// Of an item that is told whole: the last one may be cut off.
  const char* status_of(size_t index) const {
    const bool cut = choice().finish && *choice().finish != Finish::stop;
    return cut && index + 1 == choice().parts.size() ? "incomplete" : "completed";
  }
  OrderedJson response_json(bool over) const {
    OrderedJson json = {{"id", id()},
                        {"object", "response"},
                        {"created_at", options().created},
                        {"status", "in_progress"},
                        {"error", nullptr},
                        {"incomplete_details", nullptr},
                        {"model", options().model},
                        {"output", OrderedJson::array()},
                        {"usage", nullptr}};
    json.update(options().told);
    if (!over) return json;
    const bool cut = choice().finish != Finish::stop;
    json["status"] = cut ? "incomplete" : "completed";
    if (cut)
      json["incomplete_details"] = {
          {"reason", choice().finish == Finish::length ? "max_output_tokens" : "cancelled"}};
    for (size_t i = 0; i < choice().parts.size(); ++i)
      json["output"].push_back(item_json(i, choice().parts[i], status_of(i), true));
    const Usage usage = this->usage();
    json["usage"] = {
        {"input_tokens", usage.prompt},
        {"input_tokens_details", {{"cached_tokens", usage.cached}, {"cache_write_tokens", 0}}},
        {"output_tokens", usage.generated},
        {"output_tokens_details", {{"reasoning_tokens", thought_tokens()}}},
        {"total_tokens", usage.prompt + usage.generated}};
    return json;
  }

  int64_t sent_ = 0;  ///< events
};

}  // namespace

std::unique_ptr<Reply> responses_reply(const Tokenizer& tokenizer, Reply::Options options,
                                       std::vector<std::vector<int>> prompts) {
  return std::make_unique<ResponsesReply>(tokenizer, std::move(options), std::move(prompts));
}

}  // namespace sala
