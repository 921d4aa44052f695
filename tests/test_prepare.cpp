// The pipeline of prepare: golden streams, independence of threads and buffers, splits, text.
#include <zlib.h>

#include <array>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/block_queue.h"
#include "data/part_stream.h"
#include "data/prepare.h"
#include "data/sha256.h"
#include "engine/error.h"
#include "tests/support.h"

namespace {

namespace fs = std::filesystem;
using data::PrepareOptions;

std::string unpacked(const fs::path& path) {
  std::string text;
  const gzFile file = gzopen(path.c_str(), "rb");
  REQUIRE(file != nullptr);
  std::array<char, 1 << 16> some;
  for (int n; (n = gzread(file, some.data(), some.size())) > 0;)
    text.append(some.data(), static_cast<std::size_t>(n));
  gzclose(file);
  return text;
}

fs::path bert() { return tests::shared_data() / "bert-base-chinese-vocab.txt"; }

std::vector<std::int32_t> ids_of(const fs::path& path) {
  const data::TokenFile file(path);
  std::vector<std::int32_t> ids(file.size());
  file.read(0, ids);
  return ids;
}

std::string stream_sha256(const fs::path& path) {  // of the ids as little-endian u16
  std::string bytes;
  for (const std::int32_t id : ids_of(path)) {
    bytes.push_back(static_cast<char>(id & 0xFF));
    bytes.push_back(static_cast<char>(id >> 8));
  }
  return data::sha256_hex(bytes);
}

// A small vocabulary, so that these tests need no data: characters of the samples below and Latin letters.
fs::path small_vocabulary(const tests::TempDir& dir) {
  std::string text = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n中\n国\n乾\n隆\n干\n杯\n。\n，\n,\n[\n]\n";
  for (char c = 'a'; c <= 'z'; ++c) text += std::string(1, c) + "\n##" + std::string(1, c) + "\n";
  tests::write_file(dir / "vocab.txt", text);
  return dir / "vocab.txt";
}

struct Setting {
  int threads;
  std::size_t window, part, block;
};
constexpr Setting kSettings[] = {{2, 1 << 20, 64 << 10, 256 << 10}, {4, 4096, 2048, 3000}, {1, 999, 777, 1}};

PrepareOptions with(PrepareOptions options, const Setting& setting) {
  options.threads = setting.threads;
  options.window_bytes = setting.window;
  options.part_bytes = setting.part;
  options.block_bytes = setting.block;
  return options;
}

}  // namespace

TEST_CASE("prepare: golden raw streams" *
          doctest::skip(tests::lacks_shared("prepare: golden raw streams", "bert-base-chinese-vocab.txt"))) {
  struct Row {
    const char *file, *t2s;
    std::size_t tokens;
    const char* sha256;
  };
  constexpr Row kRows[] = {
      {"zhwiki-sample.txt.gz", "off", 2'627'415,
       "40507bc6ec6be1f0ac90dfd3253ee4271d444fcccb7618c2e611d31ece271c60"},
      {"zhwiki-sample.txt.gz", "t2s", 2'627'415,
       "890cb4bd3905c242b109e271f016c432bec9e7371d136965fa51b6d54a65a9c8"},
      {"zhwiki-paragraphs-abstract-format.xml.gz", "off", 4'388'154,
       "9b1805133e96337d089cbcd4aa05060da36056ae6668b6955db815a1a4439ba7"},
      {"zhwiki-paragraphs-abstract-format.xml.gz", "t2s", 4'388'154,
       "25de27c128532632f0b5e7199ac46afd062f67cec809584c0e9cc5cd1cce13cc"},
      {"drcd-traditional.txt.gz", "off", 853'274,
       "24d6d5c502ea4037d2e648b9a4a8700e2c81c125b0d1472a490d31c61593c8b8"},
  };
  tests::TempDir dir;
  for (const Row& row : kRows)
    for (const Setting& setting : kSettings) {
      CAPTURE(row.file);
      CAPTURE(setting.part);
      PrepareOptions options;
      options.inputs = {(tests::shared_data() / row.file).string()};
      options.output = dir / "x.bin";
      options.vocab = bert();
      options.t2s = row.t2s;
      options.raw = true;
      options.split.share = 0;
      data::prepare(with(options, setting));
      CHECK(data::TokenFile(dir / "x.bin").size() == row.tokens);
      CHECK(stream_sha256(dir / "x.bin") == row.sha256);
    }
}

TEST_CASE("prepare: raw text is OpenCC's" *
          doctest::skip(tests::lacks_shared("prepare: raw text is OpenCC's",
                                            "drcd-simplified.opencc-golden.txt.gz"))) {
  tests::TempDir dir;
  const std::string golden = unpacked(tests::shared_data() / "drcd-simplified.opencc-golden.txt.gz");
  for (const Setting& setting : kSettings) {
    PrepareOptions options;
    options.inputs = {(tests::shared_data() / "drcd-traditional.txt.gz").string()};
    options.output = dir / "x.txt";
    options.raw = options.text = true;
    data::prepare(with(options, setting));
    CHECK(tests::read_file(dir / "x.txt") == golden);
  }
}

TEST_CASE("prepare: raw text of the conversion cases" *
          doctest::skip(tests::lacks_shared("prepare: raw text of the conversion cases",
                                            "cases/opencc-t2s-golden.tsv"))) {
  tests::TempDir dir;
  std::istringstream table(tests::read_file(tests::shared_data() / "cases/opencc-t2s-golden.tsv"));
  std::string line, input, golden;
  for (std::getline(table, line); std::getline(table, line);) {  // the first line is a heading
    const std::size_t first = line.find('\t'), second = line.find('\t', first + 1);
    input += line.substr(0, first) + "\n";
    golden += line.substr(first + 1, second - first - 1) + "\n";
  }
  tests::write_file(dir / "in", input);
  PrepareOptions options;
  options.inputs = {(dir / "in").string()};
  options.output = dir / "out";
  options.raw = options.text = true;
  data::prepare(options);
  CHECK(tests::read_file(dir / "out") == golden);
}

TEST_CASE("prepare: same file for any threads and buffers" *
          doctest::skip(tests::lacks_shared("prepare: same file for any threads and buffers",
                                            "zhwiki-paragraphs-abstract-format.xml.gz"))) {
  tests::TempDir dir;
  for (const std::string vocabulary : {"read", "char", "bbpe"}) {
    CAPTURE(vocabulary);
    std::string first;
    for (const Setting& setting : kSettings) {
      PrepareOptions options;
      options.inputs = {(tests::shared_data() / "zhwiki-paragraphs-abstract-format.xml.gz").string()};
      options.output = dir / "x.bin";
      if (vocabulary == "read") options.vocab = bert();
      options.training.kind =
          vocabulary == "char" ? data::VocabularyKind::character : data::VocabularyKind::bbpe;
      options.training.size = 5000;
      const auto report = data::prepare(with(options, setting));
      CHECK(report.documents == 10'534);  // different ones, of 10,828
      CHECK(report.skipped.at("duplicate") == 294);
      const std::string bytes = tests::read_file(dir / "x.bin");
      if (first.empty()) first = bytes;
      CHECK(bytes == first);
      const data::TokenFile file(dir / "x.bin");
      CHECK(file.documents().size() == 10'535);
      CHECK(file.validation_from() < file.size());
      CHECK(file.text_bytes_train() + file.text_bytes_validation() == report.text_bytes);
      file.verify();
    }
  }
}

TEST_CASE("prepare: a stream without blanks or lines" *
          doctest::skip(tests::lacks_shared("prepare: a stream without blanks or lines",
                                            "cases/chunk-boundary.json"))) {
  tests::TempDir dir;
  const auto expected =
      nlohmann::json::parse(tests::read_file(tests::shared_data() / "cases/chunk-boundary.json"));
  std::string text;
  for (int i = 0; i < 9997; ++i) text += "中";
  tests::write_file(dir / "in", text + "wikipedia 百科");
  for (const Setting& setting : kSettings) {
    PrepareOptions options;
    options.inputs = {(dir / "in").string()};
    options.output = dir / "x.bin";
    options.vocab = bert();
    options.raw = true;
    data::prepare(with(options, setting));
    const auto ids = ids_of(dir / "x.bin");
    const auto tail = expected["ids_whole_tail"].get<std::vector<std::int32_t>>();
    REQUIRE(ids.size() == 9997 + 3);
    CHECK(std::vector(ids.end() - static_cast<std::ptrdiff_t>(tail.size()), ids.end()) == tail);
  }
}

TEST_CASE("prepare: cuts split neither phrases nor special words") {
  tests::TempDir dir;
  std::string phrases, words;
  for (int i = 0; i < 4000; ++i) phrases += "乾隆乾杯";  // 乾 stays in 乾隆 and becomes 干 alone
  for (int i = 0; i < 4000; ++i) words += i % 3 == 0 ? "a,[UNK],b," : "a,[UNK] [SEP] b,";
  const auto ids = [&](const std::string& text, const Setting& setting) {
    tests::write_file(dir / "in", text);
    PrepareOptions options;
    options.inputs = {(dir / "in").string()};
    options.output = dir / "x.bin";
    options.vocab = small_vocabulary(dir);
    options.raw = true;
    options.split.share = 0;
    data::prepare(with(options, setting));
    return ids_of(dir / "x.bin");
  };
  std::vector<std::int32_t> wanted;
  for (int i = 0; i < 4000; ++i) wanted.insert(wanted.end(), {7, 8, 9, 10});
  const auto whole = ids(words, {1, 1 << 20, 1 << 20, 1 << 20});
  for (const std::size_t part : {512, 515, 600, 1000, 4096}) {
    CAPTURE(part);
    CHECK(ids(phrases, {2, 512, part, 100}) == wanted);
    CHECK(ids(words, {2, 512, part, 100}) == whole);
  }
}

TEST_CASE("prepare: inputs run on in a raw stream, documents end with their file") {
  tests::TempDir dir;
  const std::string text = "中国 abc";
  PrepareOptions options;
  options.vocab = small_vocabulary(dir);
  options.output = dir / "x.bin";
  options.split.share = 0;
  const auto ids = [&](std::vector<std::string> pieces, bool raw) {
    options.inputs.clear();
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      options.inputs.push_back((dir / std::to_string(i)).string());
      tests::write_file(options.inputs.back(), pieces[i]);
    }
    options.raw = raw;
    data::prepare(options);
    return ids_of(dir / "x.bin");
  };
  const auto whole = ids({text}, true);
  CHECK(whole.size() == 5);
  for (std::size_t cut = 1; cut < text.size(); ++cut)
    CHECK(ids({text.substr(0, cut), text.substr(cut)}, true) == whole);
  const auto two = ids({"中", "国"}, false);
  CHECK(two == std::vector<std::int32_t>{5, 3, 6, 3});
}

TEST_CASE("prepare: text output") {
  tests::TempDir dir;
  tests::write_file(dir / "in.jsonl",
                    "{\"text\":\"一\\n\\n \\n\\n乾杯\\n\"}\n{\"text\":\" \\n\"}\n{\"text\":\"\\n\\n三\"}\n");
  for (const std::size_t part : {64 << 10, 64}) {
    PrepareOptions options;
    options.inputs = {(dir / "in.jsonl").string()};
    options.output = dir / "out";
    options.text = true;
    options.part_bytes = part;
    const auto report = data::prepare(options);
    CHECK(report.documents == 2);
    CHECK(report.skipped.at("empty") == 1);
    CHECK(tests::read_file(dir / "out") == "一\n干杯\n\n三\n");
  }
  // What it writes comes back as the same documents.
  PrepareOptions again;
  again.inputs = {(dir / "out").string()};
  again.output = dir / "out2";
  again.text = true;
  again.t2s = "off";
  CHECK(data::prepare(again).documents == 2);
  CHECK(tests::read_file(dir / "out2") == tests::read_file(dir / "out"));
}

TEST_CASE("prepare: limit, damaged UTF-8 and large documents") {
  tests::TempDir dir;
  tests::write_file(dir / "in", "\xFF\xE9\x95\xB7\n\nabc\n\nlast");
  PrepareOptions options;
  options.inputs = {(dir / "in").string()};
  options.output = dir / "out";
  options.text = true;
  options.limit_bytes = 12;
  auto report = data::prepare(options);
  CHECK(tests::read_file(dir / "out") == "\uFFFD长\n\nabc\n");
  CHECK(report.replaced == 1);
  CHECK(report.input_bytes == 12);
  options.raw = true;
  options.limit_bytes = 3;  // within the second character
  data::prepare(options);
  CHECK(tests::read_file(dir / "out") == "\uFFFD");

  std::string big;
  const std::string line(1023 - 8, 'a');
  for (int i = 10'000'000; big.size() <= (std::size_t{70} << 20); ++i) big += line + std::to_string(i) + "\n";
  tests::write_file(dir / "in", big);
  options.raw = false;
  options.limit_bytes = ~std::uint64_t{0};
  report = data::prepare(options);
  CHECK(report.documents == 3);
  CHECK(report.cut_documents == 2);
  const std::string out = tests::read_file(dir / "out");
  CHECK(out.find("\n\n") == (std::size_t{32} << 20) - 1);  // cut exactly behind a line, as late as possible
  CHECK(static_cast<std::size_t>(std::ranges::count(out, 'a')) == big.size() / 1024 * (1023 - 8));
}

TEST_CASE("prepare: the parts of a document do not depend on how its text arrives") {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "第" + std::to_string(i * i) + (i % 7 == 0 ? "\n" : "章 ");
  struct Cut {
    std::string text;
    std::uint64_t hash;
    data::PartEnd then;
    bool operator==(const Cut&) const = default;
  };
  const auto cut = [&](std::size_t piece, std::string_view title) {
    std::vector<Cut> cuts;
    data::PartStream parts(
        {.seed = 7, .part_bytes = 300, .block_bytes = 1, .document_bytes = 5000},
        [&](const data::TextBlock& block) {
          std::size_t from = 0;
          for (const data::Part& part : block.parts) {
            cuts.push_back({block.text.substr(from, part.text_end - from), part.hash, part.then});
            from = part.text_end;
          }
        });
    parts.begin();
    for (std::size_t at = 0; at < text.size(); at += piece)
      parts.text(std::string_view(text).substr(at, piece));
    parts.end(title);
    parts.finish(false);
    return cuts;
  };
  const auto hash_of = [](std::string_view key) {
    data::SplitHash hash(7);
    hash.update(key);
    return hash.value();
  };
  const auto whole = cut(text.size(), "");
  for (const std::size_t piece : {1, 7, 299, 300, 301, 4096}) CHECK(cut(piece, "") == whole);
  std::string joined, document;
  int documents = 0;
  for (const Cut& part : whole) {
    joined += part.text;
    document += part.text;
    if (part.then != data::PartEnd::whole) continue;
    CHECK(document.size() <= 5000);
    CHECK((document.size() > 5000 - 300 || joined == text));  // as large as parts allow
    CHECK(part.hash == hash_of(joined));
    document.clear();
    ++documents;
  }
  CHECK(joined == text);
  CHECK(documents > 3);
  CHECK(cut(text.size(), "数学").back().hash == hash_of("数学"));
}

TEST_CASE("prepare: block queue keeps order and hands on the first error") {
  for (const int workers : {1, 2, 5}) {
    data::BlockQueue<int> queue(4);
    std::vector<int> seen;
    queue.run(
        workers,
        [&] {
          for (int i = 0; i < 500; ++i) queue.push(i);
        },
        [](int& block, int) { block *= 2; }, [&](int& block) { seen.push_back(block); });
    REQUIRE(seen.size() == 500);
    for (int i = 0; i < 500; ++i) CHECK(seen[static_cast<std::size_t>(i)] == 2 * i);

    const auto failing = [&](int produce_at, int work_at, int consume_at) -> std::string {
      data::BlockQueue<int> failing_queue(4);
      try {
        failing_queue.run(
            workers,
            [&] {
              for (int i = 0;; ++i) {
                if (i == produce_at) throw std::runtime_error("producer");
                failing_queue.push(i);
              }
            },
            [&](int& block, int) {
              if (block == work_at) throw std::runtime_error("worker");
            },
            [&](int& block) {
              if (block == consume_at) throw std::runtime_error("consumer");
            });
      } catch (const std::runtime_error& error) {
        return error.what();
      }
      return "none";
    };
    CHECK(failing(20, 50, 50) == "producer");
    CHECK(failing(50, 20, 30) == "worker");
    CHECK(failing(50, 30, 20) == "consumer");
    CHECK(failing(30, 29, -1) == "worker");
    CHECK(failing(30, 31, 29) == "consumer");
  }
}
