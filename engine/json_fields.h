// JSON out of a checkpoint, read strictly. The library's own conversions cut 6.5 to 6, have no defined result
// for 1e300, and go as deep into the stack as the text is nested. Included by .cpp files only.
#pragma once
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "engine/error.h"

namespace engine {

// Throws Error(checkpoint) naming `where` for values nested more than 8 deep, json::exception for what is no
// JSON.
inline nlohmann::json parse_json(std::string_view text, const std::string& where) {
  constexpr int kDepth = 8;
  return nlohmann::json::parse(text, [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    require(depth <= kDepth, Exit::checkpoint,
            "{}: its JSON is nested more than {} deep; the file is damaged", where, kDepth);
    return true;
  });
}

// Puts the field `name` of an object into `value`: a number only if it is one of T. Throws Error(checkpoint)
// naming `where` and the field, or json::exception.
template <class T>
void read_field(const nlohmann::json& object, const std::string& name, T& value, const std::string& where) {
  const nlohmann::json& field = object.at(name);
  bool fits = true;
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    fits = field.is_number_unsigned()
               ? std::in_range<T>(field.get<std::uint64_t>())
               : field.is_number_integer() && std::in_range<T>(field.get<std::int64_t>());
  } else if constexpr (std::is_floating_point_v<T>) {
    fits = std::abs(field.get<double>()) <= double(std::numeric_limits<T>::max());
  }
  require(fits, Exit::checkpoint, "{}: {} is {}, expected a {}number; the file is damaged", where, name,
          field.is_number() ? field.dump() : field.type_name(), std::is_integral_v<T> ? "whole " : "");
  field.get_to(value);
}

}  // namespace engine
