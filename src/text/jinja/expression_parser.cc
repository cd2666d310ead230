#include "text/jinja/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "text/jinja/errors.h"

namespace sala::jinja {

using Kind = Expression::Kind;

namespace {

// Deep enough for any real template, shallow enough for the stack that parsing and evaluation need.
constexpr int kMaxNesting = 200;
constexpr int kMaxDepth = 250;

std::string describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kEnd:
      return "end of template";
    case Token::Kind::kBlockEnd:
      return "end of statement block";
    case Token::Kind::kVariableEnd:
      return "end of print statement";
    case Token::Kind::kBlockBegin:
      return "begin of statement block";
    case Token::Kind::kVariableBegin:
      return "begin of print statement";
    case Token::Kind::kData:
      return "template data / text";
    case Token::Kind::kString:
      return "string";
    default:
      return token.text;
  }
}

/// Counts a level of recursion while it lives.
class Level {
 public:
  Level(int& depth, int line) : depth_(depth) {
    if (++depth_ > kMaxNesting)
      fail_at(line, fmt::format("expressions are nested more than {} deep", kMaxNesting));
  }
  ~Level() { --depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  int& depth_;
};

}  // namespace

Token TokenStream::next() {
  Token token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::skip_operator(std::string_view text) {
  const bool found = is_operator(text);
  if (found) next();
  return found;
}

bool TokenStream::skip_name(std::string_view text) {
  const bool found = is_name(text);
  if (found) next();
  return found;
}

void TokenStream::fail_unexpected(std::string_view expected) const {
  fail_at(current().line,
          fmt::format("expected token '{}', got '{}'", expected, describe(current())));
}

void TokenStream::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail_unexpected(text);
}

void TokenStream::expect_name(std::string_view text) {
  if (!skip_name(text)) fail_unexpected(text);
}

Token TokenStream::expect(Token::Kind kind, std::string_view what) {
  if (current().kind != kind) fail_unexpected(what);
  return next();
}

int TokenStream::intern(const std::string& name) {
  const auto [it, fresh] = indices_.try_emplace(name, static_cast<int>(names.size()));
  if (fresh) names.push_back(name);
  return it->second;
}

ExpressionPtr ExpressionParser::make(Kind kind, int line) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  return expression;
}

/// Bounds how deep the tree has become: chains like a.b.c or a + b + c are deep without nesting.
ExpressionPtr ExpressionParser::finish(ExpressionPtr expression) const {
  int deepest = 0;
  const auto look = [&](const ExpressionPtr& child) {
    if (child != nullptr) deepest = std::max(deepest, child->depth);
  };
  for (const auto& child : expression->children) look(child);
  for (const auto& [_, child] : expression->keywords) look(child);
  look(expression->star);
  look(expression->star_star);
  expression->depth = deepest + 1;
  if (expression->depth > kMaxDepth)
    fail_at(
        expression->line,
        fmt::format("the expression has more than {} operations one inside the other", kMaxDepth));
  return expression;
}

ExpressionPtr ExpressionParser::binary(std::string_view operation, int line, ExpressionPtr left,
                                       ExpressionPtr right) const {
  auto expression = make(Kind::kBinary, line);
  expression->text = operation;
  expression->children.push_back(std::move(left));
  expression->children.push_back(std::move(right));
  return finish(std::move(expression));
}

bool ExpressionParser::ends_tuple(const TupleOptions& options) const {
  const Token& token = stream_.current();
  return token.kind == Token::Kind::kVariableEnd || token.kind == Token::Kind::kBlockEnd ||
         stream_.is_operator(")") || (!options.end.empty() && stream_.is_name(options.end));
}

ExpressionPtr ExpressionParser::parse_tuple(TupleOptions options) {
  const int line = stream_.current().line;
  std::vector<ExpressionPtr> items;
  bool tuple = false;
  while (true) {
    if (!items.empty()) stream_.expect_operator(",");
    if (ends_tuple(options)) break;
    items.push_back(options.targets       ? parse_primary(options.namespaces)
                    : options.conditional ? parse_conditional()
                                          : parse_or());
    if (!stream_.is_operator(",")) break;
    tuple = true;
  }
  if (!tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!options.parentheses)
      fail_at(line, fmt::format("Expected an expression, got '{}'", describe(stream_.current())));
  }
  auto expression = make(Kind::kTuple, line);
  expression->children = std::move(items);
  return finish(std::move(expression));
}

ExpressionPtr ExpressionParser::parse_target(TupleOptions options) {
  options.targets = true;
  auto target = parse_tuple(options);
  const auto check = [](const auto& self, const Expression& each) -> void {
    if (each.kind == Kind::kTuple || each.kind == Kind::kList) {
      for (const auto& child : each.children) self(self, *child);
    } else if (each.kind != Kind::kName && each.kind != Kind::kNamespaceRef) {
      fail_at(
          each.line,
          "can't assign to this expression; expected a name, names with commas or namespace.name");
    }
  };
  check(check, *target);
  return target;
}

ExpressionPtr ExpressionParser::parse_conditional() {
  const int line = stream_.current().line;
  const Level level(depth_, line);
  auto value = parse_or();
  while (stream_.skip_name("if")) {
    auto expression = make(Kind::kConditional, line);
    expression->children.push_back(parse_or());
    expression->children.push_back(std::move(value));
    if (stream_.skip_name("else")) expression->children.push_back(parse_conditional());
    value = finish(std::move(expression));
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  const int line = stream_.current().line;
  auto left = parse_and();
  while (stream_.skip_name("or")) left = binary("or", line, std::move(left), parse_and());
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  const int line = stream_.current().line;
  auto left = parse_not();
  while (stream_.skip_name("and")) left = binary("and", line, std::move(left), parse_not());
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  const int line = stream_.current().line;
  if (!stream_.skip_name("not")) return parse_compare();
  const Level level(depth_, line);
  auto expression = make(Kind::kUnary, line);
  expression->text = "not";
  expression->children.push_back(parse_not());
  return finish(std::move(expression));
}

ExpressionPtr ExpressionParser::parse_compare() {
  static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  auto expression = make(Kind::kCompare, stream_.current().line);
  expression->children.push_back(parse_sum());
  while (true) {
    const Token& token = stream_.current();
    if (token.kind == Token::Kind::kOperator &&
        std::ranges::find(kOperators, token.text) != kOperators.end()) {
      expression->texts.push_back(stream_.next().text);
    } else if (stream_.skip_name("in")) {
      expression->texts.emplace_back("in");
    } else if (stream_.is_name("not") && stream_.ahead().kind == Token::Kind::kName &&
               stream_.ahead().text == "in") {
      stream_.next();
      stream_.next();
      expression->texts.emplace_back("not in");
    } else {
      break;
    }
    expression->children.push_back(parse_sum());
  }
  if (expression->texts.empty()) return std::move(expression->children[0]);
  return finish(std::move(expression));
}

ExpressionPtr ExpressionParser::parse_sum() {
  const int line = stream_.current().line;
  auto left = parse_concat();
  while (stream_.is_operator("+") || stream_.is_operator("-")) {
    const std::string operation = stream_.next().text;
    left = binary(operation, line, std::move(left), parse_concat());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concat() {
  auto expression = make(Kind::kConcat, stream_.current().line);
  expression->children.push_back(parse_product());
  while (stream_.skip_operator("~")) expression->children.push_back(parse_product());
  if (expression->children.size() == 1) return std::move(expression->children[0]);
  return finish(std::move(expression));
}

ExpressionPtr ExpressionParser::parse_product() {
  const int line = stream_.current().line;
  auto left = parse_power();
  while (stream_.is_operator("*") || stream_.is_operator("/") || stream_.is_operator("//") ||
         stream_.is_operator("%")) {
    const std::string operation = stream_.next().text;
    left = binary(operation, line, std::move(left), parse_power());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  const int line = stream_.current().line;
  auto left = parse_unary(true);
  while (stream_.skip_operator("**")) left = binary("**", line, std::move(left), parse_unary(true));
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filter) {
  const int line = stream_.current().line;
  const Level level(depth_, line);
  ExpressionPtr expression;
  if (stream_.is_operator("-") || stream_.is_operator("+")) {
    expression = make(Kind::kUnary, line);
    expression->text = stream_.next().text;
    expression->children.push_back(parse_unary(false));
    expression = finish(std::move(expression));
  } else {
    expression = parse_primary(false);
  }
  expression = parse_postfix(std::move(expression));
  return with_filter ? parse_filter_or_test(std::move(expression)) : std::move(expression);
}

ExpressionPtr ExpressionParser::parse_primary(bool namespaces) {
  const Token& token = stream_.current();
  const int line = token.line;
  const Level level(depth_, line);
  if (token.kind == Token::Kind::kName) return parse_name(namespaces);
  if (token.kind == Token::Kind::kInteger || token.kind == Token::Kind::kFloat)
    return parse_number();
  if (token.kind == Token::Kind::kString) {
    std::string text;
    while (stream_.current().kind == Token::Kind::kString) text += stream_.next().text;
    auto expression = make(Kind::kConstant, line);
    expression->constant = Value(std::move(text));
    return expression;
  }
  if (stream_.skip_operator("(")) {
    auto expression = parse_tuple({.parentheses = true});
    stream_.expect_operator(")");
    return expression;
  }
  if (stream_.is_operator("[")) return parse_list();
  if (stream_.is_operator("{")) return parse_dict();
  fail_at(line, fmt::format("unexpected '{}'", describe(token)));
}

ExpressionPtr ExpressionParser::parse_name(bool namespaces) {
  const Token token = stream_.next();
  auto expression = make(Kind::kConstant, token.line);
  const std::string& text = token.text;
  if (text == "true" || text == "True" || text == "false" || text == "False") {
    expression->constant = Value(text == "true" || text == "True");
  } else if (text != "none" && text != "None") {
    expression->kind = Kind::kName;
    expression->name = stream_.intern(text);
    expression->text = text;
    if (namespaces && stream_.skip_operator(".")) {
      expression->kind = Kind::kNamespaceRef;
      expression->text = stream_.expect(Token::Kind::kName, "name").text;
    }
  }
  return expression;
}

ExpressionPtr ExpressionParser::parse_number() {
  const Token token = stream_.next();
  auto expression = make(Kind::kConstant, token.line);
  const std::string& text = token.text;
  if (token.kind == Token::Kind::kFloat) {
    expression->constant = Value(std::strtod(text.c_str(), nullptr));
    return expression;
  }
  const bool prefixed = text.size() > 1 && text[0] == '0' && (text[1] < '0' || text[1] > '9');
  const int base = !prefixed ? 10 : (text[1] | 32) == 'x' ? 16 : (text[1] | 32) == 'o' ? 8 : 2;
  const char* begin = text.data() + (prefixed ? 2 : 0);
  int64_t number = 0;
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), number, base);
  if (error != std::errc() || end != text.data() + text.size())
    fail_at(token.line, fmt::format("the number {} is not valid or does not fit 64 bits", text));
  expression->constant = Value(number);
  return expression;
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr expression) {
  while (true) {
    if (stream_.is_operator(".") || stream_.is_operator("[")) {
      expression = parse_subscript(std::move(expression));
    } else if (stream_.is_operator("(")) {
      expression = parse_call(std::move(expression));
    } else {
      return expression;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filter_or_test(ExpressionPtr expression) {
  while (true) {
    if (stream_.is_operator("|")) {
      expression = parse_filters(std::move(expression), false);
    } else if (stream_.is_name("is")) {
      expression = parse_test(std::move(expression));
    } else if (stream_.is_operator("(")) {
      expression = parse_call(std::move(expression));
    } else {
      return expression;
    }
  }
}

}  // namespace sala::jinja
