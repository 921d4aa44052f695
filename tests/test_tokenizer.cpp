#include "data/tokenizer.h"

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "data/percent.h"
#include "data/utf8.h"
#include "data/wordpiece.h"
#include "engine/container.h"
#include "tests/text_cases.h"

namespace {

using Ids = std::vector<std::uint32_t>;

const std::vector<std::string> kTokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "中", "文",
                                          "a",     "b",     "##a",   "##b",   "##中",   ",",  "か",
                                          "%",     "##",    "hello", "",      "e7"};

std::string failure(const std::filesystem::path& path) {
  try {
    data::load_tokenizer(path);
  } catch (const engine::Error& error) {
    CHECK(error.code == engine::Exit::checkpoint);
    const std::string what = error.what();
    CHECK(what.find(path.string()) == 0);
    CHECK(what.find('\n') == std::string::npos);
    return what;
  }
  return "loaded";
}

std::string in_stream(const data::Tokenizer& tokenizer, const Ids& ids) {
  data::StreamDecoder stream(tokenizer);
  std::string text;
  for (const std::uint32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

}  // namespace

TEST_CASE("tokenizer: a file gives back what was saved") {
  const tests::TempDir folder;
  for (const data::BertRules rules : {data::BertRules{}, {.lower = false}, {.hugging_face = true}}) {
    const data::WordPiece saved(kTokens, rules, "saved");
    data::save_tokenizer(saved, folder / "t.bin");
    const auto loaded = data::load_tokenizer(folder / "t.bin");
    CHECK(loaded->kind() == "wordpiece");
    CHECK(loaded->size() == saved.size());
    CHECK(loaded->end_of_text() == 3);
    CHECK(loaded->serialize() == saved.serialize());
    CHECK(dynamic_cast<data::WordPiece&>(*loaded).rules() == rules);
    const engine::ContainerReader file(folder / "t.bin");
    CHECK(file.meta("format") == "nsa-tokenizer/1");
    CHECK(file.meta("vocab_size") == "19");
    CHECK(file.meta("vocab_sha256") == saved.vocab_sha256());
  }
}

TEST_CASE("tokenizer: a vocab.txt is told apart by its content") {
  const tests::TempDir folder;
  tests::write_file(folder / "x.bin", "[PAD]\n[UNK]\nA\n");
  CHECK(data::load_tokenizer(folder / "x.bin")->size() == 3);
  Ids ids;
  data::load_tokenizer(folder / "x.bin", {.lower = false})->encode("A", ids);
  CHECK(ids == Ids{2});
}

TEST_CASE("tokenizer: damaged and foreign files") {
  const tests::TempDir folder;
  const data::WordPiece saved(kTokens, {}, "saved");
  data::save_tokenizer(saved, folder / "t.bin");
  const std::string bytes = tests::read_file(folder / "t.bin");
  for (std::size_t size = 0; size < bytes.size(); size += 7) {
    tests::write_file(folder / "cut", std::string_view(bytes).substr(0, size));
    CHECK(failure(folder / "cut") != "loaded");
  }
  for (std::size_t at = 0; at < bytes.size(); ++at) {  // any byte
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    tests::write_file(folder / "damaged", damaged);
    CAPTURE(at);
    CHECK(failure(folder / "damaged") != "loaded");
  }
  CHECK(failure(folder / "absent") != "loaded");
  CHECK(failure(folder.path()) != "loaded");
  engine::ContainerWriter other;
  other.set("format", "nsa-tokens/1");
  other.save(folder / "other");
  CHECK(failure(folder / "other") != "loaded");
  engine::ContainerWriter newer;
  newer.set("format", "nsa-tokenizer/2");
  newer.save(folder / "newer");
  CHECK(failure(folder / "newer").find("newer") != std::string::npos);
  CHECK_THROWS_AS(data::deserialize_tokenizer("bbpe\n{}", "x"), engine::Error);
}

TEST_CASE("tokenizer: a stream decodes to the text of the whole") {
  const data::WordPiece vocabulary(kTokens, {}, "test");
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    Ids ids(random() % 12);
    for (std::uint32_t& id : ids) id = random() % vocabulary.size();
    CHECK(in_stream(vocabulary, ids) == vocabulary.decode(ids));
  }
  Ids chain(2000, 9);  // a word without an end: held back only while it could be a word
  data::StreamDecoder stream(vocabulary);
  std::size_t sent = 0;
  for (std::size_t i = 0; i < chain.size(); ++i) {
    sent += stream.push(chain[i]).size();
    CHECK(i + 1 - sent <= 101);
  }
  CHECK(sent + stream.finish().size() == chain.size());
}

TEST_CASE("tokenizer: a stream holds back a word, and nothing else") {
  const data::WordPiece vocabulary(kTokens, {}, "test");
  data::StreamDecoder stream(vocabulary);
  CHECK(stream.push(5) == "中");
  CHECK(stream.push(16).empty());
  CHECK(stream.push(9).empty());
  CHECK(stream.push(16) == "helloa ");
  CHECK(stream.push(3).empty());
  CHECK(stream.push(12) == "hello,");
  CHECK(stream.push(7).empty());
  CHECK(stream.finish() == "a");
  CHECK(stream.push(7).empty());  // begins anew, without a blank
  CHECK(stream.finish() == "a");
}

TEST_CASE("tokenizer: the published decodings" *
          doctest::skip(tests::lacks_shared("tokenizer: the published decodings", "cases/decode.json"))) {
  const auto folder = tests::shared_data();
  const auto vocabulary = data::load_tokenizer(folder / "bert-base-chinese-vocab.txt");
  for (const auto& row : nlohmann::json::parse(tests::read_file(folder / "cases" / "decode.json"))) {
    const std::string name = row["name"];
    CAPTURE(name);
    const Ids ids = row["ids"].get<Ids>();
    CHECK(vocabulary->decode(ids) == row["joined"]);
    CHECK(in_stream(*vocabulary, ids) == row["joined"]);
    CHECK(data::percent_decode(vocabulary->decode(ids)) == row["url_decoded"]);
    if (!row.contains("text")) continue;
    Ids encoded;
    vocabulary->encode(row["text"].get<std::string>(), encoded);
    CHECK(encoded == ids);
  }
}

TEST_CASE("tokenizer: the program") {
  const tests::TempDir folder;
  const std::string program = tests::program("tokenizer");
  const auto in = [&](const std::string& name) { return "'" + (folder / name).string() + "'"; };
  std::string text;
  for (int i = 0; i < 50; ++i) text += "今天天气很好。Today is fine, 3 of 7.\n";
  tests::write_file(folder / "in.txt", text);

  auto ran = tests::run_command(program + " train " + in("in.txt") + " --kind char --vocab-size 200 -o " +
                                in("t.bin"));
  CHECK(ran.code == 0);
  CHECK(ran.out.empty());
  ran = tests::run_command(program + " info " + in("t.bin"));
  CHECK(ran.code == 0);
  CHECK(ran.out.find("kind wordpiece\nlower yes\nvocab_size ") == 0);
  CHECK(ran.out.find("\nend_of_text 3 [SEP]\nsha256 ") != std::string::npos);

  ran = tests::run_command("printf '今天 Today\\n\\n气\\n' | " + program + " encode -t " + in("t.bin"));
  CHECK(ran.code == 0);
  const std::string ids = ran.out;
  ran = tests::run_command("printf '" + ids + "' | " + program + " decode -t " + in("t.bin"));
  CHECK(ran.out == "今天today\n\n气\n");
  ran = tests::run_command("printf '\"\\\\u4eca\\\\n[SEP]\"\\n\"\"\\n' | " + program + " encode --json -t " +
                           in("t.bin"));
  CHECK(ran.code == 0);
  CHECK(ran.out.ends_with(",3]\n[]\n"));

  CHECK(tests::run_command(program + " export " + in("t.bin") + " -o " + in("v.txt")).code == 0);
  ran = tests::run_command("printf '今天 Today\\n\\n气\\n' | " + program + " encode --vocab " + in("v.txt"));
  CHECK(ran.out == ids);

  // A vocab.txt comes back byte by byte, but for the line end that the last line may lack.
  const std::string odd = "a\n[UNK]\n\n\u2028\n##\u2028\n \n[SEP]\n\"\\";
  tests::write_file(folder / "odd.txt", odd);
  CHECK(tests::run_command(program + " export " + in("odd.txt") + " -o " + in("v.txt")).code == 0);
  CHECK(tests::read_file(folder / "v.txt") == odd + "\n");
  CHECK(tests::run_command(program + " export " + in("odd.txt") + " -o " + in("v.json")).code == 0);
  const auto json = nlohmann::json::parse(tests::read_file(folder / "v.json"));
  CHECK(json["model"]["vocab"].size() == 8);
  CHECK(json["model"]["vocab"]["\u2028"] == 3);
  CHECK(json["model"]["vocab"]["\"\\"] == 7);

  struct Wrong {
    std::string command;
    int code;
    std::string says;
  };
  for (const Wrong& wrong : std::vector<Wrong>{
           {"printf '5 6\\n7 4000000000\\n' | " + program + " decode -t " + in("t.bin"), 3, "line 2"},
           {"printf '1 -2\\n' | " + program + " decode -t " + in("t.bin"), 3, "line 1"},
           {"printf '{}\\n' | " + program + " encode --json -t " + in("t.bin"), 3, "line 1"},
           {program + " encode -t " + in("absent"), 4, "absent"},
           {program + " encode", 2, "--vocab"},
           {program + " encode --vocabb x", 2, "--vocab"},
           {program + " train " + in("in.txt") + " -o " + in("x") + " --vocab-size 256", 2, "257"},
           {program + " train " + in("in.txt") + " -o " + in("x") + " --kind char --vocab-size 100", 2,
            "109"},
           {program + " train " + in("in.txt") + " -o " + in("x") + " --cased", 2, "--kind char"},
           {program + " train " + in("in.txt") + " -o " + in("x") + " --t2s none", 2, "none"},
           {program + " train " + in("in.txt") + " -o " + in("x") + " --kind char --coverage 2", 2,
            "--coverage"},
           {program + " train " + in("absent") + " -o " + in("x"), 3, "absent"},
           {program + " export " + in("t.bin") + " -o " + in("no/x.json"), 7, "no/x.json"},
           {program, 2, ""},
       }) {
    CAPTURE(wrong.command);
    ran = tests::run_command(wrong.command);
    CHECK(ran.code == wrong.code);
    CHECK(ran.err.starts_with("tokenizer: "));
    CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
    CHECK(ran.err.find(wrong.says) != std::string::npos);
  }
}
