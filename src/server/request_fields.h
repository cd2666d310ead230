#pragma once

// What the parsers of the request bodies have in common.

#include <string>
#include <type_traits>
#include <vector>

#include "base/json.h"
#include "server/api.h"
#include "text/json_fields.h"

namespace sala {

/// Throws the ApiError for a field that has a wrong value.
[[noreturn]] void refuse(const std::string& param, const std::string& message);

/// The word that says what kind of thing an object is, empty where it has none.
std::string type_of(const OrderedJson& json);

/// The fields of an object, each checked; null counts as absent.
class Fields {
 public:
  /// `where` the object stands in the body, for messages; empty: it is the body.
  explicit Fields(const OrderedJson& json, std::string where = {})
      : json_(json), where_(where.empty() ? std::move(where) : where + ".") {}

  const OrderedJson* find(const char* name) const {
    const auto at = json_.find(name);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  template <class T>
  void number(const char* name, double low, double high, T& value) const {
    const OrderedJson* field = find(name);
    if (field == nullptr) return;
    const bool whole = std::is_integral_v<T>;
    if (!field->is_number() || (whole && !field->is_number_integer()) ||
        !(field->get<double>() >= low && field->get<double>() <= high))
      refuse(where_ + name, fmt::format("{}{} is {}; expected a {}number from {} to {}", where_,
                                        name, shown(*field), whole ? "whole " : "", low, high));
    value = field->get<T>();
  }
  void boolean(const char* name, bool& value) const;
  void text(const char* name, std::string& value) const;
  /// A text that must be there.
  std::string text(const char* name) const;
  /// An array, or nothing.
  const OrderedJson* array(const char* name) const;
  /// An array of at least one thing; `expected` says of what.
  const OrderedJson& filled_array(const char* name, const char* expected) const;
  /// An object, or nothing.
  const OrderedJson* object(const char* name) const;

 private:
  const OrderedJson& json_;
  std::string where_;
};

/// A content: a text, parts that are texts (with `between` them), or null, which is an empty one.
std::string content_text(const std::string& where, const OrderedJson& content,
                         const char* between = "");

/// An array of token ids.
std::vector<int> ids_of(const char* name, const OrderedJson& list);

/// The texts of a field that end a reply: one, or an array.
std::vector<std::string> stops_of(const char* name, const OrderedJson& field);

/// Reads what every kind of request may say of sampling, limits and streams, and refuses what no
/// client must believe to have got.
void read_common(const OrderedJson& json, const SamplingParams& defaults, Completion& c);

/// Refuses several choices where an answer has room for one.
void require_one(const Completion& completion);

/// Checks messages in OpenAI's form and makes them the chat's, as templates expect them: contents
/// are texts, the arguments of calls objects.
void read_messages(const OrderedJson& messages, ChatCompletion& chat);

/// A function as chat completions have them in `tools`, out of a tool that has its schema in the
/// field `schema`.
OrderedJson function_of(const Fields& tool, const char* schema);

/// Makes the functions among `tools` the chat's, as chat completions have them: those of a type for
/// which `is_function` is true, each with its schema in the field `schema`. The others are tools
/// that only other servers have.
void read_functions(const Fields& fields, const char* schema,
                    bool (*is_function)(std::string_view type), ChatCompletion& chat);

/// Reads `tool_choice`: whether the model may, must or must not call tools: "auto", "none",
/// "required" and "any", which are the same, or an object of such a type or one that names a tool;
/// and `parallel_tool_calls`. The chat has its tools.
void read_tool_choice(const Fields& fields, ChatCompletion& chat);

/// Whether the model is to think, for the chat template; a variable of the client's goes first.
void set_thinking(ChatCompletion& chat, bool thinking);

}  // namespace sala
