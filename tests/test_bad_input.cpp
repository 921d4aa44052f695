// Every row of the exit codes in docs/reference.md that a command line or a file can cause, for each program.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "tests/bad_input.h"
#include "tests/trained_model.h"

namespace {

using nlohmann::json;
using tests::ListedFlag;
using tests::Refusal;
using tests::Scene;

// A command line of each program that would work, to add one mistake to.
struct Sound {
  std::string program, command;
};
const std::vector<Sound>& sound() {
  static const std::vector<Sound> all{
      {"prepare", "prepare text -o new --t2s off"},
      {"tokenizer", "tokenizer train text -o new"},
      {"tokenizer", "tokenizer encode -t tokenizer"},
      {"tokenizer", "tokenizer decode -t tokenizer"},
      {"tokenizer", "tokenizer info tokenizer"},
      {"tokenizer", "tokenizer export tokenizer -o new"},
      {"inspect", "inspect info zhwiki.bin"},
      {"inspect", "inspect verify zhwiki.bin"},
      {"inspect", "inspect ids zhwiki.bin --count 1"},
      {"inspect", "inspect import nanogpt ids --vocab zhwiki.bin -o new"},
      {"inspect", "inspect export nanogpt zhwiki.bin -o new"},
      {"train_gpt", "train_gpt" + tests::TrainedModel::flags() + "-d zhwiki.bin -o new"},
      {"sample", "sample -c ckpt.bin --quiet"},
  };
  return all;
}

// "prepare", "tokenizer train": what --help is asked of.
std::string helped(const Sound& s) {
  const bool commands = s.program == "tokenizer" || s.program == "inspect";
  return commands ? s.command.substr(0, s.command.find(' ', s.command.find(' ') + 1)) : s.program;
}

std::string train() { return "train_gpt" + tests::TrainedModel::flags(); }

}  // namespace

TEST_CASE("bad input: --help names what there is, unknown flags get the nearest") {
  const Scene scene;
  for (const Sound& s : sound()) {
    CAPTURE(s.command);
    const auto flags = tests::listed_flags(helped(s));
    CHECK(flags.size() >= 1);
    std::vector<Refusal> rows{{s.command + " --nothing-like-it=3", 2, {"unknown flag --nothing-like-it"}},
                              {s.command + " unasked unasked2", 2, {"unasked"}}};
    for (const ListedFlag& flag : flags)
      rows.push_back(
          {s.command + " --" + flag.name + "x", 2, {"unknown flag --" + flag.name + "x, did you mean --"}});
    if (s.command.find("text") != std::string::npos)
      rows[1] = {s.command + " unasked", 3, {"unasked"}};  // one more input
    scene.refuses(s.program, rows);
  }
  for (const char* program : {"prepare", "tokenizer", "inspect", "train_gpt", "sample"}) {
    const auto version = scene.run(std::string(program) + " --version");
    CHECK(version.code == 0);
    CHECK(version.out.starts_with(std::string(program) + " 0."));
    CHECK(version.err == "");
  }
}

TEST_CASE("bad input: values that are missing or bad, for every flag that --help lists") {
  const Scene scene;
  for (const Sound& s : sound()) {
    std::vector<Refusal> rows;
    for (const auto& [name, value] : tests::listed_flags(helped(s))) {
      const std::string flag = "--" + name, at = s.command + " " + flag;
      if (value.empty()) {
        rows.push_back({at + "=3", 2, {flag, "takes no value", "'3'"}});
        continue;
      }
      if (value.starts_with('[')) {  // a value is optional
        rows.push_back({at + " nonsense", 2, {flag, "nonsense"}});
        continue;
      }
      rows.push_back({at, 2, {flag}});
      rows.push_back({at + "= text", 2, {flag + "=", "no value"}});
      if (value.starts_with("FILE") || value == "vocab.txt") rows.push_back({at + " ''", 2, {flag, "empty"}});
      const bool number = value == "N" || value == "X" || value == "N[kMG]";
      if (number)
        for (const char* bad : {"three", "-99", "nan", "1e999"})
          rows.push_back({at + "='" + bad + "'", 2, {flag}});
      if (value.find('|') != value.npos && name != "t2s")
        rows.push_back({at + " nonsense", 2, {flag + " nonsense", value}});
    }
    scene.refuses(s.program, rows);
  }
}

TEST_CASE("bad input: flags that are missing, contradict each other, or point at the wrong thing") {
  const Scene scene;
  const std::string model = train() + "-d zhwiki.bin -o new ";
  scene.refuses(
      "train_gpt",
      {
          {"train_gpt", 2, {"-d", "zhwiki.bin"}},
          {"train_gpt -o new", 2, {"-d", "./prepare"}},
          {"train_gpt -d 16 -o new", 2, {"-d 16", "token file", "-b"}},
          {"train_gpt -d 0.5", 2, {"-d 0.5"}},
          {model + "-o ckpt.bin", 2, {"ckpt.bin", "--resume", "--overwrite"}},
          {model + "-o folder", 2, {"folder", "regular file"}},
          {model + "-o folder --overwrite", 2, {"folder", "regular file"}},
          {model + "-o /dev/null --overwrite", 2, {"/dev/null", "regular file"}},
          {model + "-o zhwiki.bin --overwrite", 2, {"-o zhwiki.bin", "another file"}},
          {model + "-o ./other.bin --overwrite --val-data other.bin", 2, {"other.bin", "another file"}},
          {model + "--log zhwiki.bin", 2, {"--log zhwiki.bin", "another file"}},
          {model + "--log ./new", 2, {"--log ./new", "another file"}},
          {model + "--log ckpt.bin --init-from ckpt.bin", 2, {"--log ckpt.bin", "another file"}},
          {model + "--resume --init-from ckpt.bin", 2, {"--resume", "--init-from"}},
          {model + "--resume=sometimes", 2, {"--resume sometimes", "auto"}},
          {model + "--preset huge", 2, {"--preset huge", "tiny", "seed"}},
          {model + "--heads 3 --kv-heads 2", 2, {"3 heads", "2 kv-heads"}},
          {model + "--head-dim 7", 2, {"head-dim 7", "even"}},
          {model + "--attn dense --window 4", 2, {"--window", "--attn nsa"}},
          {model + "--attn dense --diff-topk", 2, {"--diff-topk", "--attn nsa"}},
          {model + "--device nonsense", 2, {"--device nonsense", "cpu", "cuda"}},
          {model + "--device cuda:-1", 2, {"--device cuda:-1"}},
          {model + "--device cuda:99999999999", 2, {"--device cuda:99999999999"}},
          {model + "-s 1 --prompt ''$(printf '\\001')", 2, {"prompt", "vocabulary"}},
          {model + "-t 100k", 3, {"zhwiki.bin", "window", "102401", "-t"}},
      });
  scene.refuses("sample",
                {
                    {"sample", 2, {"--ckpt is required"}},
                    {"sample -c 40", 2, {"-c 40", "checkpoint"}},
                    {"sample -c ckpt.bin -p a -f text", 2, {"--prompt", "--file"}},
                    {"sample -c ckpt.bin -p ''$(printf '\\001')", 2, {"prompt", "vocabulary"}},
                    {"sample -c ckpt.bin --device nonsense", 2, {"--device nonsense", "cpu", "cuda"}},
                    {"sample -c ckpt.bin -f none", 3, {"none", "No such file"}},
                    {"sample -c ckpt.bin -f folder", 3, {"folder"}},
                    {"sample -c ckpt.bin -f /dev/zero", 3, {"/dev/zero", "too long for a prompt"}},
                });
  scene.refuses("tokenizer", {
                                 {"tokenizer", 2, {"train, encode, decode, export or info"}},
                                 {"tokenizer decode", 2, {"-t FILE", "--vocab FILE"}},
                                 {"tokenizer encode -t tokenizer --vocab tokenizer", 2, {"either"}},
                                 {"tokenizer export tokenizer", 2, {"--output is required"}},
                                 {"tokenizer export tokenizer -o folder", 2, {"folder", "regular file"}},
                                 {"tokenizer train text -o /dev/null", 2, {"/dev/null", "regular file"}},
                             });
  scene.refuses("inspect", {
                               {"inspect", 2, {"info", "verify", "ids", "import", "export"}},
                               {"inspect import", 2, {"FORMAT is required"}},
                               {"inspect import sideways ids", 2, {"FORMAT sideways", "llmc|nanogpt"}},
                               {"inspect import nanogpt ids -o new", 2, {"--vocab is required"}},
                               {"inspect export npy zhwiki.bin", 2, {"--output is required"}},
                               {"inspect export npy zhwiki.bin -o folder", 2, {"folder", "regular file"}},
                               {"inspect export npy ckpt.bin -o new", 2, {"ckpt.bin", "token file"}},
                               {"inspect ids zhwiki.bin", 2, {"--count is required"}},
                               {"inspect verify", 2, {"FILE is required"}},
                               {"inspect ids zhwiki.bin zhwiki.bin --count 1", 2, {"zhwiki.bin"}},
                           });
}

TEST_CASE("bad input: a device that is not there" *
          doctest::skip(tests::lacks("bad input: a device that is not there",
                                     std::filesystem::exists("/dev/nvidia0"), "there is a GPU"))) {
  const Scene scene;
  const std::string model = train() + "-d zhwiki.bin -o new ";
  scene.refuses("train_gpt", {{model + "--device cuda", 9, {"--device cuda", "--device cpu"}},
                              {model + "--device cuda:1", 9, {"--device cuda:1", "--device cpu"}}});
  scene.refuses("sample", {{"sample -c ckpt.bin --device cuda", 9, {"--device cuda", "--device cpu"}}});
}

TEST_CASE("bad input: files that are missing, foreign, empty or folders, for every reader") {
  const Scene scene;
  const std::string start = train() + "-d zhwiki.bin -o new ";
  for (const std::string& file : Scene::foreign()) {
    scene.refuses("prepare", {{"prepare " + file + " -o new --t2s off", 3, {file}},
                              {"prepare text " + file + " --text -o new --t2s off", 3, {file}},
                              {"prepare text -o new --t2s off --tokenizer " + file, 4, {file}},
                              {"prepare text -o new --t2s off --vocab " + file, 4, {file}}});
    scene.refuses("tokenizer", {{"tokenizer train " + file + " -o new", 3, {file}},
                                {"tokenizer encode -t " + file, 4, {file}},
                                {"tokenizer decode --vocab " + file, 4, {file}},
                                {"tokenizer info " + file, 4, {file}},
                                {"tokenizer export -o new " + file, 4, {file}}});
    scene.refuses("train_gpt", {{train() + "-o new -d " + file, 3, {file}},
                                {start + "--val-data " + file, 3, {file}},
                                {start + "--init-from " + file, 4, {file}},
                                {"train_gpt --resume -o " + file, 4, {file}}});
    scene.refuses("sample", {{"sample -c " + file, 4, {file}}});
    scene.refuses("inspect", {{"inspect verify " + file, 3, {file}},
                              {"inspect ids --count 1 " + file, 3, {file}},
                              {"inspect import llmc " + file + " --vocab zhwiki.bin -o new", 3, {file}},
                              {"inspect import nanogpt " + file + " --vocab zhwiki.bin -o new", 3, {file}},
                              {"inspect import nanogpt ids -o new --vocab " + file, 4, {file}},
                              {"inspect export npy -o new " + file, 3, {file}}});
    if (file != "other.safetensors") scene.refuses("inspect", {{"inspect info " + file, 3, {file}}});
  }
  CHECK(scene.run("inspect info other.safetensors").out == "weight                   F32 [2], 8 bytes\n");
  // Reading devices and FIFOs neither ends nor waits for ever.
  REQUIRE(scene.run("mkfifo fifo").code == 0);
  for (const std::string file : {"fifo", "/dev/zero"}) {
    scene.refuses(
        "inspect",
        {{"timeout 10 inspect info " + file, 3, {file, "regular file"}},
         {"timeout 10 inspect import llmc --vocab zhwiki.bin -o new " + file, 3, {file, "regular file"}},
         {"timeout 10 inspect verify " + file, 3, {file, "regular file"}}});
    scene.refuses("train_gpt", {{"timeout 10 " + train() + "-o new -d " + file, 3, {file, "regular file"}},
                                {"timeout 10 train_gpt --resume -o " + file, 4, {file, "regular file"}}});
    scene.refuses("sample", {{"timeout 10 sample -c " + file, 4, {file, "regular file"}}});
  }
  scene.refuses("tokenizer",
                {{"timeout 10 tokenizer encode --vocab /dev/zero", 4, {"/dev/zero", "too large"}},
                 {"timeout 10 tokenizer train -o new /dev/zero", 3, {"/dev/zero", "zero"}}});
  // Sound files of this project in the place of another kind.
  scene.refuses("train_gpt", {{train() + "-o new -d ckpt.bin", 3, {"ckpt.bin", "nsa-tokens"}},
                              {start + "--init-from tokenizer", 4, {"tokenizer", "nsa-checkpoint"}}});
  scene.refuses("sample", {{"sample -c zhwiki.bin", 4, {"zhwiki.bin", "nsa-checkpoint"}}});
  scene.refuses("inspect", {{"inspect ids ckpt.bin --count 1", 3, {"ckpt.bin", "nsa-tokens"}}});
  scene.refuses("tokenizer", {{"tokenizer info zhwiki.bin", 4, {"zhwiki.bin", "nsa-tokenizer"}}});
  scene.refuses("prepare", {{"prepare ckpt.bin -o new --t2s off", 3, {"ckpt.bin", "made by this project"}}});
}

TEST_CASE("bad input: files that may not be read" *
          doctest::skip(tests::lacks("bad input: files that may not be read", geteuid() == 0,
                                     "root may read every file"))) {
  const Scene scene;
  const std::string start = train() + "-d zhwiki.bin -o new ";
  for (const char* name : {"zhwiki.bin", "ckpt.bin", "tokenizer", "text"})
    std::filesystem::permissions(scene / name, std::filesystem::perms::none);
  const auto refused = [&](const std::string& program, const std::string& command, int code) {
    CAPTURE(command);
    tests::check_one_line(scene.run(command), program, code, {"Permission denied"});
  };
  refused("train_gpt", start, 3);
  refused("train_gpt", "train_gpt --resume -o ckpt.bin", 4);
  refused("sample", "sample -c ckpt.bin", 4);
  refused("inspect", "inspect info zhwiki.bin", 3);
  refused("tokenizer", "tokenizer info tokenizer", 4);
  refused("prepare", "prepare text -o new --t2s off", 3);
  const auto closed = std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec;
  std::filesystem::permissions(scene / "folder", closed);
  std::filesystem::permissions(scene / "text", std::filesystem::perms::owner_read);
  refused("prepare", "prepare text -o folder/new --t2s off", 7);
  refused("tokenizer", "tokenizer train text -o folder/new", 7);
}

TEST_CASE("bad input: truncated and damaged files, for every reader") {
  const Scene scene;
  const std::string start = train() + "-d zhwiki.bin -o new ";
  for (const std::string& file : scene.truncated("zhwiki.bin")) {
    scene.refuses("train_gpt",
                  {{train() + "-o new -d " + file, 3, {file}}, {start + "--val-data " + file, 3, {file}}});
    scene.refuses("inspect", {{"inspect info " + file, 3, {file}},
                              {"inspect verify " + file, 3, {file}},
                              {"inspect ids --count 1 " + file, 3, {file}}});
  }
  for (const std::string& file : scene.truncated("ckpt.bin")) {
    scene.refuses("train_gpt",
                  {{"train_gpt --resume -o " + file, 4, {file}}, {start + "--init-from " + file, 4, {file}}});
    scene.refuses("sample", {{"sample -c " + file, 4, {file}}});
  }
  for (const std::string& file : scene.truncated("tokenizer")) {
    if (file == "tokenizer-4" || file == "tokenizer-8") continue;  // as short as a vocab.txt may be
    scene.refuses("tokenizer", {{"tokenizer encode -t " + file, 4, {file}},
                                {"tokenizer info " + file, 4, {file}},
                                {"tokenizer export -o new " + file, 4, {file}}});
    scene.refuses("prepare", {{"prepare text -o new --t2s off --tokenizer " + file, 4, {file}}});
  }
  scene.flipped_copy("zhwiki.bin", "flipped.bin");
  scene.refuses("inspect", {{"inspect verify flipped.bin", 3, {"flipped.bin", "CRC-32", "expected"}}});
  scene.flipped_copy("ckpt.bin", "flipped");
  scene.refuses("inspect", {{"inspect verify flipped", 4, {"flipped", "CRC-32"}}});
  scene.refuses("train_gpt",
                {{"train_gpt --resume -o flipped --stop-at 30 -x 40", 4, {"flipped", "CRC-32"}}});
  scene.flipped_copy("ckpt.best.bin", "flipped");
  scene.refuses("sample", {{"sample -c flipped", 4, {"flipped", "CRC-32"}}});
  scene.refuses("train_gpt", {{start + "--init-from flipped", 4, {"flipped", "CRC-32"}}});
  scene.flipped_copy("tokenizer", "flipped");
  scene.refuses("tokenizer", {{"tokenizer info flipped", 4, {"flipped", "damaged"}}});
}

TEST_CASE("bad input: sound files that lie, and files of a later version") {
  using Metadata = std::map<std::string, std::string>;
  const Scene scene;
  const std::string start = train() + "-d zhwiki.bin -o new ";
  scene.changed_copy("zhwiki.bin", "small.bin", [](Metadata& m) { m["vocab_size"] = "50"; });
  scene.refuses("train_gpt", {{train() + "-o new -d small.bin", 3, {"small.bin", "index", "vocab_size 50"}}});
  scene.refuses("inspect", {{"inspect ids small.bin --count 1", 3, {"small.bin", "vocab_size 50"}}});

  scene.changed_copy("zhwiki.bin", "later.bin", [](Metadata& m) { m["format"] = "nsa-tokens/2"; });
  scene.changed_copy("ckpt.bin", "later.ckpt", [](Metadata& m) { m["format"] = "nsa-checkpoint/12"; });
  scene.changed_copy("tokenizer", "later.tok", [](Metadata& m) { m["format"] = "nsa-tokenizer/2"; });
  scene.refuses("train_gpt", {{train() + "-o new -d later.bin", 3, {"later.bin", "newer program"}},
                              {"train_gpt --resume -o later.ckpt", 4, {"later.ckpt", "newer program"}},
                              {start + "--init-from later.ckpt", 4, {"later.ckpt", "newer program"}}});
  scene.refuses("sample", {{"sample -c later.ckpt", 4, {"later.ckpt", "newer program"}}});
  scene.refuses("inspect", {{"inspect ids later.bin --count 1", 3, {"later.bin", "newer program"}},
                            {"inspect verify later.bin", 3, {"later.bin", "newer program"}},
                            {"inspect verify later.ckpt", 4, {"later.ckpt", "newer program"}},
                            {"inspect verify later.tok", 4, {"later.tok", "newer program"}}});
  scene.refuses("tokenizer", {{"tokenizer encode -t later.tok", 4, {"later.tok", "newer program"}}});

  // A vocabulary of other words, of the same size and of another.
  const auto keep = [](Metadata&) {};
  const auto exchange = [](std::string& words) { std::swap(words.back(), words[words.size() - 2]); };
  scene.changed_copy("zhwiki.bin", "same-size.bin", keep, exchange);
  for (const std::string data : {"same-size.bin", "other.bin"})
    scene.refuses(
        "train_gpt",
        {{train() + "-o new -t 3 --init-from ckpt.bin -d " + data, 4, {"vocabulary", "ckpt.bin", data}},
         {"train_gpt --resume -o ckpt.bin -x 40 -t 3 -d " + data, 4, {"vocabulary", "ckpt.bin", data}}});
  scene.refuses("train_gpt", {{start + "--val-data other.bin", 4, {"other.bin", "another vocabulary"}}});

  // What a checkpoint says of its run passes the checks of the command line.
  const auto refuses_flag = [&](const std::string& flag, const json& value) {
    CAPTURE(flag);
    scene.changed_copy("ckpt.bin", "lies.bin", [&](Metadata& m) {
      json state = json::parse(m["state"]);
      if (flag == "step") state["step"] = value;
      else state["flags"][flag] = value;
      m["state"] = state.dump();
    });
    scene.refuses("train_gpt", {{"train_gpt --resume -o lies.bin -x 40", 4, {"lies.bin", "damaged", flag}}});
  };
  refuses_flag("batch", -1);
  refuses_flag("accum", std::int64_t(1) << 62);
  refuses_flag("lr", "fast");
  refuses_flag("schedule", "sideways");
  refuses_flag("preset", "huge");
  refuses_flag("preset", "");
  refuses_flag("dtype", "");
  refuses_flag("seed", -5);
  refuses_flag("step", -5);
  for (const char* key : {"state", "config", "crc32", "kind"}) {
    scene.changed_copy("ckpt.bin", "lies.bin", [&](Metadata& m) { m[key] = "[]"; });
    scene.refuses("train_gpt", {{"train_gpt --resume -o lies.bin -x 40", 4, {"lies.bin"}}});
  }
}

TEST_CASE("bad input: what --resume and --init-from cannot go on from") {
  const Scene scene;
  const std::string sample =
      "'" + (tests::repository() / "data/sample/zhwiki-abstract-sample.xml").string() + "'";
  REQUIRE(scene.run("prepare --kind char --val 0.2 -o again.bin " + sample).code ==
          0);  // the same vocabulary
  scene.refuses(
      "train_gpt",
      {{"train_gpt --resume -o none", 4, {"none", "--resume=auto"}},
       {"train_gpt --resume -x 40 -o ckpt.best.bin", 4, {"ckpt.best.bin", "weights", "--init-from"}},
       {"train_gpt --resume -o ckpt.best.bin", 4, {"ckpt.best.bin", "weights"}},
       {"train_gpt --resume -x 40 --layers 2", 4, {"ckpt.bin", "another model"}},
       {"train_gpt --resume -x 40 --attn dense", 4, {"ckpt.bin", "another model"}},
       {"train_gpt --resume -x 40 -t 80", 4, {"ckpt.bin", "another model"}},
       {"train_gpt --resume -x 40 -d again.bin", 4, {"ckpt.bin", "other data", "again.bin"}},
       {train() + "--layers 2 -d zhwiki.bin -o new --init-from ckpt.bin", 4, {"another model"}}});
}

TEST_CASE("bad input: names with blanks, line feeds and other bytes, and very long ones") {
  const Scene scene;
  const std::string odd = "\"$(printf 'no such\\n\\033[2J\\377\\302\\233')\"";
  const std::string shown = "no such\\n\\x1b[2J\\xff\\xc2\\x9b";
  const std::string name = "\"$(printf '%0300d' 7)\"", path = "\"$(printf 'a/%.0s' $(seq 20000))\"";
  const std::string model = train() + "-d zhwiki.bin -o new ";
  scene.refuses("train_gpt", {{model + "-d " + odd, 3, {shown}},
                              {model + "--preset " + odd, 2, {shown}},
                              {model + "--steps " + odd, 2, {"--steps " + shown}},
                              {model + "--" + odd, 2, {"unknown flag --" + shown}},
                              {model + odd, 2, {shown}},
                              {model + "-o folder/none/" + odd, 7, {shown}},
                              {"train_gpt --resume -o " + odd, 4, {shown}},
                              {model + "-d b" + name, 3, {"File name too long"}},
                              {model + "-o b" + name, 7, {"File name too long"}},
                              {model + "-o " + path, 7, {"a/a/", "[...]", "File name too long"}},
                              {model + "--steps " + path, 2, {"--steps a/a/", "[...]", "expected a count"}},
                              {model + "--" + path, 2, {"unknown flag --a/a/", "[...]", "--help"}}});
  scene.refuses("sample", {{"sample -c " + odd, 4, {shown}},
                           {"sample -c b" + path, 4, {"[...]", "File name too long"}},
                           {"sample -c ckpt.bin -f " + odd, 3, {shown}},
                           {"sample -c ckpt.bin -f b" + name, 3, {"File name too long"}}});
  scene.refuses("inspect", {{"inspect info " + odd, 3, {shown}}, {"inspect " + odd, 2, {shown}}});
  scene.refuses("tokenizer", {{"tokenizer encode -t " + odd, 4, {shown}},
                              {"tokenizer train text -o folder/none/" + odd, 7, {shown}},
                              {"tokenizer encode -t b" + name, 4, {"File name too long"}},
                              {"tokenizer train " + odd + " -o new", 3, {shown}}});
  scene.refuses("prepare", {{"prepare " + odd + " -o new --t2s off", 3, {shown}},
                            {"prepare text -o new --t2s " + odd, 2, {"--t2s"}},
                            {"prepare text -o folder/none/" + odd + " --t2s off", 7, {shown}},
                            {"prepare text -o b" + name + " --t2s off", 7, {"File name too long"}}});
  // Such names work all the same.
  const std::string files = "\"$(printf 'a b\\nc\\377')\"";
  CHECK(scene.run("prepare text --t2s off --val 0 -o " + files).code == 0);
  CHECK(scene.run("inspect verify " + files).code == 0);
  CHECK(scene.run(train() + "-t 4 -x 1 -v 0 -o out" + files + " -d " + files).code == 0);
  CHECK(scene.run("train_gpt --resume -x 2 -o out" + files + " -d " + files).code == 0);
  CHECK(scene.run("sample -n 1 -c out" + files).code == 0);
}

TEST_CASE("bad input: a flag given twice, and the two ways to give a value") {
  const Scene scene;
  const std::string plan = train() + "-d zhwiki.bin -o new --dry-run ";
  const auto out = [&](const std::string& rest) {
    const auto ran = scene.run(plan + rest);
    CHECK(ran.code == 0);
    return ran.out;
  };
  const std::string seven = out("--batch 7");
  CHECK(seven.find(" x 7 sequences") != std::string::npos);
  CHECK(out("--batch=7") == seven);
  CHECK(out("-b 7") == seven);
  CHECK(out("-b7") == seven);
  CHECK(out("-b 3 --batch 7") == seven);
  CHECK(out("-b 7 --tied --tied") == out("-b 7 --tied"));
  scene.refuses("train_gpt", {{plan + "-b 7 -b x", 2, {"--batch x"}}});
}
