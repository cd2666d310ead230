#include "weights/safetensors_json.h"

#include <limits>
#include <set>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "weights/describe.h"

namespace sala {
namespace {

/// Events of the JSON parser; the readers below override what their format has. Everything else is
/// refused.
class Events : public nlohmann::json_sax<Json> {
 public:
  explicit Events(const std::string& file) : file_(file) {}
  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("a boolean"); }
  bool number_integer(int64_t value) override { return refuse(fmt::format("{}", value)); }
  bool number_unsigned(uint64_t value) override { return refuse(fmt::format("{}", value)); }
  bool number_float(double, const std::string& text) override { return refuse(text); }
  bool string(std::string& text) override { return refuse("the string " + printable(text)); }
  bool binary(Json::binary_t&) override { return refuse("binary data"); }
  bool start_array(size_t) override { return refuse("an array"); }
  bool end_array() override { return true; }
  bool start_object(size_t) override { return refuse("an object"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail("{}: {} is not valid JSON at byte {}; the file is damaged, obtain it again", file_, what(),
         position);
  }

  void read(std::string_view text) {
    // The library takes a NUL for the end and would ignore what follows.
    if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
      fail(
          "{}: {} is not valid JSON at byte {}, which is NUL; the file is damaged, obtain it again",
          file_, what(), nul);
    Json::sax_parse(text, this);
  }

 protected:
  virtual std::string_view what() const = 0;
  /// The place that the parser is at and what belongs there, for messages.
  virtual std::string expected() const = 0;
  bool refuse(const std::string& found) const {
    fail(
        "{}: {}: found {}, expected {}; the file is damaged or not what its name says, obtain it "
        "again",
        file_, what(), found, expected());
  }

  const std::string& file_;
};

class HeaderReader : public Events {
 public:
  using Events::Events;
  std::vector<SafetensorsEntry> entries;

  bool start_object(size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = key_ == "__metadata__" ? Place::metadata : Place::tensor;
      keys_.clear();
      if (place_ == Place::tensor) entries.push_back({.name = key_, .dtype = {}, .shape = {}});
    } else {
      return refuse("an object");
    }
    return true;
  }

  bool key(std::string& key) override {
    key_ = key;
    if (place_ == Place::top) {
      if (key == "__metadata__" && metadata_seen_) return refuse("a second '__metadata__'");
      metadata_seen_ = metadata_seen_ || key == "__metadata__";
      return true;
    }
    if (!keys_.insert(key).second) return refuse(fmt::format("a second field {}", printable(key)));
    if (place_ == Place::tensor && key != "dtype" && key != "shape" && key != "data_offsets")
      return refuse("the field " + printable(key));
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor && (keys_.size() != 3 || offsets_ != 2))
      fail(
          "{}: {} lacks one of 'dtype', 'shape' and 'data_offsets' (two numbers); the file is "
          "damaged, obtain it again",
          file_, where());
    offsets_ = 0;
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }

  bool string(std::string& text) override {
    if (place_ == Place::metadata) return true;
    if (place_ != Place::tensor || key_ != "dtype") return Events::string(text);
    entries.back().dtype = text;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::tensor && key_ == "shape")
      place_ = Place::shape;
    else if (place_ == Place::tensor && key_ == "data_offsets")
      place_ = Place::offsets;
    else
      return refuse("an array");
    return true;
  }

  bool end_array() override {
    place_ = Place::tensor;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return Events::number_unsigned(value);
    const auto number = static_cast<int64_t>(value);
    if (place_ == Place::shape) {
      entries.back().shape.push_back(number);
    } else if (place_ == Place::offsets && offsets_ < 2) {
      (offsets_++ == 0 ? entries.back().begin : entries.back().end) = number;
    } else {
      return Events::number_unsigned(value);
    }
    return true;
  }

 private:
  enum class Place { outside, top, metadata, tensor, shape, offsets };

  std::string_view what() const override { return "the header"; }
  std::string where() const {
    return "the header's entry of tensor " + printable(entries.back().name);
  }
  std::string expected() const override {
    switch (place_) {
      case Place::outside:
        return "an object";
      case Place::top:
        return fmt::format("an object as the entry of {}, once", printable(key_));
      case Place::metadata:
        return fmt::format("one string for each key of '__metadata__' (at {})", printable(key_));
      case Place::tensor:
      case Place::shape:
        break;
      case Place::offsets:
        return "two byte offsets as 'data_offsets' in " + where();
    }
    return "'dtype' (a string), 'shape' (non-negative integers) and 'data_offsets' (two), once "
           "each, in " +
           where();
  }

  Place place_ = Place::outside;
  std::string key_;
  std::set<std::string> keys_;  // fields of the open entry
  int offsets_ = 0;
  bool metadata_seen_ = false;
};

class IndexReader : public Events {
 public:
  using Events::Events;
  std::map<std::string, std::string> shards;
  bool map_seen = false;

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(int64_t) override { return scalar("a number"); }
  bool number_unsigned(uint64_t) override { return scalar("a number"); }
  bool number_float(double, const std::string&) override { return scalar("a number"); }

  bool start_object(size_t) override {
    if (depth_ == 1 && key_ == "weight_map") {
      if (map_seen) return refuse("a second 'weight_map'");
      map_seen = in_map_ = true;
    } else if (depth_ > 0) {
      scalar("an object");
    }
    ++depth_;
    return true;
  }
  bool start_array(size_t) override {
    scalar("an array");
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }
  bool key(std::string& key) override {
    if (depth_ == 1 || in_map_) key_ = key;
    return true;
  }
  bool string(std::string& text) override {
    if (!in_map_) return scalar("a string");
    if (!shards.try_emplace(key_, text).second)
      return refuse("a second entry of " + printable(key_));
    return true;
  }

 private:
  std::string_view what() const override { return "the index"; }
  std::string expected() const override {
    return in_map_ ? fmt::format("one shard's file name for tensor {}", printable(key_))
                   : std::string("an object with the object 'weight_map'");
  }
  bool scalar(std::string_view found) const {
    if (depth_ == 0 || in_map_ || (depth_ == 1 && key_ == "weight_map")) refuse(std::string(found));
    return true;
  }

  int64_t depth_ = 0;
  bool in_map_ = false;
  std::string key_;
};

}  // namespace

std::vector<SafetensorsEntry> read_header_json(std::string_view text, const std::string& file) {
  HeaderReader reader(file);
  reader.read(text);
  std::unordered_set<std::string_view> names;
  for (const auto& entry : reader.entries)
    if (!names.insert(entry.name).second)
      fail("{}: the header has two entries for tensor {}; the file is damaged, obtain it again",
           file, printable(entry.name));
  return std::move(reader.entries);
}

std::map<std::string, std::string> read_index_json(std::string_view text, const std::string& file) {
  IndexReader reader(file);
  reader.read(text);
  if (!reader.map_seen)
    fail(
        "{}: the index has no 'weight_map'; obtain the file again, or put all tensors into "
        "model.safetensors",
        file);
  return std::move(reader.shards);
}

}  // namespace sala
