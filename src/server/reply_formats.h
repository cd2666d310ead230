#pragma once

#include <memory>
#include <vector>

#include "server/reply.h"

namespace sala {

/// Makes a reply that goes out in one of the formats; one choice for each prompt. The tokenizer
/// must outlive it.
using ReplyFormat = std::unique_ptr<Reply>(const Tokenizer& tokenizer, Reply::Options options,
                                           std::vector<std::vector<int>> prompts);

ReplyFormat chat_reply;       ///< OpenAI's /v1/chat/completions
ReplyFormat text_reply;       ///< OpenAI's /v1/completions
ReplyFormat messages_reply;   ///< Anthropic's /v1/messages
ReplyFormat responses_reply;  ///< OpenAI's /v1/responses

}  // namespace sala
