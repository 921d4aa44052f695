#include "data/gpt2_words.h"

#include <random>
#include <string>
#include <vector>

#include "data/utf8.h"
#include "tests/support.h"

namespace {

using Words = std::vector<std::string>;

Words words_of(std::string_view text) {
  Words words;
  data::for_each_gpt2_word(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

const std::vector<std::string> kPieces = {"a",      "Z",      "中",   "文",   "1",  "٤",      "²",
                                          "'",      "s",      "'s",   "'ll",  ".",  "，",     "\U0001F600",
                                          "\u0301", " ",      "  ",   "\n",   "\t", "\u3000", "\r\n",
                                          "\u00A0", "\u2028", "\xE4", "\x80", "\0"};

}  // namespace

// By hand from the pattern.
TEST_CASE("gpt2 words: the pattern's alternatives") {
  CHECK(words_of("Hello world") == Words{"Hello", " world"});
  CHECK(words_of("it's we'll they're I've I'd I'm can't") ==
        Words{"it", "'s", " we", "'ll", " they", "'re", " I", "'ve", " I", "'d", " I", "'m", " can", "'t"});
  CHECK(words_of("IT'S") == Words{"IT", "'", "S"});  // lower case only
  CHECK(words_of("''s 's x'set") == Words{"''", "s", " '", "s", " x", "'s", "et"});
  CHECK(words_of("在1990年，有3.5%的人。") ==
        Words{"在", "1990", "年", "，", "有", "3", ".", "5", "%", "的人", "。"});
  CHECK(words_of("x²Ⅷ½ ٤") == Words{"x", "²Ⅷ½", " ٤"});          // No, Nl and Nd are numbers
  CHECK(words_of("e\u0301a") == Words{"e", "\u0301", "a"});      // a mark is no letter
  CHECK(words_of("ab\u200Bcd") == Words{"ab", "\u200B", "cd"});  // a format character is no blank
}

TEST_CASE("gpt2 words: the last blank before a word goes with it, if it is a space") {
  CHECK(words_of("a  b") == Words{"a", " ", " b"});
  CHECK(words_of("a \n b") == Words{"a", " \n", " b"});
  CHECK(words_of("a\nb") == Words{"a", "\n", "b"});
  CHECK(words_of("a\n\nb") == Words{"a", "\n", "\n", "b"});
  CHECK(words_of("a\n\n") == Words{"a", "\n\n"});
  CHECK(words_of("a ") == Words{"a", " "});
  CHECK(words_of(" ") == Words{" "});
  CHECK(words_of("a\u3000b\u3000\u3000c") == Words{"a", "\u3000", "b", "\u3000", "\u3000", "c"});
  CHECK(words_of("\u00A0 \u2028x\x85") == Words{"\u00A0 ", "\u2028", "x", "\x85"});  // 85 alone is no UTF-8
  CHECK(words_of("").empty());
}

TEST_CASE("gpt2 words: bytes that are not UTF-8") {
  CHECK(words_of("a\xFF\x80z") == Words{"a", "\xFF\x80", "z"});
  CHECK(words_of(" \xE4\xB8") == Words{" \xE4\xB8"});
  CHECK(words_of("中\xE4\xB8文") == Words{"中", "\xE4\xB8", "文"});
  CHECK(words_of("\xED\xA0\x80\xC0\xAF\xF4\x90\x80\x80") == Words{"\xED\xA0\x80\xC0\xAF\xF4\x90\x80\x80"});
}

TEST_CASE("gpt2 words: the words of the parts are those of the whole, whatever comes behind") {
  std::mt19937 random(1);
  const auto pieces = [&](std::size_t most) {
    std::string text;
    for (std::size_t n = random() % (most + 1); n > 0; --n) text += kPieces[random() % kPieces.size()];
    return text;
  };
  int parted = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::string before = pieces(4), text = pieces(6) + "x", behind = pieces(4);
    for (std::size_t at = 1; at < text.size(); ++at) {
      if (!data::parts_gpt2_words(text, at)) continue;
      ++parted;
      Words parts = words_of(before + text.substr(0, at));
      const Words rest = words_of(text.substr(at) + behind);
      parts.insert(parts.end(), rest.begin(), rest.end());
      CAPTURE(text);
      CAPTURE(at);
      REQUIRE(parts == words_of(before + text + behind));
    }
  }
  CHECK(parted > 20000);
  CHECK(data::parts_gpt2_words("中\n文", 4));
  CHECK(data::parts_gpt2_words("文，好", 3));
  CHECK(data::parts_gpt2_words("a b", 1));
  CHECK_FALSE(data::parts_gpt2_words("a b", 2));
  CHECK_FALSE(data::parts_gpt2_words("it's", 3));
  CHECK_FALSE(data::parts_gpt2_words("中文", 3));
}
