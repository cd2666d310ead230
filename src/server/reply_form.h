#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "grammar/language.h"

namespace sala {

/// What a request wants its reply to be.
struct ReplyForm {
  enum class Kind : uint8_t { any, json, regex, choice, grammar };
  Kind kind = Kind::any;
  std::string param{};                 ///< the field that says it
  OrderedJson schema{};                ///< of json
  std::string text{};                  ///< of regex and grammar (GBNF)
  std::vector<std::string> choices{};  ///< whole replies
};

/// Reads it from `response_format`, from `grammar` and `json_schema` as llama-server has them, or
/// from `structured_outputs` and `guided_json`, `guided_regex`, `guided_choice`, `guided_grammar`
/// as vLLM has them; one of these at most. Throws ApiError.
ReplyForm reply_form(const OrderedJson& json);

/// The same from a format such as {"type": "json_schema", "json_schema": {"schema": ...}}, or with
/// the schema in it; `param` is where it stands. Throws ApiError.
ReplyForm form_of_format(const std::string& param, const OrderedJson& format);

/// Gives a request a form; it may have one. Throws ApiError.
void set_form(ReplyForm& form, ReplyForm other);

/// The replies of a form that is not any. Throws ApiError.
Language language_of(const ReplyForm& form, Rules& rules);

}  // namespace sala
