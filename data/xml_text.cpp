#include "data/xml_text.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "data/utf8.h"

namespace data {
namespace {

void append_lines(std::string_view text, std::string& out) {
  for (std::size_t end; (end = text.find("\r\n")) != text.npos; text.remove_prefix(end + 1))
    out.append(text.substr(0, end));
  out.append(text);
}

}  // namespace

std::size_t decode_xml_entity(std::string_view text, std::string& out) {
  constexpr std::size_t kLongest = 12;
  const std::size_t end = text.substr(0, kLongest).find(';');
  if (end == text.npos) return 0;
  const std::string_view name = text.substr(1, end - 1);
  constexpr std::pair<std::string_view, char> kNamed[] = {
      {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}};
  for (const auto& [known, c] : kNamed) {
    if (name != known) continue;
    out.push_back(c);
    return end + 1;
  }
  if (!name.starts_with('#')) return 0;
  const bool hex = name.substr(1).starts_with('x') || name.substr(1).starts_with('X');
  const std::string_view digits = name.substr(hex ? 2 : 1);
  std::uint32_t c = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), c, hex ? 16 : 10);
  if (digits.empty() || error != std::errc() || stop != digits.data() + digits.size()) return 0;
  const bool scalar = c != 0 && c <= kLastCodePoint && (c < 0xD800 || c > 0xDFFF);
  append_utf8(out, scalar ? c : kReplacement);
  return end + 1;
}

void decode_xml(std::string_view raw, std::string& out) {
  for (;;) {
    const std::size_t plain = std::min(raw.find('&'), raw.size());
    append_lines(raw.substr(0, plain), out);
    raw.remove_prefix(plain);
    if (raw.empty()) return;
    std::size_t used = decode_xml_entity(raw, out);
    if (used == 0) out.push_back('&'), used = 1;
    raw.remove_prefix(used);
  }
}

std::size_t XmlScanner::uncut(std::string_view text) {
  std::size_t whole = text.size();
  if (const std::size_t entity = text.rfind('&'); entity != text.npos && text.size() - entity < 16)
    whole = entity;
  if (whole > 0 && text[whole - 1] == '\r') --whole;
  return whole;
}

}  // namespace data
