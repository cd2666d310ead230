#include "tools/constraint_flags.h"

#include "base/error.h"
#include "base/json.h"
#include "grammar/gbnf.h"
#include "grammar/json_schema.h"
#include "tools/command.h"

namespace sala {

void ConstraintFlags::add_to(CLI::App& command) {
  CLI::Option* text = command.add_option(
      "-j,--json-schema", json_schema, "JSON that the reply must be, as a schema; {} for any JSON");
  CLI::Option* file =
      command.add_option("--json-schema-file", json_schema_file, "the same from a file");
  CLI::Option* grammar = command.add_option("--grammar-file", grammar_file,
                                            "what the reply must be, as a grammar (GBNF)");
  text->excludes(file)->excludes(grammar);
  file->excludes(grammar);
}

std::optional<Constraint> ConstraintFlags::over(const ModelFiles& files, Thought thought) const {
  if (json_schema.empty() && json_schema_file.empty() && grammar_file.empty()) return {};
  const bool has_text = !json_schema.empty();
  const std::string where = has_text                    ? "--json-schema"
                            : !json_schema_file.empty() ? json_schema_file
                                                        : grammar_file;
  const std::string text = has_text ? json_schema : read_text(where);
  try {
    Rules rules;
    const Language language = grammar_file.empty()
                                  ? json_language(parse_ordered_json(text, where), rules)
                                  : parse_gbnf(text, rules);
    return Constraints(*files.tokenizer, files.config.vocab)
        .of(behind_thought(thought, language), rules);
  } catch (const Error& e) {
    fail("{}: {}", where, e.what());
  }
}

}  // namespace sala
