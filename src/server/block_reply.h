#pragma once

#include <string>
#include <vector>

#include "server/reply.h"

namespace sala {

/// A reply of one choice whose parts are blocks, each of which a stream opens, lets grow and closes
/// before the next one. Every event has its type, as a line and in its JSON.
class BlockReply : public Reply {
 protected:
  using Reply::Reply;

  virtual void open(size_t index, const ReplyPart& part, Exchange& exchange) = 0;
  virtual void grow(size_t index, const ReplyPart& part, const std::string& more,
                    Exchange& exchange) = 0;
  virtual void close(size_t index, const ReplyPart& part, Exchange& exchange) = 0;
  /// All blocks are closed.
  virtual void finish(Exchange& exchange) = 0;

  const Choice& choice() const { return choices().front(); }
  void send(const OrderedJson& json, Exchange& exchange) const { exchange.send(event_of(json)); }

 private:
  void send_piece(size_t choice, const ReplyEvent& event, const std::vector<ReplyPart>& added,
                  Exchange& exchange) final;
  void send_end(Exchange& exchange) final;
  std::string event_of(const OrderedJson& json) const final;
  void tell(Exchange& exchange, bool over);

  size_t at_ = 0;      ///< the block that is told now
  size_t told_ = 0;    ///< bytes of it
  bool open_ = false;  ///< its beginning is told
};

}  // namespace sala
