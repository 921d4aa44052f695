#include "engine/container_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

namespace engine {
namespace {

using nlohmann::json;

// A SAX reader: it sees duplicate names, which a parsed object would hide, and stops at the first thing that
// has no place in a header, so depth and size stay bounded.
class HeaderReader : public json::json_sax_t {
 public:
  explicit HeaderReader(ContainerHeader& header) : header_(header) {}

  bool start_object(std::size_t) override {
    if (depth_ == 0) return enter(Place::top);
    if (place_ == Place::top && key_ == "__metadata__") return enter(Place::metadata);
    if (place_ == Place::top) {
      header_.tensors.push_back({.name = key_, .dtype = {}, .shape = {}});
      fields_.clear();
      return enter(Place::tensor);
    }
    return reject("an object where none belongs");
  }
  bool end_object() override {
    if (place_ == Place::tensor && fields_.size() != 3)
      return reject(
          fmt::format("tensor {} needs dtype, shape and data_offsets", header_.tensors.back().name));
    depth_--;
    place_ = Place::top;
    return true;
  }
  bool key(string_t& name) override {
    auto& seen = place_ == Place::top ? names_ : place_ == Place::metadata ? meta_names_ : fields_;
    if (!seen.insert(name).second) return reject(fmt::format("the name '{}' occurs twice", name));
    if (place_ == Place::tensor && name != "dtype" && name != "shape" && name != "data_offsets")
      return reject(fmt::format("the unknown field '{}'", name));
    key_ = name;
    return true;
  }
  bool string(string_t& value) override {
    if (place_ == Place::metadata) return header_.metadata.emplace(key_, value), true;
    if (place_ == Place::tensor && key_ == "dtype" && !in_array_)
      return header_.tensors.back().dtype = value, true;
    return reject("a string where none belongs");
  }
  bool start_array(std::size_t) override {
    if (place_ != Place::tensor || key_ == "dtype" || in_array_) return reject("an array where none belongs");
    in_array_ = true;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    auto& tensor = header_.tensors.back();
    if (key_ == "shape") return tensor.shape = numbers_, true;
    if (numbers_.size() != 2) return reject("data_offsets that are not two numbers");
    tensor.begin = numbers_[0], tensor.end = numbers_[1];
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return reject("a number where none belongs");
    if (numbers_.size() == 64) return reject("more than 64 dimensions");
    return numbers_.push_back(value), true;
  }
  bool number_integer(number_integer_t) override { return reject("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return reject("a number that is not whole or has over 64 bits");
  }
  bool boolean(bool) override { return reject("a truth value"); }
  bool null() override { return reject("a null"); }
  bool binary(binary_t&) override { return reject("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    return reject(fmt::format("no JSON at byte {}", position + 8));
  }

  std::string error;

 private:
  enum class Place { top, metadata, tensor };
  bool enter(Place place) {
    depth_++;
    place_ = place;
    return true;
  }
  bool reject(std::string what) {
    if (error.empty()) error = std::move(what);
    return false;
  }

  ContainerHeader& header_;
  Place place_ = Place::top;
  int depth_ = 0;
  bool in_array_ = false;
  std::string key_;
  std::set<std::string> names_, meta_names_, fields_;
  std::vector<std::uint64_t> numbers_;
};

}  // namespace

std::string parse_container_header(std::string_view text, ContainerHeader& header) {
  HeaderReader reader(header);
  if (!json::sax_parse(text, &reader) && reader.error.empty()) reader.error = "no JSON";
  return reader.error;
}

std::string print_container_header(const ContainerHeader& header) {
  auto quoted = [](const std::string& s) {
    return json(s).dump(-1, ' ', false, json::error_handler_t::replace);
  };
  std::string text = "{\"__metadata__\":{";
  bool first = true;
  for (const auto& [key, value] : header.metadata) {
    text += fmt::format("{}{}:{}", first ? "" : ",", quoted(key), quoted(value));
    first = false;
  }
  text += "}";
  for (const auto& tensor : header.tensors)
    text +=
        fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", quoted(tensor.name),
                    tensor.dtype, fmt::join(tensor.shape, ","), tensor.begin, tensor.end);
  text += "}";
  text.append((64 - (text.size() + 8) % 64) % 64, ' ');
  return text;
}

}  // namespace engine
