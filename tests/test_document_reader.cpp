// Documents out of abstract dumps, JSON lines and plain text.
#include <map>
#include <nlohmann/json.hpp>

#include "data/document_reader.h"
#include "data/utf8.h"
#include "engine/error.h"
#include "tests/support.h"

namespace {

struct Document {
  std::string title, text;
  bool operator==(const Document&) const = default;
};

struct Collector final : data::DocumentSink {
  std::vector<Document> documents;
  std::map<std::string, int> skipped;
  std::vector<std::string> warnings;
  int abandoned = 0, open = 0;
  std::string present;

  void begin() override {
    CHECK(open++ == 0);
    present.clear();
  }
  void text(std::string_view piece) override {
    CHECK(open == 1);
    present += piece;
  }
  void end(std::string_view title) override {
    CHECK(open-- == 1);
    if (data::is_blank_text(present)) ++skipped["empty"];
    else documents.push_back({std::string(title), data::repair_utf8(present)});
  }
  void abandon() override {
    CHECK(open-- == 1);
    ++abandoned;
  }
  void skip(std::string_view reason) override { ++skipped[std::string(reason)]; }
  void warn(std::string line) override { warnings.push_back(line); }
};

// Reads with several window sizes, which must not matter.
Collector read(const std::filesystem::path& path, const data::ReaderOptions& options = {},
               std::uint64_t limit = ~std::uint64_t{0}) {
  Collector first;
  for (const std::size_t window : {1 << 20, 300, 301, 4096}) {
    CAPTURE(window);
    const data::InputOptions input_options{.window = window};
    Collector got;
    data::Input input(path.string(), input_options, limit, [&](std::string line) { got.warn(line); });
    data::read_documents(input, options, got);
    CHECK(got.open == 0);
    if (window == 1 << 20) {
      first = got;
    } else {
      CHECK(got.documents == first.documents);
      CHECK(got.skipped == first.skipped);
      CHECK(got.warnings == first.warnings);
    }
  }
  return first;
}

Collector read_text(std::string_view bytes, const data::ReaderOptions& options = {},
                    std::uint64_t limit = ~std::uint64_t{0}) {
  tests::TempDir dir;
  tests::write_file(dir / "x", bytes);
  return read(dir / "x", options, limit);
}

std::vector<std::string> texts(const Collector& got) {
  std::vector<std::string> all;
  for (const Document& document : got.documents) all.push_back(document.text);
  return all;
}

using Texts = std::vector<std::string>;
using Skipped = std::map<std::string, int>;

}  // namespace

TEST_CASE("documents: abstract dump" *
          doctest::skip(tests::lacks_shared("documents: abstract dump", "cases/abstract-edge.xml"))) {
  const auto cases = tests::shared_data() / "cases";
  const auto expected = nlohmann::json::parse(tests::read_file(cases / "abstract-edge.expected.json"));
  const Collector got = read(cases / "abstract-edge.xml");
  std::vector<Document> wanted;
  int empty = 0, markup = 0;
  for (std::size_t i = 0; i < expected["docs"].get<std::size_t>(); ++i) {
    const std::string title = expected["titles_without_site_prefix"][i], text = expected["abstracts"][i];
    if (text.empty()) ++empty;
    else if (text.starts_with("|")) ++markup;
    else wanted.push_back({title, title + "\n" + text});
  }
  CHECK(got.documents == wanted);
  CHECK(got.skipped == Skipped{{"empty", empty}, {"markup", markup}});
  CHECK(got.warnings.empty());

  const Collector cut = read(cases / "abstract-truncated-in-doc.xml");
  CHECK(cut.documents.size() + static_cast<std::size_t>(cut.skipped.at("empty")) == 2);
  CHECK(cut.skipped.at("cut off") == 1);
  CHECK(cut.warnings.size() == 1);
}

TEST_CASE("documents: abstract dump, hostile") {
  const auto doc = [](const std::string& title, const std::string& abstract) {
    return "<doc>\n<title>" + title + "</title>\n<abstract>" + abstract +
           "</abstract>\n<links>\n<sublink "
           "linktype=\"nav\"><anchor>节</anchor></sublink>\n</links>\n</doc>\n";
  };
  CHECK(texts(read_text("<feed>\n" + doc("T", "&amp;lt; &#x4E2D;&#20013;&#xD800;&#0;&nbsp;&; & <b>x</b>") +
                        "</feed>")) == Texts{"T\n&lt; 中中\uFFFD\uFFFD&nbsp;&; & <b>x</b>"});
  CHECK(texts(read_text("<feed>\n" + doc("Wikipedia：Wikipedia: A", "x"))) == Texts{"Wikipedia: A\nx"});
  CHECK(texts(read_text("<feed>\n<doc>\n<title>cut" + doc("B", "y"))) == Texts{"B\ny"});
  CHECK(texts(read_text("<feed>\n<doc><abstract>no end" + doc("B", "y"))) == Texts{"B\ny"});
  CHECK(read_text("<feed>\n" + doc("A", "  \n ")).skipped == Skipped{{"empty", 1}});
  CHECK(read_text("<feed>\n").documents.empty());
  const std::string big(300'000, 'a'), entities = [] {
    std::string text;
    for (int i = 0; i < 40'000; ++i) text += "&amp;";
    return text;
  }();
  CHECK(texts(read_text("<feed>\n" + doc("A", big))) == Texts{"A\n" + big});
  CHECK(texts(read_text("<feed>\n" + doc("A", entities))) == Texts{"A\n" + std::string(40'000, '&')});
  // What is too long ends at the same place for every window.
  const std::string title = entities.substr(0, 5 * 2000) + std::string(5000, 't');
  CHECK(texts(read_text("<feed>\n" + doc(title, "x"))) ==
        Texts{std::string(2000, '&') + std::string(2096, 't') + "\nx"});
  CHECK(read_text("<feed>\n" + doc("A", std::string(70'000, ' ') + "x")).skipped == Skipped{{"empty", 1}});
  // A limit cuts the second document; that is no damage.
  const std::string two = "<feed>\n" + doc("A", "x") + doc("B", "y");
  const Collector limited = read_text(two, {}, two.size() - 10);
  CHECK(texts(limited) == Texts{"A\nx"});
  CHECK(limited.warnings.empty());
}

TEST_CASE("documents: JSON shapes" *
          doctest::skip(tests::lacks_shared("documents: JSON shapes", "cases/jsonl-shapes.jsonl"))) {
  const auto cases = tests::shared_data() / "cases";
  const auto expected = nlohmann::json::parse(tests::read_file(cases / "jsonl-shapes.expected.json"));
  const Collector got = read(cases / "jsonl-shapes.jsonl");
  CHECK(texts(got) == expected["texts"].get<Texts>());
  CHECK(got.skipped == expected["skipped_with_count"].get<Skipped>());
  CHECK(texts(read(cases / "jsonl-shapes.jsonl", {.text_field = "content"})) == Texts{"别的字段"});
}

TEST_CASE("documents: JSON layouts") {
  CHECK(texts(read_text("[{\"text\":\"a\"},{\"text\":\"b\"}]")) == Texts{"a", "b"});
  CHECK(texts(read_text("[\n  {\n \"title\": \"t\",\n \"text\": \"a\"\n },\n {\"text\": \"b\"}\n]\n")) ==
        Texts{"a", "b"});
  CHECK(texts(read_text("{\n \"text\": \"a\"\n}\n{\n \"text\": \"b\"\n}\n")) == Texts{"a", "b"});
  CHECK(texts(read_text("{\"text\":\"a\"}{\"text\":\"b\"}\n")) == Texts{"a", "b"});
  // The first of the usual fields that the first object has, for the whole file.
  CHECK(texts(read_text("{\"content\":\"a\",\"completion\":\"x\"}\n{\"text\":\"y\",\"content\":\"b\"}\n")) ==
        Texts{"a", "b"});
  CHECK(texts(read_text("{\"x\":1}\n{\"completion\":\"a\"}\n")) == Texts{"a"});
  CHECK(texts(read_text("{\"\\u6bb5\\u843d\":[{\"行号\":1,\"内容\":\"甲\"},\"乙\",{},3]}\n")) ==
        Texts{"甲\n乙\n"});
  CHECK(read_text("{\"text\":\"a\",\"title\":\"t\"}\n").documents == std::vector<Document>{{"t", "a"}});
  CHECK(texts(read_text("{\"text\":\"\\ud83d\\ude02\\ud83d\\ud83d\\ude02\\ude02\\uD83Dx\"}\n")) ==
        Texts{"😂\uFFFD😂\uFFFD\uFFFDx"});
}

TEST_CASE("documents: damaged JSON costs its line only") {
  const Collector got = read_text(
      "{\"text\":\"a\"}\n{\"text\":\"b\n{\"meta\":{\"x\":[1,\n{\"text\":\"c\"}\nplain\n{\"text\":3}\n{"
      "\"text\":\"\"}"
      "\n"
      "{\"text\":\"d\",}\n{\"text\" \"e\"}\n{\"text\":\"\\u12\"}\n{\"text\":\"f\"}\n{\"text\":\"g\"");
  CHECK(texts(got) == Texts{"a", "c", "f"});
  CHECK(got.skipped == Skipped{{"malformed", 7}, {"not text", 1}, {"empty", 1}});
  std::string deep = "{\"x\":";
  for (int i = 0; i < 200'000; ++i) deep += "[";
  CHECK(texts(read_text(deep + "\n{\"text\":\"a\"}\n")) == Texts{"a"});
  // One line of a megabyte.
  const std::string big(1'000'000, 'z');
  CHECK(texts(read_text("{\"text\":\"" + big + "\"}\n")) == Texts{big});
  CHECK(texts(read_text("{\"text\":\"a\"}\n{\"text\":\"" + big + "\"}\n", {}, 100'000)) == Texts{"a"});
}

TEST_CASE("documents: plain text") {
  CHECK(texts(read_text("a\nb\n\n\n \t\nc\r\nd\r\n\r\ne")) == Texts{"a\nb", "c\nd", "e"});
  CHECK(texts(read_text("\n\none file, one document\n")) == Texts{"one file, one document"});
  CHECK(texts(read_text("a\n\nb\n%\nc\n%\n\n%\n", {.separator = "%"})) == Texts{"a\n\nb", "c"});
  CHECK(texts(read_text("a\n\nbb\n\ncc\n", {}, 6)) == Texts{"a"});
  CHECK(texts(read_text("a\n\nbb\n\ncc\n", {}, 7)) == Texts{"a", "bb"});
  CHECK(texts(read_text("\xE4\xB8\n\n\xB8\xAD\n")) == Texts{"\uFFFD", "\uFFFD\uFFFD"});
  const std::string line(5000, 'x');
  CHECK(texts(read_text(line + "\r\n" + line + "\r")) == Texts{line + "\n" + line});
  CHECK(read_text(" \n\n").documents.empty());
}

TEST_CASE("documents: pages-articles" *
          doctest::skip(tests::lacks_shared("documents: pages-articles", "cases/pages-articles-mini.xml"))) {
  const auto cases = tests::shared_data() / "cases";
  const auto expected = nlohmann::json::parse(tests::read_file(cases / "pages-articles-mini.expected.json"));
  const Collector got = read(cases / "pages-articles-mini.xml");
  std::vector<std::string> titles;
  std::string all;
  for (const Document& document : got.documents) {
    titles.push_back(document.title);
    CHECK(document.text.starts_with(document.title + "\n"));
    all += document.text + "\n";
  }
  CHECK(titles == expected["articles"].get<std::vector<std::string>>());
  for (const std::string word : expected["must_contain"]) {
    CAPTURE(word);
    CHECK(all.find(word) != std::string::npos);
  }
  for (const std::string word : expected["must_not_contain"]) {
    CAPTURE(word);
    CHECK(all.find(word) == std::string::npos);
  }
  for (const char* inline_template : {"10 km", "1711年9月25日", "ᠠ"})
    CHECK(all.find(inline_template) != std::string::npos);
  CHECK(got.skipped == Skipped{{"redirect", 1}, {"empty", 1}, {"other namespace", 2}, {"deleted", 1}});
  CHECK(got.warnings.empty());
}

TEST_CASE("documents: pages-articles, hostile") {
  const auto page = [](const std::string& title, const std::string& text, const std::string& more = "") {
    return "<page>\n<title>" + title + "</title>\n<ns>0</ns>\n<id>1</id>\n" + more +
           "<revision><model>wikitext</model><comment>[[x]]</comment>\n<text bytes=\"1\" "
           "xml:space=\"preserve\">" +
           text + "</text></revision>\n</page>\n";
  };
  const std::string head = "<mediawiki xmlns=\"x\">\n<siteinfo><sitename>W</sitename></siteinfo>\n";
  CHECK(texts(read_text(head + page("A&amp;B", "'''x''' &amp;lt; &lt;ref&gt;r&lt;/ref&gt; a&amp;b\r\nc"))) ==
        Texts{"A&B\nx < a&b\nc"});
  // Stray '<', text without end tags, a page in a page.
  CHECK(texts(read_text(head + page("A", "1 < 2 <ref>z</ref> <b>c</b>"))) == Texts{"A\n1 < 2 c"});
  Collector got = read_text(head + "<page><title>cut</title><text>abc" + page("B", "y") + "<page><title>C");
  CHECK(texts(got) == Texts{"B\ny"});
  CHECK(got.skipped == Skipped{{"cut off", 2}});
  CHECK(got.warnings.size() == 1);
  // What is skipped.
  got = read_text(head + page("A", "#redirect [[B]]") + page("B", " #重新導向 [[C]]") +
                  page("C", "{{x}}\n\n<!-- -->") + page("D", "x", "<redirect title=\"E\" />") +
                  page("E", "") + page("F", "# RED 一项") +
                  "<page><title>M</title><revision><model>json</model><text>{}</text></revision></page>");
  CHECK(texts(got) == Texts{"F\nRED 一项"});
  CHECK(got.skipped == Skipped{{"redirect", 3}, {"empty", 2}, {"no wikitext", 1}});
  // More than a page is held at a time.
  const std::string lines = [] {
    std::string text;
    for (int i = 0; i < 60'000; ++i) text += "* 第[[页|面]]" + std::to_string(i) + " &amp;amp;\n";
    return text;
  }();
  std::string wanted = "L";
  for (int i = 0; i < 60'000; ++i) wanted += "\n第面" + std::to_string(i) + " &";
  CHECK(texts(read_text(head + page("L", lines) + page("M", "x"))) == Texts{wanted, "M\nx"});
  CHECK(read_text(head + page("L", lines, "<redirect title=\"x\"/>")).skipped == Skipped{{"redirect", 1}});
  CHECK(read_text(head + page("L", "{{x|" + lines + "}}")).skipped == Skipped{{"empty", 1}});
  // A limit cuts the second page; that is no damage.
  const std::string two = head + page("A", "x") + page("B", "y");
  got = read_text(two, {}, two.size() - 10);
  CHECK(texts(got) == Texts{"A\nx"});
  CHECK(got.warnings.empty());
  CHECK(texts(read_text(head + page("A", "-{zh-cn:内存;zh-tw:記憶體}-"),
                        {.variant = data::Variant::traditional})) == Texts{"A\n記憶體"});
}

TEST_CASE("documents: wikiextractor's samples" *
          doctest::skip(tests::lacks_shared("documents: wikiextractor's samples",
                                            "wikiextractor-doc-sample.txt.gz"))) {
  const auto data = tests::shared_data();
  const Collector docs = read(data / "wikiextractor-doc-sample.txt.gz");
  CHECK(docs.documents.size() == 64);
  CHECK(docs.skipped.empty());
  for (const Document& document : docs.documents) CHECK(document.text.starts_with(document.title + "\n"));
  const Collector a = read(data / "wikiextractor-json-sample-a.jsonl");
  CHECK(a.documents.size() == 222);
  CHECK(a.skipped.empty());
  const Collector b = read(data / "wikiextractor-json-sample-b.jsonl.gz");
  CHECK(b.documents.size() == 64);
  CHECK(b.skipped.empty());
}

TEST_CASE("documents: wikiextractor's text") {
  const Collector got = read_text(
      "<doc id=\"1\" url=\"u\" title=\"A &amp; \"B\"\">\nA & \"B\"\n\n一 <b>\n\n二\n</doc>\n"
      "<doc id=\"2\" url=\"u\" title=\"C\">\nC\n\n\n</doc>\n\n<doc id=\"3\" url=\"u\" title=\"D\">\r\n三\r\n"
      "<doc id=\"4\" url=\"u\" title=\"E\">\nE\n四\n </doc>\n</doc>\n<doc id=\"5\" title=\"F\">\nF\n五\n");
  CHECK(got.documents ==
        std::vector<Document>{{"A & \"B\"", "A & \"B\"\n一 <b>\n\n二"}, {"E", "E\n四\n </doc>"}});
  CHECK(got.skipped == Skipped{{"empty", 1}, {"cut off", 2}});
  CHECK(got.warnings.size() == 1);
}
