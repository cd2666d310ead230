#include "text/jinja/text_methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/unicode.h"

namespace sala::jinja {
namespace {

using Method = std::function<Value(Interpreter&, const std::string&, const Arguments&)>;

std::string text_argument(const Value& value, std::string_view method) {
  if (value.is_undefined()) fail("{}", value.undefined_message());
  if (!value.is_text()) fail("{}() argument must be str, not {}", method, type_name(value));
  return value.text();
}

Value list_of(Interpreter& interpreter, std::vector<std::string> parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (std::string& part : parts) items.push_back(interpreter.made(std::move(part)));
  return Value::list(std::move(items));
}

Method strip_method(std::string_view name, bool left, bool right) {
  return [=](Interpreter& interpreter, const std::string& text, const Arguments& arguments) {
    const Bound bound(name, arguments, {"chars"});
    if (!bound.has(0) || bound.value(0).is_none())
      return interpreter.made(strip_text(text, nullptr, left, right));
    const std::string characters = text_argument(bound.value(0), name);
    return interpreter.made(strip_text(text, &characters, left, right));
  };
}

Method split_method(std::string_view name, bool from_right) {
  return [=](Interpreter& interpreter, const std::string& text, const Arguments& arguments) {
    const Bound bound(name, arguments, {"sep", "maxsplit"});
    const int64_t limit = bound.integer(1, -1);
    if (!bound.has(0) || bound.value(0).is_none())
      return list_of(interpreter, split_text(text, nullptr, limit, from_right));
    const std::string separator = text_argument(bound.value(0), name);
    return list_of(interpreter, split_text(text, &separator, limit, from_right));
  };
}

/// startswith and endswith: one text or a tuple of them, perhaps within a range of characters.
Method affix_method(std::string_view name, bool at_end) {
  return [=](Interpreter&, const std::string& whole, const Arguments& arguments) -> Value {
    const Bound bound(name, arguments, {"prefix", "start", "end"}, 1);
    std::string_view text = whole;
    if (bound.has(1)) {
      const auto size = static_cast<int64_t>(count_utf8(whole));
      const auto clamp = [&](int64_t at) {
        return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
      };
      const int64_t start = bound.integer(1, 0);
      const int64_t stop = clamp(bound.integer(2, size));
      if (start > size || clamp(start) > stop) return false;
      size_t begin = 0;
      size_t end = 0;
      for (int64_t i = 0; i < stop; ++i) {
        end += static_cast<size_t>(decode_valid_utf8(whole, end).length);
        if (i + 1 == clamp(start)) begin = end;
      }
      text = text.substr(begin, end - begin);
    }
    const Value& affix = bound.value(0);
    const auto matches = [&](const Value& each) {
      const std::string part = text_argument(each, name);
      return at_end ? text.ends_with(part) : text.starts_with(part);
    };
    if (affix.is_list() && affix.as_list().kind == List::Kind::kTuple)
      return std::ranges::any_of(affix.items(), matches);
    return matches(affix);
  };
}

Method find_method(std::string_view name, bool from_right, bool fails) {
  return [=](Interpreter&, const std::string& text, const Arguments& arguments) -> Value {
    const Bound bound(name, arguments, {"sub", "start", "end"}, 1);
    const std::string part = text_argument(bound.value(0), name);
    const auto size = static_cast<int64_t>(count_utf8(text));
    const auto clamp = [&](int64_t at) {
      return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
    };
    const auto offset = [&](int64_t count) {
      size_t at = 0;
      for (; count > 0; --count) at += static_cast<size_t>(decode_valid_utf8(text, at).length);
      return at;
    };
    const size_t begin = offset(clamp(bound.integer(1, 0)));
    const size_t end = offset(clamp(bound.integer(2, size)));
    const std::string_view range =
        std::string_view(text).substr(begin, end < begin ? 0 : end - begin);
    const size_t hit = end < begin || bound.integer(1, 0) > size ? std::string_view::npos
                       : from_right                              ? range.rfind(part)
                                                                 : range.find(part);
    if (hit != std::string_view::npos)
      return count_utf8(std::string_view(text).substr(0, begin + hit));
    if (fails) fail("substring not found");
    return -1;
  };
}

/// is...: true when there are characters and all are of a kind.
Method all_method(bool (*accepts)(char32_t)) {
  return [=](Interpreter&, const std::string& text, const Arguments& /*arguments*/) -> Value {
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = decode_valid_utf8(text, at);
      if (!accepts(c.code)) return false;
      at += static_cast<size_t>(c.length);
    }
    return !text.empty();
  };
}

/// isupper and islower: no letter of the other case and at least one of this.
Method case_method(bool (*wanted)(char32_t)) {
  return [=](Interpreter&, const std::string& text, const Arguments& /*arguments*/) -> Value {
    bool any = false;
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = decode_valid_utf8(text, at);
      if (wanted(c.code)) {
        any = true;
      } else if (has_case(c.code)) {
        return false;
      }
      at += static_cast<size_t>(c.length);
    }
    return any;
  };
}

Method rewrite_method(std::string (*rewrite)(std::string_view)) {
  return [=](Interpreter& interpreter, const std::string& text, const Arguments& /*arguments*/) {
    return interpreter.made(rewrite(text));
  };
}

/// ljust, rjust, center and zfill: shares of the padding at the left.
Method pad_method(std::string_view name, char where) {
  return [=](Interpreter& interpreter, const std::string& text, const Arguments& arguments) {
    const Bound bound(name, arguments, {"width", "fillchar"}, 1);
    const std::string fill = where == 'z' ? "0" : bound.text(1, " ");
    if (count_utf8(fill) != 1) fail("The fill character must be exactly one character long");
    const auto size = static_cast<int64_t>(count_utf8(text));
    const int64_t width = bound.integer(0, 0);
    if (width > 1'000'000) fail("{}() width is {}, expected at most 1000000", name, width);
    const int64_t pad = std::max<int64_t>(0, width - size);
    const int64_t left = where == 'c' ? pad / 2 + (pad & width & 1) : where == 'l' ? 0 : pad;
    const bool signed_number = where == 'z' && (text.starts_with('-') || text.starts_with('+'));
    std::string out = signed_number ? text.substr(0, 1) : "";
    for (int64_t i = 0; i < left; ++i) out += fill;
    out += signed_number ? text.substr(1) : text;
    for (int64_t i = left; i < pad; ++i) out += fill;
    return interpreter.made(std::move(out));
  };
}

Method partition_method(std::string_view name, bool from_right) {
  return [=](Interpreter&, const std::string& text, const Arguments& arguments) {
    const std::string separator = text_argument(Bound(name, arguments, {"sep"}, 1).value(0), name);
    if (separator.empty()) fail("empty separator");
    const size_t hit = from_right ? text.rfind(separator) : text.find(separator);
    if (hit == std::string::npos)
      return from_right ? Value::tuple({"", "", Value(text)}) : Value::tuple({Value(text), "", ""});
    return Value::tuple(
        {Value(text.substr(0, hit)), Value(separator), Value(text.substr(hit + separator.size()))});
  };
}

Method remove_method(std::string_view name, bool at_end) {
  return [=](Interpreter& interpreter, const std::string& text, const Arguments& arguments) {
    const std::string affix = text_argument(Bound(name, arguments, {"affix"}, 1).value(0), name);
    if (!at_end && text.starts_with(affix)) return interpreter.made(text.substr(affix.size()));
    if (at_end && text.ends_with(affix))
      return interpreter.made(text.substr(0, text.size() - affix.size()));
    return Value(text);
  };
}

Value join(Interpreter& interpreter, const std::string& text, const Arguments& arguments) {
  std::string out;
  const auto items = iterate(Bound("join", arguments, {"iterable"}, 1).value(0));
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_text())
      fail("sequence item {}: expected str instance, {} found", i, type_name(items[i]));
    interpreter.charge(1 + (text.size() + items[i].text().size()) / 16);
    out.append(i > 0 ? text : "").append(items[i].text());
  }
  return interpreter.made(std::move(out));
}

/// str.format with {}, {0} and {name}; formats of numbers are not part of any chat template known.
Value format(Interpreter& interpreter, const std::string& text, const Arguments& arguments) {
  std::string out;
  size_t next = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const bool doubled = at + 1 < text.size() && text[at + 1] == c;
    if ((c == '{' || c == '}') && doubled) {
      out += text[at++];
    } else if (c == '}') {
      fail("Single '}}' encountered in format string");
    } else if (c != '{') {
      out += c;
    } else {
      const size_t close = text.find('}', at);
      if (close == std::string::npos) fail("Single '{{' encountered in format string");
      const std::string name = text.substr(at + 1, close - at - 1);
      at = close;
      const bool number = !name.empty() && name.size() < 6 &&
                          std::ranges::all_of(name, [](char d) { return d >= '0' && d <= '9'; });
      const size_t index = number ? static_cast<size_t>(std::stoul(name)) : next;
      if (name.empty()) ++next;
      const auto keyword = std::ranges::find_if(
          arguments.keywords, [&](const auto& pair) { return pair.first == name; });
      if (keyword != arguments.keywords.end()) {
        out += to_text(keyword->second);
      } else if (!name.empty() && !number) {
        fail("str.format: '{{{}}}' names no argument (only {{}}, {{0}} and {{name}} are supported)",
             name);
      } else if (index >= arguments.positional.size()) {
        fail("Replacement index {} out of range for positional args tuple", index);
      } else {
        out += to_text(arguments.positional[index]);
      }
      interpreter.charge(1 + out.size() / 256);
    }
  }
  return interpreter.made(std::move(out));
}

bool is_alphabetic(char32_t code) { return is_letter(code); }
bool is_alphanumeric(char32_t code) { return is_letter(code) || is_numeric(code); }
bool is_decimal(char32_t code) { return is_decimal_digit(code); }
bool is_ascii(char32_t code) { return code < 128; }

using MethodTable = std::map<std::string, Method, std::less<>>;

void add_searches(MethodTable& methods) {
  methods["strip"] = strip_method("strip", true, true);
  methods["lstrip"] = strip_method("lstrip", true, false);
  methods["rstrip"] = strip_method("rstrip", false, true);
  methods["split"] = split_method("split", false);
  methods["rsplit"] = split_method("rsplit", true);
  methods["startswith"] = affix_method("startswith", false);
  methods["endswith"] = affix_method("endswith", true);
  methods["find"] = find_method("find", false, false);
  methods["rfind"] = find_method("rfind", true, false);
  methods["index"] = find_method("index", false, true);
  methods["rindex"] = find_method("rindex", true, true);
}

void add_questions(MethodTable& methods) {
  methods["isalpha"] = all_method(is_alphabetic);
  methods["isalnum"] = all_method(is_alphanumeric);
  methods["isdigit"] = all_method(is_decimal);
  methods["isdecimal"] = all_method(is_decimal);
  methods["isnumeric"] = all_method(is_numeric);
  methods["isspace"] = all_method(is_python_space);
  methods["isupper"] = case_method(is_upper);
  methods["islower"] = case_method(is_lower);
  methods["isascii"] = [all = all_method(is_ascii)](Interpreter& i, const std::string& text,
                                                    const Arguments& a) {
    return text.empty() ? Value(true) : all(i, text, a);
  };
}

MethodTable make_methods() {
  MethodTable methods;
  add_searches(methods);
  add_questions(methods);
  methods["upper"] = rewrite_method(upper_text);
  methods["lower"] = rewrite_method(lower_text);
  methods["casefold"] = rewrite_method(lower_text);
  methods["title"] = rewrite_method(title_text);
  methods["capitalize"] = rewrite_method(capitalize_text);
  methods["swapcase"] = rewrite_method(swap_case);
  methods["ljust"] = pad_method("ljust", 'l');
  methods["rjust"] = pad_method("rjust", 'r');
  methods["center"] = pad_method("center", 'c');
  methods["zfill"] = pad_method("zfill", 'z');
  methods["partition"] = partition_method("partition", false);
  methods["rpartition"] = partition_method("rpartition", true);
  methods["removeprefix"] = remove_method("removeprefix", false);
  methods["removesuffix"] = remove_method("removesuffix", true);
  methods["join"] = join;
  methods["format"] = format;
  methods["splitlines"] = [](Interpreter& interpreter, const std::string& text,
                             const Arguments& arguments) {
    return list_of(interpreter,
                   split_lines(text, Bound("splitlines", arguments, {"keepends"}).truth(0)));
  };
  methods["replace"] = [](Interpreter& interpreter, const std::string& text,
                          const Arguments& arguments) {
    const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
    return interpreter.made(replace_text(text, text_argument(bound.value(0), "replace"),
                                         text_argument(bound.value(1), "replace"),
                                         bound.integer(2, -1)));
  };
  methods["count"] = [](Interpreter&, const std::string& text,
                        const Arguments& arguments) -> Value {
    const std::string part = text_argument(Bound("count", arguments, {"sub"}, 1).value(0), "count");
    if (part.empty()) return count_utf8(text) + 1;
    int64_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos;
         at = text.find(part, at + part.size()))
      ++count;
    return count;
  };
  return methods;
}

const MethodTable& methods() {
  static const auto table = make_methods();
  return table;
}

}  // namespace

bool has_text_method(std::string_view name) { return methods().contains(name); }

Value call_text_method(Interpreter& interpreter, const Value& object, const std::string& name,
                       const Arguments& arguments) {
  interpreter.charge(1 + object.text().size() / 16);
  return methods().find(name)->second(interpreter, object.text(), arguments);
}

}  // namespace sala::jinja
