// Renders chat templates, so that other engines can be compared with ours. Each line of standard
// input is a JSON object {"template", "messages", "tools", "add_generation_prompt", "variables",
// "special_tokens"}, all but the first optional; each line of standard output is {"text": rendered}
// or {"error": message}.

#include <iostream>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "lines.h"
#include "text/chat_template.h"

int main() try {
  using sala::OrderedJson;
  answer_lines([](const std::string& line) -> OrderedJson {
    const OrderedJson question = sala::parse_ordered_json(line, "standard input");
    const sala::ChatTemplate chat(
        question.at("template").get<std::string>(), "template",
        question.value("special_tokens", sala::ChatTemplate::SpecialTokens()));
    return {{"text", chat.render(question.value("messages", OrderedJson::array()),
                                 question.value("tools", OrderedJson()),
                                 question.value("add_generation_prompt", false),
                                 question.value("variables", OrderedJson::object()))}};
  });
  return 0;
} catch (const std::exception& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
