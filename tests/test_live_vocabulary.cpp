#include "data/live_vocabulary.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "data/sha256.h"
#include "data/token_file.h"
#include "data/utf8.h"
#include "tests/text_cases.h"
#include "tests/trained_model.h"

namespace {

using Ids = std::vector<std::uint32_t>;
using Set = std::set<std::uint32_t>;

constexpr data::BertRules kAllRules[] = {{true, false}, {false, false}, {true, true}, {false, true}};

Ids encode(const data::Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::vector<std::string> with(std::vector<std::string> tokens) {
  tokens.insert(tokens.begin(), {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"});
  return tokens;
}

Ids live_ids(std::vector<std::string> tokens, data::BertRules rules = {}) {
  return data::live_ids(data::WordPiece(std::move(tokens), rules, "test"));
}

std::string utf8(char32_t c) {
  std::string text;
  data::append_utf8(text, c);
  return text;
}

std::string spelled(const Ids& ids) {
  std::string text;
  for (const std::uint32_t id : ids) text += std::to_string(id) + " ";
  return text;
}

std::string failure(const std::string& payload) {
  try {
    data::deserialize_tokenizer(payload, "FILE");
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::checkpoint);
    return error.what();
  }
  return "loaded";
}

}  // namespace

TEST_CASE("live vocabulary: counted by hand") {
  struct Row {
    std::string token;
    std::string lives;  // under the rules of BERT, cased, of Hugging Face's tokenizers, cased
  };
  const std::vector<Row> rows = {
      {"[UNK]", "1111"},
      {"[SEP]", "1111"},  // whatever the rules
      {"[unused1]", "0000"},
      {"中", "1111"},
      {"##中", "0000"},  // Han stands alone
      {"a", "1111"},
      {"##a", "1111"},
      {"A", "0101"},
      {"##A", "0101"},
      {"aB", "0101"},
      {"a b", "0000"},
      {" ", "0000"},
      {"", "0000"},
      {"##", "0000"},
      {",", "1111"},
      {"##,", "0000"},
      {"a,", "0000"},
      {",,", "0000"},
      {"\u00E9", "0101"},
      {"e\u0301", "0101"},
      {"##\u0301", "0101"},
      {"\u304B", "1111"},
      {"\u304C", "0101"},
      {"\u8C48", "1111"},
      {"\uF900", "0101"},  // becomes the one before
      {"\u03C2", "1111"},
      {"##\u03C3", "1111"},
      {"##\u03A3", "0101"},
      {"\u2028", "0000"},
      {"##\u2028", "0000"},
      {"a\u200B", "0000"},
      {"\U0001F602", "1111"},
      {"##\U0001F602", "1111"},
      {"\u0378", "0011"},                  // unassigned
      {"##\U0002B820", "0011"},            // Han, but for a misprint
      {"##\U0001D16D\U0001D165", "1111"},  // not in canonical order, but a dropped mark may have kept it
      {std::string(100, 'x'), "1111"},
      {std::string(101, 'x'), "0000"},
      {"##" + std::string(99, 'x'), "1111"},
      {"##" + std::string(100, 'x'), "0000"},
  };
  std::vector<std::string> tokens;
  for (const Row& row : rows) tokens.push_back(row.token);
  for (std::size_t i = 0; i < std::size(kAllRules); ++i) {
    CAPTURE(i);
    Ids expected;
    for (std::uint32_t id = 0; id < rows.size(); ++id)
      if (rows[id].lives[i] == '1') expected.push_back(id);
    CHECK(spelled(live_ids(tokens, kAllRules[i])) == spelled(expected));
  }
  CHECK(live_ids({"[UNK]", "中", ",", "##a"}) == Ids{0, 1, 2});         // no word begins
  CHECK(live_ids({"[UNK]", "[", "##MASK]", "##SEP"}) == Ids{0, 1, 2});  // the special word, in pieces
}

// What comes out of each character, alone and behind another, is found by encoding it.
TEST_CASE("live vocabulary: exactly what comes out of all characters") {
  std::vector<std::string> tokens = with({});
  std::vector<char32_t> characters;
  for (char32_t c = 1; c < 0x110000; ++c) {
    if (c == 0x18000) c = 0x1A000;  // like those before
    if (c == 0x20010) c = 0x2A6D0;  // Han
    if (c == 0x2FA30) c = 0x32000;  // unassigned from here
    if (c == 0x32100) c = 0xE0000;
    if (c == 0xE0200) c = 0x10FF00;  // private use
    if (c == '\n' || (0xD800 <= c && c <= 0xDFFF)) continue;
    characters.push_back(c);
    tokens.push_back(utf8(c));
    tokens.push_back("##" + utf8(c));
  }
  for (const data::BertRules rules : kAllRules) {
    const data::WordPiece vocabulary(tokens, rules, "test");
    Ids found = {0, 1, 2, 3, 4};
    for (const char32_t c : characters)
      for (const char* before : {"", "a"}) vocabulary.encode(before + utf8(c), found);
    const Set expected(found.begin(), found.end());
    const Ids live = data::live_ids(vocabulary);
    CHECK(live.size() > 100'000);
    CHECK(std::ranges::equal(live, expected));
  }
}

TEST_CASE("live vocabulary: numbers the tokens densely, and knows the whole") {
  const auto make = [] {
    return std::make_unique<data::WordPiece>(with({"A", "a", "##A", "##b", "##中", "中", ","}),
                                             data::BertRules(), "test");
  };
  const auto whole = make();
  const auto live = data::keep_live(make(), "test");
  REQUIRE(live->size() == 9);
  CHECK(live->kind() == "wordpiece");
  CHECK(live->end_of_text() == 3);
  const Ids whole_ids = {0, 1, 2, 3, 4, 6, 8, 10, 11};
  for (std::uint32_t id = 0; id < live->size(); ++id) {
    CHECK(live->whole_id(id) == whole_ids[id]);
    CHECK(live->piece(id) == whole->piece(whole_ids[id]));
  }
  CHECK(live->whole().serialize() == whole->serialize());
  const std::string text = "ab中, aX [MASK]";
  CHECK(encode(*live, text) == Ids{5, 6, 7, 8, 1, 4});
  CHECK(encode(live->whole(), text) == Ids{6, 8, 10, 11, 1, 4});
  CHECK(live->decode(encode(*live, text)) == whole->decode(encode(*whole, text)));
  Ids more = {77};
  data::EncodeCounts counts;
  std::vector<std::string> unknown;
  live->encode("中 q", more, &counts, &unknown);
  CHECK(more == Ids{77, 7, 1});
  CHECK(counts.tokens == 2);
  CHECK(unknown == std::vector<std::string>{"q"});
  CHECK_THROWS_AS(live->whole_id(9), engine::Error);
  CHECK_THROWS_AS(live->decode(Ids{9}), engine::Error);

  CHECK(live->vocab_sha256() == data::sha256_hex("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n中\n,"));
  CHECK(live->serialize() == "live 0-4 6 8 10-11\n" + whole->serialize());
  const auto copy = data::deserialize_tokenizer(live->serialize(), "copy");
  CHECK(copy->serialize() == live->serialize());
  CHECK(encode(*copy, text) == encode(*live, text));
  const data::Tokenizer* same = copy.get();
  const std::string payload = copy->serialize();
  CHECK(data::keep_live(data::deserialize_tokenizer(payload, "copy"), "copy")->serialize() == payload);
  CHECK(&same->whole() != same);
  CHECK(&whole->whole() == whole.get());

  // A list that lacks what occurs: nothing is lost but the word.
  const auto less = data::deserialize_tokenizer("live 0-4 6\n" + whole->serialize(), "less");
  CHECK(encode(*less, "a ab 中") == Ids{5, 5, 1, 1});
}

TEST_CASE("live vocabulary: damaged lists") {
  const std::string rest = "\nwordpiece lower\n[UNK]\na\n##a\n[SEP]\nb";
  CHECK(failure("live 0-1 3" + rest) == "loaded");
  for (const std::string list :
       {"live", "live ", "live  0-4", "live 0-4 ", "live 0-5", "live 4294967295", "live 0-4294967296",
        "live 00-4", "live 0-1 2-4", "live 0-3-4", "live 3 0", "live 0 0-3", "live 3-0", "live 0,3",
        "live -0", "live 0-", "live +0 3", "lively 0-4", "live 0-99999999999999999999"}) {
    CAPTURE(list);
    CHECK(failure(list + rest).find("FILE: ") == 0);
  }
  CHECK(failure("live 1-3" + rest).find("lack [UNK]") != std::string::npos);
  CHECK(failure("live 0-2" + rest).find("lack [SEP]") != std::string::npos);
  CHECK(failure("live 0-1 3").find("FILE: ") == 0);
  CHECK(failure("live 0-1 3\nlive 0-1 3" + rest).find("FILE: ") == 0);
  CHECK(failure("live 0-1 3\nbbpe\na").find("FILE: ") == 0);
}

TEST_CASE("live vocabulary: 13,583 of bert-base-chinese, each with a text that gives it" *
          doctest::skip(tests::lacks_shared(
              "live vocabulary: 13,583 of bert-base-chinese, each with a text that gives it",
              "bert-base-chinese-vocab.txt"))) {
  const auto vocabulary = data::read_vocab_txt(tests::shared_data() / "bert-base-chinese-vocab.txt");
  const Ids live = data::live_ids(*vocabulary);
  CHECK(live.size() == 13583);
  // "##" pieces behind a word that no token goes on from.
  const std::string before = "wikipedia";
  REQUIRE(encode(*vocabulary, before).size() == 1);
  std::size_t with_text = 0;
  for (const std::uint32_t id : live) {
    const std::string token(vocabulary->piece(id));
    const Ids ids = encode(*vocabulary, token.starts_with("##") ? before + token.substr(2) : token);
    CHECK(ids.back() == id);
    with_text += ids.size() == (token.starts_with("##") ? 2 : 1);
  }
  CHECK(with_text == 13583);
  if (!std::filesystem::exists(tests::shared_data() / "zhwiki-sample.txt.gz")) return;
  Set found;
  for (const std::uint32_t id :
       encode(*vocabulary, tests::gunzip(tests::shared_data() / "zhwiki-sample.txt.gz")))
    found.insert(id);
  CHECK(found.size() == 10463);
  CHECK(std::ranges::includes(live, found));
}

TEST_CASE("live vocabulary: from prepare through train_gpt to sample, with the ids of the whole") {
  const tests::TempDir folder;
  const auto in = [&](const std::string& name) { return " '" + (folder / name).string() + "' "; };
  const auto run = [](const std::string& name, const std::string& rest) {
    const tests::Ran ran = tests::run_command(tests::program(name) + " " + rest);
    CAPTURE(ran.err);
    CHECK(ran.code == 0);
    return ran.out;
  };
  const std::string text =
      " '" + (tests::repository() / "data/sample/zhwiki-abstract-sample.xml").string() + "' ";
  run("tokenizer", "train" + text + "--kind char -o" + in("t"));
  run("tokenizer", "export" + in("t") + "-o" + in("trained.txt"));
  const std::string trained = tests::read_file(folder / "trained.txt");
  const auto size = static_cast<std::uint32_t>(std::count(trained.begin(), trained.end(), '\n'));
  tests::write_file(folder / "vocab.txt", "[unused0]\n##中\nABC\n" + trained + "##。\n");

  const std::string made = "--threads 1 --val 0.05 --vocab" + in("vocab.txt") + "-o";
  run("prepare", text + made + in("whole.bin"));
  run("prepare", text + "--live-vocab " + made + in("live.bin"));
  const data::TokenFile whole(folder / "whole.bin"), live(folder / "live.bin");
  CHECK(whole.vocab_size() == size + 4);
  CHECK(live.vocab_size() == size);
  CHECK(live.size() == whole.size());
  CHECK(live.vocab_sha256() != whole.vocab_sha256());
  CHECK(run("inspect", "ids --count 100M" + in("live.bin")) ==
        run("inspect", "ids --count 100M" + in("whole.bin")));
  run("inspect", "verify" + in("live.bin"));
  data::save_tokenizer(*live.tokenizer(), folder / "live");
  CHECK(run("tokenizer", "info" + in("live"))
            .find("vocab_size " + std::to_string(size + 4) + "\nlive " + std::to_string(size) +
                  "\nend_of_text 6 [SEP]\n") != std::string::npos);

  run("train_gpt",
      tests::TrainedModel::flags() + "-x 4 -s 2 --prompt 北京 -d" + in("live.bin") + "-o" + in("ckpt.bin"));
  CHECK(run("inspect", "info" + in("ckpt.bin")).find("\"vocab\":" + std::to_string(size) + ",") !=
        std::string::npos);
  CHECK(run("sample", "-c" + in("ckpt.bin") + "-p 北京 -n 8 --seed 1").starts_with("北京"));

  const std::string encode = "printf '北京 the [SEP]\\n' | " + tests::program("tokenizer") + " encode -t";
  CHECK(tests::run_command(encode + in("live")).out == tests::run_command(encode + in("vocab.txt")).out);
  const std::string decode = "printf '6 0 2 5\\n' | " + tests::program("tokenizer") + " decode -t";
  CHECK(tests::run_command(decode + in("live")).out == "[unused0]ABC\n");
  for (const char* file : {"live", "live.bin", "whole.bin", "ckpt.bin", "vocab.txt"}) {
    CAPTURE(file);
    run("tokenizer", "export" + in(file) + "-o" + in("again.txt"));
    CHECK(tests::read_file(folder / "again.txt") == tests::read_file(folder / "vocab.txt"));
  }

  const tests::Ran other =
      tests::run_command(tests::program("train_gpt") + tests::TrainedModel::flags() + "-x 1 -d" +
                         in("live.bin") + "--val-data" + in("whole.bin") + "-o" + in("x.bin"));
  tests::check_refused(other, "train_gpt", 4, "vocabulary");
  run("tokenizer", "train" + text + "--vocab-size 300 -o" + in("bbpe"));
  tests::check_refused(tests::run_command(tests::program("prepare") + text + "--live-vocab --tokenizer" +
                                          in("bbpe") + "-o" + in("x.bin")),
                       "prepare", 2, "byte-level BPE");
  const tests::Ran bytes =
      tests::run_command(tests::program("prepare") + text + "--live-vocab -o" + in("x.bin"));
  tests::check_refused(bytes, "prepare", 2, "--live-vocab");
}
