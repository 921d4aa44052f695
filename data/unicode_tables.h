// What the text rules need to know of each code point, from Unicode 15: two loads for the classes, two for a
// mapping.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace data {

inline constexpr std::string_view kUnicodeVersion = "15.0.0";

namespace char_class {
inline constexpr std::uint8_t kDropped = 1;  // U+0000, U+FFFD, category C* but for tab, LF and CR
inline constexpr std::uint8_t kSpace = 2;  // tab, LF, CR, category Z* (with U+2028 and U+2029, as str.split)
inline constexpr std::uint8_t kHan = 4;    // the blocks that BERT isolates (docs/data.md, "WordPiece")
inline constexpr std::uint8_t kPunctuation =
    8;  // category P*, and every ASCII character that is no letter or digit
inline constexpr std::uint8_t kMark = 16;           // category Mn
inline constexpr std::uint8_t kCased = 32;          // derived property Cased, for the final sigma
inline constexpr std::uint8_t kCaseIgnorable = 64;  // derived property Case_Ignorable, for the final sigma
inline constexpr std::uint8_t kReordered = 128;     // canonical combining class above 0: NFD may move it
}  // namespace char_class

namespace unicode {

inline constexpr int kPageBits = 7;
inline constexpr std::size_t kPages = 0x110000 >> kPageBits;
extern const std::uint16_t kClassPage[kPages];
extern const std::uint8_t kClass[];  // [page, 1 << kPageBits]
extern const std::uint16_t kWordPage[kPages];
extern const std::uint8_t kWord[];  // [page, 1 << kPageBits]

}  // namespace unicode

// The kDropped ... kReordered bits of a code point (at most U+10FFFF). A dropped character has no other bit.
inline std::uint8_t class_of(char32_t c) noexcept {
  constexpr char32_t kInPage = (1 << unicode::kPageBits) - 1;
  return unicode::kClass[std::size_t{unicode::kClassPage[c >> unicode::kPageBits]} << unicode::kPageBits |
                         (c & kInPage)];
}

// What a character is to GPT-2's rule of words: category L*, category N*, property White_Space, or none of
// these.
enum class WordClass : std::uint8_t { other, letter, number, space };
inline WordClass word_class_of(char32_t c) noexcept {
  constexpr char32_t kInPage = (1 << unicode::kPageBits) - 1;
  return static_cast<WordClass>(
      unicode::kWord[std::size_t{unicode::kWordPage[c >> unicode::kPageBits]} << unicode::kPageBits |
                     (c & kInPage)]);
}

// A character in lower case, canonically decomposed, without marks of category Mn: 0 (a mark) to 3
// characters.
struct Folded {
  std::array<char32_t, 3> characters{};
  std::uint8_t size = 0;
  std::u32string_view view() const noexcept { return {characters.data(), size}; }
  bool operator==(const Folded&) const = default;
};
// Each character by itself: U+03A3 gives U+03C3, and marks that NFD would reorder stay where they are.
Folded fold(char32_t) noexcept;

// Canonical combining class of the characters that are no Mn; 0 for all others.
std::uint8_t combining_class(char32_t) noexcept;

}  // namespace data
