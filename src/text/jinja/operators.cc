#include <fmt/format.h>

#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

[[noreturn]] void fail_operands(const std::string& operation, const Value& left,
                                const Value& right) {
  for (const Value* side : {&left, &right})
    if (side->is_undefined()) fail("{}", side->undefined_message());
  if (operation == "+" && left.is_text())
    fail("can only concatenate str (not \"{}\") to str", type_name(right));
  if (operation == "+" && left.is_list())
    fail("can only concatenate {0} (not \"{1}\") to {0}", type_name(left), type_name(right));
  fail("unsupported operand type(s) for {}: '{}' and '{}'",
       operation == "**" ? "** or pow()" : operation, type_name(left), type_name(right));
}

[[noreturn]] void fail_overflow() { fail("a whole number does not fit 64 bits"); }

int64_t multiply(int64_t a, int64_t b) {
  int64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out)) fail_overflow();
  return out;
}

int64_t subtract(int64_t a, int64_t b) {
  int64_t out = 0;
  if (__builtin_sub_overflow(a, b, &out)) fail_overflow();
  return out;
}

int64_t add_whole(int64_t a, int64_t b) {
  int64_t out = 0;
  if (__builtin_add_overflow(a, b, &out)) fail_overflow();
  return out;
}

int64_t power(int64_t base, int64_t exponent) {
  if (base == 1 || exponent == 0) return 1;
  if (base == 0) return 0;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  int64_t result = 1;
  for (int64_t i = 0; i < exponent; ++i) result = multiply(result, base);
  return result;
}

Value integer_operation(const std::string& op, int64_t a, int64_t b) {
  if (op == "+") return add_whole(a, b);
  if (op == "-") return subtract(a, b);
  if (op == "*") return multiply(a, b);
  if (op == "**") {
    if (b >= 0) return power(a, b);
    if (a == 0) fail("0.0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(a), static_cast<double>(b));
  }
  if (b == 0) fail("{}", op == "/" ? "division by zero" : "integer division or modulo by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (b == -1) return op == "//" ? subtract(0, a) : 0;
  // C++ rounds towards zero, Python down.
  const bool rounds_up = a % b != 0 && (a < 0) != (b < 0);
  if (op == "//") return a / b - (rounds_up ? 1 : 0);
  return a % b + (rounds_up ? b : 0);
}

double float_modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}

Value float_operation(const std::string& op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") {
    if (a == 0 && b < 0) fail("0.0 cannot be raised to a negative power");
    if (a < 0 && b != std::floor(b))
      fail("a negative number raised to a fraction is complex, which is not supported");
    return std::pow(a, b);
  }
  if (b == 0)
    fail("{}", op == "/"    ? "float division by zero"
               : op == "//" ? "float floor division by zero"
                            : "float modulo");
  if (op == "/") return a / b;
  return op == "%" ? float_modulo(a, b) : std::floor(a / b);
}

/// "ab" * 3 and [1] * 3.
Value repeat(Interpreter& interpreter, const Value& what, int64_t times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(0, times));
  const size_t size = what.is_text() ? what.text().size() : what.items().size();
  if (size > 0 && count > (size_t{64} << 20) / size)
    fail("a repetition would have more than {} elements", 64 << 20);
  if (what.is_text()) {
    std::string out;
    out.reserve(size * count);
    for (size_t i = 0; size > 0 && i < count; ++i) out += what.text();
    return interpreter.made(std::move(out), what.is_markup());
  }
  interpreter.charge(size * count);
  std::vector<Value> items;
  for (size_t i = 0; size > 0 && i < count; ++i)
    items.insert(items.end(), what.items().begin(), what.items().end());
  return Value::list(std::move(items), what.as_list().kind);
}

bool is_sequence(const Value& value) {
  return value.is_text() || (value.is_list() && (value.as_list().kind == List::Kind::kList ||
                                                 value.as_list().kind == List::Kind::kTuple));
}

Value add(Interpreter& interpreter, const Value& left, const Value& right) {
  if (left.is_text() && right.is_text()) {
    const bool markup = left.is_markup() || right.is_markup();
    const auto part = [&](const Value& side) {
      return markup && !side.is_markup() ? escape_html(side.text()) : side.text();
    };
    return interpreter.made(part(left) + part(right), markup);
  }
  if (left.is_list() && right.is_list() && is_sequence(left) &&
      left.as_list().kind == right.as_list().kind) {
    std::vector<Value> items = left.items();
    items.insert(items.end(), right.items().begin(), right.items().end());
    interpreter.charge(items.size());
    return Value::list(std::move(items), left.as_list().kind);
  }
  fail_operands("+", left, right);
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Value binary_operation(Interpreter& interpreter, const std::string& operation, const Value& left,
                       const Value& right) {
  if (left.is_integer() && right.is_integer())
    return integer_operation(operation, left.as_integer(), right.as_integer());
  if (left.is_number() && right.is_number())
    return float_operation(operation, left.as_double(), right.as_double());
  if (operation == "+") return add(interpreter, left, right);
  if (operation == "*" && is_sequence(left) && right.is_integer())
    return repeat(interpreter, left, right.as_integer());
  if (operation == "*" && left.is_integer() && is_sequence(right))
    return repeat(interpreter, right, left.as_integer());
  if (operation == "%" && left.is_text() && !right.is_undefined())
    return interpreter.made(format_percent(left.text(), right));
  fail_operands(operation, left, right);
}

namespace {

/// One %-conversion: flags, width, precision and letter.
struct Conversion {
  std::string flags;
  int width = 0;
  int precision = -1;
  char letter = 's';
};

std::string pad(std::string text, const Conversion& conversion) {
  const size_t size = count_utf8(text);
  const auto width = static_cast<size_t>(conversion.width);
  if (size >= width) return text;
  const bool left = conversion.flags.find('-') != std::string::npos;
  text.insert(left ? text.size() : 0, width - size, ' ');
  return text;
}

std::string convert(const Conversion& conversion, const Value& value) {
  if (conversion.letter == 's' || conversion.letter == 'r' || conversion.letter == 'a') {
    std::string text = conversion.letter == 's' ? to_text(value) : to_repr(value);
    if (conversion.precision >= 0) {
      size_t at = 0;
      for (int i = 0; i < conversion.precision && at < text.size(); ++i)
        at += static_cast<size_t>(decode_valid_utf8(text, at).length);
      text.resize(at);
    }
    return pad(std::move(text), conversion);
  }
  if (!value.is_number())
    fail("%{} format: a real number is required, not {}", conversion.letter, type_name(value));
  std::string spec = fmt::format("%{}", conversion.flags);
  if (conversion.width > 0) spec += std::to_string(conversion.width);
  if (conversion.precision >= 0) spec += fmt::format(".{}", conversion.precision);
  std::string out(static_cast<size_t>(conversion.width) +
                      static_cast<size_t>(std::max(0, conversion.precision)) + 400,
                  '\0');
  int size = 0;
  const bool whole = std::string_view("diuxXo").find(conversion.letter) != std::string_view::npos;
  if (whole) {
    const double number = value.as_double();
    if (value.is_float() && !(std::fabs(number) < 9e18))
      fail("cannot convert float {} to integer", to_repr(value));
    const int64_t integer = value.is_float() ? static_cast<int64_t>(number) : value.as_integer();
    spec += "ll";
    spec += conversion.letter == 'i' || conversion.letter == 'u' ? 'd' : conversion.letter;
    size = std::snprintf(out.data(), out.size(), spec.c_str(), static_cast<long long>(integer));
  } else {
    spec += conversion.letter;
    size = std::snprintf(out.data(), out.size(), spec.c_str(), value.as_double());
  }
  out.resize(static_cast<size_t>(std::max(0, size)));
  return out;
}

int read_number(const std::string& format, size_t& at) {
  int number = 0;
  while (at < format.size() && format[at] >= '0' && format[at] <= '9') {
    number = number * 10 + (format[at++] - '0');
    if (number > 10'000) fail("a width or precision in a format is more than 10000");
  }
  return number;
}

}  // namespace

std::string format_percent(const std::string& format, const Value& values) {
  const bool tuple = values.is_list() && values.as_list().kind == List::Kind::kTuple;
  const std::vector<Value> arguments = tuple ? values.items() : std::vector<Value>{values};
  size_t used = 0;
  std::string out;
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%') {
      out += format[at];
      continue;
    }
    if (++at >= format.size()) fail("incomplete format");
    if (format[at] == '%') {
      out += '%';
      continue;
    }
    const Value* value = nullptr;
    if (format[at] == '(') {
      const size_t close = format.find(')', at);
      if (close == std::string::npos) fail("incomplete format key");
      if (!values.is_dict()) fail("format requires a mapping");
      const std::string key = format.substr(at + 1, close - at - 1);
      value = values.as_dict().find(std::string_view(key));
      if (value == nullptr) fail("the format needs the key '{}'", key);
      at = close + 1;
    }
    Conversion conversion;
    while (at < format.size() &&
           std::string_view("-+ #0").find(format[at]) != std::string_view::npos)
      conversion.flags += format[at++];
    conversion.width = read_number(format, at);
    if (at < format.size() && format[at] == '.') conversion.precision = read_number(format, ++at);
    if (at >= format.size()) fail("incomplete format");
    conversion.letter = format[at];
    if (std::string_view("srdiufFeEgGxXoa").find(conversion.letter) == std::string_view::npos)
      fail("unsupported format character '{}'", conversion.letter);
    if (value == nullptr && used >= arguments.size())
      fail("not enough arguments for format string");
    out += convert(conversion, value != nullptr ? *value : arguments[used++]);
    if (out.size() > (size_t{64} << 20)) fail("a formatted text grows beyond {} bytes", 64 << 20);
  }
  if (tuple ? used < arguments.size() : used == 0 && !values.is_dict() && !values.is_list())
    fail("not all arguments converted during string formatting");
  return out;
}

}  // namespace sala::jinja
