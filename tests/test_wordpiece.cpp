#include "data/wordpiece.h"

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "data/sha256.h"
#include "data/t2s.h"
#include "data/utf8.h"
#include "tests/text_cases.h"

namespace {

using Ids = std::vector<std::uint32_t>;

std::vector<std::string> small_vocabulary() {
  return {"[PAD]",        "[UNK]",       "[CLS]",    "[SEP]",      "[MASK]",   "中",
          "文",           "hello",       "wor",      "##ld",  // 0
          "##l",          ",",           "a",        "##a",        "b",        "##b",
          "か",           "σ",           "##ς",      "##σ",  // 10
          "豈",           "=",           "α",        "##α",        "[",        "]",
          "##",           "\u1112",      "##\u1161", "##\u11AB",  // 20
          "##中",         "%",           "A",        "\u2028",     "##\u2028", "'",
          "##\u0301",     "##1",         "mask",     "\U0001D158",  // 30
          "##\U0001D165", "##\U0001D16D"};                          // 40
}

constexpr data::BertRules kCased{.lower = false};
constexpr data::BertRules kHuggingFace{.hugging_face = true};
constexpr data::BertRules kHuggingFaceCased{.lower = false, .hugging_face = true};

data::WordPiece small(data::BertRules rules = {}) {
  return data::WordPiece(small_vocabulary(), rules, "small");
}

Ids encode(const data::Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::string failure(const std::string& bytes) {
  try {
    data::parse_vocab_txt(bytes, {}, "v.txt");
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::checkpoint);
    return error.what();
  }
  return "loaded";
}

std::string sha256_of_u16(const Ids& ids) {
  std::string bytes;
  for (const std::uint32_t id : ids) {
    bytes += static_cast<char>(id & 0xFF);
    bytes += static_cast<char>(id >> 8);
  }
  return data::sha256_hex(bytes);
}

}  // namespace

TEST_CASE("wordpiece: words, Han, punctuation, pieces") {
  const data::WordPiece vocabulary = small();
  const std::vector<std::pair<std::string, Ids>> rows = {
      {"", {}},
      {" \t\r\n\u3000\u2028\u2029", {}},
      {"Hello, WORLD", {7, 11, 8, 9}},
      {"hello中文hello", {7, 5, 6, 7}},  // Han needs no blanks, and never takes a "##" piece
      {"worl", {8, 10}},                 // the longest piece first
      {"work", {1}},                     // one piece missing: the whole word
      {"aab work a", {12, 13, 15, 1, 12}},
      {"a##b", {12, 1, 1, 14}},  // "#" is punctuation, and not in the vocabulary
      {"a\u2028b", {12, 14}},
      {"\u00C1\u200Bb", {12, 15}},  // folded; a dropped character does not end a word
      {std::string("a\0b", 3), {12, 15}},
      {"a\uFFFDb\u00ADa", {12, 15, 13}},
      {"\u4E2D\u0301\u6587", {5, 6}},  // a word of marks alone is nothing
      {"\u304C", {16}},                // が is か with a mark
      {"\uF900", {20}},                // a compatibility ideograph
      {"\U0002F800", {1}},             // the same, to a character that is not in the vocabulary
      {"a\u2260b", {12, 21, 14}},      // ≠ folds to "=", which is punctuation
      {"\uD55C", {27, 28, 29}},        // a Hangul syllable falls apart
      {"\u03A3", {17}},
      {"\u0391\u03A3", {22, 18}},       // the final sigma
      {"\u0391\u03A3'", {22, 18, 35}},  // an apostrophe does not change that
      {"\u0391\u03A3'\u0391", {22, 19, 35, 22}},
      {"\u0391\u200B\u03A3\u4E2D\u0391", {22, 18, 5, 22}},
      {"1\u03A3", {1}},
      {"\U0001D158\U0001D16D\U0001D165", {39, 40, 41}},        // canonical ordering: class 216 before 226
      {"\U0001D15F\U0001D16D\U0001D165", {39, 40, 40, 41}},    // also behind a decomposition
      {"\U0001D158\U0001D16D\u1A1B\U0001D165", {39, 41, 40}},  // a stripped mark of class 0 lies between
  };
  for (const auto& [text, ids] : rows) {
    CAPTURE(text);
    CHECK(encode(vocabulary, text) == ids);
  }
}

TEST_CASE("wordpiece: cased text keeps capitals and marks") {
  const data::WordPiece vocabulary = small(kCased);
  CHECK(encode(vocabulary, "A a\u0301 hello Hello") == Ids{32, 12, 36, 7, 1});
  CHECK(encode(vocabulary, "\u304C \uF900 \u03A3") == Ids{1, 1, 1});
  CHECK(encode(vocabulary, "a\u2260b") == Ids{1});  // a symbol, part of the word
  CHECK(vocabulary.has_capitals());
  CHECK(!data::WordPiece({"[UNK]", "a", "[B]"}, kCased, "x").has_capitals());
}

TEST_CASE("wordpiece: special words stand alone between blanks or Han") {
  const data::WordPiece vocabulary = small();
  const std::vector<std::pair<std::string, Ids>> rows = {
      {"[MASK]", {4}},
      {" [CLS]\t[SEP]\n[PAD] [UNK]", {2, 3, 0, 1}},
      {"中[MASK]中", {5, 4, 5}},
      {std::string("\0[MA\0SK]\0", 9), {4}},
      {"[MASK]a", {24, 38, 25, 12}},
      {"a[MASK]", {12, 24, 38, 25}},
      {"[MASK],", {24, 38, 25, 11}},
      {"[mask]", {24, 38, 25}},
      {"[[MASK]]", {24, 24, 38, 25, 25}},
      {"[MASK]\u0301", {24, 38, 25}},
      {"[", {24}},
  };
  for (const auto& [text, ids] : rows) {
    CAPTURE(text);
    CHECK(encode(vocabulary, text) == ids);
  }
  CHECK(encode(small(kCased), "[MASK] [MASK]a") == Ids{4, 24, 1, 25, 12});
  data::EncodeCounts counts;
  std::vector<std::string> unknown;
  Ids ids = {99};
  vocabulary.encode(std::string("[MASK] [UNK] zz\0 \u9F98\u200B ab [CLS", 31), ids, &counts, &unknown);
  CHECK(ids == Ids{99, 4, 1, 1, 1, 12, 15, 24, 1});
  CHECK(counts.tokens == 8);
  CHECK(counts.special_words == 2);
  CHECK(counts.unknown == 3);
  CHECK(counts.dropped_characters == 2);
  CHECK(unknown == std::vector<std::string>{"zz", "\u9F98", "cls"});
  CHECK(encode(data::WordPiece({"[UNK]", "x"}, {}, "x"), "[MASK] x") == Ids{0, 1});  // special, but not there
}

TEST_CASE("wordpiece: as Hugging Face's tokenizers") {
  const data::WordPiece vocabulary = small(kHuggingFace);
  const std::vector<std::pair<std::string, Ids>> rows = {
      {"Hello中, WORLD \u304C \uF900 a\u2260b", {7, 5, 11, 8, 9, 16, 20, 12, 21, 14}},
      {"[MASK]", {24, 38, 25}},  // text like any other
      {"[UNK] [", {24, 1, 25, 24}},
      {"\u0391\u03A3", {22, 19}},  // no final sigma
      {"\u0391\u03C2", {22, 18}},
      {"a\u0378b", {1}},  // unassigned: a letter
      {"a\uFDD0b", {1}},
      {"a\U0001F6DCb", {1}},
      {"a\uE000b\u200Da\u00AD", {12, 15, 13}},  // private use and format characters are dropped as ever
      {"a\u0890b", {1}},                        // but for a format character of Unicode 14
      {"a\uFADAb", {12, 1, 14}},                // unassigned, but among Han
      {"a\U0002B81Fb", {12, 1, 14}},
      {"a\U0002B820b", {1}},  // the misprinted bound: Han, taken for letters
      {"a\U0002B91Fb", {1}},
      {"a\U0002B920b", {12, 1, 14}},
      {"a\u2E42b", {12, 1, 14}},  // punctuation of Unicode 7
      {"a\u2E43b", {1}},          // of Unicode 9
      {"a\u166Db", {12, 1, 14}},  // no punctuation since Unicode 12
      {"a\u0301b", {12, 15}},
      {"a\u1ABFb", {1}},       // a mark of Unicode 13
      {"a\u1734b", {12, 15}},  // a mark until Unicode 13
      {"\U0001D158\U0001D16D\U0001D165", {39, 40, 41}},
  };
  for (const auto& [text, ids] : rows) {
    CAPTURE(text);
    CHECK(encode(vocabulary, text) == ids);
  }
  CHECK(encode(small(kHuggingFaceCased), "[MASK] A a\u0301 a\u1734") == Ids{24, 1, 25, 32, 12, 36, 1});
}

TEST_CASE("wordpiece: a word of more than 100 characters is unknown") {
  const data::WordPiece vocabulary = small();
  CHECK(encode(vocabulary, std::string(100, 'a')).size() == 100);
  CHECK(encode(vocabulary, std::string(101, 'a')) == Ids{1});
  CHECK(encode(vocabulary, std::string(100, 'a') + "\u200B,a").size() == 102);
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "a\u0301";  // counted after marks are stripped
  CHECK(encode(vocabulary, accents).size() == 100);
  CHECK(encode(small(kCased), accents) == Ids{1});
  std::vector<std::string> unknown;
  Ids ids;
  vocabulary.encode(std::string(5000, 'b'), ids, nullptr, &unknown);
  CHECK(unknown == std::vector<std::string>{std::string(100, 'b')});
}

TEST_CASE("wordpiece: time is linear in the text, and threads may share a vocabulary") {
  const data::WordPiece vocabulary = small();
  const auto seconds = [&](const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    encode(vocabulary, text);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  for (const std::string unit :
       {"a", "[", "\u03A3", "'", "\u03A3'", "[\u200B", "\U0001D16D\U0001D165", "hello 中"}) {
    CAPTURE(unit);
    std::string small_text, large_text;
    while (small_text.size() < 1 << 17) small_text += unit;
    for (int i = 0; i < 16; ++i) large_text += small_text;
    CHECK(seconds(large_text) < 60 * seconds(small_text) + 0.2);
  }
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "Hello 中文, aab" + std::to_string(i) + " \u0391\u03A3 [MASK]\n";
  const Ids expected = encode(vocabulary, text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results) threads.emplace_back([&] { vocabulary.encode(text, result); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& result : results) CHECK(result == expected);
}

TEST_CASE("wordpiece: decoding") {
  const data::WordPiece vocabulary = small();
  const std::vector<std::pair<Ids, std::string>> rows = {
      {{}, ""},
      {{7, 8, 9}, "hello world"},                     // one blank between two words
      {{7, 5, 6, 7, 11, 7}, "hello中文hello,hello"},  // none beside Han or punctuation
      {{2, 7, 3, 0, 8, 3}, "hello wor"},              // [CLS] [SEP] [PAD] give nothing
      {{5, 9, 7}, "中ld hello"},
      {{9, 7}, "ld hello"},
      {{7, 30, 7}, "hello中hello"},
      {{7, 1, 7}, "hello[UNK]hello"},
      {{7, 4, 26}, "hello[MASK]##"},  // "##" itself continues nothing
      {{16, 17}, "か σ"},
  };
  for (const auto& [ids, text] : rows) CHECK(vocabulary.decode(ids) == text);
  CHECK_THROWS_AS(vocabulary.decode(Ids{42}), engine::Error);
  CHECK(vocabulary.settled("") == 0);
  CHECK(vocabulary.settled("hello") == 0);
  CHECK(vocabulary.settled("hello wor") == 6);
  CHECK(vocabulary.settled("中文") == 6);
  CHECK(vocabulary.settled("a中b") == 4);
  CHECK(vocabulary.settled(std::string(200, 'a')) == 200);  // too long for any word
}

TEST_CASE("wordpiece: vocab.txt") {
  const auto read = [](const std::string& bytes) { return data::parse_vocab_txt(bytes, {}, "v.txt"); };
  auto vocabulary = read("\uFEFF[PAD]\r\n[UNK]\r\n中\r\n");
  CHECK(vocabulary->size() == 3);
  CHECK(vocabulary->piece(0) == "[PAD]");
  CHECK(vocabulary->piece(2) == "中");
  CHECK(vocabulary->end_of_text() == data::kNoToken);
  vocabulary = read("[UNK]\n\u2028\n##\u2028\n\na\u0085\n[SEP]\nlast");
  CHECK(vocabulary->size() == 7);
  CHECK(vocabulary->piece(1) == "\u2028");
  CHECK(vocabulary->piece(3).empty());
  CHECK(vocabulary->piece(4) == "a\u0085");
  CHECK(vocabulary->end_of_text() == 5);
  CHECK(encode(*vocabulary, "last") == Ids{6});
  CHECK(failure("[PAD]\n[UNK]\n中\n中\n").find("v.txt: line 4 repeats the token of line 3") == 0);
  CHECK(failure("[PAD]\n中\n").find("[UNK]") != std::string::npos);
  CHECK(failure("").find("[UNK]") != std::string::npos);
  CHECK(failure("[UNK]\n\xFF\n").find("line 2 is not UTF-8") != std::string::npos);
  CHECK(failure("[UNK]\n" + std::string(data::kMaxVocabularyBytes, 'a')).find("too large") !=
        std::string::npos);
  const tests::TempDir folder;
  CHECK_THROWS_AS(data::read_vocab_txt(folder / "absent"), engine::Error);
  CHECK_THROWS_AS(data::read_vocab_txt(folder.path()), engine::Error);
  // A token that is longer than any word keeps its id.
  CHECK(encode(*read("[UNK]\n" + std::string(100000, 'a') + "\na"), "a") == Ids{2});
}

TEST_CASE("wordpiece: serialized form and hash") {
  for (const data::BertRules rules : {data::BertRules{}, kCased, kHuggingFace, kHuggingFaceCased}) {
    const data::WordPiece vocabulary = small(rules);
    const auto copy = data::parse_wordpiece(vocabulary.serialize(), "copy");
    CHECK(copy->rules() == rules);
    REQUIRE(copy->size() == vocabulary.size());
    for (std::uint32_t id = 0; id < copy->size(); ++id) CHECK(copy->piece(id) == vocabulary.piece(id));
    CHECK(copy->serialize() == vocabulary.serialize());
    CHECK(copy->vocab_sha256() == vocabulary.vocab_sha256());
  }
  // printf '[UNK]\na' | sha256sum
  CHECK(data::WordPiece({"[UNK]", "a"}, {}, "x").vocab_sha256() ==
        "1d25782626bc9e4d87320bbbc4e87f437a4fc8aaf16ff368d3a52df1b7f0b375");
  CHECK_THROWS_AS(data::parse_wordpiece("", "x"), engine::Error);
  CHECK_THROWS_AS(data::parse_wordpiece("wordpiece Lower\n[UNK]", "x"), engine::Error);
  CHECK_THROWS_AS(data::parse_wordpiece("wordpiece lower\n[UNK]\na\na", "x"), engine::Error);
  CHECK_THROWS_AS(data::WordPiece({"[UNK]", "a\nb"}, {}, "x"), engine::Error);
}

TEST_CASE("wordpiece: the published rows of bert-base-chinese" *
          doctest::skip(tests::lacks_shared("wordpiece: the published rows of bert-base-chinese",
                                            "cases/bert-tokenize-golden.jsonl"))) {
  const auto folder = tests::shared_data();
  const auto file = folder / "bert-base-chinese-vocab.txt";
  const auto by_bert = data::read_vocab_txt(file), by_bert_cased = data::read_vocab_txt(file, kCased);
  const auto by_hugging_face = data::read_vocab_txt(file, kHuggingFace);
  const auto by_hugging_face_cased = data::read_vocab_txt(file, kHuggingFaceCased);
  CHECK(by_bert->size() == 21128);
  CHECK(!by_bert_cased->has_capitals());
  const std::string rows = tests::read_file(folder / "cases" / "bert-tokenize-golden.jsonl");
  int count = 0;
  for (std::size_t at = 0; at < rows.size(); ++count) {
    const std::size_t end = std::min(rows.find('\n', at), rows.size());
    const auto row = nlohmann::json::parse(rows.substr(at, end - at));
    at = end + 1;
    const std::string name = row["name"];
    CAPTURE(name);
    const std::string text = row["text"];
    const bool lower = row["lower"];
    CHECK(encode(lower ? *by_bert : *by_bert_cased, text) == row["ppb"].get<Ids>());
    CHECK(encode(lower ? *by_hugging_face : *by_hugging_face_cased, text) == row["hf_rust"].get<Ids>());
  }
  CHECK(count >= 108);
  for (const auto& row : nlohmann::json::parse(tests::read_file(folder / "cases" / "utf8-malformed.json"))) {
    CHECK(encode(*by_bert, data::repair_utf8(tests::from_hex(row["hex"]))) == row["ids"].get<Ids>());
  }
  const auto boundary = nlohmann::json::parse(tests::read_file(folder / "cases" / "chunk-boundary.json"));
  std::string text;
  for (int i = 0; i < 9997; ++i) text += "中";
  const Ids ids = encode(*by_bert, text + "wikipedia 百科");
  CHECK(Ids(ids.end() - 6, ids.end()) == boundary["ids_whole_tail"].get<Ids>());
}

TEST_CASE("wordpiece: the published streams" *
          doctest::skip(tests::lacks_shared("wordpiece: the published streams", "zhwiki-sample.txt.gz"))) {
  const auto folder = tests::shared_data();
  const auto vocabulary = data::read_vocab_txt(folder / "bert-base-chinese-vocab.txt");
  const std::string sample = tests::gunzip(folder / "zhwiki-sample.txt.gz");
  Ids ids = encode(*vocabulary, sample);
  CHECK(ids.size() == 2627415);
  CHECK(sha256_of_u16(ids) == "40507bc6ec6be1f0ac90dfd3253ee4271d444fcccb7618c2e611d31ece271c60");
  ids = encode(*vocabulary, tests::gunzip(folder / "drcd-traditional.txt.gz"));
  CHECK(ids.size() == 853274);
  CHECK(sha256_of_u16(ids) == "24d6d5c502ea4037d2e648b9a4a8700e2c81c125b0d1472a490d31c61593c8b8");
  ids = encode(*vocabulary, tests::gunzip(folder / "zhwiki-paragraphs-abstract-format.xml.gz"));
  CHECK(ids.size() == 4388154);
  CHECK(sha256_of_u16(ids) == "9b1805133e96337d089cbcd4aa05060da36056ae6668b6955db815a1a4439ba7");
}

TEST_CASE("wordpiece: the published streams, simplified" *
          doctest::skip(tests::lacks_shared("wordpiece: the published streams, simplified",
                                            "zhwiki-sample.txt.gz") ||
                        tests::lacks_opencc("wordpiece: the published streams, simplified", "1.1.6"))) {
  const auto folder = tests::shared_data();
  const auto vocabulary = data::read_vocab_txt(folder / "bert-base-chinese-vocab.txt");
  const data::Converter converter("t2s");
  const auto ids_of = [&](const char* file) {
    return encode(*vocabulary, converter.convert(tests::gunzip(folder / file)));
  };
  CHECK(sha256_of_u16(ids_of("zhwiki-sample.txt.gz")) ==
        "890cb4bd3905c242b109e271f016c432bec9e7371d136965fa51b6d54a65a9c8");
  CHECK(sha256_of_u16(ids_of("zhwiki-paragraphs-abstract-format.xml.gz")) ==
        "25de27c128532632f0b5e7199ac46afd062f67cec809584c0e9cc5cd1cce13cc");
}
