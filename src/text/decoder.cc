#include "text/decoder.h"

#include <charconv>
#include <initializer_list>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "text/byte_alphabet.h"
#include "text/json_fields.h"
#include "text/normalizer.h"
#include "text/unicode.h"

namespace sala {
namespace {

Decoder::Pieces fuse(Decoder::Pieces pieces) {
  std::string all;
  for (const std::string& piece : pieces) all.append(piece);
  return {std::move(all)};
}

Decoder::Pieces join_letters(Decoder::Pieces pieces) {
  std::string bytes;
  for (const std::string& piece : pieces) bytes.append(bytes_of_letters(piece));
  return {repair_utf8(bytes, Repair::kMaximalSubpart)};
}

/// Runs of byte tokens become text; a run that is not valid as a whole becomes one U+FFFD per byte.
Decoder::Pieces join_byte_tokens(Decoder::Pieces pieces) {
  Decoder::Pieces out;
  std::string run;
  const auto end_run = [&] {
    if (run.empty()) return;
    if (find_invalid_utf8(run) == run.size()) {
      out.push_back(run);
    } else {
      for (size_t i = 0; i < run.size(); ++i) out.emplace_back(kReplacement);
    }
    run.clear();
  };
  for (std::string& piece : pieces) {
    if (const int byte = byte_of_token(piece); byte >= 0) {
      run.push_back(static_cast<char>(byte));
    } else {
      end_run();
      out.push_back(std::move(piece));
    }
  }
  end_run();
  return out;
}

/// Runs of byte tokens become text, each invalid byte U+FFFD.
Decoder::Pieces join_byte_characters(Decoder::Pieces pieces) {
  Decoder::Pieces out;
  std::string run;
  for (std::string& piece : pieces) {
    if (const int byte = byte_of_token(piece); byte >= 0) {
      run.push_back(static_cast<char>(byte));
      continue;
    }
    out.push_back(repair_utf8(std::exchange(run, {}), Repair::kEachByte));
    out.push_back(std::move(piece));
  }
  out.push_back(repair_utf8(run, Repair::kEachByte));
  return out;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  while (!from.empty()) {
    const size_t hit = text.find(from);
    if (hit == std::string_view::npos) break;
    out.append(text.substr(0, hit)).append(to);
    text.remove_prefix(hit + from.size());
  }
  return out.append(text);
}

std::string clean_up(std::string text) {
  for (const auto& [from, to] :
       std::initializer_list<std::pair<const char*, const char*>>{{" .", "."},
                                                                  {" ?", "?"},
                                                                  {" !", "!"},
                                                                  {" ,", ","},
                                                                  {" ' ", "'"},
                                                                  {" n't", "n't"},
                                                                  {" 'm", "'m"},
                                                                  {" do not", " don't"},
                                                                  {" 's", "'s"},
                                                                  {" 've", "'ve"},
                                                                  {" 're", "'re"}})
    text = replace_all(text, from, to);
  return text;
}

/// Whether two bytes are hexadecimal digits as Rust's from_str_radix takes them, which also takes a
/// leading plus.
int hex_byte(std::string_view digits) {
  if (digits[0] == '+') digits.remove_prefix(1);
  unsigned value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return error == std::errc() && end == digits.data() + digits.size() ? static_cast<int>(value)
                                                                      : -1;
}

}  // namespace

int byte_of_token(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  return hex_byte(piece.substr(3, 2));
}

std::string bytes_of_letters(std::string_view piece) {
  std::string bytes;
  for (size_t at = 0; at < piece.size();) {
    const Utf8Char c = decode_utf8(piece.substr(at, 4));
    const int byte = c.length == 0 ? -1 : letter_to_byte(c.code);
    if (byte < 0) return std::string(piece);
    bytes.push_back(static_cast<char>(byte));
    at += static_cast<size_t>(c.length);
  }
  return bytes;
}

Decoder Decoder::sentencepiece(const SentencePiece& model) {
  static constexpr std::string_view kMark = "\xE2\x96\x81";
  Decoder decoder;
  decoder.streaming_.first_mark = model.strips_first_mark;
  decoder.streaming_.all_marks = model.strips_all_marks;
  decoder.steps_.push_back([model](Pieces pieces) {
    bool strips = model.strips_first_mark;
    for (std::string& piece : pieces) {
      if (byte_of_token(piece) >= 0) {
        strips = false;
        continue;
      }
      const bool marked = strips && piece != model.unknown && piece.starts_with(kMark);
      if (marked) piece.erase(0, kMark.size());
      if (!piece.empty() || (marked && !model.strips_all_marks)) strips = false;
    }
    return pieces;
  });
  decoder.add_rewrite([model](std::string_view piece, bool) {
    return piece == model.unknown ? model.unknown_surface : replace_all(piece, kMark, " ");
  });
  decoder.streaming_.byte_tokens = true;
  decoder.steps_.emplace_back(join_byte_characters);
  return decoder;
}

Decoder Decoder::from_json(const Json& json, const std::string& where) {
  Decoder decoder;
  if (json.is_null()) {
    decoder.joins_with_spaces_ = true;
    decoder.streaming_.possible = false;
  } else {
    decoder.add_json(json, where);
  }
  return decoder;
}

std::string Decoder::decode(Pieces pieces) const {
  for (const Step& step : steps_) pieces = step(std::move(pieces));
  std::string out;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (joins_with_spaces_ && i > 0) out.push_back(' ');
    out.append(pieces[i]);
  }
  return out;
}

void Decoder::add_rewrite(Rewrite rewrite) {
  steps_.push_back([rewrite](Pieces pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) pieces[i] = rewrite(pieces[i], i == 0);
    return pieces;
  });
  if (fused_ || streaming_.byte_tokens) streaming_.possible = false;
  streaming_.rewrites.push_back(std::move(rewrite));
}

void Decoder::add_strip(const Json& json, const std::string& where) {
  const std::string content = string_field(json, "content", where);
  const Utf8Char c = decode_utf8(content);
  if (c.length == 0 || static_cast<size_t>(c.length) != content.size())
    fail("{}: 'content' is '{}', expected one character", where, content);
  const auto start = static_cast<size_t>(int_field(json, "start", 0, where));
  const auto stop = static_cast<size_t>(int_field(json, "stop", 0, where));
  const bool streams = fused_ && stop == 0 && streaming_.strip == 0;
  const bool possible = streaming_.possible && streams;
  add_rewrite([content, start, stop](std::string_view piece, bool) {
    for (size_t i = 0; i < start && piece.starts_with(content); ++i)
      piece.remove_prefix(content.size());
    for (size_t i = 0; i < stop && piece.ends_with(content); ++i)
      piece.remove_suffix(content.size());
    return std::string(piece);
  });
  streaming_.possible = possible;
  streaming_.rewrites.pop_back();
  streaming_.stripped = c.code;
  streaming_.strip = start;
}

void Decoder::add_metaspace(const Json& json, const std::string& where) {
  const std::string mark = string_field(json, "replacement", where);
  const Json& scheme = field(json, "prepend_scheme", where);
  const bool prepends = bool_field(json, "add_prefix_space", true, where) && scheme != "never";
  add_rewrite([mark, prepends](std::string_view piece, bool first) {
    return replace_all(piece, mark, first && prepends ? "" : " ");
  });
}

void Decoder::add_json(const Json& json, const std::string& where) {
  const std::string type = string_field(json, "type", where);
  if (type == "Sequence") {
    for (const Json& part : array_field(json, "decoders", where)) add_json(part, where);
  } else if (type == "ByteLevel") {
    if (!steps_.empty()) streaming_.possible = false;
    streaming_.byte_letters = fused_ = true;
    steps_.emplace_back(join_letters);
  } else if (type == "ByteFallback") {
    if (fused_ || streaming_.byte_tokens) streaming_.possible = false;
    streaming_.byte_tokens = true;
    steps_.emplace_back(join_byte_tokens);
  } else if (type == "Fuse") {
    fused_ = true;
    steps_.emplace_back(fuse);
  } else if (type == "Strip") {
    add_strip(json, where + ": Strip");
  } else if (type == "Replace") {
    const auto replace = replace_step(field(json, "pattern", where),
                                      string_field(json, "content", where), where + ": Replace");
    add_rewrite([replace](std::string_view piece, bool) { return replace(piece); });
  } else if (type == "Metaspace") {
    add_metaspace(json, where + ": Metaspace");
  } else if (type == "BPEDecoder") {
    const std::string suffix = string_field(json, "suffix", where);
    streaming_.possible = false;
    steps_.push_back([suffix](Pieces pieces) {
      for (size_t i = 0; i < pieces.size(); ++i)
        pieces[i] = replace_all(pieces[i], suffix, i + 1 == pieces.size() ? "" : " ");
      return pieces;
    });
  } else if (type == "WordPiece") {
    const std::string prefix = string_field(json, "prefix", where);
    const bool cleanup = bool_field(json, "cleanup", true, where);
    streaming_.possible = false;
    steps_.push_back([prefix, cleanup](Pieces pieces) {
      for (size_t i = 0; i < pieces.size(); ++i) {
        if (i > 0)
          pieces[i] =
              pieces[i].starts_with(prefix) ? pieces[i].substr(prefix.size()) : " " + pieces[i];
        if (cleanup) pieces[i] = clean_up(std::move(pieces[i]));
      }
      return pieces;
    });
  } else {
    fail(
        "{}: decoder '{}' is not supported; supported are Sequence, ByteLevel, ByteFallback, Fuse, "
        "Strip, Replace, "
        "Metaspace, BPEDecoder and WordPiece",
        where, type);
  }
}

}  // namespace sala
