#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace sala::jinja {

/// The tokens of a template and a place among them, and the names of variables met so far.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token next();

  bool is_operator(std::string_view text) const {
    return current().kind == Token::Kind::kOperator && current().text == text;
  }
  bool is_name(std::string_view text) const {
    return current().kind == Token::Kind::kName && current().text == text;
  }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  /// Takes a token of `kind`; `what` names it in the message if it is not one.
  Token expect(Token::Kind kind, std::string_view what);
  [[noreturn]] void fail_unexpected(std::string_view expected) const;

  /// The index of a variable's name.
  int intern(const std::string& name);
  std::vector<std::string> names;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
  std::unordered_map<std::string, int> indices_;
};

/// The expression half of the grammar. Nesting is bounded. Throws LineError.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : stream_(stream) {}

  struct TupleOptions {
    bool conditional = true;    ///< "a if b" is taken
    std::string_view end = "";  ///< a name that ends the tuple
    bool parentheses = false;   ///< in parentheses: may be empty
    bool targets = false;       ///< only names and literals, for assignment
    bool namespaces = false;    ///< ns.name is a target
  };

  ExpressionPtr parse() { return parse_conditional(); }
  /// An expression, or several with commas between them.
  ExpressionPtr parse_tuple(TupleOptions options);
  ExpressionPtr parse_tuple() { return parse_tuple(TupleOptions{}); }
  /// What can be assigned to.
  ExpressionPtr parse_target(TupleOptions options);
  /// A chain of filters; `bare`: the first has no "|". Gives `input` back when there is none.
  ExpressionPtr parse_filters(ExpressionPtr input, bool bare);

 private:
  ExpressionPtr make(Expression::Kind kind, int line) const;
  ExpressionPtr finish(ExpressionPtr expression) const;
  ExpressionPtr binary(std::string_view operation, int line, ExpressionPtr left,
                       ExpressionPtr right) const;

  ExpressionPtr parse_conditional();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filter);
  ExpressionPtr parse_primary(bool namespaces);
  ExpressionPtr parse_name(bool namespaces);
  ExpressionPtr parse_number();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr expression);
  ExpressionPtr parse_filter_or_test(ExpressionPtr expression);
  ExpressionPtr parse_subscript(ExpressionPtr object);
  ExpressionPtr parse_index();
  ExpressionPtr parse_call(ExpressionPtr callee);
  ExpressionPtr parse_test(ExpressionPtr input);
  void parse_arguments(Expression& call);
  bool ends_tuple(const TupleOptions& options) const;

  TokenStream& stream_;
  int depth_ = 0;
};

}  // namespace sala::jinja
