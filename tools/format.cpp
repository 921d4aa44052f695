#include "tools/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "data/utf8.h"

namespace tools {
namespace {

bool is_control(std::string_view character) {
  const auto byte = static_cast<unsigned char>(character.front());
  if (character.size() == 1) return byte < 0x20 || byte == 0x7f;
  const char* at = character.data();
  const char32_t c = data::next_code_point(at);
  return c < 0xa0 || c == 0x2028 || c == 0x2029;  // C1 controls, line and paragraph separator
}

void append_escaped(std::string& text, std::string_view bytes) {
  for (const char c : bytes) {
    if (c == '\n') text += "\\n";
    else if (c == '\t') text += "\\t";
    else text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
}

}  // namespace

std::string with_commas(std::int64_t value) {
  std::string digits = std::to_string(value);
  for (auto at = std::ptrdiff_t(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3)
    digits.insert(std::size_t(at), 1, ',');
  return digits;
}

std::string printable(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    std::string_view good = text.substr(0, data::well_formed_prefix(text));
    text.remove_prefix(good.size());
    while (!good.empty()) {
      const std::string_view character = good.substr(0, data::utf8_length(good.front()));
      good.remove_prefix(character.size());
      if (is_control(character)) append_escaped(shown, character);
      else shown += character;
    }
    append_escaped(shown, text.substr(0, 1));
    text.remove_prefix(std::min<std::size_t>(text.size(), 1));
  }
  return shown;
}

}  // namespace tools
