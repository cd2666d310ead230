#include "server/block_reply.h"

#include <utility>

namespace sala {

void BlockReply::tell(Exchange& exchange, bool over) {
  const std::vector<ReplyPart>& parts = choice().parts;
  while (at_ < parts.size()) {
    const ReplyPart& part = parts[at_];
    if (!std::exchange(open_, true)) open(at_, part, exchange);
    if (told_ < part.text.size()) {
      grow(at_, part, part.text.substr(told_), exchange);
      told_ = part.text.size();
    }
    // The last one may grow; a call comes whole.
    if (at_ + 1 == parts.size() && part.kind != ReplyPart::Kind::call && !over) return;
    close(at_++, part, exchange);
    told_ = 0;
    open_ = false;
  }
}

void BlockReply::send_piece(size_t /*choice*/, const ReplyEvent& /*event*/,
                            const std::vector<ReplyPart>& /*added*/, Exchange& exchange) {
  tell(exchange, false);
}

void BlockReply::send_end(Exchange& exchange) {
  tell(exchange, true);
  finish(exchange);
}

std::string BlockReply::event_of(const OrderedJson& json) const {
  return "event: " + json.at("type").get<std::string>() + "\n" + Reply::event_of(json);
}

}  // namespace sala
