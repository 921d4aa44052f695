// prepare, tokenizer and inspect as programs: exit codes, one-line errors, nothing left behind, pipes,
// signals (docs/reference.md, "Exit codes").
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/token_file.h"
#include "data/wordpiece.h"
#include "engine/container.h"
#include "tests/support.h"

namespace {

namespace fs = std::filesystem;
using tests::program;
using tests::Ran;
using tests::run_command;

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {}));
}

std::vector<std::int32_t> ids_of(const fs::path& path) {
  const data::TokenFile file(path);
  std::vector<std::int32_t> ids(file.size());
  file.read(0, ids);
  return ids;
}

// Files to give to the programs, and an empty folder for what they write.
struct Files {
  tests::TempDir in, out;
  Files() {
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n中\n国\n";
    for (char c = 'a'; c <= 'z'; ++c) vocabulary += std::string(1, c) + "\n##" + std::string(1, c) + "\n";
    tests::write_file(in / "vocab.txt", vocabulary);
    tests::write_file(in / "no-unk", "[PAD]\n[SEP]\n");
    tests::write_file(in / "no-sep", "[PAD]\n[UNK]\n中\n");
    tests::write_file(in / "twice", "[UNK]\n[SEP]\na\na\n");
    tests::write_file(in / "text", "中国 abc\n\nabc\n");
    tests::write_file(in / "empty", "");
    tests::write_file(in / "blank", "\n \n");
    tests::write_file(in / "control", "\x01\x02\n");
    tests::write_file(in / "bz2", "BZh91AY&SY12345678");
    tests::write_file(in / "cut.gz", std::string_view("\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b", 11));
    tests::write_file(in / "other.jsonl", "{\"body\":\"x\"}\n{\"body\":\"y\"}\n");
    fs::create_directory(in / "nothing");
    const auto words = data::read_vocab_txt(in / "vocab.txt");
    data::save_tokenizer(*words, in / "tokenizer");
    data::TokenFileWriter tokens(in / "tokens", *words, false, {data::Split::Rule::tail, 0});
    tokens.add(std::vector<std::uint32_t>{5, 6}, 6);
    tokens.end_document(0);
    tokens.finish({"off", "", "15", "test", "{}", "test"});
    const std::string whole = tests::read_file(in / "tokenizer");
    tests::write_file(in / "cut-tokenizer", whole.substr(0, whole.size() - 1));
    std::string damaged = whole;
    damaged.back() = '!';
    tests::write_file(in / "damaged-tokenizer", damaged);
  }
  std::string path(const std::string& name) const { return quoted(in / name); }
};

struct Row {
  std::string arguments;
  int code;
  std::string says;
};

void check_rows(const Files& files, const std::string& name, const std::vector<Row>& rows) {
  const std::size_t before = files_in(files.in.path());
  for (const Row& row : rows) {
    CAPTURE(row.arguments);
    const Ran ran = run_command(program(name) + " " + row.arguments);
    tests::check_one_line(ran, name, row.code, {row.says});
    CHECK(ran.out == "");
    CHECK(files_in(files.out.path()) == 0);
    CHECK(files_in(files.in.path()) == before);
  }
}

}  // namespace

TEST_CASE("tools: prepare's errors are one line and leave nothing") {
  const Files files;
  const std::string out = " -o " + quoted(files.out / "x.bin") + " ", target = " --threads 2 --t2s off" + out;
  const std::string text = files.path("text") + " ", in = text + target;
  const std::string vocab = " --vocab " + files.path("vocab.txt") + " ";
  check_rows(files, "prepare",
             {
                 {"", 2, "required"},
                 {text, 2, "--output"},
                 {target, 2, "INPUT"},
                 {in + "--vocabb x", 2, "did you mean --vocab"},
                 {in + "-d x", 2, "-d"},
                 {in + "--vocab", 2, "--vocab"},
                 {in + "--val 2", 2, "--val"},
                 {in + "--val nan", 2, "--val"},
                 {in + "--seed -1", 2, "--seed"},
                 {in + "--threads 0", 2, "--threads"},
                 {in + "--split middle", 2, "hash|tail"},
                 {in + "--limit-bytes many", 2, "--limit-bytes"},
                 {in + "--limit-bytes=0", 2, "--limit-bytes"},
                 {in + "--kind bbpe --vocab-size 256", 2, "257"},
                 {in + "--cased", 2, "--kind char"},
                 {in + "--compat hf", 2, "--kind char"},
                 {in + vocab + "--compat nf", 2, "expected one of hf"},
                 {in + "--tokenizer " + files.path("tokenizer") + " --compat hf", 2, "--compat"},
                 {in + "--vocab-size 10", 2, "10"},
                 {in + vocab + "--tokenizer x", 2, "--tokenizer"},
                 {in + vocab + "--vocab-size 500", 2, "--vocab-size"},
                 {in + "--tokenizer " + files.path("tokenizer") + " --cased", 2, "--cased"},
                 {in + "--text --val 0.1", 2, "--val"},
                 {in + "--raw --doc-sep x", 2, "--doc-sep"},
                 {"- - " + target, 2, "twice"},
                 {text + "--t2s off -o -", 2, "--text"},

                 {text + "--t2s off -o ''", 2, "-o"},
                 {text + "--t2s off -o " + quoted(files.in.path()), 2, "regular file"},
                 {text + "--t2s off -o /dev/null", 2, "regular file"},
                 {text + "--t2s off -o " + text, 2, "input"},
                 {text + "--t2s off -o " + files.path("vocab.txt") + vocab, 2, "input"},
                 {text + "--t2s nonsense" + out, 2, "--t2s off"},
                 {files.path("none") + target, 3, "no such"},
                 {files.path("nothing") + target, 3, "no files"},
                 {files.path("empty") + target, 3, "empty"},
                 {files.path("blank") + target, 3, "no documents"},
                 {files.path("control") + target + "--raw" + vocab, 3, "no text"},
                 {files.path("other.jsonl") + target, 3, "--text-field"},
                 {files.path("bz2") + target, 3, "bzip2 data end early"},
                 {files.path("tokens") + target, 3, "made by this project"},
                 {files.path("cut.gz") + vocab + target, 3, "end early"},
                 {"- " + target, 3, "standard input: is empty"},
                 {in + "--vocab " + files.path("none"), 4, "none"},
                 {in + "--vocab " + files.path("nothing"), 4, "nothing"},
                 {in + "--vocab " + files.path("empty"), 4, "empty"},
                 {in + "--vocab " + files.path("no-unk"), 4, "[UNK]"},
                 {in + "--vocab " + files.path("no-sep"), 4, "[SEP]"},
                 {in + "--vocab " + files.path("twice"), 4, "twice"},
                 {in + "--tokenizer " + files.path("none"), 4, "none"},
                 {in + "--tokenizer " + files.path("text"), 4, "text"},
                 {in + "--tokenizer " + files.path("tokens"), 4, "tokens"},
                 {in + "--tokenizer " + files.path("cut-tokenizer"), 4, "cut-tokenizer"},
                 {in + "--tokenizer " + files.path("damaged-tokenizer"), 4, "damaged"},
                 {text + "--t2s off -o " + quoted(files.in / "no/such/x"), 7, "cannot be written"},
                 {text + "--t2s off --text -o - >/dev/full", 7, "standard output"},
             });
}

TEST_CASE("tools: tokenizer's errors are one line and leave nothing") {
  const Files files;
  const std::string target = " -o " + quoted(files.out / "x") + " ", text = files.path("text");
  const std::string words = files.path("tokenizer");
  check_rows(files, "tokenizer",
             {
                 {"", 2, "expected train"},
                 {"enc", 2, "'enc'"},
                 {"train " + text, 2, "--output"},
                 {"train" + target, 2, "INPUT"},
                 {"train " + text + target + "--vocab-sise 9", 2, "--vocab-size"},
                 {"train " + text + target + "--kind bbpe --coverage 0.9", 2, "char"},
                 {"train " + text + target + "--kind words", 2, "bbpe"},
                 {"train " + text + target + "--vocab-size 10", 2, "10"},
                 {"train " + text + target + "--kind char --coverage 2", 2, "--coverage"},
                 {"train " + text + " -o " + text, 2, "input"},
                 {"train " + text + " -o /dev/null", 2, "regular file"},
                 {"train " + files.path("none") + target, 3, "none"},
                 {"train " + files.path("nothing") + target, 3, "no files"},
                 {"train " + files.path("empty") + target, 3, "empty"},
                 {"train " + files.path("blank") + target, 3, "no documents"},
                 {"train " + files.path("cut.gz") + target, 3, "end early"},
                 {"train " + text + " -o " + quoted(files.out / "no/such/x"), 7, "cannot be written"},
                 {"encode", 2, "--vocab"},
                 {"encode -t " + words + " --vocab " + files.path("vocab.txt"), 2, "either"},
                 {"encode -t " + files.path("none"), 4, "none"},
                 {"encode -t " + files.path("nothing"), 4, "nothing"},
                 {"encode -t " + files.path("empty"), 4, "empty"},
                 {"encode -t " + files.path("tokens"), 4, "tokens"},
                 {"encode -t " + files.path("cut-tokenizer"), 4, "cut-tokenizer"},
                 {"encode -t " + files.path("damaged-tokenizer"), 4, "damaged"},
                 {"encode --vocab " + files.path("no-unk"), 4, "[UNK]"},
                 {"encode --json -t " + words + " <" + text, 3, "line 1"},
                 {"encode -t " + words + " <" + quoted(files.in.path()), 3, "standard input"},
                 {"encode -t " + words + " <" + text + " >/dev/full", 7, "standard output"},
                 {"decode -t " + words + " <" + text, 3, "line 1"},
                 {"info", 2, "FILE"},
                 {"info " + files.path("none"), 4, "none"},
                 {"encode --compat hf -t " + files.path("tokenizer"), 2, "knows its rules"},
                 {"encode --compat bert -t " + words, 2, "expected one of hf"},
                 {"export " + words, 2, "--output"},
                 {"export " + words + " -o " + words, 2, "input"},
                 {"export " + words + " -o " + quoted(files.out / "no/x.txt"), 7, "cannot be written"},
             });
}

TEST_CASE("tools: the tokenizer gives BERT's ids" *
          doctest::skip(tests::lacks_shared("tools: the tokenizer gives BERT's ids",
                                            "cases/bert-tokenize-golden.jsonl"))) {
  tests::TempDir dir;
  std::istringstream rows(tests::read_file(tests::shared_data() / "cases/bert-tokenize-golden.jsonl"));
  std::string texts[2], line;
  std::vector<nlohmann::json> wanted[2];
  while (std::getline(rows, line)) {
    const auto row = nlohmann::json::parse(line);
    const bool lower = row["lower"];
    texts[lower] += row["text"].dump() + "\n";
    wanted[lower].push_back(row);
  }
  for (const bool lower : {true, false}) {
    tests::write_file(dir / "in", texts[lower]);
    for (const std::string rules : {"ppb", "hf_rust"}) {
      const Ran ran = run_command(program("tokenizer") + " encode --json --vocab " +
                                  quoted(tests::shared_data() / "bert-base-chinese-vocab.txt") +
                                  (rules == "ppb" ? "" : " --compat hf") + (lower ? " <" : " --cased <") +
                                  quoted(dir / "in"));
      CHECK(ran.code == 0);
      std::istringstream got(ran.out);
      for (const auto& row : wanted[lower]) {
        REQUIRE(std::getline(got, line));
        CHECK(nlohmann::json::parse(line) == row[rules]);
      }
      CHECK(!std::getline(got, line));
    }
  }
}

TEST_CASE("tools: prepare reads pipes, folders and several inputs") {
  const Files files;
  const std::string prepare = program("prepare") + " --threads 2 --t2s off ";
  const std::string target = " -o " + quoted(files.out / "x.bin") + " ";
  const std::string vocab = " --vocab " + files.path("vocab.txt") + " ";
  Ran ran = run_command("printf '中国 abc' | " + prepare + "-" + vocab + target);
  CHECK(ran.code == 0);
  CHECK(ran.out == "");
  CHECK(ran.err.find('\r') == std::string::npos);  // progress is for terminals
  CHECK(ids_of(files.out / "x.bin") == std::vector<std::int32_t>{5, 6, 7, 10, 12, 3});
  CHECK(run_command("printf '中国 abc' | " + prepare + "- --quiet " + vocab + target).code == 0);
  // The rules are those of --compat, also when the file is read.
  CHECK(run_command("printf '[SEP] a\U0001F6DC' | " + prepare + "- --compat hf " + vocab + target).code == 0);
  CHECK(ids_of(files.out / "x.bin") == std::vector<std::int32_t>{1, 43, 16, 38, 1, 1, 3});
  CHECK(data::TokenFile(files.out / "x.bin").tokenizer()->serialize().starts_with("wordpiece lower hf\n"));

  // What of standard input is needed twice is kept, and no more is read: this one never ends.
  ran = run_command("yes '中国' | " + prepare + "- --limit-bytes 700 --raw --kind char" + target);
  CHECK(ran.code == 0);
  {
    const data::TokenFile trained(files.out / "x.bin");
    CHECK(trained.size() == 200);
    CHECK(trained.tokenizer()->piece(static_cast<std::uint32_t>(ids_of(files.out / "x.bin")[0])) == "中");
  }
  CHECK(files_in(files.out.path()) == 1);

  fs::create_directories(files.in / "folder/below");
  tests::write_file(files.in / "folder/b", "b");
  tests::write_file(files.in / "folder/below/c", "c");
  tests::write_file(files.in / "folder/a", "中");
  tests::write_file(files.in / "folder/zero", "");
  fs::create_symlink("gone", files.in / "folder/link");
  const std::string inputs = files.path("folder") + " " + files.path("text");
  CHECK(run_command(prepare + inputs + vocab + "--val 0" + target).code == 0);
  CHECK(ids_of(files.out / "x.bin") ==
        std::vector<std::int32_t>{5, 3, 9, 3, 11, 3, 5, 6, 7, 10, 12, 3, 7, 10, 12, 3});
  ran = run_command(prepare + inputs + " --text -o -");
  CHECK(ran.out == "中\n\nb\n\nc\n\n中国 abc\n\nabc\n");

  // What a killed run left goes, what others left stays.
  tests::write_file(files.out / "x.bin.tmp.999999999", "");
  tests::write_file(files.out / "x.bin.tmp.old", "");
  CHECK(run_command(prepare + inputs + vocab + target).code == 0);
  CHECK(!fs::exists(files.out / "x.bin.tmp.999999999"));
  CHECK(fs::exists(files.out / "x.bin.tmp.old"));
}

TEST_CASE("tools: a vocabulary comes through a pipe, too") {
  const Files files;
  const std::string pipe = quoted(files.out / "pipe"),
                    from_pipe = "mkfifo " + pipe + "; { cat " + files.path("vocab.txt") + " >" + pipe +
                                " & } ; printf '中 b' | timeout 20 " + program("tokenizer") + " encode ";
  for (const char* flag : {"-t ", "--vocab "}) {
    CAPTURE(flag);
    CHECK(run_command(from_pipe + flag + pipe + "; rm " + pipe).out == "5 9\n");
  }
}

TEST_CASE("tools: prepare ends at signals and closed pipes") {
  const Files files;
  const std::string prepare = program("prepare") + " --threads 2 --t2s off ";
  const std::string target = " -o " + quoted(files.out / "x.bin") + " ";
  std::string lines;
  while (lines.size() < 3'000'000) lines += "abc\n";
  tests::write_file(files.in / "lines", lines);
  for (const auto& [signal, code] : {std::pair("INT", 130), std::pair("TERM", 143)}) {
    CAPTURE(signal);
    const std::string stopped = "timeout -s " + std::string(signal) + " --preserve-status 0.2 " + prepare;
    const std::string vocab = " --vocab " + files.path("vocab.txt") + " ";
    for (const std::string& mode : {std::string("--text "), std::string(), vocab}) {
      CAPTURE(mode);
      // The input stays open, so the output is begun when the signal comes.
      const Ran ran =
          run_command("( printf 'abc\\n\\nabc\\n\\n'; sleep 0.4 ) | " + stopped + mode + "-" + target);
      tests::check_one_line(ran, "prepare", code, {});
      CHECK(files_in(files.out.path()) == 0);
    }
    const Ran ran = run_command("( " + stopped + "--raw --text -o - " + files.path("lines") +
                                "; echo code $? >&2 ) | sleep 0.5");  // nobody reads
    CHECK(ran.err.find("code " + std::to_string(code)) != std::string::npos);
  }
  Ran ran = run_command("( " + prepare + "--raw --text -o - " + files.path("lines") +
                        "; echo code $? >&2 ) | head -c 4");
  CHECK(ran.err == "code 0\n");
  CHECK(ran.out == "abc\n");
  ran = run_command(prepare + "--raw --text -o - " + files.path("lines"));
  CHECK(ran.code == 0);
  CHECK(ran.out == lines);
}
