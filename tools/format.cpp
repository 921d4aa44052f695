#include "tools/format.h"

#include <algorithm>
#include <cstddef>

namespace tools {

std::string with_commas(std::int64_t value) {
  std::string digits = std::to_string(value);
  for (auto at = std::ptrdiff_t(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3)
    digits.insert(std::size_t(at), 1, ',');
  return digits;
}

std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return text;
}

}  // namespace tools
