// prepare on pages-articles dumps: cleaning by the workers, language markup and conversion, packed files.
#include <nlohmann/json.hpp>

#include "data/prepare.h"
#include "engine/error.h"
#include "tests/prepare_settings.h"
#include "tests/support.h"

namespace {

namespace fs = std::filesystem;
using data::PrepareOptions;
using tests::kSettings;
using tests::Setting;
using tests::with;

constexpr const char* kHead = "<mediawiki xml:lang=\"zh\">\n<siteinfo><sitename>W</sitename></siteinfo>\n";

std::string page(const std::string& title, const std::string& text) {
  return "<page>\n<title>" + title + "</title>\n<ns>0</ns>\n<revision><text xml:space=\"preserve\">" + text +
         "</text></revision>\n</page>\n";
}

std::string text_of(const fs::path& input, PrepareOptions options = {}) {
  tests::TempDir dir;
  options.inputs = {input.string()};
  options.output = dir / "x.txt";
  options.text = true;
  data::prepare(options);
  return tests::read_file(dir / "x.txt");
}

// Pages of every kind, one of them larger than what is cleaned as a whole.
std::string dump() {
  std::string all = kHead, large;
  for (int i = 0; i < 200; ++i) {
    const std::string n = std::to_string(i);
    all += page("第" + n + "頁", "{{Infobox|a=" + n + "}}'''第" + n + "頁'''（{{lang|en|Page " + n +
                                     "}}）是[[網頁|頁]]。-{乾}-坤，-{zh-hans:软件" + n +
                                     ";zh-hant:軟體}-&lt;br&gt;\n* 項目 &amp;amp;");
    if (i % 20 == 7) all += page("空" + n, "{{x}}");
    if (i % 20 == 8) all += "<page><title>Talk:" + n + "</title><ns>1</ns><text>討論</text></page>\n";
  }
  for (int i = 0; i < 40'000; ++i)
    large += "第" + std::to_string(i) + "行的-{乾}-隆，[[乾隆|皇帝]]&lt;ref&gt;註&lt;/ref&gt;\n";
  return all + page("大", large) + page("尾", "最後一頁") + "</mediawiki>\n";
}

}  // namespace

TEST_CASE("prepare: language markup is exempt from conversion") {
  tests::TempDir dir;
  tests::write_file(
      dir / "x",
      kHead +
          page("乾隆", "-{乾}-坤，乾杯，乾坤-{zh-hans:内存;zh-hant:記憶體}-軟體，-{zh-tw:電腦;zh-hk:電腦}-"));
  PrepareOptions options;
  CHECK(text_of(dir / "x", options) == "乾隆\n乾坤，干杯，乾坤内存软体，电脑\n");
  options.t2s = "off";
  CHECK(text_of(dir / "x", options) == "乾隆\n乾坤，乾杯，乾坤内存軟體，電腦\n");
  options.t2s = "s2t";
  CHECK(text_of(dir / "x", options).find("乾坤記憶體軟體") != std::string::npos);
  // 於倫 is a phrase, but not across verbatim text.
  tests::write_file(dir / "x", kHead + page("T", "於-{倫}-敦，-{於}-倫敦"));
  options.t2s = "t2s";
  CHECK(text_of(dir / "x", options) == "T\n于倫敦，於伦敦\n");
  // Bytes that are no UTF-8 are no marks of ours.
  tests::write_file(dir / "x", kHead + page("T\xFE", "\xFE乾杯\xFF -{\xFF}-<nowiki>\xFE</nowiki>"));
  CHECK(text_of(dir / "x", options) == "T\uFFFD\n\uFFFD干杯\uFFFD \uFFFD\uFFFD\n");
}

TEST_CASE("prepare: pages in parts, same text and file for any threads and buffers") {
  tests::TempDir dir;
  tests::write_file(dir / "x.xml", dump());
  const std::string text = text_of(dir / "x.xml");
  CHECK(text.starts_with("第0页\n第0页（Page 0）是页。乾坤，软件0\n项目 &\n\n第1页\n"));
  CHECK(text.find("第39999行的乾隆，皇帝") != std::string::npos);
  CHECK(text.ends_with("\n\n尾\n最后一页\n"));
  PrepareOptions options;
  options.inputs = {(dir / "x.xml").string()};
  options.training.size = 2000;
  std::string first;
  for (const Setting& setting : kSettings) {
    CAPTURE(setting.part);
    CHECK(text_of(dir / "x.xml", with({}, setting)) == text);
    options.output = dir / "x.bin";
    const auto report = data::prepare(with(options, setting));
    CHECK(report.documents == 202);
    CHECK(report.skipped == std::map<std::string, std::uint64_t>{{"empty", 10}, {"other namespace", 10}});
    const std::string file = tests::read_file(dir / "x.bin");
    if (first.empty()) first = file;
    CHECK(file == first);
  }
}

TEST_CASE("prepare: a multistream dump, from a file and through a pipe" *
          doctest::skip(tests::lacks_shared("prepare: a multistream dump, from a file and through a pipe",
                                            "cases/pages-articles-multistream-mini.xml.bz2"))) {
  const fs::path cases = tests::shared_data() / "cases";
  const fs::path packed = cases / "pages-articles-multistream-mini.xml.bz2";
  const std::string text = text_of(cases / "pages-articles-mini.xml");
  PrepareOptions options;
  for (const int threads : {1, 2, 4}) {
    options.threads = threads;
    CHECK(text_of(packed, options) == text);
  }
  const auto ran = tests::run_command("bzip2 -dc " + packed.string() + " | " + tests::program("prepare") +
                                      " - --text -o - --quiet 2>/dev/null");
  if (ran.code == 0) CHECK(ran.out == text);
}

TEST_CASE("prepare: abstract dumps and wikiextractor's samples give one text per document" *
          doctest::skip(tests::lacks_shared(
              "prepare: abstract dumps and wikiextractor's samples give one text per document",
              "wikiextractor-doc-sample.txt.gz"))) {
  const std::pair<const char*, std::uint64_t> kInputs[] = {{"wikiextractor-doc-sample.txt.gz", 64},
                                                           {"wikiextractor-json-sample-a.jsonl", 222},
                                                           {"wikiextractor-json-sample-b.jsonl.gz", 64},
                                                           {"zhwiki-sample-abstract.xml.gz", 0},
                                                           {"zhwiki-paragraphs-abstract-format.xml.gz", 0}};
  tests::TempDir dir;
  for (const auto& [name, documents] : kInputs) {
    CAPTURE(name);
    PrepareOptions options;
    options.inputs = {(tests::shared_data() / name).string()};
    options.output = dir / "x.txt";
    options.text = true;
    const auto report = data::prepare(options);
    if (documents > 0) CHECK(report.documents == documents);
    CHECK(report.documents > 60);
    CHECK(report.warnings.empty());
    CHECK(report.replaced == 0);
    CHECK(report.skipped.size() == report.skipped.count("duplicate"));
  }
}
