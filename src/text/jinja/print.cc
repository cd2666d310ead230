#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/jinja/sort.h"
#include "text/jinja/value.h"
#include "text/unicode.h"

namespace sala::jinja {

std::string repr_of_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 64> buffer{};
  const double size = std::fabs(value);
  const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto [end, _] =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                    scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string text(buffer.data(), end);
  if (!scientific && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string repr_of_text(std::string_view text) {
  const char quote =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"'
                                                                                            : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_valid_utf8(text, at);
    const std::string_view bytes = text.substr(at, static_cast<size_t>(c.length));
    at += bytes.size();
    if (c.code == static_cast<unsigned char>(quote) || c.code == '\\') {
      out.append("\\").append(bytes);
    } else if (c.code == '\n') {
      out.append("\\n");
    } else if (c.code == '\r') {
      out.append("\\r");
    } else if (c.code == '\t') {
      out.append("\\t");
    } else if (c.code != ' ' && (is_other(c.code) || is_separator(c.code))) {
      const auto code = static_cast<uint32_t>(c.code);
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    } else {
      out.append(bytes);
    }
  }
  out.push_back(quote);
  return out;
}

namespace {

void append_list(std::string& out, const List& list) {
  const bool tuple = list.kind == List::Kind::kTuple;
  out += tuple ? '(' : '[';
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out += ", ";
    out += to_repr(list.items[i]);
  }
  if (tuple && list.items.size() == 1) out += ',';
  out += tuple ? ')' : ']';
}

}  // namespace

std::string to_repr(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return "Undefined";
    case Value::Kind::kNone:
      return "None";
    case Value::Kind::kBool:
      return value.as_bool() ? "True" : "False";
    case Value::Kind::kInt:
      return std::to_string(value.as_integer());
    case Value::Kind::kFloat:
      return repr_of_float(value.as_double());
    case Value::Kind::kText:
      return value.is_markup() ? fmt::format("Markup({})", repr_of_text(value.text()))
                               : repr_of_text(value.text());
    case Value::Kind::kObject:
      return fmt::format("<{}>", value.object().type_name());
    case Value::Kind::kList: {
      const List& list = value.as_list();
      if (list.kind == List::Kind::kIterator) return "<generator>";
      if (list.kind == List::Kind::kView && list.label.ends_with(')')) return list.label;
      std::string out;
      append_list(out, list);
      return list.kind == List::Kind::kView ? fmt::format("{}({})", list.label, out) : out;
    }
    case Value::Kind::kDict:
      break;
  }
  std::string out = "{";
  for (const auto& [key, item] : value.as_dict().entries) {
    if (out.size() > 1) out += ", ";
    out.append(to_repr(key)).append(": ").append(to_repr(item));
  }
  return out.append("}");
}

std::string to_text(const Value& value) {
  if (value.is_text()) return value.text();
  return value.is_undefined() ? "" : to_repr(value);
}

namespace {

class JsonWriter {
 public:
  explicit JsonWriter(const DumpOptions& options) : options_(options) {}

  void write(const Value& value, int level) {
    switch (value.kind()) {
      case Value::Kind::kNone:
        out += "null";
        break;
      case Value::Kind::kBool:
        out += value.as_bool() ? "true" : "false";
        break;
      case Value::Kind::kInt:
        out += std::to_string(value.as_integer());
        break;
      case Value::Kind::kFloat:
        write_float(value.as_double());
        break;
      case Value::Kind::kText:
        write_text(value.text());
        break;
      case Value::Kind::kDict:
        write_dict(value.as_dict(), level);
        break;
      default:
        if (!value.is_list() || value.as_list().kind == List::Kind::kIterator ||
            value.as_list().kind == List::Kind::kView)
          fail("Object of type {} is not JSON serializable", type_name(value));
        write_list(value.items(), level);
    }
  }

  std::string out;

 private:
  void write_float(double number) {
    if (std::isnan(number)) {
      out += "NaN";
    } else if (std::isinf(number)) {
      out += number < 0 ? "-Infinity" : "Infinity";
    } else {
      out += repr_of_float(number);
    }
  }

  void write_text(std::string_view text) {
    out += '"';
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = decode_valid_utf8(text, at);
      write_character(c.code, text.substr(at, static_cast<size_t>(c.length)));
      at += static_cast<size_t>(c.length);
    }
    out += '"';
  }

  void write_character(char32_t code, std::string_view bytes) {
    static constexpr std::string_view kShort = "\"\\\n\r\t\f\b";
    static constexpr std::string_view kLetters = "\"\\nrtfb";
    const size_t at = bytes.size() == 1 ? kShort.find(bytes[0]) : std::string_view::npos;
    if (at != std::string_view::npos) {
      out += '\\';
      out += kLetters[at];
    } else if (code < 0x20 || (options_.ensure_ascii && code >= 0x7F)) {
      const auto number = static_cast<uint32_t>(code);
      if (number < 0x10000) {
        out += fmt::format("\\u{:04x}", number);
      } else {
        out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((number - 0x10000) >> 10),
                           0xDC00 + ((number - 0x10000) & 0x3FF));
      }
    } else {
      out += bytes;
    }
  }

  void new_line(int level) {
    if (!options_.indented) return;
    out += '\n';
    for (int i = 0; i < level; ++i) out += options_.indent;
  }

  void write_list(const std::vector<Value>& items, int level) {
    out += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += options_.item_separator;
      new_line(level + 1);
      write(items[i], level + 1);
    }
    if (!items.empty()) new_line(level);
    out += ']';
  }

  void write_key(const Value& key) {
    if (key.is_text()) return write_text(key.text());
    if (!key.is_none() && !key.is_number())
      fail("keys must be str, int, float, bool or None, not {}", type_name(key));
    out += '"';
    write(key, 0);
    out += '"';
  }

  void write_dict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (options_.sort_keys)
      merge_sort(entries, [](const auto* a, const auto* b) { return less(a->first, b->first); });
    out += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out += options_.item_separator;
      new_line(level + 1);
      write_key(entries[i]->first);
      out += options_.key_separator;
      write(entries[i]->second, level + 1);
    }
    if (!entries.empty()) new_line(level);
    out += '}';
  }

  const DumpOptions& options_;
};

}  // namespace

std::string dump_json(const Value& value, const DumpOptions& options) {
  JsonWriter writer(options);
  writer.write(value, 0);
  return std::move(writer.out);
}

}  // namespace sala::jinja
