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
