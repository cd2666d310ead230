#include "text/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "text/jinja/errors.h"
#include "text/jinja/expression_parser.h"
#include "text/jinja/lexer.h"

namespace sala::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

constexpr int kMaxBlockDepth = 100;

class Parser {
 public:
  explicit Parser(std::string_view source) : stream_(tokenize(source)), expressions_(stream_) {}

  Template run() {
    Template result;
    result.body = parse_block({});
    result.names = std::move(stream_.names);
    return result;
  }

 private:
  static StatementPtr make(Statement::Kind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  /// Statements up to a tag named in `ends`, which stays the current token; up to the end of the
  /// template when empty.
  Block parse_block(std::initializer_list<std::string_view> ends) {
    if (++depth_ > kMaxBlockDepth)
      fail_at(stream_.current().line,
              fmt::format("blocks are nested more than {} deep", kMaxBlockDepth));
    Block block;
    while (!at_end(ends, block)) {
      const Token& token = stream_.current();
      if (token.kind == Token::Kind::kData) {
        auto text = make(Statement::Kind::kText, token.line);
        text->text = stream_.next().text;
        block.push_back(std::move(text));
      } else if (token.kind == Token::Kind::kVariableBegin) {
        auto print = make(Statement::Kind::kPrint, stream_.next().line);
        print->values.push_back(expressions_.parse_tuple());
        stream_.expect(Token::Kind::kVariableEnd, "end of print statement");
        block.push_back(std::move(print));
      }
    }
    --depth_;
    return block;
  }

  /// Looks at a tag: true when it ends the block; else a statement is parsed and added.
  bool at_end(std::initializer_list<std::string_view> ends, Block& block) {
    const Token& token = stream_.current();
    if (token.kind == Token::Kind::kEnd) {
      if (ends.size() == 0) return true;
      fail_at(
          token.line,
          fmt::format("Unexpected end of template. Jinja was looking for the following tags: '{}'.",
                      fmt::join(ends, "' or '")));
    }
    if (token.kind != Token::Kind::kBlockBegin) return false;
    stream_.next();
    const Token& tag = stream_.current();
    if (tag.kind != Token::Kind::kName) fail_at(tag.line, "tag name expected");
    if (std::ranges::find(ends, tag.text) != ends.end()) return true;
    parse_statement(block);
    stream_.expect(Token::Kind::kBlockEnd, "end of statement block");
    return false;
  }

  Block parse_body(std::initializer_list<std::string_view> ends) {
    stream_.skip_operator(":");
    stream_.expect(Token::Kind::kBlockEnd, "end of statement block");
    return parse_block(ends);
  }

  /// A body whose end tag is consumed too.
  Block parse_whole_body(std::string_view end) {
    Block body = parse_body({end});
    stream_.next();
    return body;
  }

  void parse_statement(Block& block) {
    const Token tag = stream_.next();
    if (tag.text == "if") {
      block.push_back(parse_if(tag.line));
    } else if (tag.text == "for") {
      block.push_back(parse_for(tag.line));
    } else if (tag.text == "set") {
      block.push_back(parse_set(tag.line));
    } else if (tag.text == "macro") {
      block.push_back(parse_macro(tag.line));
    } else if (tag.text == "call") {
      block.push_back(parse_call(tag.line));
    } else if (tag.text == "filter") {
      auto filter = make(Statement::Kind::kFilter, tag.line);
      filter->values.push_back(expressions_.parse_filters(nullptr, true));
      filter->blocks.push_back(parse_whole_body("endfilter"));
      block.push_back(std::move(filter));
    } else if (tag.text == "with") {
      block.push_back(parse_with(tag.line));
    } else if (tag.text == "generation") {
      auto scope = make(Statement::Kind::kScope, tag.line);
      scope->blocks.push_back(parse_whole_body("endgeneration"));
      block.push_back(std::move(scope));
    } else if (tag.text == "print") {
      parse_print(tag.line, block);
    } else if (tag.text == "break" || tag.text == "continue") {
      if (loops_ == 0) fail_at(tag.line, fmt::format("'{}' outside of a loop", tag.text));
      block.push_back(make(
          tag.text == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue, tag.line));
    } else {
      fail_unknown(tag);
    }
  }

  [[noreturn]] static void fail_unknown(const Token& tag) {
    for (const char* each : {"extends", "block", "include", "import", "from", "autoescape"})
      if (tag.text == each)
        fail_at(tag.line,
                fmt::format("the tag '{}' is not supported in a chat template, which is one file",
                            each));
    fail_at(tag.line, fmt::format("Encountered unknown tag '{}'.", tag.text));
  }

  StatementPtr parse_if(int line) {
    auto statement = make(Statement::Kind::kIf, line);
    while (true) {
      statement->values.push_back(expressions_.parse_tuple({.conditional = false}));
      statement->blocks.push_back(parse_body({"elif", "else", "endif"}));
      const Token tag = stream_.next();
      if (tag.text == "elif") continue;
      if (tag.text == "else") statement->blocks.push_back(parse_whole_body("endif"));
      return statement;
    }
  }

  StatementPtr parse_for(int line) {
    auto statement = make(Statement::Kind::kFor, line);
    statement->target = expressions_.parse_target({.end = "in"});
    stream_.expect_name("in");
    statement->values.push_back(
        expressions_.parse_tuple({.conditional = false, .end = "recursive"}));
    if (stream_.skip_name("if")) statement->values.push_back(expressions_.parse());
    statement->recursive = stream_.skip_name("recursive");
    ++loops_;
    statement->blocks.push_back(parse_body({"endfor", "else"}));
    --loops_;
    if (stream_.next().text == "else") statement->blocks.push_back(parse_whole_body("endfor"));
    return statement;
  }

  StatementPtr parse_set(int line) {
    auto target = expressions_.parse_target({.namespaces = true});
    if (stream_.skip_operator("=")) {
      auto statement = make(Statement::Kind::kSet, line);
      statement->target = std::move(target);
      statement->values.push_back(expressions_.parse_tuple());
      return statement;
    }
    auto statement = make(Statement::Kind::kSetBlock, line);
    statement->target = std::move(target);
    if (auto filters = expressions_.parse_filters(nullptr, false))
      statement->values.push_back(std::move(filters));
    statement->blocks.push_back(parse_function_body("endset"));
    return statement;
  }

  /// A body that prints into a text of its own: loops outside cannot be left from it.
  Block parse_function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Block body = parse_whole_body(end);
    loops_ = loops;
    return body;
  }

  void parse_parameters(std::vector<Parameter>& parameters) {
    stream_.expect_operator("(");
    while (!stream_.is_operator(")")) {
      if (!parameters.empty()) stream_.expect_operator(",");
      const Token name = stream_.expect(Token::Kind::kName, "name");
      Parameter parameter{.name = stream_.intern(name.text), .text = name.text};
      if (stream_.skip_operator("=")) {
        parameter.otherwise = expressions_.parse();
      } else if (!parameters.empty() && parameters.back().otherwise != nullptr) {
        fail_at(name.line, "non-default argument follows default argument");
      }
      parameters.push_back(std::move(parameter));
    }
    stream_.expect_operator(")");
  }

  StatementPtr parse_macro(int line) {
    auto statement = make(Statement::Kind::kMacro, line);
    const Token name = stream_.expect(Token::Kind::kName, "name");
    statement->name = stream_.intern(name.text);
    statement->text = name.text;
    parse_parameters(statement->parameters);
    statement->blocks.push_back(parse_function_body("endmacro"));
    return statement;
  }

  StatementPtr parse_call(int line) {
    auto statement = make(Statement::Kind::kCall, line);
    if (stream_.is_operator("(")) parse_parameters(statement->parameters);
    statement->values.push_back(expressions_.parse());
    if (statement->values[0]->kind != Expression::Kind::kCall) fail_at(line, "expected call");
    statement->blocks.push_back(parse_function_body("endcall"));
    return statement;
  }

  StatementPtr parse_with(int line) {
    auto statement = make(Statement::Kind::kScope, line);
    while (stream_.current().kind != Token::Kind::kBlockEnd) {
      if (!statement->assignments.empty()) stream_.expect_operator(",");
      auto target = expressions_.parse_target({});
      stream_.expect_operator("=");
      statement->assignments.emplace_back(std::move(target), expressions_.parse());
    }
    statement->blocks.push_back(parse_whole_body("endwith"));
    return statement;
  }

  void parse_print(int line, Block& block) {
    for (bool first = true; stream_.current().kind != Token::Kind::kBlockEnd; first = false) {
      if (!first) stream_.expect_operator(",");
      auto print = make(Statement::Kind::kPrint, line);
      print->values.push_back(expressions_.parse());
      block.push_back(std::move(print));
    }
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

Template parse(std::string_view source) { return Parser(source).run(); }

}  // namespace sala::jinja
