#include "text/json_progress.h"

#include "base/json.h"

namespace sala {
namespace {

bool is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

bool begins_word(char c) {
  return c == '-' || (c >= '0' && c <= '9') || c == 't' || c == 'f' || c == 'n';
}

bool continues_word(char c) {
  return c == '-' || c == '+' || c == '.' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
         c == 'E';
}

}  // namespace

JsonProgress::Is JsonProgress::step(char c) {
  if (in_string_) return step_string(c);
  if (in_word_ && continues_word(c)) return Is::open;
  in_word_ = false;
  return is_json_space(c) ? Is::open : step_structure(c);
}

JsonProgress::Is JsonProgress::step_string(char c) {
  if (static_cast<unsigned char>(c) < 0x20) return Is::broken;
  if (hex_ > 0) {
    --hex_;
    return is_hex(c) ? Is::open : Is::broken;
  }
  if (escaped_) {
    escaped_ = false;
    if (c == 'u') hex_ = 4;
    return std::string_view("\"\\/bfnrtu").find(c) != std::string_view::npos ? Is::open
                                                                             : Is::broken;
  }
  if (c == '\\') escaped_ = true;
  if (c == '"') in_string_ = false;
  return Is::open;
}

JsonProgress::Is JsonProgress::step_structure(char c) {
  const bool value = expects_ == Expects::value || expects_ == Expects::item_or_end;
  const bool key = expects_ == Expects::key || expects_ == Expects::key_or_end;
  if (value && (c == '{' || c == '[')) return open(c);
  if (c == '}' || c == ']') return close(c);
  // A bare string or word is valid JSON, but nothing tells where it ends.
  if (brackets_.empty()) return Is::broken;
  if (c == '"' && (value || key)) {
    in_string_ = true;
    expects_ = key ? Expects::colon : Expects::comma_or_end;
    return Is::open;
  }
  if (value && begins_word(c)) {
    in_word_ = true;
    expects_ = Expects::comma_or_end;
    return Is::open;
  }
  if (c == ':' && expects_ == Expects::colon) {
    expects_ = Expects::value;
    return Is::open;
  }
  if (c == ',' && expects_ == Expects::comma_or_end) {
    expects_ = brackets_.back() == '{' ? Expects::key : Expects::value;
    return Is::open;
  }
  return Is::broken;
}

JsonProgress::Is JsonProgress::open(char bracket) {
  if (std::ssize(brackets_) == kMostJsonDepth) return Is::broken;
  brackets_ += bracket;
  expects_ = bracket == '{' ? Expects::key_or_end : Expects::item_or_end;
  return Is::open;
}

JsonProgress::Is JsonProgress::close(char bracket) {
  const bool may_end = expects_ == Expects::comma_or_end || expects_ == Expects::key_or_end ||
                       expects_ == Expects::item_or_end;
  if (!may_end || brackets_.empty() || (brackets_.back() == '{') != (bracket == '}'))
    return Is::broken;
  brackets_.pop_back();
  expects_ = Expects::comma_or_end;
  return brackets_.empty() ? Is::whole : Is::open;
}

std::string_view trim_json_space(std::string_view text) {
  while (!text.empty() && is_json_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_json_space(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> json_pieces(std::string_view json) {
  std::vector<std::string_view> pieces;
  int depth = 0;
  bool in_string = false;
  size_t begin = 0;
  const auto cut = [&](size_t end) {
    const std::string_view piece = trim_json_space(json.substr(begin, end - begin));
    if (!piece.empty()) pieces.push_back(piece);
    begin = end + 1;
  };
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth == 1) begin = i + 1;
    } else if (c == '}' || c == ']') {
      if (--depth == 0) cut(i);
    } else if (depth == 1 && (c == ',' || c == ':')) {
      cut(i);
    }
  }
  return pieces;
}

}  // namespace sala
