#include <utf8proc.h>

#include <string>
#include <string_view>

#include "data/unicode_tables.h"
#include "tests/support.h"

using namespace data::char_class;

TEST_CASE("unicode: classes of single characters") {
  const auto is = [](char32_t c, int bits) { return data::class_of(c) == bits; };
  CHECK(is(0, kDropped));
  CHECK(is('\t', kSpace));
  CHECK(is('\n', kSpace));
  CHECK(is('\x0B', kDropped));
  CHECK(is(' ', kSpace));
  CHECK(is('a', kCased));
  CHECK(is('7', 0));
  CHECK(is('$', kPunctuation));  // category S, but ASCII
  CHECK(is('\'', kPunctuation | kCaseIgnorable));
  CHECK(is('`', kPunctuation | kCaseIgnorable));
  CHECK(is(0x85, kDropped));
  CHECK(is(0xA0, kSpace));
  CHECK(is(0xAD, kDropped));
  CHECK(is(0xD7, 0));  // × is a symbol, not punctuation
  CHECK(is(0x301, kMark | kCaseIgnorable | kReordered));
  CHECK(is(0xFE0F, kMark | kCaseIgnorable));
  CHECK(is(0x200B, kDropped));
  CHECK(is(0x2028, kSpace));
  CHECK(is(0x3000, kSpace));
  CHECK(is(0x3007, 0));  // 〇 is not among BERT's Han
  CHECK(is(0x3002, kPunctuation));
  CHECK(is(0x302E, kReordered));
  CHECK(is(0x4E00, kHan));
  CHECK(is(0x9FFF, kHan));
  CHECK(is(0xD800, kDropped));
  CHECK(is(0xE000, kDropped));
  CHECK(is(0xFA6E, kDropped));  // unassigned, though between Han
  CHECK(is(0xFFFD, kDropped));
  CHECK(is(0x1F602, 0));
  CHECK(is(0x2B820, kHan));
  CHECK(is(0x2CEB0, 0));  // extension F
  CHECK(is(0x10FFFF, kDropped));
  CHECK(data::combining_class(0x302E) == 224);
  CHECK(data::combining_class(0x1D16D) == 226);
  CHECK(data::combining_class(0x301) == 0);  // a mark that is stripped
}

TEST_CASE("unicode: folding of single characters") {
  const auto folds = [](char32_t c, std::u32string_view to) { return data::fold(c).view() == to; };
  CHECK(folds('A', U"a"));
  CHECK(folds(0xC9, U"e"));
  CHECK(folds(0x130, U"i"));
  CHECK(folds(0x3A3, U"\u03C3"));
  CHECK(folds(0x1E9E, U"\u00DF"));
  CHECK(folds(0x212B, U"a"));
  CHECK(folds(0x2260, U"="));
  CHECK(folds(0x304C, U"\u304B"));
  CHECK(folds(0xFF21, U"\uFF41"));
  CHECK(folds(0xF900, U"\u8C48"));
  CHECK(folds(0x2F800, U"\u4E3D"));
  CHECK(folds(0x301, U""));
  CHECK(folds(0xAC00, U"\u1100\u1161"));
  CHECK(folds(0xD55C, U"\u1112\u1161\u11AB"));
  CHECK(folds(0xD7A3, U"\u1112\u1175\u11C2"));
  CHECK(folds(0x1D160, U"\U0001D158\U0001D165\U0001D16E"));
  CHECK(folds(0x4E2D, U"\u4E2D"));
}

TEST_CASE("unicode: the tables agree with utf8proc on every code point") {
  REQUIRE(std::string(utf8proc_unicode_version()) == data::kUnicodeVersion);
  for (char32_t c = 0; c < 0x110000; ++c) {
    const auto code_point = static_cast<utf8proc_int32_t>(c);
    const std::string category = utf8proc_category_string(code_point);
    const int bits = data::class_of(c);
    const bool space = c == '\t' || c == '\n' || c == '\r' || category[0] == 'Z';
    const bool dropped = !space && (c == 0 || c == 0xFFFD || category[0] == 'C');
    const bool mark = category == "Mn";
    const int combining = utf8proc_get_property(code_point)->combining_class;
    bool right = ((bits & kSpace) != 0) == space && ((bits & kDropped) != 0) == dropped;
    right = right && ((bits & kMark) != 0) == mark && ((bits & kReordered) != 0) == (combining > 0);
    right = right && data::combining_class(c) == (mark ? 0 : combining);
    right = right && (c < 0x80 || ((bits & kPunctuation) != 0) == (category[0] == 'P'));

    utf8proc_int32_t parts[8];
    int boundary = 0;
    const auto size =
        utf8proc_decompose_char(utf8proc_tolower(code_point), parts, 8, UTF8PROC_DECOMPOSE, &boundary);
    std::u32string folded;
    for (int i = 0; i < size; ++i) {
      if (utf8proc_category(parts[i]) != UTF8PROC_CATEGORY_MN) folded += static_cast<char32_t>(parts[i]);
    }
    if (!right || data::fold(c).view() != folded) FAIL("U+" << std::hex << std::uint32_t{c});
  }
}

TEST_CASE("unicode: folding is stable and neither makes blanks nor hides punctuation") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if ((data::class_of(c) & (kDropped | kSpace)) != 0) continue;
    const data::Folded folded = data::fold(c);
    for (const char32_t part : folded.view()) {
      const int bits = data::class_of(part);
      REQUIRE((bits & (kDropped | kSpace)) == 0);
      REQUIRE(data::fold(part).view() == std::u32string_view(&part, 1));
      // The tokenizer's fast path rests on these: Han stay one Han, and only single results are punctuation.
      REQUIRE((folded.size == 1 || (bits & (kPunctuation | kHan)) == 0));
      REQUIRE(((data::class_of(c) & kHan) != 0) == ((bits & kHan) != 0));
    }
  }
}
