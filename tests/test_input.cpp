// Byte sources and inputs: gzip, folders, formats told by content.
#include <unistd.h>
#include <zlib.h>

#include <nlohmann/json.hpp>

#include "data/input.h"
#include "data/text_cut.h"
#include "engine/error.h"
#include "tests/support.h"

namespace {

namespace fs = std::filesystem;

struct Got {
  std::string text, error;
  int code = 0;
  std::vector<std::string> warnings;
  data::InputFormat format{};
};

Got read_all(const std::string& name, data::InputOptions options = {}) {
  Got got;
  try {
    data::Input input(name, options, ~std::uint64_t{0},
                      [&](std::string line) { got.warnings.push_back(line); });
    got.format = input.format();
    do {
      got.text += input.window();
      input.consume(input.window().size());
    } while (input.fill());
  } catch (const engine::Error& error) {
    got.error = error.what();
    got.code = static_cast<int>(error.code);
  }
  return got;
}

std::string gzip(std::string_view text) {  // one member, written by zlib
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(packed.size() - stream.avail_out);
  deflateEnd(&stream);
  return packed;
}

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "第" + std::to_string(i) + "行 line\n";
  return text;
}

}  // namespace

TEST_CASE("input: gzip cases" *
          doctest::skip(tests::lacks_shared("input: gzip cases", "cases/gzip.expected.json"))) {
  const fs::path cases = tests::shared_data() / "cases";
  const auto expected = nlohmann::json::parse(tests::read_file(cases / "gzip.expected.json"));
  for (const auto& [name, row] : expected.items()) {
    CAPTURE(name);
    for (const std::size_t window : {64, 100, 1 << 20}) {
      const Got got = read_all((cases / name).string(), {.window = window});
      if (row.contains("text")) {
        CHECK(got.error == "");
        CHECK(got.text == row["text"].get<std::string>());
      } else {
        CHECK(got.code == 3);
        CHECK(got.error.find(name) != std::string::npos);
      }
      CHECK(got.warnings.size() == (name == "trailing-garbage.gz" ? 1u : 0u));
    }
  }
  CHECK(read_all((cases / "bad-crc.gz").string()).error.find("CRC") != std::string::npos);
  CHECK(read_all((cases / "truncated.gz").string()).error.find("end early, at byte 84") != std::string::npos);
}

TEST_CASE("input: gzip members and every early end") {
  tests::TempDir dir;
  const std::string path = (dir / "x").string();
  const std::string text = lines(3000), first = gzip(text), whole = first + gzip("") + gzip("end\n");
  tests::write_file(path, whole);
  CHECK(read_all(path).text == text + "end\n");
  tests::write_file(path, whole + std::string(3, '\0'));
  CHECK(read_all(path).text == text + "end\n");
  CHECK(read_all(path).warnings.empty());
  tests::write_file(path, whole + std::string("\0\0x", 3));
  CHECK(read_all(path).warnings.size() == 1);
  for (std::size_t cut = 3; cut < whole.size(); cut += cut < first.size() - 20 ? 997 : 1) {
    CAPTURE(cut);
    tests::write_file(path, whole.substr(0, cut));
    const Got got = read_all(path);
    const std::size_t second = first.size(), third = first.size() + gzip("").size();
    const bool member_end = cut == second || cut == third;
    const bool one_byte_more = cut == second + 1 || cut == third + 1;  // "1f" alone is no member
    CHECK(got.code == (member_end || one_byte_more ? 0 : 3));
    CHECK(got.warnings.size() == (one_byte_more ? 1u : 0u));
  }
  std::string damaged = whole;
  damaged[first.size() / 2] = static_cast<char>(damaged[first.size() / 2] ^ 0x10);
  tests::write_file(path, damaged);
  CHECK(read_all(path).code == 3);
}

TEST_CASE("input: limit and window") {
  tests::TempDir dir;
  const std::string path = (dir / "x").string(), text = lines(2000);
  tests::write_file(path, text);
  for (const std::size_t window : {64, 4096, 1 << 20})
    for (const std::size_t limit :
         {std::size_t{1}, std::size_t{64}, std::size_t{5000}, text.size(), text.size() + 1}) {
      const data::InputOptions options{.window = window};
      data::Input input(path, options, limit, {});
      std::string got;
      do {
        got += input.window();
        input.consume(input.window().size());
      } while (input.fill());
      CHECK(got == text.substr(0, limit));
      CHECK(input.limited() == (limit < text.size()));
      CHECK(input.bytes_read() == got.size());
    }
}

TEST_CASE("input: folders, missing and empty files") {
  tests::TempDir dir;
  fs::create_directories(dir / "b/c");
  fs::create_directories(dir / "empty");
  for (const char* name : {"b/wiki_01", "b/wiki_00", "b/c/x", "a"}) tests::write_file(dir / name, "text\n");
  tests::write_file(dir / "b/zero", "");
  const std::string root = dir.path().string();
  const auto files = data::expand_inputs({root, "-"});
  const std::vector<std::string> expected = {root + "/a", root + "/b/c/x", root + "/b/wiki_00",
                                             root + "/b/wiki_01", "-"};
  CHECK(files == expected);
  const auto code = [](auto f) {
    try {
      f();
    } catch (const engine::Error& error) {
      return static_cast<int>(error.code);
    }
    return 0;
  };
  CHECK(code([&] { data::expand_inputs({root + "/none"}); }) == 3);
  CHECK(code([&] { data::expand_inputs({root + "/empty"}); }) == 3);
  CHECK(code([&] { data::expand_inputs({"-", "-"}); }) == 2);
  CHECK(read_all(root + "/b/zero").code == 3);
  CHECK(read_all(root + "/b").code == 3);
}

TEST_CASE("input: formats are told by content") {
  tests::TempDir dir;
  const auto sniff = [&](std::string_view bytes) {
    tests::write_file(dir / "x.gz", bytes);  // the name lies
    return read_all((dir / "x.gz").string());
  };
  using data::InputFormat;
  CHECK(sniff("\xEF\xBB\xBF<feed>\n").format == InputFormat::abstract_xml);
  CHECK(sniff("\xEF\xBB\xBFtext").text == "text");
  CHECK(sniff("<?xml version=\"1.0\"?>\n <feed>").format == InputFormat::abstract_xml);
  CHECK(sniff("<mediawiki xmlns=\"x\">\n<page>").format == InputFormat::pages_xml);
  CHECK(sniff("<doc id=\"1\" url=\"u\" title=\"t\">\n").format == InputFormat::wikiextractor);
  CHECK(sniff(" \n{\"text\":\"x\"}").format == InputFormat::json);
  CHECK(sniff("[\n {\"text\":\"x\"}]").format == InputFormat::json);
  CHECK(sniff("{{Infobox}}").format == InputFormat::plain_text);
  CHECK(sniff("[1] 注").format == InputFormat::plain_text);
  CHECK(sniff("BZh, der Text").format == InputFormat::plain_text);
  using namespace std::string_view_literals;
  for (const std::string_view foreign :
       {"BZh91AY&SY12345678"sv, "\x28\xB5\x2F\xFD...."sv, "\xFD\x37zXZ\0...."sv, "PK\x03\x04..."sv,
        "PAR1..."sv, "\xFF\xFEh\0i\0"sv, "\xFE\xFF\0h\0i"sv,
        "\x90\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"nsa-tokens/1\"}}"sv}) {
    CAPTURE(foreign);
    const Got got = sniff(foreign);
    CHECK(got.code == 3);
    CHECK(got.error.find("x.gz: ") != std::string::npos);
    CHECK(got.error.find('\n') == std::string::npos);
  }
  CHECK(sniff(gzip("BZh91AY&SY12345678")).code == 3);
  std::string gbk;
  for (int i = 0; i < 200; ++i) gbk += "\xD6\xD0\xB9\xFA ";  // 中国 in GB18030
  CHECK(sniff(gbk).error.find("iconv") != std::string::npos);
  std::string wide;
  for (int i = 0; i < 200; ++i) wide += std::string("a\0", 2);
  CHECK(sniff(wide).error.find("iconv") != std::string::npos);
}

TEST_CASE("text cut: keeps lines, words, characters and phrases") {
  CHECK(data::safe_cut("aa aaa\nbb cc", data::WordRule::bert, nullptr) ==
        7);  // the line feed is in the second half
  CHECK(data::safe_cut("\naaaabb cc", data::WordRule::bert, nullptr) == 8);
  CHECK(data::safe_cut("aaaa中bbb", data::WordRule::bert, nullptr) == 7);
  CHECK(data::safe_cut("abc,def,ghi", data::WordRule::bert, nullptr) == 8);
  CHECK(data::safe_cut("abcdef,[UNK", data::WordRule::bert, nullptr) == 11);  // not before a bracket
  CHECK(data::safe_cut("aé\xC3", data::WordRule::bert, nullptr) == 3);  // the last character is not whole
  CHECK(data::safe_cut("x", data::WordRule::bert, nullptr) == 1);
  for (const std::string_view text : {"中", "é", "😂", "a"}) {
    CHECK(data::whole_characters(text) == text.size());
    for (std::size_t cut = 1; cut < text.size(); ++cut)
      CHECK(data::whole_characters(text.substr(0, cut)) == 0);
  }
  CHECK(data::whole_characters("\x80\x80\x80\x80") == 4);
}
