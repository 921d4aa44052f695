#include "data/id_ranges.h"

#include <fmt/format.h>

#include <charconv>

namespace data {

std::string spell_id_ranges(std::span<const std::uint32_t> ids) {
  std::string text;
  for (std::size_t i = 0; i < ids.size();) {
    std::size_t last = i;
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    text += fmt::format(" {}", ids[i]);
    if (last > i) text += fmt::format("-{}", ids[last]);
    i = last + 1;
  }
  return text;
}

std::vector<std::uint32_t> parse_id_ranges(std::string_view text, std::uint32_t size) {
  std::vector<std::uint32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end && *at == ' ') {
    std::uint32_t first = 0, last = 0;
    at = std::from_chars(at + 1, end, first).ptr;
    last = first;
    if (at != end && *at == '-') at = std::from_chars(at + 1, end, last).ptr;
    if (last >= size || last - first >= size - ids.size()) return {};
    for (; first <= last; ++first) ids.push_back(first);
  }
  return ids;
}

}  // namespace data
