#include "data/gpt2_words.h"

#include <algorithm>
#include <array>

#include "data/unicode_tables.h"
#include "data/utf8.h"

namespace data {
namespace {

struct Character {
  WordClass kind;
  std::size_t bytes;
};

// Class of each ASCII character.
constexpr std::array<WordClass, 128> kAscii = [] {
  std::array<WordClass, 128> classes{};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    classes[static_cast<std::size_t>(c)] = letter                                 ? WordClass::letter
                                           : c >= '0' && c <= '9'                 ? WordClass::number
                                           : c == ' ' || (c >= '\t' && c <= '\r') ? WordClass::space
                                                                                  : WordClass::other;
  }
  return classes;
}();

unsigned char byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

// The character at `at`, inside the text.
inline Character character_at(std::string_view text, std::size_t at) noexcept {
  const unsigned char lead = byte_at(text, at);
  if (lead < 0x80) return {kAscii[lead], 1};
  // The leads of three bytes that may be followed by any two continuation bytes.
  if (lead > 0xE0 && lead < 0xF0 && lead != 0xED && text.size() - at >= 3) [[likely]] {
    const unsigned second = byte_at(text, at + 1) ^ 0x80u, third = byte_at(text, at + 2) ^ 0x80u;
    if ((second | third) < 0x40) return {word_class_of((lead & 0xFu) << 12 | second << 6 | third), 3};
    return {WordClass::other, 1};
  }
  const std::string_view rest = text.substr(at, utf8_length(text[at]));
  if (!is_well_formed(rest)) return {WordClass::other, 1};
  const char* start = rest.data();
  return {word_class_of(next_code_point(start)), rest.size()};
}

// The character that ends at `at`; no bytes: there is none that is well-formed.
Character character_before(std::string_view text, std::size_t at) noexcept {
  std::size_t start = at;
  while (start > 0 && at - start < 4) {
    if ((byte_at(text, --start) & 0xC0) == 0x80) continue;
    const std::string_view bytes = text.substr(start, at - start);
    if (!is_well_formed(bytes)) break;
    return {character_at(bytes, 0).kind, bytes.size()};
  }
  return {WordClass::other, 0};
}

std::size_t end_of_run(std::string_view text, std::size_t at, WordClass kind) noexcept {
  while (at < text.size()) {
    const Character next = character_at(text, at);
    if (next.kind != kind) break;
    at += next.bytes;
  }
  return at;
}

std::size_t blanks(std::string_view text) noexcept {
  std::size_t at = 0, last = 0;
  while (at < text.size()) {
    const Character next = character_at(text, at);
    if (next.kind != WordClass::space) return last > 0 ? last : at;  // the last blank goes with what follows
    last = at;
    at += next.bytes;
  }
  return at;
}

}  // namespace

std::size_t gpt2_word(std::string_view text) noexcept {
  if (text[0] == '\'') {
    for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
      if (text.starts_with(ending)) return ending.size();
  }
  const std::size_t start = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const Character first = character_at(text, start);
  if (first.kind == WordClass::space) return blanks(text);
  return end_of_run(text, start + first.bytes, first.kind);
}

bool parts_gpt2_words(std::string_view text, std::size_t at) noexcept {
  const auto next_size = std::min(utf8_length(text[at]), text.size() - at);
  const Character left = character_before(text, at);
  if (left.bytes == 0 || !is_well_formed(text.substr(at, next_size))) return false;
  const Character right = character_at(text, at);
  const char last = text[at - 1];
  if (left.kind != WordClass::space) return left.kind != right.kind && last != '\'';
  if (last != '\n' || right.kind == WordClass::space) return false;  // a line end that is a word of its own
  const Character before = character_before(text, at - 1);
  return before.bytes > 0 && before.kind != WordClass::space;
}

}  // namespace data
