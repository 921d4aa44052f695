// train_gpt on several token files: how -d names them, what is trained and validated, how such a run goes on.
#include "tools/train_data.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/error.h"
#include "tests/changed_container.h"
#include "tests/trained_model.h"
#include "tests/training.h"

namespace {

using tests::check_refused;
using tests::hash_of;
using tests::logged;
using tests::program;
using tests::Ran;
using tests::TempDir;
using tests::train;
using tools::parse_data;

// Three token files of one vocabulary: 61, 19 and 0 windows of 32 tokens, in files a.bin, b.bin and c.bin.
class Files {
 public:
  static const Files& get() {
    static const Files files;
    return files;
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  // "a.bin:2,b.bin" with the folder in front of each
  std::string list(std::string_view names) const {
    std::string all;
    for (std::size_t at = 0, comma; at < names.size() + 1; at = comma + 1) {
      comma = std::min(names.find(',', at), names.size());
      all += (all.empty() ? "" : ",") + path("") + std::string(names.substr(at, comma - at));
    }
    return "'" + all + "'";
  }

 private:
  Files() {
    const auto make = [&](const char* name, int documents, int step, const std::string& rest) {
      std::string text;
      for (int d = 0; d < documents; d++) {
        for (int i = 0; i < 20; i++) text += character(d * step + i * i);
        text += "\n\n";
      }
      tests::write_file(folder_ / (std::string(name) + ".txt"), text);
      const Ran made = tests::run_command(program("prepare") + " '" + path(name) + ".txt' --t2s off " + rest +
                                          " -o '" + path(name) + ".bin'");
      if (made.code != 0) throw std::runtime_error("tests: prepare failed: " + made.err);
    };
    make("all", 97, 1, "--kind char");
    const Ran saved = tests::run_command(program("tokenizer") + " train '" + path("all.txt") +
                                         "' --kind char --t2s off -o '" + path("v") + "'");
    if (saved.code != 0) throw std::runtime_error("tests: tokenizer failed: " + saved.err);
    const std::string vocabulary = "--tokenizer '" + path("v") + "' --split tail --val ";
    make("a", 97, 1, vocabulary + "0.05");
    make("b", 33, 3, vocabulary + "0.1");
    make("c", 1, 1, vocabulary + "0");
    make("split", 97, 1, vocabulary + "0.2");
    make("other", 50, 2, "--kind char --cased");
    const Ran exported =
        tests::run_command(program("tokenizer") + " export '" + path("v") + "' -o '" + path("v.txt") + "'");
    if (exported.code != 0) throw std::runtime_error("tests: tokenizer failed: " + exported.err);
    make("cased", 97, 1, "--vocab '" + path("v.txt") + "' --cased");
    tests::copy_changed(path("b.bin"), path("larger.bin"),
                        [](tests::ContainerParts& file) { file.metadata["vocab_size"] = "4000000"; });
  }
  static std::string character(int index) {
    const unsigned code = 0x4e00 + unsigned(index) % 97;
    return {char(0xe0 | code >> 12), char(0x80 | (code >> 6 & 0x3f)), char(0x80 | (code & 0x3f))};
  }

  TempDir folder_;
};

std::string flags() {
  return "--preset tiny --layers 1 --width 32 --heads 2 --head-dim 16 --ffn 64 -t 32 -b 2 --accum 2 -u 5 "
         "--lr 3e-3 -s 0 ";
}

std::string on(std::string_view files) { return flags() + "-d " + Files::get().list(files) + " "; }
std::string out(const TempDir& folder) { return " -o '" + (folder / "m.bin").string() + "' "; }

Ran run(const std::string& arguments) {
  CAPTURE(arguments);
  Ran ran = train(arguments);
  CAPTURE(ran.err);
  REQUIRE(ran.code == 0);
  return ran;
}

}  // namespace

TEST_CASE("train data: names, weights, and names with colons and commas") {
  TempDir folder;
  const auto path = [&](const char* name) { return (folder / name).string(); };
  for (const char* name : {"a", "b", "b:0.5", "c,d", "c,d,e:2", "x:", "z:0"})
    tests::write_file(folder / name, "");
  struct Case {
    std::string value;
    std::vector<std::pair<std::string, double>> expected;
  };
  const Case cases[] = {
      {path("a"), {{path("a"), 0}}},
      {path("a") + ":0.5", {{path("a"), 0.5}}},
      {path("a") + "," + path("b"), {{path("a"), 0}, {path("b"), 0}}},
      {path("a") + ":2e1," + path("b") + ":.25", {{path("a"), 20}, {path("b"), 0.25}}},
      {path("b:0.5"), {{path("b:0.5"), 0}}},
      {path("b:0.5") + ":3," + path("b") + ":4", {{path("b:0.5"), 3}, {path("b"), 4}}},
      {path("c,d"), {{path("c,d"), 0}}},
      {path("a") + "," + path("c,d") + "," + path("b"), {{path("a"), 0}, {path("c,d"), 0}, {path("b"), 0}}},
      {path("c,d,e:2") + ":5," + path("c,d") + ":6", {{path("c,d,e:2"), 5}, {path("c,d"), 6}}},
      {path("x:"), {{path("x:"), 0}}},
      {path("x:") + ":7", {{path("x:"), 7}}},
      {path("a") + "," + path("z:0"), {{path("a"), 0}, {path("z:0"), 0}}},
      {path("z:0") + ":1," + path("a") + ":2", {{path("z:0"), 1}, {path("a"), 2}}},
      {"absent:2,absent:x", {}},
      {"absent:x", {{"absent:x", 0}}},  // opening it is what fails
      {"absent", {{"absent", 0}}},
      {"absent:3", {{"absent", 3}}},
      {":3", {{":3", 0}}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.value);
    if (c.expected.empty()) {
      CHECK_THROWS_AS(parse_data(c.value), engine::Error);
      continue;
    }
    const auto sources = parse_data(c.value);
    REQUIRE(sources.size() == c.expected.size());
    for (std::size_t i = 0; i < sources.size(); i++) {
      CHECK(sources[i].path == c.expected[i].first);
      CHECK(sources[i].weight == c.expected[i].second);
    }
  }
  const std::string many(255, ',');
  CHECK_THROWS_WITH_AS(parse_data(many), doctest::Contains("an empty name"), engine::Error);
  CHECK_THROWS_WITH_AS(parse_data(many + ","), doctest::Contains("more than 256 files"), engine::Error);
}

TEST_CASE("train data: refusals") {
  TempDir folder;
  const std::string b = Files::get().path("b.bin");
  const auto refused = [&](std::string_view files, int code, const std::string& mentions) {
    CAPTURE(files);
    check_refused(train(on(files) + "-x 1" + out(folder)), "train_gpt", code, mentions);
  };
  for (const char* weight : {"0", "-1", "inf", "nan", "1e-10", "1e10", "1e999", "1e-999"})
    refused("a.bin:1,b.bin:" + std::string(weight), 2, "expected a weight");
  refused("a.bin:1,b.bin:much", 2, "expected a number behind the colon");
  refused("a.bin:1,b.bin:", 2, "expected a number behind the colon");
  refused("a.bin:1,b.bin", 2, "1 of 2 files have a weight");
  check_refused(train(flags() + "-d '" + b + ",'" + out(folder)), "train_gpt", 2, "an empty name");
  check_refused(train(flags() + "-d '" + b + ",," + b + "'" + out(folder)), "train_gpt", 2, "an empty name");
  check_refused(train(on("a.bin,b.bin") + "-o '" + b + "' --overwrite"), "train_gpt", 2, "another file");
  refused("a.bin,absent.bin", 3, "absent.bin");
  refused("a.bin,a.txt", 3, "a.txt");
  const Ran other = train(on("a.bin,other.bin") + out(folder));
  check_refused(other, "train_gpt", 4, "other.bin: was made with another vocabulary or other rules than ");
  CHECK(other.err.find("a.bin;") != std::string::npos);
  refused("a.bin,cased.bin", 4, "cased.bin: was made with another vocabulary or other rules than ");
  refused("a.bin,larger.bin", 4, "larger.bin: was made with another vocabulary or other rules than ");
  refused("larger.bin", 3, "larger.bin: vocab_size 4000000 and end_of_text 3, but its vocabulary has ");
  check_refused(train(on("a.bin") + "--val-data '" + Files::get().path("larger.bin") + "'" + out(folder)),
                "train_gpt", 4, "larger.bin: ");
  const Ran small = train(on("a.bin:1,c.bin:1") + out(folder));
  check_refused(small, "train_gpt", 3, "c.bin: its training part has 21 tokens, one window needs 33");
  CHECK(small.err.find("-t") != std::string::npos);
  CHECK(tests::names_in(folder.path()).empty());
}

TEST_CASE("train data: what a run on two files says") {
  const Ran ran = run(on("a.bin:0.75,b.bin:0.25") + "-x 61 --dry-run");
  const auto says = [&](const std::string& text) {
    CAPTURE(text);
    CAPTURE(ran.out);
    CHECK(ran.out.find(text) != std::string::npos);
  };
  // 97 and 33 documents of 21 tokens, of which the last 5 % and 10 % are for validation.
  says("2 files: 2,583 tokens to train on, 145 to validate on; vocabulary ");
  says("a.bin: 1,953 tokens, 61 windows, weight 0.75 = 75.0 %, 3.00 epochs\n");
  says("b.bin: 630 tokens, 19 windows, weight 0.25 = 25.0 %, 3.21 epochs\n");
  says("80 windows an epoch, 3.05 epochs\n");
  const Ran by_size = run(on("a.bin,b.bin") + "-x 20 --dry-run");
  CHECK(by_size.out.find("a.bin: 1,953 tokens, 61 windows, weight 0.7625 (by size), 1.00 epochs\n") !=
        std::string::npos);
}

TEST_CASE("train data: one file with a weight is that file, and two halves are another order of the same") {
  TempDir plain, weighted;
  run(on("a.bin") + "-x 20 -v 0 -n 0" + out(plain));
  run(on("a.bin:0.3") + "-x 20 -v 0 -n 0" + out(weighted));
  CHECK(hash_of(plain / "m.bin") == hash_of(weighted / "m.bin"));
  run("--resume -d '" + Files::get().path("a.bin") + "' -x 22" + out(weighted));
  run("--resume -x 22" + out(plain));
  CHECK(hash_of(plain / "m.bin") == hash_of(weighted / "m.bin"));
}

TEST_CASE("train data: a resumed run on several files is the run in one go, across their epochs") {
  for (const char* files : {"a.bin:0.3,b.bin:0.7", "a.bin,b.bin", "b.bin:1,a.bin:1,b.bin:2"}) {
    CAPTURE(files);
    TempDir whole, parts;
    run(on(files) + "-x 40 -v 15 -n 0" +
        out(whole));  // 160 windows: epochs of b end after 28, 55, .. of them
    run(on(files) + "-x 40 -v 15 -n 0 --stop-at 6" + out(parts));
    for (const char* stop : {"7", "8", "21"}) run("--resume --stop-at " + std::string(stop) + out(parts));
    run("--resume -d " + Files::get().list(files) + out(parts));
    CHECK(hash_of(whole / "m.bin") == hash_of(parts / "m.bin"));
    CHECK(tests::read_file(whole / "m.best.bin") == tests::read_file(parts / "m.best.bin"));
    const auto log = tests::trained(whole / "m.log.jsonl");
    CHECK(logged(whole / "m.log.jsonl") == logged(parts / "m.log.jsonl"));
    REQUIRE(log.size() == 40);
    CHECK(log.back()["epoch"] == 160 / (std::string_view(files).starts_with("b") ? 99 : 80));
  }
}

TEST_CASE("train data: a run goes on with the same files and weights only") {
  TempDir folder;
  run(on("a.bin:0.7,b.bin:0.3") + "-x 4 -v 0 --stop-at 2" + out(folder));
  for (const char* files : {"a.bin:0.6,b.bin:0.4", "a.bin:0.7,a.bin:0.3", "b.bin:0.3,a.bin:0.7", "a.bin",
                            "a.bin,b.bin", "a.bin:7,b.bin:3,b.bin:1", "split.bin:0.7,b.bin:0.3"}) {
    CAPTURE(files);
    const Ran ran = train("--resume -d " + Files::get().list(files) + out(folder));
    tests::check_one_line(ran, "train_gpt", 4, {"other weights"});
  }
  run("--resume -d " + Files::get().list("a.bin:70,b.bin:30") + out(folder));
}

TEST_CASE("train data: validation takes every target of all files once") {
  TempDir model;
  run(on("a.bin") + "-x 30 -v 0" + out(model));
  struct Validated {
    double loss, bits_per_byte;
    std::string out;
  };
  const auto validated = [&](std::string_view files, const std::string& rest) -> Validated {
    TempDir folder;
    const Ran ran = run(on(files) + "-x 1 -v 1 --lr 0 -n 0 --init-from '" + (model / "m.bin").string() +
                        "' " + rest + out(folder));
    const auto last = logged(folder / "m.log.jsonl").back();
    return {last["val_loss"], last["bpb"], ran.out};
  };
  const auto a = validated("a.bin", ""), b = validated("b.bin", ""), both = validated("b.bin:9,a.bin:1", "");
  // 84 and 63 tokens of validation, the first of which are no targets.
  CHECK(a.out.find("83 to validate on") != std::string::npos);
  CHECK(b.out.find("62 to validate on") != std::string::npos);
  CHECK(both.out.find("145 to validate on") != std::string::npos);
  CHECK(std::abs(a.loss - b.loss) > 0.01);
  CHECK(both.loss == doctest::Approx((83 * a.loss + 62 * b.loss) / 145).epsilon(1e-5));
  // Of 21 tokens 20 are text, of 3 bytes each.
  for (const auto& v : {a, b, both})
    CHECK(v.bits_per_byte == doctest::Approx(v.loss / std::log(2.0) / (60.0 / 21)).epsilon(1e-5));
  // A part of the targets is a part of each file's.
  const auto some = validated("b.bin:9,a.bin:1", "--eval-tokens 29"),
             of_a = validated("a.bin", "--eval-tokens 17"), of_b = validated("b.bin", "--eval-tokens 12");
  CHECK(some.out.find("29 to validate on") != std::string::npos);
  CHECK(some.loss == doctest::Approx((17 * of_a.loss + 12 * of_b.loss) / 29).epsilon(1e-5));
  // --val-data is instead of them.
  const auto other = validated("a.bin,b.bin", "--val-data '" + Files::get().path("c.bin") + "'");
  CHECK(other.out.find("20 to validate on") != std::string::npos);
}
