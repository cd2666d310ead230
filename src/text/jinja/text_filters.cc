#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "text/jinja/filters.h"
#include "text/jinja/text_methods.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

Value to_json_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  DumpOptions options;
  options.ensure_ascii = bound.truth(0);
  options.sort_keys = bound.truth(3);
  if (bound.has(1) && !bound.value(1).is_none()) {
    options.indented = true;
    options.item_separator.assign(1, ',');
    if (bound.value(1).is_text()) {
      options.indent = bound.value(1).text();
    } else {
      options.indent =
          std::string(static_cast<size_t>(std::clamp<int64_t>(bound.integer(1, 0), 0, 1000)), ' ');
    }
  }
  if (bound.has(2) && !bound.value(2).is_none()) {
    const auto parts = iterate(bound.value(2));
    if (parts.size() != 2) fail("tojson: separators must be two texts");
    options.item_separator = to_text(parts[0]);
    options.key_separator = to_text(parts[1]);
  }
  return interpreter.made(dump_json(input, options));
}

/// Python's int(text): white space and underscores between digits are allowed.
bool parse_integer(std::string_view text, int64_t base, int64_t& out) {
  std::string digits = strip_text(text, nullptr, true, true);
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.erase(0, 1);
  if (digits.empty() || digits.front() == '_' || digits.back() == '_' ||
      digits.find("__") != std::string::npos)
    return false;
  if (base == 16 && (digits.starts_with("0x") || digits.starts_with("0X"))) digits.erase(0, 2);
  if (base == 8 && (digits.starts_with("0o") || digits.starts_with("0O"))) digits.erase(0, 2);
  if (base == 2 && (digits.starts_with("0b") || digits.starts_with("0B"))) digits.erase(0, 2);
  std::erase(digits, '_');
  if (digits.starts_with('-')) return false;
  const std::string number = fmt::format("{}{}", negative ? "-" : "", digits);
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), out, static_cast<int>(base));
  if (error == std::errc::result_out_of_range)
    fail("the whole number {} does not fit 64 bits", number);
  return error == std::errc() && end == number.data() + number.size();
}

/// Python's float(text).
bool parse_float(std::string_view text, double& out) {
  std::string number = strip_text(text, nullptr, true, true);
  if (number.empty() || number.front() == '_' || number.back() == '_') return false;
  std::erase(number, '_');
  std::string lower = lower_text(number);
  if (lower.starts_with('+') || lower.starts_with('-')) lower.erase(0, 1);
  if (lower == "inf" || lower == "infinity" || lower == "nan") {
    out = std::strtod(number.c_str(), nullptr);
    return true;
  }
  if (lower.find_first_not_of("0123456789.e+-") != std::string::npos) return false;
  char* end = nullptr;
  out = std::strtod(number.c_str(), &end);
  return end == number.c_str() + number.size();
}

Value truncate_to_integer(double number) {
  if (!(std::fabs(number) < 9.2e18))
    fail("the float {} does not fit a whole number of 64 bits", repr_of_float(number));
  return static_cast<int64_t>(number);
}

Value int_filter(Interpreter& /*interpreter*/, const Value& input, const Arguments& arguments) {
  const Bound bound("int", arguments, {"default", "base"});
  const Value otherwise = bound.value_or(0, Value(0));
  if (input.is_undefined()) fail("{}", input.undefined_message());
  if (input.is_integer()) return input.as_integer();
  if (input.is_float())
    return std::isfinite(input.as_double()) ? truncate_to_integer(input.as_double()) : otherwise;
  if (!input.is_text()) return otherwise;
  const int64_t base = bound.integer(1, 10);
  if (base < 2 || base > 36) fail("int() base must be >= 2 and <= 36");
  int64_t whole = 0;
  if (parse_integer(input.text(), base, whole)) return whole;
  double number = 0;
  if (!parse_float(input.text(), number) || !std::isfinite(number)) return otherwise;
  return truncate_to_integer(number);
}

Value float_filter(Interpreter& /*interpreter*/, const Value& input, const Arguments& arguments) {
  const Bound bound("float", arguments, {"default"});
  if (input.is_undefined()) fail("{}", input.undefined_message());
  if (input.is_number()) return input.as_double();
  double number = 0;
  return input.is_text() && parse_float(input.text(), number) ? Value(number)
                                                              : bound.value_or(0, Value(0.0));
}

/// Rounds half to even, as Python does, at a decimal place.
Value round_filter(Interpreter& /*interpreter*/, const Value& input, const Arguments& arguments) {
  const Bound bound("round", arguments, {"precision", "method"});
  const int64_t precision = bound.integer(0, 0);
  const std::string method = bound.text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor")
    fail("method must be common, ceil or floor");
  if (!input.is_number()) fail("type {} doesn't define __round__ method", type_name(input));
  if (std::abs(precision) > 300) fail("round: precision is {}, expected -300 to 300", precision);
  if (method != "common") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    const double scaled = input.as_double() * scale;
    return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
  }
  if (input.is_integer() && precision >= 0) return input.as_integer();
  if (precision < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    const double rounded = std::nearbyint(input.as_double() / scale) * scale;
    return input.is_integer() ? truncate_to_integer(rounded) : Value(rounded);
  }
  // The decimal expansion of the double is exact in printf, which rounds it as Python does.
  return std::strtod(fmt::format("{:.{}f}", input.as_double(), precision).c_str(), nullptr);
}

Value abs_filter(Interpreter& interpreter, const Value& input, const Arguments& /*arguments*/) {
  if (input.is_undefined()) fail("{}", input.undefined_message());
  if (!input.is_number()) fail("bad operand type for abs(): '{}'", type_name(input));
  if (input.is_float()) return std::fabs(input.as_double());
  return input.as_integer() < 0 ? binary_operation(interpreter, "-", Value(0), input)
                                : Value(input.as_integer());
}

Value indent_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("indent", arguments, {"width", "first", "blank"});
  if (!input.is_text()) fail("indent: found a {}, expected a text", describe(input));
  const std::string indent =
      bound.has(0) && bound.value(0).is_text()
          ? bound.value(0).text()
          : std::string(static_cast<size_t>(std::clamp<int64_t>(bound.integer(0, 4), 0, 1000)),
                        ' ');
  std::string text = input.text();
  const auto lines = split_lines(text.append("\n"), false);
  std::string out;
  if (bound.truth(1)) out = indent;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n";
    if (i > 0 && (bound.truth(2) || !lines[i].empty())) out += indent;
    out += lines[i];
    interpreter.charge(1 + indent.size() / 16);
  }
  return interpreter.made(std::move(out));
}

/// jinja2's own: words begin after white space and ( { [ < and a hyphen.
Value title_filter(Interpreter& interpreter, const Value& input, const Arguments& /*arguments*/) {
  const std::string text = to_text(input);
  std::string out;
  bool starts = true;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_valid_utf8(text, at);
    const bool separates =
        is_python_space(c.code) ||
        (c.code < 128 && std::string_view("-({[<").find(text[at]) != std::string_view::npos);
    const std::string_view one = std::string_view(text).substr(at, static_cast<size_t>(c.length));
    out += separates ? std::string(one) : starts ? upper_text(one) : lower_text(one);
    starts = separates;
    at += one.size();
  }
  return interpreter.made(std::move(out));
}

Value truncate_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const std::string text = to_text(input);
  const std::string end = bound.text(2, "...");
  const auto end_size = static_cast<int64_t>(count_utf8(end));
  const int64_t limit = bound.integer(0, 255);
  const int64_t leeway = bound.integer(3, 5);
  if (limit < end_size) fail("expected length >= {}, got {}", end_size, limit);
  if (leeway < 0) fail("expected leeway >= 0, got {}", leeway);
  if (static_cast<int64_t>(count_utf8(text)) <= limit + leeway) return interpreter.made(text);
  size_t at = 0;
  for (int64_t i = 0; i < limit - end_size; ++i)
    at += static_cast<size_t>(decode_valid_utf8(text, at).length);
  std::string kept = text.substr(0, at);
  if (!bound.truth(1)) {
    if (const size_t space = kept.rfind(' '); space != std::string::npos) kept.resize(space);
  }
  return interpreter.made(kept + end);
}

Value urlencode_text(Interpreter& interpreter, std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte < 128 && (std::isalnum(byte) != 0 ||
                                      std::string_view("_.-~/").find(c) != std::string_view::npos);
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", byte);
  }
  return interpreter.made(std::move(out));
}

int64_t count_words(std::string_view text) {
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_valid_utf8(text, at);
    const bool word = is_letter(c.code) || is_numeric(c.code) || c.code == '_';
    words += word && !inside ? 1 : 0;
    inside = word;
    at += static_cast<size_t>(c.length);
  }
  return words;
}

/// A filter from a function of the input's text.
Filter on_text(std::string (*rewrite)(std::string_view)) {
  return [rewrite](Interpreter& interpreter, const Value& input, const Arguments&) {
    return interpreter.made(rewrite(to_text(input)));
  };
}

}  // namespace

void add_text_filters(FilterTable& table) {
  table["tojson"] = to_json_filter;
  table["int"] = int_filter;
  table["float"] = float_filter;
  table["round"] = round_filter;
  table["abs"] = abs_filter;
  table["indent"] = indent_filter;
  table["title"] = title_filter;
  table["truncate"] = truncate_filter;
  table["upper"] = on_text(upper_text);
  table["lower"] = on_text(lower_text);
  table["capitalize"] = on_text(capitalize_text);
  table["string"] = [](Interpreter& interpreter, const Value& input, const Arguments&) {
    return input.is_text() ? input : interpreter.made(to_text(input));
  };
  table["safe"] = [](Interpreter& interpreter, const Value& input, const Arguments&) {
    return interpreter.made(to_text(input), true);
  };
  table["escape"] =
      table["e"] = [](Interpreter& interpreter, const Value& input, const Arguments&) {
        return input.is_markup() ? input : interpreter.made(escape_html(to_text(input)), true);
      };
  table["forceescape"] = [](Interpreter& interpreter, const Value& input, const Arguments&) {
    return interpreter.made(escape_html(to_text(input)), true);
  };
  table["trim"] = [](Interpreter& interpreter, const Value& input, const Arguments& arguments) {
    const Bound bound("trim", arguments, {"chars"});
    const bool given = bound.has(0) && !bound.value(0).is_none();
    const std::string characters = bound.text(0, "");
    return interpreter.made(strip_text(to_text(input), given ? &characters : nullptr, true, true));
  };
  table["replace"] = [](Interpreter& interpreter, const Value& input, const Arguments& arguments) {
    const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
    return interpreter.made(
        replace_text(to_text(input), bound.text(0, ""), bound.text(1, ""), bound.integer(2, -1)));
  };
  table["format"] = [](Interpreter& interpreter, const Value& input, const Arguments& arguments) {
    Dict keywords;
    for (const auto& [key, value] : arguments.keywords) keywords.set(Value(key), value);
    return interpreter.made(format_percent(to_text(input), keywords.entries.empty()
                                                               ? Value::tuple(arguments.positional)
                                                               : Value::dict(keywords)));
  };
  table["center"] = [](Interpreter& interpreter, const Value& input, const Arguments& arguments) {
    const Bound bound("center", arguments, {"width"});
    Arguments width;
    width.positional.push_back(bound.value_or(0, Value(80)));
    return call_text_method(interpreter, Value(to_text(input)), "center", width);
  };
  table["urlencode"] = [](Interpreter& interpreter, const Value& input, const Arguments&) {
    if (input.is_list() || input.is_dict())
      fail("urlencode: found a {}, expected a text", describe(input));
    return urlencode_text(interpreter, to_text(input));
  };
  table["wordcount"] = [](Interpreter&, const Value& input, const Arguments&) {
    return Value(count_words(to_text(input)));
  };
}

}  // namespace sala::jinja
