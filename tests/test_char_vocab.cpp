#include "data/char_vocab.h"

#include <set>
#include <string>
#include <vector>

#include "engine/error.h"
#include "tests/support.h"

namespace {

std::vector<std::string> tokens_of(const data::WordPiece& vocabulary) {
  std::vector<std::string> tokens;
  for (std::uint32_t id = 0; id < vocabulary.size(); ++id) tokens.emplace_back(vocabulary.piece(id));
  return tokens;
}

constexpr std::uint32_t kFixed = 5 + 68 + 36, kFixedCased = 5 + 94 + 62;

}  // namespace

TEST_CASE("char vocabulary: the fixed entries come first, whatever the text") {
  const auto lower = tokens_of(*data::CharCounter().finish(kFixed));
  REQUIRE(lower.size() == kFixed);
  CHECK(std::vector<std::string>(lower.begin(), lower.begin() + 7) ==
        std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", "\""});
  const std::set<std::string> known(lower.begin(), lower.end());
  for (char c = '!'; c <= '~'; ++c) {
    const bool capital = 'A' <= c && c <= 'Z', word = ('a' <= c && c <= 'z') || ('0' <= c && c <= '9');
    CHECK(known.contains(std::string(1, c)) == !capital);
    CHECK(known.contains(std::string("##") + c) == word);
  }
  CHECK(data::CharCounter({.lower = false}).finish(kFixedCased)->size() == kFixedCased);
}

TEST_CASE("char vocabulary: then the most frequent characters, ties by code point, heads before insides") {
  data::CharCounter counter;
  counter.add(
      "我我我是是他他 éàéà ßßß。。\n");  // é and à fold to ASCII; ß is a letter inside and at the head
  counter.add("か がか");                // が folds to か
  data::CharVocabReport report;
  const auto all = tokens_of(*counter.finish(1000, 1.0, &report));
  CHECK(std::vector<std::string>(all.begin() + kFixed, all.end()) ==
        std::vector<std::string>{"我", "##ß", "。", "か", "他", "是", "ß", "##か"});
  // 3 我, 2 是, 2 他, 4 letters of the accented word, 3 ß, 2 。, 3 か
  CHECK(report.characters == 19);
  CHECK(report.covered == 19);
  CHECK(report.distinct == 11);  // the eight, "e", "##a", "##e"
  CHECK(report.size == kFixed + 8);
  CHECK(report.coverage() == 1.0);
}

TEST_CASE("char vocabulary: coverage and size are limits") {
  data::CharCounter counter;
  for (int i = 0; i < 90; ++i) counter.add("一");
  for (int i = 0; i < 9; ++i) counter.add("二");
  counter.add("三");
  data::CharVocabReport report;
  CHECK(counter.finish(1000, 0.9, &report)->size() == kFixed + 1);
  CHECK(report.coverage() == 0.9);
  CHECK(counter.finish(1000, 0.91, &report)->size() == kFixed + 2);
  CHECK(report.covered == 99);
  CHECK(counter.finish(1000, 1.0)->size() == kFixed + 3);
  CHECK(counter.finish(kFixed + 1, 1.0, &report)->size() == kFixed + 1);  // never larger than asked
  CHECK(report.covered == 90);
  CHECK(counter.finish(kFixed, 1.0)->size() == kFixed);
}

TEST_CASE("char vocabulary: too small a size names the smallest, a wrong coverage the range") {
  const auto what = [](bool lower, std::uint32_t size, double coverage) -> std::string {
    try {
      data::CharCounter({.lower = lower}).finish(size, coverage);
    } catch (const engine::Error& error) {
      CHECK(error.code == engine::Exit::usage);
      return error.what();
    }
    return "made";
  };
  CHECK(what(true, 100, 0.99).find("109") != std::string::npos);
  CHECK(what(true, 108, 0.99).find("--vocab-size 108") == 0);
  CHECK(what(false, 109, 0.99).find("161") != std::string::npos);
  CHECK(what(true, 109, 0.0).find("--coverage 0") == 0);
  CHECK(what(true, 109, 1.5).find("--coverage 1.5") == 0);
}

TEST_CASE("char vocabulary: what it was made from has no unknown words, and merging is adding") {
  const std::vector<std::string> pieces = {"Hello 世界, Ελλάδα 123 한국어\n", "カタカナ ☃ don't\n",
                                           "世界 [MASK] 100%\n"};
  data::CharCounter whole, left, right;
  for (const std::string& piece : pieces) whole.add(piece);
  left.add(pieces[2]);
  right.add(pieces[0]);
  right.add(pieces[1]);
  left.merge(right);
  const auto vocabulary = whole.finish(5000, 1.0);
  CHECK(tokens_of(*left.finish(5000, 1.0)) == tokens_of(*vocabulary));
  CHECK(whole.finish(5000, 1.0)->serialize() == vocabulary->serialize());
  data::EncodeCounts counts;
  std::vector<std::uint32_t> ids;
  for (const std::string& piece : pieces) vocabulary->encode(piece, ids, &counts);
  CHECK(counts.unknown == 0);
  CHECK(counts.special_words == 1);
  // lower-cased, without accents, the syllables taken apart into jamo
  CHECK(vocabulary->decode(ids) ==
        "hello世界,ελλαδα 123 \u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165 "
        "カタカナ ☃ don't世界[MASK]100%");
}
