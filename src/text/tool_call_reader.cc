#include "text/tool_call_reader.h"

namespace sala {
namespace {

constexpr std::string_view kToolCall = "<tool_call>";
constexpr XmlDialect kMiniCpm = {"<function name=", "<param name=", "</param>", true};
constexpr XmlDialect kQwen = {"<function=", "<parameter=", "</parameter>", false};

}  // namespace

std::vector<OpeningMark> opening_marks(ToolFormat format) {
  using enum OpeningMark::Place;
  switch (format) {
    case ToolFormat::none:
      return {};
    case ToolFormat::hermes:
      return {{kToolCall}};
    case ToolFormat::minicpm_xml:
      return {{kMiniCpm.function}};
    case ToolFormat::qwen_xml:  // Qwen3-Coder forgets the outer tag at times, and then still ends
                                // it
      return {{kToolCall}, {kQwen.function}, {kToolCallEnd, after_call}};
    case ToolFormat::llama_json:
      return {{"<|python_tag|>", first}, {"{", first}, {";", after_call}};
  }
  return {};
}

std::unique_ptr<ToolCallReader> tool_call_reader(ToolFormat format, std::string_view mark,
                                                 const ToolSchemas& tools) {
  if (mark == kToolCallEnd) return nullptr;
  if (format == ToolFormat::hermes) return tagged_json_reader();
  if (format == ToolFormat::minicpm_xml) return xml_reader(kMiniCpm, mark, tools);
  if (format == ToolFormat::qwen_xml) return xml_reader(kQwen, mark, tools);
  auto reader = bare_json_reader(tools);
  if (mark == "{") reader->step('{');
  return reader;
}

}  // namespace sala
