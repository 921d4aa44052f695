#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "data/percent.h"
#include "data/utf8.h"
#include "tests/text_cases.h"

namespace {

std::string repair_in_pieces(std::string_view bytes, std::size_t size, bool strip_bom, std::uint64_t* count) {
  data::Utf8Repair repair(strip_bom);
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += size) repair.push(bytes.substr(at, size), text);
  repair.finish(text);
  *count = repair.replacements();
  return text;
}

// The decoder of https://encoding.spec.whatwg.org/#utf-8-decoder, byte by byte, as it is written there.
std::string whatwg(std::string_view bytes, std::uint64_t* count) {
  std::string text;
  std::uint32_t code_point = 0;
  int seen = 0, needed = 0;
  unsigned lower = 0x80, upper = 0xBF;
  const auto error = [&] { text += "\xEF\xBF\xBD", ++*count; };
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const unsigned byte = static_cast<unsigned char>(bytes[i]);
    if (needed == 0) {
      if (byte <= 0x7F) {
        text += static_cast<char>(byte);
      } else if (0xC2 <= byte && byte <= 0xDF) {
        needed = 1, code_point = byte & 0x1F;
      } else if (0xE0 <= byte && byte <= 0xEF) {
        if (byte == 0xE0) lower = 0xA0;
        if (byte == 0xED) upper = 0x9F;
        needed = 2, code_point = byte & 0xF;
      } else if (0xF0 <= byte && byte <= 0xF4) {
        if (byte == 0xF0) lower = 0x90;
        if (byte == 0xF4) upper = 0x8F;
        needed = 3, code_point = byte & 0x7;
      } else {
        error();
      }
      continue;
    }
    const bool fits = lower <= byte && byte <= upper;
    lower = 0x80, upper = 0xBF;
    if (!fits) {
      needed = seen = 0;
      error();
      --i;
      continue;
    }
    code_point = code_point << 6 | (byte & 0x3F);
    if (++seen < needed) continue;
    text += bytes.substr(i - static_cast<std::size_t>(needed), static_cast<std::size_t>(needed) + 1);
    needed = seen = 0;
  }
  if (needed > 0) error();
  return text;
}

}  // namespace

TEST_CASE("utf8: one wrong byte anywhere in a long text") {
  // All lengths, at all distances to the places where the check may go on in larger steps.
  std::string text;
  for (int i = 0; text.size() < 300; ++i)
    text += std::vector<std::string>{
        "中", "a", "\u00E9", "\U0001F602", "\uFF0C", "\uD7FF", "\u0800"}[i * i % 11 % 7];
  CHECK(data::is_well_formed(text));
  const std::string bad =
      "\x80\xBF\xC0\xC1\xC2\xE0\xED\xF0\xF4\xF5\xFF"
      "a";
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (const char byte : bad) {
      std::string changed = text;
      changed[at] = byte;
      std::uint64_t replaced = 0, expected = 0;
      const std::string repaired = whatwg(changed, &expected);
      CHECK(data::is_well_formed(changed) == (expected == 0));
      CHECK(data::repair_utf8(changed, &replaced) == repaired);
      CHECK(replaced == expected);
      const std::size_t good = data::well_formed_prefix(changed);
      CHECK(repaired.substr(0, good) == changed.substr(0, good));
      CHECK((good == changed.size() || repaired.substr(good, 3) == "\uFFFD"));
    }
  }
  for (std::size_t size = 0; size < text.size(); ++size) {  // cut anywhere
    std::uint64_t expected = 0;
    whatwg(text.substr(0, size), &expected);
    CHECK(data::is_well_formed(text.substr(0, size)) == (expected == 0));
  }
}

TEST_CASE("utf8: repair replaces each maximal ill-formed part once") {
  struct Row {
    const char *bytes, *text;
    std::uint64_t replaced;
  };
  // From The Unicode Standard 15, tables 3-8 to 3-11, and from Python's bytes.decode("utf-8", "replace").
  const std::vector<Row> rows = {
      {"", "", 0},
      {"a\xE4\xB8\xAD\xF0\x9F\x98\x82", "a\xE4\xB8\xAD\xF0\x9F\x98\x82", 0},
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA", 8},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA", 8},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA\uFFFD\uFFFDB", 7},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\uFFFD\uFFFD\uFFFD\uFFFDA", 4},
      {"x\xE4\xB8", "x\uFFFD", 1},
      {"\xF0\x9F\x98", "\uFFFD", 1},
      {"\xF0\x9F\x98\xF0\x9F\x98\x82", "\uFFFD\xF0\x9F\x98\x82", 1},
  };
  for (const Row& row : rows) {
    for (std::size_t size = 1; size < 10; ++size) {
      CAPTURE(row.text);
      CAPTURE(size);
      std::uint64_t replaced = 0;
      CHECK(repair_in_pieces(row.bytes, size, true, &replaced) == row.text);
      CHECK(replaced == row.replaced);
    }
    CHECK(data::is_well_formed(row.bytes) == (row.replaced == 0));
  }
}

TEST_CASE("utf8: repair of random bytes is what the WHATWG decoder gives, however the stream is cut") {
  std::mt19937 random(1);
  const std::string alphabet = "a\x80\x8F\x90\x9F\xA0\xBF\xC1\xC2\xDF\xE0\xE4\xED\xEF\xF0\xF3\xF4\xF5\xFF";
  for (int round = 0; round < 3000; ++round) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = alphabet[random() % alphabet.size()];
    if (round % 3 == 0) bytes.insert(bytes.size() / 2, "\xE6\xBC\xA2\xE5\xAD\x97ordinary text\xE6\xBC\xA2");
    std::uint64_t expected = 0, replaced = 0;
    const std::string text = whatwg(bytes, &expected);
    CHECK(repair_in_pieces(bytes, 1 + random() % 7, false, &replaced) == text);
    CHECK(replaced == expected);
    CHECK(data::repair_utf8(text) == text);
    CHECK(data::is_well_formed(bytes) == (expected == 0));
  }
}

TEST_CASE("utf8: one byte order mark at the start of the stream is left out") {
  for (std::size_t size = 1; size < 8; ++size) {
    std::uint64_t replaced = 0;
    CHECK(repair_in_pieces("\uFEFF\uFEFFx\uFEFF", size, true, &replaced) == "\uFEFFx\uFEFF");
    CHECK(repair_in_pieces("\uFEFFx", size, false, &replaced) == "\uFEFFx");
    CHECK(repair_in_pieces("x\uFEFF", size, true, &replaced) == "x\uFEFF");
    CHECK(repair_in_pieces("\xEF\xBB", size, true, &replaced) == "\uFFFD");
    CHECK(repair_in_pieces("\xFF\uFEFF", size, true, &replaced) == "\uFFFD\uFEFF");
  }
}

TEST_CASE("utf8: every scalar value is written, read forwards and read backwards") {
  for (char32_t c = 0; c <= data::kLastCodePoint; ++c) {
    std::string text = "\u00E9";
    data::append_utf8(text, c);
    const bool surrogate = 0xD800 <= c && c < 0xE000;
    REQUIRE(data::is_well_formed(text) == !surrogate);
    if (surrogate) continue;
    const char* at = text.data() + 2;
    REQUIRE(data::utf8_length(*at) == text.size() - 2);
    REQUIRE(data::next_code_point(at) == c);
    REQUIRE(at == text.data() + text.size());
    REQUIRE(data::previous_code_point(at) == c);
    REQUIRE(data::previous_code_point(at) == 0xE9);
    REQUIRE(at == text.data());
  }
}

TEST_CASE("utf8: percent-decoding replaces well-formed runs only, whole or in pieces") {
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"%e7%94%b0", "田"},
      {"%9d%e7%94%b0%e4%ba%ba#", "%9d田人#"},
      {"%E7%94", "%E7%94"},
      {"100% %zz %4 %41+", "100% %zz %4 A+"},
      {"%%41%e7%41%e7%94x", "%A%e7A%e7%94x"},
      {"%f0%9f%98%82%c0%af%ed%a0%80%", "😂%c0%af%ed%a0%80%"},
      {"", ""},
  };
  for (const auto& [text, expected] : rows) {
    CHECK(data::percent_decode(text) == expected);
    for (std::size_t size = 1; size < 14; ++size) {
      data::PercentDecoder decoder;
      std::string joined;
      for (std::size_t at = 0; at < text.size(); at += size) {
        const std::string piece = decoder.push(std::string_view(text).substr(at, size));
        CHECK(data::is_well_formed(piece));
        joined += piece;
      }
      CHECK(joined + decoder.finish() == expected);
    }
  }
  data::PercentDecoder decoder;
  CHECK(decoder.push("a%e7%94%b").size() == 1);  // what may become a character is held back
  CHECK(decoder.push("0") == "田");
  CHECK(decoder.push("5%的") == "5%的");
}

TEST_CASE("utf8: the published cases" *
          doctest::skip(tests::lacks_shared("utf8: the published cases", "cases/utf8-malformed.json"))) {
  const auto cases =
      nlohmann::json::parse(tests::read_file(tests::shared_data() / "cases" / "utf8-malformed.json"));
  CHECK(cases.size() >= 17);
  for (const auto& row : cases) {
    const std::string name = row["name"], hex = row["hex"];
    CAPTURE(name);
    const std::string bytes = tests::from_hex(hex);
    for (std::size_t size = 1; size <= bytes.size(); ++size) {
      std::uint64_t replaced = 0;
      CHECK(repair_in_pieces(bytes, size, false, &replaced) == row["decoded_maximal_subpart"]);
      CHECK(replaced == row["replacements"]);
    }
  }
}
