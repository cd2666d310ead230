#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace sala {

class Tokenizer;

/// Parses `text`, which came from `name`, keeping the order of keys. Throws Error with line and
/// column of the fault.
OrderedJson parse_ordered_json(std::string_view text, const std::string& name);

/// Whether a model says what it thinks, between <think> and </think>, in front of its reply.
enum class Thought : uint8_t { none, possible, begun };

/// A chat template: Jinja as Hugging Face's transformers configures it (trim_blocks, lstrip_blocks,
/// loop controls, immutable sandbox). Output is byte for byte that of Python's jinja2. Immutable
/// after construction: any thread may render at any time. Loops, recursion and output are bounded;
/// a template cannot reach files, network or environment
/// (`strftime_now` tells the time).
class ChatTemplate {
 public:
  /// Variables that every rendering sees, such as {"bos_token", "<s>"}.
  using SpecialTokens = std::map<std::string, std::string>;

  /// Compiles `source`; `name` is the file's, for messages. Throws Error with name, line and cause.
  ChatTemplate(std::string_view source, std::string name, SpecialTokens special_tokens = {});
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// What the reply to a prompt of this template, or to one that ends so, begins with.
  Thought thought_behind(std::string_view prompt) const;

  /// The prompt for a conversation. `messages`: array of objects with "role" and "content";
  /// `tools`: array of definitions or null; `variables`: an object of further variables, such as
  /// {"enable_thinking": false}, or null. Throws Error with name, line and cause, also for what the
  /// template itself refuses by `raise_exception`.
  std::string render(const OrderedJson& messages, const OrderedJson& tools,
                     bool add_generation_prompt, const OrderedJson& variables) const;

  /// The same for `tokenizer` to encode with parse_special. What messages, tools and variables say
  /// is quoted: special tokens are those that the template writes, whatever a text in them spells.
  std::string render_for(const Tokenizer& tokenizer, const OrderedJson& messages,
                         const OrderedJson& tools, bool add_generation_prompt,
                         const OrderedJson& variables) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Reads the chat template of a Hugging Face directory: chat_template.jinja, else "chat_template"
/// of tokenizer_config.json (a string, or a list of named ones, of which "default" is taken), with
/// the directory's special tokens. Gives nullopt when there is none.
std::optional<ChatTemplate> load_chat_template(const std::filesystem::path& directory);

}  // namespace sala
