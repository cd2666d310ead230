#include <algorithm>
#include <map>
#include <utility>

#include "base/json.h"
#include "text/json_progress.h"
#include "text/tool_call_reader.h"
#include "text/unicode.h"

namespace sala {
namespace {

constexpr std::string_view kFunctionEnd = "</function>";
constexpr std::string_view kCdata = "<![CDATA[";
constexpr std::string_view kCdataEnd = "]]>";
constexpr size_t kMaxName = 256;

constexpr std::pair<std::string_view, char> kEntities[] = {
    {"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}};

/// What an XML parser takes `value` for.
std::string unescaped(std::string_view value) {
  // White space around a section that is all of the value lays the element out.
  const std::string_view bare = trim_json_space(value);
  if (bare.starts_with(kCdata) && bare.ends_with(kCdataEnd)) value = bare;
  std::string text;
  while (!value.empty()) {
    const size_t end = value.starts_with(kCdata) ? value.find(kCdataEnd) : std::string_view::npos;
    if (end != std::string_view::npos) {
      text += value.substr(kCdata.size(), end - kCdata.size());
      value.remove_prefix(end + kCdataEnd.size());
      continue;
    }
    const auto* entity = std::ranges::find_if(
        kEntities, [&](const auto& each) { return value.starts_with(each.first); });
    text += entity == std::end(kEntities) ? value.front() : entity->second;
    value.remove_prefix(entity == std::end(kEntities) ? 1 : entity->first.size());
  }
  return text;
}

std::string_view without_line_breaks(std::string_view value) {
  if (value.starts_with('\n')) value.remove_prefix(1);
  if (value.ends_with('\n')) value.remove_suffix(1);
  return value;
}

/// The name in `text`, what stood between its mark and `>`; empty where there is none.
std::string_view name_in(std::string_view text, bool quoted) {
  text = trim_json_space(text);
  if (!quoted) return text;
  const bool in_quotes = text.size() > 2 && (text.front() == '"' || text.front() == '\'') &&
                         text.find(text.front(), 1) == text.size() - 1;
  return in_quotes ? text.substr(1, text.size() - 2) : "";
}

class XmlReader : public ToolCallReader {
 public:
  XmlReader(const XmlDialect& dialect, std::string_view mark, const ToolSchemas& tools)
      : dialect_(dialect), mark_(mark), tools_(tools), wrapped_(mark != dialect.function) {
    if (wrapped_)
      expect({dialect.function});
    else
      state_ = State::function_name;
  }

  Is step(char c) override {
    if (state_ == State::mark) return step_mark(c);
    if (state_ == State::value) return step_value(c);
    return step_name(c);
  }

  bool may_end() const override { return closed_; }

  std::optional<std::vector<ToolCall>> calls() const override {
    if (calls_.empty()) return std::nullopt;
    return calls_;
  }

 private:
  enum class State : uint8_t { mark, function_name, parameter_name, value };

  void expect(std::vector<std::string_view> marks) {
    state_ = State::mark;
    expected_ = std::move(marks);
    seen_.clear();
  }

  Is step_mark(char c);
  Is step_name(char c);
  Is step_value(char c);
  Is take_value(std::string_view value);
  Is close_function();

  const XmlDialect& dialect_;
  std::string_view mark_;
  const ToolSchemas& tools_;
  bool wrapped_;
  bool closed_ = false;  // after a function's end

  State state_ = State::mark;
  std::vector<std::string_view> expected_;
  std::string seen_;
  bool cdata_ = false;

  std::string function_;
  std::string parameter_;
  std::vector<std::pair<std::string, std::string>> arguments_;  // as JSON
  std::map<std::string, size_t> places_;                        // of the names among them
  std::vector<ToolCall> calls_;
};

XmlReader::Is XmlReader::step_mark(char c) {
  if (seen_.empty() && is_json_space(c)) return Is::open;
  seen_ += c;
  const auto mark = std::ranges::find_if(
      expected_, [&](std::string_view each) { return each.starts_with(seen_); });
  if (mark == expected_.end()) return Is::broken;
  if (seen_ != *mark) return Is::open;
  if (seen_ == kToolCallEnd) return Is::whole;
  if (seen_ == kFunctionEnd) return close_function();
  state_ = seen_ == dialect_.function ? State::function_name : State::parameter_name;
  closed_ = false;
  seen_.clear();
  return Is::open;
}

XmlReader::Is XmlReader::step_name(char c) {
  if (c != '>') {
    seen_ += c;
    return c == '<' || c == '\n' || seen_.size() > kMaxName ? Is::broken : Is::open;
  }
  const std::string name(name_in(seen_, dialect_.escaped));
  if (name.empty() || find_invalid_utf8(name) < name.size()) return Is::broken;
  if (state_ == State::function_name) {
    function_ = name;
    expect({dialect_.parameter, kFunctionEnd});
  } else {
    parameter_ = name;
    state_ = State::value;
    seen_.clear();
  }
  return Is::open;
}

XmlReader::Is XmlReader::step_value(char c) {
  seen_ += c;
  if (cdata_) {
    cdata_ = !seen_.ends_with(kCdataEnd);
  } else if (dialect_.escaped && seen_.ends_with(kCdata)) {
    cdata_ = true;
  } else if (seen_.ends_with(dialect_.parameter_end)) {
    return take_value(
        std::string_view(seen_).substr(0, seen_.size() - dialect_.parameter_end.size()));
  } else if (seen_.ends_with(mark_)) {
    return Is::broken;  // another call begins: nothing has closed this one
  }
  return Is::open;
}

XmlReader::Is XmlReader::take_value(std::string_view value) {
  if (find_invalid_utf8(value) < value.size()) return Is::broken;
  const std::string text =
      dialect_.escaped ? unescaped(value) : std::string(without_line_breaks(value));
  std::string json = tools_.json_of(function_, parameter_, text);
  const auto [place, fresh] = places_.emplace(parameter_, arguments_.size());
  if (fresh) arguments_.emplace_back(parameter_, "");
  arguments_[place->second].second = std::move(json);  // the last of two counts, as in JSON
  expect({dialect_.parameter, kFunctionEnd});
  return Is::open;
}

XmlReader::Is XmlReader::close_function() {
  std::string object;  // with the spaces of Python's JSON, as templates print it
  for (const auto& [name, json] : arguments_)
    object += (object.empty() ? "" : ", ") + OrderedJson(name).dump() + ": " + json;
  calls_.push_back({function_, "{" + object + "}"});
  arguments_.clear();
  places_.clear();
  closed_ = true;
  if (!wrapped_) return Is::whole;
  expect({kToolCallEnd, dialect_.function});
  return Is::open;
}

}  // namespace

std::unique_ptr<ToolCallReader> xml_reader(const XmlDialect& dialect, std::string_view mark,
                                           const ToolSchemas& tools) {
  return std::make_unique<XmlReader>(dialect, mark, tools);
}

}  // namespace sala
