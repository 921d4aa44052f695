// Prints data/unicode_tables.cpp. Only this program needs utf8proc (2.8 for Unicode 15), plus four short
// lists from the Unicode character database that utf8proc does not carry.
//   g++ -std=c++20 -I. tools/make_unicode_tables.cpp -lutf8proc -o make_unicode_tables
//   ./make_unicode_tables > data/unicode_tables.cpp
#include <utf8proc.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "data/unicode_tables.h"

namespace {

using namespace data::char_class;

struct Range {
  char32_t first, last;
};

bool in(const std::vector<Range>& ranges, char32_t c) {
  for (const Range& range : ranges) {
    if (range.first <= c && c <= range.last) return true;
  }
  return false;
}

// Google BERT, tokenization.py, _is_chinese_char.
const std::vector<Range> kHanRanges = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                       {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B820, 0x2CEAF},
                                       {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
// PropList-15.0.0.txt.
const std::vector<Range> kOtherLowercase = {
    {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},    {0x2C0, 0x2C1},     {0x2E0, 0x2E4},
    {0x345, 0x345},     {0x37A, 0x37A},     {0x10FC, 0x10FC},  {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},
    {0x1D9B, 0x1DBF},   {0x2071, 0x2071},   {0x207F, 0x207F},  {0x2090, 0x209C},   {0x2170, 0x217F},
    {0x24D0, 0x24E9},   {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},  {0xA770, 0xA770},   {0xA7F2, 0xA7F4},
    {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},   {0xAB69, 0xAB69},  {0x10780, 0x10780}, {0x10783, 0x10785},
    {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x1E030, 0x1E06D}};
const std::vector<Range> kOtherUppercase = {
    {0x2160, 0x216F}, {0x24B6, 0x24CF}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
// WordBreakProperty-15.0.0.txt: MidLetter, MidNumLet, Single_Quote.
const std::vector<Range> kInsideWords = {
    {0x27, 0x27},     {0x2E, 0x2E},     {0x3A, 0x3A},     {0xB7, 0xB7},
    {0x387, 0x387},   {0x55F, 0x55F},   {0x5F4, 0x5F4},   {0x2018, 0x2019},
    {0x2024, 0x2024}, {0x2027, 0x2027}, {0xFE13, 0xFE13}, {0xFE52, 0xFE52},
    {0xFE55, 0xFE55}, {0xFF07, 0xFF07}, {0xFF0E, 0xFF0E}, {0xFF1A, 0xFF1A}};

// PropList-15.0.0.txt, White_Space.
const std::vector<Range> kWhiteSpace = {
    {0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};

std::string category(char32_t c) { return utf8proc_category_string(static_cast<utf8proc_int32_t>(c)); }

int combining(char32_t c) { return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class; }

std::uint8_t class_bits(char32_t c) {
  const std::string kind = category(c);
  if (c == '\t' || c == '\n' || c == '\r' || kind[0] == 'Z') return kSpace;
  if (c == 0 || c == 0xFFFD || kind[0] == 'C') return kDropped;
  std::uint8_t bits = 0;
  if (in(kHanRanges, c)) bits |= kHan;
  const bool ascii_symbol = in({{33, 47}, {58, 64}, {91, 96}, {123, 126}}, c);
  if (ascii_symbol || kind[0] == 'P') bits |= kPunctuation;
  if (kind == "Mn") bits |= kMark;
  if (kind == "Lu" || kind == "Ll" || kind == "Lt" || in(kOtherLowercase, c) || in(kOtherUppercase, c))
    bits |= kCased;
  if (kind == "Mn" || kind == "Me" || kind == "Lm" || kind == "Sk" || in(kInsideWords, c))
    bits |= kCaseIgnorable;
  if (combining(c) > 0) bits |= kReordered;
  return bits;
}

std::uint8_t word_class(char32_t c) {
  using enum data::WordClass;
  const char kind = category(c)[0];
  return static_cast<std::uint8_t>(kind == 'L'          ? letter
                                   : kind == 'N'        ? number
                                   : in(kWhiteSpace, c) ? space
                                                        : other);
}

// Lower case, NFD, without Mn.
std::u32string folded(char32_t c) {
  utf8proc_int32_t decomposed[8];
  int boundary = 0;
  const auto size = utf8proc_decompose_char(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)), decomposed, 8,
                                            UTF8PROC_DECOMPOSE, &boundary);
  if (size < 0 || size > 8) std::abort();
  std::u32string kept;
  for (int i = 0; i < size; ++i) {
    if (utf8proc_category(decomposed[i]) != UTF8PROC_CATEGORY_MN)
      kept += static_cast<char32_t>(decomposed[i]);
  }
  return kept;
}

template <class T> void print_array(const char* declaration, const std::vector<T>& values) {
  std::printf("%s = {\n", declaration);
  std::string line;
  for (const T& value : values) {
    line += std::to_string(value) + ",";
    if (line.size() > 110) std::printf("%s\n", line.c_str()), line.clear();
  }
  std::printf("%s};\n", line.c_str());
}

// Cuts a table over all code points into pages and prints each different page once.
template <class T>
void print_two_stages(const std::string& name, const char* type, const std::vector<T>& table) {
  constexpr std::size_t kPage = std::size_t{1} << data::unicode::kPageBits;
  std::map<std::u32string, std::uint16_t> numbers;
  std::vector<std::uint16_t> pages;
  std::vector<T> cells;
  for (std::size_t at = 0; at < table.size(); at += kPage) {
    const auto begin = table.begin() + long(at), end = begin + long(kPage);
    const std::u32string page(begin, end);
    const auto [number, is_new] = numbers.emplace(page, static_cast<std::uint16_t>(numbers.size()));
    if (is_new) cells.insert(cells.end(), begin, end);
    pages.push_back(number->second);
  }
  print_array(("const std::uint16_t k" + name + "Page[kPages]").c_str(), pages);
  print_array(("const " + std::string(type) + " k" + name + "[]").c_str(), cells);
}

}  // namespace

int main() {
  std::vector<std::uint8_t> classes(0x110000), word_classes(0x110000);
  std::vector<std::uint16_t> fold_at(0x110000);
  std::map<std::u32string, std::uint16_t> where;
  std::vector<std::uint32_t> text = {0};  // at 0: "unchanged"; elsewhere a length, then the characters
  std::vector<std::uint32_t> combining_classes;
  for (char32_t c = 0; c < 0x110000; ++c) {
    classes[c] = class_bits(c);
    word_classes[c] = word_class(c);
    if (combining(c) > 0 && category(c) != "Mn") {
      combining_classes.push_back(static_cast<std::uint32_t>(c) << 8 |
                                  static_cast<std::uint32_t>(combining(c)));
    }
    if (0xAC00 <= c && c <= 0xD7A3) continue;  // Hangul syllables are computed
    const std::u32string to = folded(c);
    if (to == std::u32string(1, c)) continue;
    const auto [place, is_new] = where.emplace(to, static_cast<std::uint16_t>(text.size()));
    if (is_new) {
      text.push_back(static_cast<std::uint32_t>(to.size()));
      text.insert(text.end(), to.begin(), to.end());
    }
    fold_at[c] = place->second;
  }
  if (text.size() > 0xFFFF || utf8proc_unicode_version() != data::kUnicodeVersion) return 1;
  std::printf(
      "// Made by tools/make_unicode_tables.cpp from utf8proc %s (Unicode %s); do not edit.\n"
      "// clang-format off\n#include \"data/unicode_tables.h\"\n\n#include <algorithm>\n\n"
      "namespace data {\nnamespace unicode {\n",
      utf8proc_version(), utf8proc_unicode_version());
  print_two_stages("Class", "std::uint8_t", classes);
  print_two_stages("Word", "std::uint8_t", word_classes);
  std::printf("namespace {\n");
  print_two_stages("Fold", "std::uint16_t", fold_at);
  print_array("const std::uint32_t kFoldText[]", text);
  print_array("const std::uint32_t kCombining[]", combining_classes);
  std::printf("%s", R"(}  // namespace
}  // namespace unicode
// clang-format on

Folded fold(char32_t c) noexcept {
  using namespace unicode;
  if (0xAC00 <= c && c <= 0xD7A3) {  // The Unicode Standard, 3.12, "Hangul Syllable Decomposition"
    const char32_t syllable = c - 0xAC00, tail = syllable % 28;
    return {{0x1100 + syllable / 588, 0x1161 + syllable % 588 / 28, tail == 0 ? 0 : 0x11A7 + tail},
            static_cast<std::uint8_t>(tail == 0 ? 2 : 3)};
  }
  const std::size_t cell = std::size_t{kFoldPage[c >> kPageBits]} << kPageBits | (c & ((1 << kPageBits) - 1));
  if (kFold[cell] == 0) return {{c}, 1};
  const std::uint32_t* text = &kFoldText[kFold[cell]];
  Folded folded;
  folded.size = static_cast<std::uint8_t>(text[0]);
  std::copy_n(text + 1, text[0], folded.characters.begin());
  return folded;
}

std::uint8_t combining_class(char32_t c) noexcept {
  const auto* end = std::end(unicode::kCombining);
  const auto* at = std::lower_bound(std::begin(unicode::kCombining), end, static_cast<std::uint32_t>(c) << 8);
  return at != end && *at >> 8 == c ? static_cast<std::uint8_t>(*at & 0xFF) : 0;
}

}  // namespace data
)");
}
