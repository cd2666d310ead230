#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "text/jinja/filters.h"
#include "text/jinja/sort.h"
#include "text/jinja/text_methods.h"

namespace sala::jinja {
namespace {

/// What is compared when case does not matter.
Value ignore_case(const Value& value, bool case_sensitive) {
  return value.is_text() && !case_sensitive ? Value(lower_text(value.text())) : value;
}

Value lazy(std::vector<Value> items) {
  return Value::list(std::move(items), List::Kind::kIterator);
}

Value attribute_or_item(Interpreter& interpreter, const Value& item, const Value& attribute) {
  return attribute.is_none() ? item : interpreter.attribute(item, attribute);
}

void stable_sort_by(Interpreter& interpreter, std::vector<std::pair<Value, Value>>& keyed,
                    bool reverse) {
  interpreter.charge(keyed.size() * 8);
  merge_sort(keyed, [&](const auto& a, const auto& b) {
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
}

/// sort: by one attribute or several with commas between them.
Value sort_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Value> attributes;
  const Value attribute = bound.value_or(2, Value());
  if (attribute.is_text()) {
    const std::string comma = ",";
    for (const std::string& part : split_text(attribute.text(), &comma, -1, false))
      attributes.emplace_back(part);
  } else {
    attributes.push_back(attribute);
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : iterate(input)) {
    std::vector<Value> keys;
    for (const Value& each : attributes)
      keys.push_back(ignore_case(attribute_or_item(interpreter, item, each), bound.truth(1)));
    keyed.emplace_back(Value::list(std::move(keys)), item);
  }
  stable_sort_by(interpreter, keyed, bound.truth(0));
  std::vector<Value> out;
  for (auto& [_, item] : keyed) out.push_back(std::move(item));
  return Value::list(std::move(out));
}

Value dictsort_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.text(1, "key");
  if (by != "key" && by != "value") fail("You can only sort by either \"key\" or \"value\"");
  if (!input.is_dict()) fail("dictsort: found a {}, expected a dict", describe(input));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.as_dict().entries)
    keyed.emplace_back(ignore_case(by == "key" ? key : value, bound.truth(0)),
                       Value::tuple({key, value}));
  stable_sort_by(interpreter, keyed, bound.truth(2));
  std::vector<Value> out;
  for (auto& [_, item] : keyed) out.push_back(std::move(item));
  return Value::list(std::move(out));
}

Value unique_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  std::vector<Value> seen;
  std::vector<Value> out;
  for (const Value& item : iterate(input)) {
    interpreter.charge(1 + seen.size());
    const Value key = ignore_case(attribute_or_item(interpreter, item, bound.value_or(1, Value())),
                                  bound.truth(0));
    if (std::ranges::any_of(seen, [&](const Value& each) { return equal(each, key); })) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return lazy(std::move(out));
}

Filter extreme_filter(const char* name, bool largest) {
  return [=](Interpreter& interpreter, const Value& input, const Arguments& arguments) {
    const Bound bound(name, arguments, {"case_sensitive", "attribute"});
    Value best = Value::undefined("No aggregated item, sequence was empty.");
    Value best_key;
    bool any = false;
    for (const Value& item : iterate(input)) {
      const Value key = ignore_case(
          attribute_or_item(interpreter, item, bound.value_or(1, Value())), bound.truth(0));
      if (any && !(largest ? less(best_key, key) : less(key, best_key))) continue;
      best = item;
      best_key = key;
      any = true;
    }
    return best;
  };
}

/// map: a filter by name, or attribute="...", for each item.
Value map_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  std::vector<Value> out;
  if (!input.truth()) return lazy(std::move(out));
  Arguments rest = arguments;
  if (rest.positional.empty()) {
    const Bound bound("map", arguments, {"attribute", "default"});
    if (!bound.has(0)) fail("map requires a filter argument");
    for (const Value& item : iterate(input)) {
      Value value = interpreter.attribute(item, bound.value(0));
      out.push_back(value.is_undefined() && bound.has(1) ? bound.value(1) : value);
    }
    return lazy(std::move(out));
  }
  const std::string name = to_text(rest.positional[0]);
  rest.positional.erase(rest.positional.begin());
  for (const Value& item : iterate(input)) out.push_back(interpreter.call_filter(name, item, rest));
  return lazy(std::move(out));
}

/// select, reject, selectattr, rejectattr: by a test's name, or by truth.
Filter select_filter(const char* name, bool keeps, bool by_attribute) {
  return [=](Interpreter& interpreter, const Value& input, const Arguments& arguments) {
    std::vector<Value> out;
    if (!input.truth()) return lazy(std::move(out));
    Arguments rest = arguments;
    Value attribute;
    if (by_attribute) {
      if (rest.positional.empty()) fail("{}: Missing parameter for attribute name", name);
      attribute = rest.positional[0];
      rest.positional.erase(rest.positional.begin());
    }
    std::string test;
    if (!rest.positional.empty()) {
      test = to_text(rest.positional[0]);
      rest.positional.erase(rest.positional.begin());
    }
    for (const Value& item : iterate(input)) {
      const Value value = by_attribute ? interpreter.attribute(item, attribute) : item;
      const bool holds = test.empty() ? value.truth() : interpreter.call_test(test, value, rest);
      if (holds == keeps) out.push_back(item);
    }
    return lazy(std::move(out));
  };
}

Value join_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  const std::string separator = bound.text(0, "");
  std::string out;
  bool first = true;
  for (const Value& item : iterate(input)) {
    const std::string text =
        to_text(attribute_or_item(interpreter, item, bound.value_or(1, Value())));
    interpreter.charge(1 + (separator.size() + text.size()) / 16);
    if (!first) out += separator;
    out += text;
    first = false;
  }
  return interpreter.made(std::move(out));
}

Value groupby_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  std::vector<std::pair<Value, Value>> keyed;
  const auto key_of = [&](const Value& item) {
    Value key = interpreter.attribute(item, bound.value(0));
    return key.is_undefined() && bound.has(1) ? bound.value(1) : key;
  };
  for (const Value& item : iterate(input))
    keyed.emplace_back(ignore_case(key_of(item), bound.truth(2)), item);
  stable_sort_by(interpreter, keyed, false);
  std::vector<Value> out;
  for (size_t i = 0; i < keyed.size();) {
    std::vector<Value> group;
    const size_t begin = i;
    for (; i < keyed.size() && equal(keyed[i].first, keyed[begin].first); ++i)
      group.push_back(keyed[i].second);
    const Value key = key_of(group[0]);
    out.push_back(Value::tuple({key, Value::list(std::move(group))}));
  }
  return Value::list(std::move(out));
}

Value sum_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("sum", arguments, {"attribute", "start"});
  Value total = bound.value_or(1, Value(0));
  for (const Value& item : iterate(input))
    total = binary_operation(interpreter, "+", total,
                             attribute_or_item(interpreter, item, bound.value_or(0, Value())));
  return total;
}

Value batch_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("batch", arguments, {"linecount", "fill_with"}, 1);
  const auto size = static_cast<size_t>(std::clamp<int64_t>(bound.integer(0, 1), 1, 1'000'000));
  std::vector<Value> out;
  std::vector<Value> line;
  for (const Value& item : iterate(input)) {
    if (line.size() == size) out.push_back(Value::list(std::exchange(line, {})));
    line.push_back(item);
  }
  if (!line.empty()) {
    interpreter.charge(size);
    if (bound.has(1) && !bound.value(1).is_none()) line.resize(size, bound.value(1));
    out.push_back(Value::list(std::move(line)));
  }
  return lazy(std::move(out));
}

Value slice_filter(Interpreter& interpreter, const Value& input, const Arguments& arguments) {
  const Bound bound("slice", arguments, {"slices", "fill_with"}, 1);
  const auto items = iterate(input);
  const int64_t slices = bound.integer(0, 1);
  if (slices < 1 || slices > 1'000'000) fail("slice: {} slices, expected 1 to 1000000", slices);
  const auto count = static_cast<size_t>(slices);
  interpreter.charge(count);
  const size_t each = items.size() / count;
  const size_t longer = items.size() % count;
  std::vector<Value> out;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t size = each + (i < longer ? 1 : 0);
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(at),
                            items.begin() + static_cast<std::ptrdiff_t>(at + size));
    at += size;
    if (bound.has(1) && !bound.value(1).is_none() && i >= longer) part.push_back(bound.value(1));
    out.push_back(Value::list(std::move(part)));
  }
  return lazy(std::move(out));
}

Value reverse_filter(Interpreter& interpreter, const Value& input, const Arguments& /*arguments*/) {
  auto items = iterate(input);
  std::ranges::reverse(items);
  if (!input.is_text()) return lazy(std::move(items));
  std::string out;
  for (const Value& item : items) out += item.text();
  return interpreter.made(std::move(out));
}

Value last_filter(Interpreter& /*interpreter*/, const Value& input,
                  const Arguments& /*arguments*/) {
  if (input.is_list() && input.as_list().kind == List::Kind::kIterator)
    fail("'generator' object is not reversible");
  const auto items = iterate(input);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value items_filter(Interpreter& /*interpreter*/, const Value& input,
                   const Arguments& /*arguments*/) {
  std::vector<Value> out;
  if (input.is_undefined()) return lazy(std::move(out));
  if (!input.is_dict()) fail("Can only get item pairs from a mapping.");
  for (const auto& [key, value] : input.as_dict().entries)
    out.push_back(Value::tuple({key, value}));
  return lazy(std::move(out));
}

Value default_filter(Interpreter& /*interpreter*/, const Value& input, const Arguments& arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  return input.is_undefined() || (bound.truth(1) && !input.truth()) ? bound.value_or(0, Value(""))
                                                                    : input;
}

}  // namespace

void add_list_filters(FilterTable& table) {
  table["default"] = table["d"] = default_filter;
  table["length"] = table["count"] = [](Interpreter&, const Value& input, const Arguments&) {
    return Value(length(input));
  };
  table["list"] = [](Interpreter& interpreter, const Value& input, const Arguments&) {
    auto items = iterate(input);
    interpreter.charge(items.size());
    return Value::list(std::move(items));
  };
  table["first"] = [](Interpreter&, const Value& input, const Arguments&) {
    const auto items = iterate(input);
    return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
  };
  table["attr"] = [](Interpreter& interpreter, const Value& input, const Arguments& arguments) {
    const std::string name = Bound("attr", arguments, {"name"}, 1).text(0, "");
    Value out;
    if (input.is_object() ? input.object().member(name, out) : has_method(input, name))
      return interpreter.member(input, name);
    return Value::undefined(
        fmt::format("{} has no attribute {}", repr_of_text(describe(input)), repr_of_text(name)));
  };
  table["last"] = last_filter;
  table["items"] = items_filter;
  table["sort"] = sort_filter;
  table["dictsort"] = dictsort_filter;
  table["unique"] = unique_filter;
  table["min"] = extreme_filter("min", false);
  table["max"] = extreme_filter("max", true);
  table["map"] = map_filter;
  table["select"] = select_filter("select", true, false);
  table["reject"] = select_filter("reject", false, false);
  table["selectattr"] = select_filter("selectattr", true, true);
  table["rejectattr"] = select_filter("rejectattr", false, true);
  table["join"] = join_filter;
  table["groupby"] = groupby_filter;
  table["sum"] = sum_filter;
  table["batch"] = batch_filter;
  table["slice"] = slice_filter;
  table["reverse"] = reverse_filter;
}

const FilterTable& filters() {
  static const FilterTable table = [] {
    FilterTable all;
    add_text_filters(all);
    add_list_filters(all);
    return all;
  }();
  return table;
}

Value Interpreter::call_filter(const std::string& name, const Value& input,
                               const Arguments& arguments) {
  const auto found = filters().find(name);
  if (found == filters().end()) fail("No filter named '{}'.", name);
  charge(1 + (input.is_list() ? input.items().size() : 0));
  return found->second(*this, input, arguments);
}

}  // namespace sala::jinja
