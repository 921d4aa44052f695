// bzip2 data against libbz2, and files that are cut, damaged or hostile.
#include "data/byte_source.h"
#include "data/bzip2_block.h"
#include "engine/error.h"
#include "tests/string_source.h"
#include "tests/support.h"
#if __has_include(<bzlib.h>)
#include <bzlib.h>

#include <algorithm>
#include <cstring>

namespace {

std::string packed(const std::string& text, int level = 9) {
  std::string out(text.size() + text.size() / 50 + 1000, '\0');
  auto size = static_cast<unsigned>(out.size());
  REQUIRE(BZ2_bzBuffToBuffCompress(out.data(), &size, const_cast<char*>(text.data()),
                                   static_cast<unsigned>(text.size()), level, 0, 30) == BZ_OK);
  out.resize(size);
  return out;
}

struct Got {
  std::string text, error;
  std::size_t warnings = 0;
};

Got unpacked(const std::string& bytes, int threads, std::size_t piece = 1 << 20, std::size_t room = 1 << 16) {
  Got got;
  try {
    const auto source = data::bunzip2(std::make_unique<tests::StringSource>(bytes, piece), "FILE", threads,
                                      [&](std::string line) { got.warnings += line.find("FILE: ") == 0; });
    tests::read_all(*source, got.text, room);
  } catch (const engine::Error& error) {
    got.error = error.what();
    CHECK(error.code == engine::Exit::data);
  }
  return got;
}

std::string noise(std::size_t size, std::string_view alphabet, std::uint32_t seed) {
  std::string text;
  for (; size > 0; --size)
    text += alphabet[(seed = seed * 1664525 + 1013904223) % 65536 * alphabet.size() / 65536];
  return text;
}

std::string all_bytes() {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  return all;
}

// Texts whose blocks have kBzip2Block in their table of used bytes.
std::string text_with_false_marks(std::size_t size) {
  std::string used;
  int range = 2;
  for (const unsigned map : {0x3141u, 0x5926u, 0x5359u}) {
    for (int i = 0; i < 16; ++i)
      if ((map >> (15 - i) & 1) != 0) used += static_cast<char>(16 * range + i);
    ++range;
  }
  return noise(size, used, 5) + used;
}

}  // namespace

TEST_CASE("bzip2: what libbz2 packs") {
  std::vector<std::string> texts = {"",
                                    "a",
                                    "abc",
                                    std::string(900'000, 'x'),
                                    std::string(3'000'000, '\0'),
                                    noise(1'000'000, all_bytes(), 1),
                                    noise(700'000, "abcd\n", 2)};
  std::string runs;
  for (int length = 1; length < 600; ++length)
    runs += std::string(static_cast<std::size_t>(length), "xyz"[length % 3]);
  texts.push_back(runs);
  for (const std::string& text : texts)
    for (const int level : {1, 9}) {
      CAPTURE(text.size());
      const std::string bytes = packed(text, level);
      for (const int threads : {1, 3}) CHECK(unpacked(bytes, threads).text == text);
      if (bytes.size() < 10'000) CHECK(unpacked(bytes, 2, 1, 3).text == text);
    }
}

TEST_CASE("bzip2: all streams, padding, other bytes behind") {
  const std::string a = noise(300'000, "abc", 1), b = noise(20, "de", 2);
  const std::string bytes = packed(a, 1) + packed("") + packed(b) + packed("") + packed(a, 2);
  for (const int threads : {1, 3}) {
    CHECK(unpacked(bytes, threads).text == a + b + a);
    CHECK(unpacked(bytes, threads).warnings == 0);
    const Got padded = unpacked(bytes + std::string(1000, '\0'), threads);
    CHECK(padded.text == a + b + a);
    CHECK(padded.warnings == 0);
    for (const char* rest : {"x", "BZh", "BZh0", "1AY&SY1AY&SY"}) {
      const Got got = unpacked(bytes + rest, threads);
      CHECK(got.text == a + b + a);
      CHECK(got.warnings == 1);
    }
  }
}

TEST_CASE("bzip2: cut or damaged anywhere") {
  const std::string text = noise(5'000, "abcdefgh", 3), bytes = packed(text) + packed(text);
  for (std::size_t cut = 10; cut < bytes.size(); cut += 7) {
    CAPTURE(cut);
    const std::string part = bytes.substr(0, cut);
    const std::size_t first = bytes.size() / 2;
    const Got got = unpacked(part, cut % 2 == 0 ? 1 : 2);
    if (cut >= first && cut < first + 4) {  // less than a stream's beginning is none
      CHECK(got.text == text);
      continue;
    }
    CHECK(got.error.find("FILE: bzip2 data end early") == 0);
  }
  for (std::size_t at = 4; at < bytes.size() / 2; at += 11) {
    CAPTURE(at);
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    CHECK(unpacked(damaged, at % 2 == 0 ? 1 : 2).error.find("FILE: bzip2 data ") == 0);
  }
}

TEST_CASE("bzip2: bits that look like a block's beginning") {
  const std::string one_block = packed(text_with_false_marks(1000));
  std::string bits;
  for (const char c : one_block)
    for (int bit = 7; bit >= 0; --bit) bits += (static_cast<unsigned char>(c) >> bit & 1) != 0 ? '1' : '0';
  std::string mark;
  for (int bit = 47; bit >= 0; --bit) mark += (data::kBzip2Block >> bit & 1) != 0 ? '1' : '0';
  REQUIRE(bits.find(mark) == 32);
  REQUIRE(bits.find(mark, 33) != bits.npos);
  const std::string text = text_with_false_marks(2'500'000), bytes = packed(text, 1);
  for (const int threads : {1, 2, 4}) CHECK(unpacked(bytes, threads).text == text);
  const std::string one = text_with_false_marks(1000),
                    all = packed(one) + packed(noise(400'000, "abc", 9), 1);
  CHECK(unpacked(all, 3).text == one + noise(400'000, "abc", 9));
  std::string marks = "BZh9";
  for (int i = 0; i < 500'000; ++i) marks += "1AY&SY";
  CHECK(unpacked(marks, 3).error.find("damaged") != std::string::npos);
  CHECK(unpacked("BZh91AY&SY" + std::string(5'000'000, '\x55'), 2).error.find("damaged") !=
        std::string::npos);
}
#else
TEST_CASE("bzip2: what libbz2 packs" *
          doctest::skip(tests::lacks("bzip2: what libbz2 packs", true, "built without libbz2"))) {}
#endif
