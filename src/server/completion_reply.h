#pragma once

#include <string>
#include <vector>

#include "server/reply.h"

namespace sala {

/// The frame that chat and text completions have in common: an object with choices, usage and
/// timings, or a stream of such objects with one choice each, and [DONE].
class CompletionReply : public Reply {
 protected:
  using Reply::Reply;

  /// What the object is called, as a whole or as a piece of a stream.
  virtual const char* object(bool piece) const = 0;
  /// Fills in what an event has added to a choice.
  virtual void fill_piece(size_t index, const ReplyEvent& event,
                          const std::vector<ReplyPart>& added, OrderedJson& choice) = 0;
  /// Fills in a choice that is over.
  virtual void fill_whole(size_t index, OrderedJson& choice) = 0;
  /// The word for the end of a choice.
  virtual OrderedJson finish_reason(const Choice& choice) const;

  /// A token's text.
  std::string piece_of(int token) const;

 private:
  void send_piece(size_t index, const ReplyEvent& event, const std::vector<ReplyPart>& added,
                  Exchange& exchange) final;
  void send_end(Exchange& exchange) final;
  OrderedJson whole() final;
  OrderedJson frame(bool piece) const;
  OrderedJson usage_json(const Usage& usage) const;
};

}  // namespace sala
