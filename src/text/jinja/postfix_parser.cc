#include <fmt/format.h>

#include "text/jinja/errors.h"
#include "text/jinja/expression_parser.h"

namespace sala::jinja {

using Kind = Expression::Kind;

ExpressionPtr ExpressionParser::parse_list() {
  auto expression = make(Kind::kList, stream_.next().line);
  while (!stream_.is_operator("]")) {
    if (!expression->children.empty()) stream_.expect_operator(",");
    if (stream_.is_operator("]")) break;
    expression->children.push_back(parse());
  }
  stream_.expect_operator("]");
  return finish(std::move(expression));
}

ExpressionPtr ExpressionParser::parse_dict() {
  auto expression = make(Kind::kDict, stream_.next().line);
  while (!stream_.is_operator("}")) {
    if (!expression->children.empty()) stream_.expect_operator(",");
    if (stream_.is_operator("}")) break;
    expression->children.push_back(parse());
    stream_.expect_operator(":");
    expression->children.push_back(parse());
  }
  stream_.expect_operator("}");
  return finish(std::move(expression));
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr object) {
  const Token token = stream_.next();
  if (token.text == ".") {
    const Token member = stream_.next();
    auto expression =
        make(member.kind == Token::Kind::kName ? Kind::kMember : Kind::kIndex, token.line);
    expression->children.push_back(std::move(object));
    if (member.kind == Token::Kind::kName) {
      expression->text = member.text;
    } else if (member.kind == Token::Kind::kInteger && member.text.size() < 10) {
      auto index = make(Kind::kConstant, member.line);
      index->constant = Value(static_cast<int64_t>(std::stol(member.text)));
      expression->children.push_back(std::move(index));
    } else {
      fail_at(member.line, "expected name or number");
    }
    return finish(std::move(expression));
  }
  auto expression = make(Kind::kIndex, token.line);
  expression->children.push_back(std::move(object));
  std::vector<ExpressionPtr> indices;
  while (!stream_.is_operator("]")) {
    if (!indices.empty()) stream_.expect_operator(",");
    indices.push_back(parse_index());
  }
  stream_.expect_operator("]");
  if (indices.size() == 1) {
    expression->children.push_back(std::move(indices[0]));
  } else {
    auto tuple = make(Kind::kTuple, token.line);
    tuple->children = std::move(indices);
    expression->children.push_back(finish(std::move(tuple)));
  }
  return finish(std::move(expression));
}

/// What stands in brackets: an expression or start:stop:step.
ExpressionPtr ExpressionParser::parse_index() {
  auto slice = make(Kind::kSlice, stream_.current().line);
  if (!stream_.is_operator(":")) {
    auto expression = parse();
    if (!stream_.is_operator(":")) return expression;
    slice->children.push_back(std::move(expression));
  } else {
    slice->children.push_back(nullptr);
  }
  stream_.next();
  const auto part = [&]() -> ExpressionPtr {
    if (stream_.is_operator(":") || stream_.is_operator("]") || stream_.is_operator(","))
      return nullptr;
    return parse();
  };
  slice->children.push_back(part());
  slice->children.push_back(stream_.skip_operator(":") ? part() : nullptr);
  return finish(std::move(slice));
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr callee) {
  auto expression = make(Kind::kCall, stream_.current().line);
  expression->children.push_back(std::move(callee));
  parse_arguments(*expression);
  return finish(std::move(expression));
}

void ExpressionParser::parse_arguments(Expression& call) {
  const int line = stream_.current().line;
  const auto ensure = [&](bool valid) {
    if (!valid) fail_at(line, "invalid syntax for function call expression");
  };
  stream_.expect_operator("(");
  for (bool first = true; !stream_.is_operator(")"); first = false) {
    if (!first) {
      stream_.expect_operator(",");
      if (stream_.is_operator(")")) break;
    }
    if (stream_.skip_operator("*")) {
      ensure(call.star == nullptr && call.star_star == nullptr);
      call.star = parse();
    } else if (stream_.skip_operator("**")) {
      ensure(call.star_star == nullptr);
      call.star_star = parse();
    } else if (stream_.current().kind == Token::Kind::kName &&
               stream_.ahead().kind == Token::Kind::kOperator && stream_.ahead().text == "=") {
      ensure(call.star_star == nullptr);
      std::string name = stream_.next().text;
      stream_.next();
      call.keywords.emplace_back(std::move(name), parse());
    } else {
      ensure(call.star == nullptr && call.star_star == nullptr && call.keywords.empty());
      call.children.push_back(parse());
    }
  }
  stream_.expect_operator(")");
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr input, bool bare) {
  while (bare || stream_.is_operator("|")) {
    if (!bare) stream_.next();
    bare = false;
    const Token name = stream_.expect(Token::Kind::kName, "name");
    auto filter = make(Kind::kFilter, name.line);
    filter->text = name.text;
    while (stream_.skip_operator("."))
      filter->text.append(".").append(stream_.expect(Token::Kind::kName, "name").text);
    filter->children.push_back(std::move(input));
    if (stream_.is_operator("(")) parse_arguments(*filter);
    input = finish(std::move(filter));
  }
  return input;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr input) {
  const int line = stream_.next().line;
  const bool negated = stream_.skip_name("not");
  auto test = make(Kind::kTest, line);
  test->text = stream_.expect(Token::Kind::kName, "name").text;
  while (stream_.skip_operator("."))
    test->text.append(".").append(stream_.expect(Token::Kind::kName, "name").text);
  test->children.push_back(std::move(input));
  const Token& token = stream_.current();
  const bool literal = token.kind == Token::Kind::kName || token.kind == Token::Kind::kString ||
                       token.kind == Token::Kind::kInteger || token.kind == Token::Kind::kFloat ||
                       stream_.is_operator("[") || stream_.is_operator("{");
  const bool keyword = stream_.is_name("else") || stream_.is_name("or") || stream_.is_name("and");
  if (stream_.is_operator("(")) {
    parse_arguments(*test);
  } else if (literal && !keyword) {
    if (stream_.is_name("is")) fail_at(token.line, "You cannot chain multiple tests with is");
    test->children.push_back(parse_postfix(parse_primary(false)));
  }
  auto expression = finish(std::move(test));
  if (!negated) return expression;
  auto inverse = make(Kind::kUnary, line);
  inverse->text = "not";
  inverse->children.push_back(std::move(expression));
  return finish(std::move(inverse));
}

}  // namespace sala::jinja
