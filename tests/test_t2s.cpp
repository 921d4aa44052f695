#include <nlohmann/json.hpp>
#include <opencc/SimpleConverter.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "data/t2s.h"
#include "data/utf8.h"
#include "engine/error.h"
#include "tests/text_cases.h"

namespace {

// A configuration of two chained conversions, the first with a group of dictionaries whose order matters.
std::string write_config(const tests::TempDir& folder, const std::string& segmentation) {
  tests::write_file(folder / "segments.txt", "bc\tbc\nxyz\txyz\n");
  tests::write_file(folder / "first.txt",
                    "ab\tAB\nbcd\tB\n"
                    "台\t臺 枱\n");
  tests::write_file(folder / "second.txt", "abc\tnever\nx\tXX\nd\t\U00020000\n");
  tests::write_file(folder / "third.txt", "AB\tcd\nXXy\tdone\n");
  tests::write_file(
      folder / "config.json", R"({"name": "test", "segmentation": {"type": "mmseg", "dict":
    {"type": "text", "file": ")" + segmentation +
                                  R"("}}, "conversion_chain": [{"dict": {"type": "group", "dicts": [
    {"type": "text", "file": "first.txt"}, {"type": "text", "file": "second.txt"}]}},
    {"dict": {"type": "text", "file": "third.txt"}}]})");
  return (folder / "config.json").string();
}

}  // namespace

TEST_CASE("t2s: a configuration with chained and grouped dictionaries") {
  const tests::TempDir folder;
  const data::Converter converter(write_config(folder, "segments.txt"));
  CHECK(converter.convert("") == "");
  CHECK(converter.convert("ab") == "cd");    // both conversions
  CHECK(converter.convert("abc") == "abc");  // "bc" is a segment, so "ab" never meets
  CHECK(converter.convert("abd") == "cd\U00020000");
  CHECK(converter.convert("台湾台") == "臺湾臺");  // the first value
  CHECK(converter.convert("xy") == "done");
  CHECK(converter.convert("xyz") == "donez");
  CHECK(converter.convert(std::string("d\0d\n", 4)) == std::string("\U00020000\0\U00020000\n", 10));
  CHECK(converter.opencc_version().starts_with("sha256:"));
  CHECK(converter.opencc_version().size() == 23);
}

TEST_CASE("t2s: random texts come out as OpenCC itself converts them") {
  const tests::TempDir folder;
  std::mt19937 random(5);
  for (const std::string segmentation : {"segments.txt", "first.txt"}) {
    const std::string config = write_config(folder, segmentation);
    const data::Converter converter(config);
    const opencc::SimpleConverter oracle(config);
    const std::vector<std::string> alphabet = {"a", "b",  "c",  "d",          "x", "y",
                                               "z", "AB", "台", "\U00020000", "\n"};
    for (int round = 0; round < 2000; ++round) {
      std::string text;
      for (std::size_t i = random() % 12; i > 0; --i) text += alphabet[random() % alphabet.size()];
      REQUIRE(converter.convert(text) == oracle.Convert(text));
    }
  }
}

TEST_CASE("t2s: the installed configurations convert as OpenCC does" *
          doctest::skip(tests::lacks_opencc("t2s: the installed configurations convert as OpenCC does"))) {
  std::string alphabet =
      "乾隆坤杯於倫敦後來皇后覆盆子復著瞭望明藉口慰狼鍾書裡里面發髮頭台灣臺电脑滑鼠软件計算機a ，\n";
  std::vector<std::string> characters;
  for (const char* at = alphabet.data(); at != alphabet.data() + alphabet.size();) {
    const char* start = at;
    data::next_code_point(at);
    characters.emplace_back(start, at);
  }
  std::mt19937 random(7);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += characters[random() % characters.size()];
  for (const char* config : {"t2s", "t2s.json", "tw2sp", "s2twp", "hk2s"}) {
    CAPTURE(config);
    CHECK(data::Converter(config).convert(text) == opencc::SimpleConverter(config).Convert(text));
  }
}

TEST_CASE("t2s: pieces cut at line ends, several threads" *
          doctest::skip(tests::lacks_opencc("t2s: pieces cut at line ends, several threads"))) {
  const data::Converter converter("t2s");
  std::string text;
  for (int i = 0; i < 3000; ++i)
    text += "乾隆皇帝喝乾杯，於倫敦\n𠮷臺灣" + std::string(static_cast<std::size_t>(i % 7), 'x');
  const std::string whole = converter.convert(text);
  std::vector<std::string> results(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < results.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t at = 0; at < text.size();) {
        std::size_t end = at + 100 * (t + 1);
        end = end >= text.size() ? text.size() : std::min(text.find('\n', end), text.size() - 1) + 1;
        converter.convert(std::string_view(text).substr(at, end - at), results[t]);
        at = end;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& result : results) CHECK(result == whole);
}

TEST_CASE("t2s: what cannot be loaded is a usage error in one line that says what to do") {
  const tests::TempDir folder;
  tests::write_file(folder / "broken.json", "{\n\"name\": 1");
  tests::write_file(folder / "lost.json", R"({"name": "x", "segmentation": {"type": "mmseg", "dict":
    {"type": "text", "file": "none.txt"}}, "conversion_chain": []})");
  for (const std::string& config :
       {std::string("no-such-config"), (folder / "absent.json").string(), (folder / "broken.json").string(),
        (folder / "lost.json").string(), std::string()}) {
    CAPTURE(config);
    try {
      const data::Converter converter(config);
      FAIL("loaded");
    } catch (const engine::Error& error) {
      const std::string what = error.what();
      CHECK(error.code == engine::Exit::usage);
      CHECK(what.find("--t2s " + config) == 0);
      CHECK(what.find("make deps") != std::string::npos);
      CHECK(what.find("--t2s off") != std::string::npos);
      CHECK(what.find('\n') == std::string::npos);
    }
  }
}

TEST_CASE("t2s: phrases, characters and what stays" *
          doctest::skip(tests::lacks_opencc("t2s: phrases, characters and what stays", "1.1.6"))) {
  const data::Converter converter("t2s");
  const std::vector<std::pair<const char*, const char*>> rows = {
      {"乾隆喝乾杯", "乾隆喝干杯"}, {"皇后後來", "皇后后来"},     {"看著", "看著"},
      {"於倫敦", "於伦敦"},         {"明瞭瞭望", "明了瞭望"},     {"錢鍾書", "钱锺书"},
      {"臺\n灣", "台\n湾"},         {"a<b>臺</b>", "a<b>台</b>"}, {"%E8%87%BA", "%E8%87%BA"},
  };
  for (const auto& [text, expected] : rows) CHECK(converter.convert(text) == expected);
  CHECK(converter.convert(std::string("乾隆\0後", 10)) == std::string("乾隆\0后", 10));
}

TEST_CASE("t2s: the published answers of OpenCC 1.1.6" *
          doctest::skip(tests::lacks_shared("t2s: the published answers of OpenCC 1.1.6",
                                            "cases/opencc-t2s-golden.tsv") ||
                        tests::lacks_opencc("t2s: the published answers of OpenCC 1.1.6", "1.1.6"))) {
  const data::Converter converter("t2s");
  const auto folder = tests::shared_data();
  const std::string table = tests::read_file(folder / "cases" / "opencc-t2s-golden.tsv");
  int rows = 0;
  for (std::size_t at = 0; at < table.size();) {
    const std::size_t end = table.find('\n', at);
    const std::string line = table.substr(at, end - at);
    at = end + 1;
    if (line.starts_with('#')) continue;
    const std::size_t tab = line.find('\t'), second = line.find('\t', tab + 1);
    CHECK(converter.convert(line.substr(0, tab)) == line.substr(tab + 1, second - tab - 1));
    ++rows;
  }
  CHECK(rows >= 58);
  for (const auto& row : nlohmann::json::parse(tests::read_file(folder / "cases" / "t2s-guards.json"))) {
    const std::string in =
        row.contains("in_hex") ? tests::from_hex(row["in_hex"]) : row["in"].get<std::string>();
    CHECK(converter.convert(data::repair_utf8(in)) == row["want"].get<std::string>());
  }
  CHECK(converter.convert(tests::gunzip(folder / "drcd-traditional.txt.gz")) ==
        tests::gunzip(folder / "drcd-simplified.opencc-golden.txt.gz"));
}
