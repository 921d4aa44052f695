// What prepare makes of documents as wholes: duplicates, the two sides of a split, and what a file says of
// its source.
#include <zlib.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "data/prepare.h"
#include "data/seen_documents.h"
#include "engine/error.h"
#include "tests/prepare_settings.h"
#include "tests/support.h"
#if __has_include(<bzlib.h>)
#include <bzlib.h>
#endif

namespace {

namespace fs = std::filesystem;
using data::PrepareOptions;
using data::PrepareReport;
using tests::kSettings;
using tests::Setting;
using Skipped = std::map<std::string, std::uint64_t>;

struct Text {
  std::string text;
  PrepareReport report;
};

Text text_of(const std::vector<std::string>& inputs, PrepareOptions options = {},
             const Setting& setting = kSettings[0]) {
  tests::TempDir dir;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    options.inputs.push_back((dir / std::to_string(i)).string());
    tests::write_file(options.inputs.back(), inputs[i]);
  }
  options.output = dir / "out";
  options.text = true;
  PrepareReport report = data::prepare(tests::with(options, setting));
  return {tests::read_file(dir / "out"), std::move(report)};
}

std::string page(const std::string& title, const std::string& text) {
  return "<page>\n<title>" + title + "</title>\n<ns>0</ns>\n<revision><text xml:space=\"preserve\">" + text +
         "</text></revision>\n</page>\n";
}

std::string dump(const std::string& pages) {
  return "<mediawiki>\n<siteinfo><sitename>W</sitename></siteinfo>\n" + pages + "</mediawiki>\n";
}

// The documents of the validation part of JSON lines, told by their lengths: document i has i + 1 characters
// of `character` and, where `titled`, a title. Every document must be in one part.
std::set<std::size_t> validation_of(std::size_t documents, char character, bool titled, double share,
                                    std::uint64_t seed) {
  tests::TempDir dir;
  std::string lines;
  for (std::size_t i = 0; i < documents; ++i)
    lines += (titled ? "{\"title\":\"T" + std::to_string(i) + "\"," : "{") + "\"text\":\"" +
             std::string(i + 1, character) + "\"}\n";
  tests::write_file(dir / "in", lines);
  PrepareOptions options;
  options.inputs = {(dir / "in").string()};
  options.output = dir / "x.bin";
  options.training = {.kind = data::VocabularyKind::bbpe, .size = 257};  // a byte is a token
  options.split = {.rule = data::Split::Rule::hash, .share = share};
  options.seed = seed;
  const PrepareReport report = data::prepare(options);
  CHECK(report.documents == documents);
  const data::TokenFile file(dir / "x.bin");
  std::set<std::size_t> all, validation;
  for (std::size_t d = 0; d + 1 < file.documents().size(); ++d) {
    const std::uint64_t start = file.documents()[d];
    const std::size_t document = file.documents()[d + 1] - start - 2;  // without the end-of-text
    all.insert(document);
    if (start >= file.validation_from()) validation.insert(document);
  }
  CHECK(all.size() == documents);
  CHECK(report.summary.validation_documents == validation.size());
  return validation;
}

bool below(std::string_view key, double share, std::uint64_t seed) {
  data::SplitHash hash(seed);
  hash.update(key);
  return static_cast<double>(hash.value()) < std::ldexp(share, 64);
}

}  // namespace

TEST_CASE("prepare: of equal documents the first stays") {
  for (const Setting& setting : kSettings) {
    const auto [text, report] =
        text_of({"一\n二\n\n三\n\n一\n二\n\n四\n\n三\n\n一\n", "四\n\n五\n"}, {}, setting);
    CHECK(text == "一\n二\n\n三\n\n四\n\n一\n\n五\n");
    CHECK(report.documents == 5);
    CHECK(report.skipped == Skipped{{"duplicate", 3}});
  }
  // Equal is what is written: after conversion,
  CHECK(text_of({"乾杯\n\n干杯\n\n乾坤\n"}).text == "干杯\n\n乾坤\n");
  PrepareOptions unconverted;
  unconverted.t2s = "off";
  CHECK(text_of({"乾杯\n\n干杯\n\n乾坤\n"}, unconverted).report.skipped.empty());
  // after repair,
  CHECK(text_of({"\xFF\n\n\uFFFD\n"}).text == "\uFFFD\n");
  // and with a page's title, whatever the format it comes in.
  const auto [text, report] =
      text_of({dump(page("甲", "同") + page("乙", "同") + page("甲", "'''同'''")), "乙\n同\n\n同\n"});
  CHECK(text == "甲\n同\n\n乙\n同\n\n同\n");
  CHECK(report.skipped == Skipped{{"duplicate", 2}});
}

TEST_CASE("prepare: large duplicates, for any threads and buffers") {
  std::string large;
  for (int i = 0; i < 60'000; ++i) large += "第" + std::to_string(i) + "行\n";
  const std::string changed = large.substr(0, large.size() - 5) + "頁\n";
  const std::string input =
      dump(page("大", large) + page("小", "一") + page("大", large) + page("大", changed) + page("小", "一"));
  std::string first;
  for (const Setting& setting : kSettings) {
    CAPTURE(setting.part);
    const auto [text, report] = text_of({input}, {}, setting);
    CHECK(report.documents == 3);
    CHECK(report.skipped == Skipped{{"duplicate", 2}});
    if (first.empty()) first = text;
    CHECK(text == first);
  }
  CHECK(first.find("\n\n小\n一\n\n大\n第0行\n") != std::string::npos);
  CHECK(first.ends_with("页\n"));
}

TEST_CASE("prepare: a token file without duplicates says how many there were; a raw stream keeps all") {
  tests::TempDir dir;
  tests::write_file(dir / "in", "ab\n\ncd\n\nab\n\nab\n\nef\n");
  PrepareOptions options;
  options.inputs = {(dir / "in").string()};
  options.output = dir / "x.bin";
  options.training.size = 257;
  options.split.share = 0;
  CHECK(data::prepare(options).documents == 3);
  const data::TokenFile file(dir / "x.bin");
  CHECK(file.documents().size() == 4);
  CHECK(file.size() == 9);
  file.verify();
  const auto counts = nlohmann::json::parse(file.container().meta("counts"));
  CHECK(counts["documents"] == 3);
  CHECK(counts["skipped"]["duplicate"] == 2);
  CHECK(file.text_bytes_train() == 6);

  options.raw = true;
  CHECK(data::prepare(options).skipped.empty());
  CHECK(data::TokenFile(dir / "x.bin").size() == 19);
  options.raw = false;
  options.keep_duplicates = true;
  const PrepareReport kept = data::prepare(options);
  CHECK(kept.documents == 5);
  CHECK(kept.skipped == Skipped{{"duplicate", 2}});
}

TEST_CASE("prepare: documents seen before, among many") {
  std::mt19937 bits(1);
  data::SeenDocuments seen;
  std::set<std::string> expected;
  int wrong = 0;
  for (int i = 0; i < 40'000; ++i) {
    const std::string text = std::to_string(bits() % 20'000);
    const std::size_t cut = bits() % (text.size() + 1);
    if (bits() % 4 == 0) seen.add("nothing of this"), seen.abandon_document();
    seen.add(std::string_view(text).substr(0, cut));
    seen.add(std::string_view(text).substr(cut));
    wrong += seen.end_document() == expected.insert(text).second;
  }
  CHECK(wrong == 0);
  CHECK(expected.size() > 10'000);
}

TEST_CASE("prepare: --split hash goes by the title where there is one, else by the text") {
  for (const std::uint64_t seed : {1, 2}) {
    CAPTURE(seed);
    std::set<std::size_t> by_title, by_text;
    for (std::size_t i = 0; i < 60; ++i) {
      if (below("T" + std::to_string(i), 0.3, seed)) by_title.insert(i);
      if (below(std::string(i + 1, 'x'), 0.3, seed)) by_text.insert(i);
    }
    REQUIRE(by_title.size() > 5);
    REQUIRE(by_text.size() > 5);
    CHECK(validation_of(60, 'x', true, 0.3, seed) == by_title);
    CHECK(validation_of(60, 'y', true, 0.3, seed) == by_title);  // whatever the text
    CHECK(validation_of(60, 'x', false, 0.3, seed) == by_text);
  }
  CHECK(validation_of(60, 'x', true, 0.3, 1) != validation_of(60, 'x', true, 0.3, 2));
}

TEST_CASE("prepare: --split hash leaves a document on each side") {
  for (const bool titled : {true, false}) {
    CHECK(validation_of(5, 'x', titled, 1e-12, 1).size() == 1);
    CHECK(validation_of(5, 'x', titled, 0.999999, 1).size() == 4);
    for (const double share : {1e-12, 0.5, 0.999999})
      CHECK(validation_of(2, 'x', titled, share, 3).size() == 1);
    CHECK(validation_of(5, 'x', titled, 0, 1).empty());
  }
}

TEST_CASE("prepare: a file, what is in it, and a pipe that unpacks it make the same token file") {
  tests::TempDir dir;
  std::string pages;
  for (int i = 0; i < 3000; ++i) {
    const std::string n = std::to_string(i);
    pages +=
        page("第" + n + "頁", "'''第" + n + "頁'''是[[網頁|頁]]，在" + std::to_string(i * i % 97) + "之後。");
  }
  pages = dump(pages);
  tests::write_file(dir / "pages", pages);
  const gzFile file = gzopen((dir / "packed.gz").c_str(), "wb");
  REQUIRE(gzwrite(file, pages.data(), static_cast<unsigned>(pages.size())) == static_cast<int>(pages.size()));
  REQUIRE(gzclose(file) == Z_OK);
  std::vector<std::string> inputs{"pages", "packed.gz"};
#if __has_include(<bzlib.h>)
  std::string packed(pages.size(), '\0');
  auto size = static_cast<unsigned>(packed.size());
  REQUIRE(BZ2_bzBuffToBuffCompress(packed.data(), &size, pages.data(), static_cast<unsigned>(pages.size()), 1,
                                   0, 0) == BZ_OK);
  tests::write_file(dir / "packed.bz2", std::string_view(packed).substr(0, size));
  inputs.push_back("packed.bz2");
#endif
  inputs.push_back("- <pages");
  std::string first;
  for (const std::string& input : inputs)
    for (const int threads : {1, 2, 4}) {
      CAPTURE(input);
      CAPTURE(threads);
      const auto ran =
          tests::run_command("cd '" + dir.path().string() + "' && " + tests::program("prepare") + " " +
                             input + " --vocab-size 700 --threads " + std::to_string(threads) + " -o x.bin");
      CAPTURE(ran.err);
      REQUIRE(ran.code == 0);
      const std::string bytes = tests::read_file(dir / "x.bin");
      if (first.empty()) first = bytes;
      CHECK(bytes == first);
    }
  CHECK(data::TokenFile(dir / "x.bin").container().meta("source") ==
        "pages-articles dump, " + std::to_string(pages.size()) + " bytes");
}

TEST_CASE("prepare: a token file tells its source by kinds and sizes") {
  tests::TempDir dir;
  tests::write_file(dir / "a.jsonl", "{\"text\":\"ab\"}\n");
  tests::write_file(dir / "b.txt", "cd\n");
  tests::write_file(dir / "c", "{\"text\":\"efg\"}\n");
  PrepareOptions options;
  options.inputs = {(dir / "a.jsonl").string(), (dir / "b.txt").string(), (dir / "c").string()};
  options.output = dir / "x.bin";
  options.training.size = 257;
  const auto source = [&] {
    data::prepare(options);
    return data::TokenFile(dir / "x.bin").container().meta("source");
  };
  CHECK(source() == "JSON, 2 inputs, 29 bytes; plain text, 3 bytes");
  options.limit_bytes = 16;
  CHECK(source() == "JSON, 14 bytes; plain text, 2 bytes");
  options.raw = true;
  options.limit_bytes = ~std::uint64_t{0};
  CHECK(source() == "raw, 3 inputs, 32 bytes");
}
