#include "data/byte_bpe.h"

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "data/byte_letters.h"
#include "data/gpt2_words.h"
#include "data/sha256.h"
#include "data/utf8.h"
#include "engine/error.h"
#include "tests/error_code.h"
#include "tests/support.h"

namespace {

using Ids = std::vector<std::uint32_t>;
using Merges = std::vector<std::pair<std::uint32_t, std::uint32_t>>;

// The id of a byte: by hand from GPT-2's table, letters in the order of their code points.
std::uint32_t byte_id(unsigned char byte) {
  if (byte >= '!' && byte <= '~') return byte - '!' + 1u;
  if (byte >= 0xA1 && byte <= 0xAC) return byte - 0xA1 + 95u;
  if (byte >= 0xAE) return byte - 0xAE + 107u;
  if (byte <= 0x20) return byte + 189u;
  return byte == 0xAD ? 256u : byte - 0x7F + 222u;
}

Ids encoded(const data::Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

// The definition: in each word, over and over, the merge that was made first, at its leftmost place.
Ids by_definition(const Merges& merges, std::string_view text) {
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> joined;
  for (std::size_t i = 0; i < merges.size(); ++i)
    joined[merges[i]] = data::kFirstMerged + static_cast<std::uint32_t>(i);
  Ids all;
  data::for_each_gpt2_word(text, [&](std::string_view word) {
    Ids ids;
    for (const char byte : word) ids.push_back(byte_id(static_cast<unsigned char>(byte)));
    for (;;) {
      std::uint32_t first = data::kNoToken;
      std::size_t place = 0;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto found = joined.find({ids[i], ids[i + 1]});
        if (found != joined.end() && found->second < first) first = found->second, place = i;
      }
      if (first == data::kNoToken) break;
      ids[place] = first;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
    all.insert(all.end(), ids.begin(), ids.end());
  });
  return all;
}

struct Vocabulary {
  std::vector<std::string> merged;
  Merges merges;
};

// A vocabulary as training gives it: over and over a pair that is next to each other in the text, encoded so
// far, becomes a token. Which pair is up to `random`, with a liking for common ones.
Vocabulary random_vocabulary(std::string_view text, std::size_t size, std::mt19937& random) {
  Vocabulary made;
  std::vector<std::string> bytes(data::kFirstMerged);
  for (int b = 0; b < 256; ++b)
    bytes[byte_id(static_cast<unsigned char>(b))] = std::string(1, static_cast<char>(b));
  std::vector<Ids> words;
  data::for_each_gpt2_word(text, [&](std::string_view word) { words.push_back(by_definition({}, word)); });
  while (made.merged.size() < size) {
    std::vector<std::size_t> with_pairs;
    for (std::size_t i = 0; i < words.size(); ++i)
      if (words[i].size() > 1) with_pairs.push_back(i);
    if (with_pairs.empty()) break;
    const Ids& word = words[with_pairs[random() % with_pairs.size()]];
    const std::size_t at = random() % (word.size() - 1);
    const auto pair = std::pair(word[at], word[at + 1]);
    const auto id = static_cast<std::uint32_t>(bytes.size());
    bytes.push_back(bytes[pair.first] + bytes[pair.second]);
    made.merged.push_back(bytes.back());
    made.merges.push_back(pair);
    for (Ids& ids : words) {
      Ids after;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const bool here = i + 1 < ids.size() && std::pair(ids[i], ids[i + 1]) == pair;
        after.push_back(here ? id : ids[i]);
        i += here;
      }
      ids = after;
    }
  }
  return made;
}

std::string refusal(const std::string& payload) {
  return tests::refusal_of_file([&] { data::parse_byte_bpe(payload, "FILE"); });
}

}  // namespace

TEST_CASE("byte BPE: bytes are spelled as GPT-2 spells them") {
  CHECK(data::spell_bytes("Az !~") == "AzĠ!~");
  CHECK(data::spell_bytes(std::string_view("\0\n\x7F\x80\xA0\xA1\xAD\xAE\xFF", 9)) == "ĀĊġĢł¡Ń®ÿ");
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  CHECK(data::bytes_of_spelling(data::spell_bytes(all)) == all);
  for (const char* wrong : {" ", "\n", "ń", "中", "\u00AD", "\xFF"})
    CHECK_FALSE(data::bytes_of_spelling(wrong));
  const data::ByteBpe empty({}, "test");
  CHECK(empty.size() == 257);
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    CHECK(encoded(empty, {&byte, 1}) == Ids{byte_id(static_cast<unsigned char>(b))});
    CHECK(empty.piece(byte_id(static_cast<unsigned char>(b))) == data::spell_bytes({&byte, 1}));
  }
  CHECK(empty.piece(0) == "<|endoftext|>");
  CHECK(empty.end_of_text() == 0);
}

TEST_CASE("byte BPE: merges in the order of training, from left to right") {
  // 257 he, 258 ll, 259 hell, 260 o+space is never one word, 260 lo
  const data::ByteBpe vocabulary({"he", "ll", "hell", "lo", "aa", "aaaa"}, "test");
  CHECK(encoded(vocabulary, "hello") == Ids{259, byte_id('o')});
  CHECK(encoded(vocabulary, "lo llo") == Ids{260, byte_id(' '), 258, byte_id('o')});  // ll before lo
  CHECK(encoded(vocabulary, "aaa") == Ids{261, byte_id('a')});
  CHECK(encoded(vocabulary, "aaaaaaa") == Ids{262, 261, byte_id('a')});
  CHECK(vocabulary.parts(259) == std::array<std::uint32_t, 2>{257, 258});
  data::EncodeCounts counts;
  Ids ids = {7};
  vocabulary.encode("hello he", ids, &counts);
  CHECK(ids == Ids{7, 259, byte_id('o'), byte_id(' '), 257});
  CHECK(counts.tokens == 4);
  CHECK(vocabulary.decode(ids) == "'hello he");
  CHECK(vocabulary.decode(Ids{0, 257, 0}) == "he");
  CHECK(vocabulary.decode(encoded(vocabulary, "a<|endoftext|>b")) == "a<|endoftext|>b");  // text, no end
  CHECK_THROWS_AS(vocabulary.decode(Ids{263}), engine::Error);
}

TEST_CASE("byte BPE: any text is encoded as the definition says, and comes back") {
  std::mt19937 random(11);
  // Few different bytes and characters that share bytes: merges overlap, and reach across borders of
  // characters.
  const std::vector<std::string> letters = {"a", "b", "一", "丁",         "乁", "亀",
                                            " ", "а", "Ѐ",  "\U0001F600", "'s", "1"};
  const auto text_of = [&](std::size_t most) {
    std::string text;
    for (std::size_t n = random() % most; n > 0; --n) text += letters[random() % letters.size()];
    return text;
  };
  std::size_t tokens = 0;
  for (int round = 0; round < 150; ++round) {
    const auto [merged, merges] = random_vocabulary(text_of(150) + "ab", 1 + random() % 60, random);
    const data::ByteBpe vocabulary(merged, "random");
    for (std::size_t i = 0; i < merges.size(); ++i)
      REQUIRE(vocabulary.parts(data::kFirstMerged + static_cast<std::uint32_t>(i)) ==
              std::array{merges[i].first, merges[i].second});
    for (int i = 0; i < 20; ++i) {
      std::string text = text_of(60);
      if (i % 4 == 3)
        for (char& byte : text)
          if (random() % 4 == 0) byte = static_cast<char>(random());
      CAPTURE(text);
      const Ids ids = encoded(vocabulary, text);
      REQUIRE(ids == by_definition(merges, text));
      REQUIRE(vocabulary.decode(ids) == text);
      tokens += ids.size();
    }
  }
  CHECK(tokens > 50000);
}

TEST_CASE("byte BPE: random bytes come back, and a word may have any length") {
  const data::ByteBpe vocabulary({"aa", "aaaa", "aaaaaaaa", "ab", "aab", "\xE4\xB8", "\xE4\xB8\xAD"}, "test");
  std::mt19937 random(2);
  std::string text;
  for (int i = 0; i < 100000; ++i) text += static_cast<char>(random());
  CHECK(vocabulary.decode(encoded(vocabulary, text)) == text);
  std::string word(4 << 20, 'a');  // would take hours if time grew with the square of the length
  CHECK(encoded(vocabulary, word).size() == word.size() / 8);
  for (char& letter : word) letter = random() % 4 == 0 ? 'b' : 'a';
  CHECK(vocabulary.decode(encoded(vocabulary, word)) == word);
}

TEST_CASE("byte BPE: the self-contained form") {
  const data::ByteBpe vocabulary({"he", "中"[0] + std::string("\xB8"), "中", " he"}, "test");
  const std::string payload = vocabulary.serialize();
  CHECK(payload.starts_with("bbpe\n<|endoftext|>\n!\n\"\n#\n"));
  CHECK(payload.ends_with("\nŁ\nł\nŃ\nhe\nä¸\nä¸Ń\nĠhe"));
  const auto again = data::deserialize_tokenizer(payload, "FILE");
  CHECK(again->kind() == "bbpe");
  CHECK(again->size() == 261);
  CHECK(again->serialize() == payload);
  CHECK(again->vocab_sha256() == data::sha256_hex(payload.substr(5)));
  CHECK(encoded(*again, "中 he") == Ids{259, 260});
  CHECK(again->piece(260) == "Ġhe");

  const std::string base = data::ByteBpe({}, "test").serialize();
  CHECK(refusal("bbpe") != "taken");
  CHECK(refusal("bbpe\n").find("line 1") != std::string::npos);
  CHECK(refusal("bbpe\n<|endoftext|>").find("257") != std::string::npos);
  CHECK(refusal("bbpe\n<|endoftext|>\n\"").find("line 2 is not '!'") != std::string::npos);
  CHECK(refusal(base + "\nhe\nhe").find("merge 2 makes 'he' again") != std::string::npos);
  CHECK(refusal(base + "\nhel").find("merge 1 makes 'hel', which falls into 3") != std::string::npos);
  CHECK(refusal(base + "\nel\nhe\nhel\nhello").find("merge 4 makes 'hello', which falls into 3") !=
        std::string::npos);
  CHECK(refusal(base + "\nx").find("merge 1 makes a token of 1 bytes") != std::string::npos);
  CHECK(refusal(base + "\n中").find("stands for no byte") != std::string::npos);
  CHECK(refusal(base + "\n").find("merge 1 makes a token of 0 bytes") != std::string::npos);
  CHECK(refusal(base + "\n" + std::string(1025, 'a')).find("1025 bytes") != std::string::npos);
  // "hel" joins h and el, so he and l, which it would also fall into, can never make it.
  CHECK(data::parse_byte_bpe(base + "\nel\nhe\nhel", "FILE")->parts(259) ==
        std::array<std::uint32_t, 2>{byte_id('h'), 257});
}

TEST_CASE("byte BPE: a stream shows whole characters") {
  const data::ByteBpe vocabulary({"中"[0] + std::string("\xB8"), "中"}, "test");
  data::StreamDecoder stream(vocabulary);
  CHECK(stream.push(258) == "中");
  CHECK(stream.push(257).empty());
  CHECK(stream.push(byte_id(0xAD)) == "中");
  CHECK(stream.push(byte_id(0xE4)).empty());
  CHECK(stream.push(byte_id('a')) == "\xE4\x61");  // no character after all
  CHECK(stream.push(0).empty());
  CHECK(stream.push(257).empty());
  CHECK(stream.finish() == "\xE4\xB8");
}
