// Every row of the exit codes in docs/reference.md that the machine causes: full disks, readers that go away,
// signals, too little memory, values that are not finite.
#include <algorithm>

#include "tests/bad_input.h"
#include "tests/trained_model.h"

namespace {

using tests::check_one_line;
using tests::Ran;
using tests::Scene;

std::string train() { return "train_gpt" + tests::TrainedModel::flags() + "-s 0 -v 0 "; }

bool has_left_over(const Scene& scene) {
  return std::ranges::any_of(scene.files(),
                             [](const auto& file) { return file.first.find(".tmp.") != std::string::npos; });
}

std::string sample_text() {
  return "'" + (tests::repository() / "data/sample/zhwiki-abstract-sample.xml").string() + "' ";
}

}  // namespace

TEST_CASE("bad machine: outputs in folders that are not there") {
  const Scene scene;
  scene.refuses("prepare", {{"prepare text --t2s off -o none/x", 7, {"none/x", "folder"}},
                            {"prepare text --t2s off --text -o none/x", 7, {"none/x", "folder"}},
                            {"prepare text --t2s off -o text/x", 7, {"text/x", "Not a directory"}}});
  scene.refuses("tokenizer", {{"tokenizer train text -o none/x", 7, {"none/x", "folder"}},
                              {"tokenizer export tokenizer -o none/x", 7, {"none/x", "folder"}}});
  scene.refuses("train_gpt", {{train() + "-d zhwiki.bin -o none/x", 7, {"none/x", "folder"}},
                              {train() + "-d zhwiki.bin -o x --log none/x", 7, {"none/x", "--log"}},
                              {train() + "-d zhwiki.bin -o x --log folder", 7, {"folder", "--log"}}});
}

// A limit on the size of files stands for a full disk: both are errors of write().
TEST_CASE("bad machine: a disk that fills while an output is written") {
  const Scene scene;
  const std::string text = sample_text();
  scene.refuses("prepare",
                {{"ulimit -f 8; prepare --t2s off -o x " + text, 7, {"temporary file", "File too large"}},
                 {"ulimit -f 8; prepare --t2s off -o ckpt.bin - <" + text, 7, {"File too large"}},
                 {"ulimit -f 8; prepare --t2s off --text -o text " + text, 7, {"text", "not changed"}}});
  scene.refuses("tokenizer", {{"ulimit -f 1; tokenizer train -o x " + text, 7, {"x:", "not changed"}}});
  // The last checkpoint stays.
  const auto before = scene.files();
  const Ran ran = scene.run("ulimit -f 200; train_gpt --resume -x 22 -v 0");
  check_one_line(ran, "train_gpt", 7, {"ckpt.bin: writing failed", "File too large", "not changed"});
  CHECK(scene.files().at("ckpt.bin") == before.at("ckpt.bin"));
  CHECK(!has_left_over(scene));
  CHECK(scene.run("train_gpt --resume -x 22").code == 0);
}

TEST_CASE("bad machine: full devices as standard output and log") {
  const Scene scene;
  const std::string plan = train() + "-d zhwiki.bin -o x ";
  const std::vector<std::string> full{"standard output", "No space left on device"};
  scene.refuses("inspect", {{"inspect info zhwiki.bin >/dev/full", 7, full},
                            {"inspect verify zhwiki.bin >/dev/full", 7, full},
                            {"inspect ids zhwiki.bin --count 1M >/dev/full", 7, full},
                            {"inspect --help >/dev/full", 7, full}});
  scene.refuses("tokenizer", {{"tokenizer info tokenizer >/dev/full", 7, full},
                              {"tokenizer encode -t tokenizer <text >/dev/full", 7, full},
                              {"echo 5 | tokenizer decode -t tokenizer >/dev/full", 7, full},
                              {"yes 5 | head -n 100000 | tokenizer decode -t tokenizer >/dev/full", 7, full},
                              {"tokenizer --version >/dev/full", 7, full}});
  scene.refuses("sample", {{"sample -c ckpt.bin --quiet -n 3 >/dev/full", 7, full},
                           {"sample -c ckpt.bin --quiet -n 3 --no-stream >/dev/full", 7, full}});
  scene.refuses("prepare", {{"prepare text --t2s off --text -o - >/dev/full", 7, full},
                            {"prepare text --t2s off --text --raw -o - >/dev/full", 7, full}});
  scene.refuses("train_gpt", {{plan + "--dry-run >/dev/full", 7, full},
                              {plan + "--memory >/dev/full", 7, full},
                              {plan + "--preset list >/dev/full", 7, full},
                              {plan + "--list-devices >/dev/full", 7, full},
                              {plan + "-x 2 --log /dev/full >/dev/null", 7, {"/dev/full", "No space left"}}});
  // A run itself needs no reader: it ends with its checkpoint.
  CHECK(scene.run(plan + "-x 2 >/dev/full").code == 0);
  CHECK(scene.run("inspect verify x").code == 0);
}

TEST_CASE("bad machine: closed standard streams are no files of the program's") {
  const Scene scene;
  const std::vector<std::string> closed{"standard output", "Bad file descriptor"};
  scene.refuses("inspect", {{"inspect ids zhwiki.bin --count 1 >&-", 7, closed}});
  scene.refuses("tokenizer", {{"tokenizer info tokenizer >&-", 7, closed},
                              {"tokenizer encode -t tokenizer <&-", 3, {"standard input"}}});
  scene.refuses("sample", {{"sample -c ckpt.bin --quiet -n 1 >&-", 7, closed}});
  scene.refuses("prepare", {{"timeout 10 prepare text --t2s off --text -o - >&-", 7, closed},
                            {"timeout 10 prepare - --t2s off -o x <&-", 3, {"standard input"}}});
  for (const std::string streams : {"2>&-", "2>/dev/full", "<&- >&- 2>&-"}) {
    CAPTURE(streams);
    CHECK(scene.run("prepare text --t2s off -o x " + streams).code == 0);
    CHECK(scene.run("inspect verify x").code == 0);
    CHECK(scene.run("tokenizer train text -o y " + streams).code == 0);
    CHECK(scene.run("tokenizer info y").code == 0);
    CHECK(scene.run(train() + "-d zhwiki.bin -o z -x 1 --overwrite " + streams).code == 0);
    CHECK(scene.run("inspect verify z").code == 0);
  }
  CHECK(scene.run("sample -c ckpt.bin -n 1 2>/dev/full").code == 0);
}

TEST_CASE("bad machine: a reader that goes away ends every program quietly") {
  const Scene scene;
  const auto ends = [&](const std::string& command, const std::string& reader) {
    CAPTURE(command);
    const Ran ran = scene.run("( " + command + "; echo code $? >&2 ) | " + reader);
    CHECK(ran.err == "code 0\n");
    return ran.out;
  };
  CHECK(ends("inspect ids zhwiki.bin --count 1M", "head -c 2").size() == 2);
  ends("inspect info zhwiki.bin", "true");
  ends("inspect --help", "true");
  CHECK(ends("yes 5 | head -n 1000000 | tokenizer decode -t tokenizer", "head -n 1").ends_with("\n"));
  CHECK(ends("yes ab | head -n 1000000 | tokenizer encode -t tokenizer", "head -n 1").ends_with("\n"));
  CHECK(ends("sample -c ckpt.bin --quiet -N 100000 -n 30 --ignore-eos", "head -c 1").size() == 1);
  ends(train() + "-d zhwiki.bin -o x -x 3", "head -n 1");
  CHECK(scene.run("inspect verify x").code == 0);
  ends(train() + "-d zhwiki.bin -o y --dry-run", "true");
}

TEST_CASE("bad machine: signals end sample and prepare, and nothing is left") {
  const Scene scene;
  for (const auto& [signal, code] : {std::pair("INT", 130), std::pair("TERM", 143)}) {
    CAPTURE(signal);
    const std::string stop = "timeout --preserve-status -s " + std::string(signal);
    const std::string endless = stop + " 0.4 sample -c ckpt.bin -n 1000000 --ignore-eos ";
    const Ran streamed = scene.run(endless);
    CHECK(streamed.code == code);
    CHECK(streamed.err.ends_with("\nsample: stopped by a signal\n"));
    CHECK(streamed.out.size() > 1);
    CHECK(streamed.out.ends_with("\n"));
    const Ran held = scene.run(endless + "--no-stream");
    CHECK(held.code == code);
    CHECK(held.err.ends_with("\nsample: stopped by a signal\n"));
    CHECK(held.out == "");
    // Nobody reads, the pipe is full: the signal still comes through.
    const Ran stuck =
        scene.run("( " + stop + " 0.5 sample -c ckpt.bin --quiet -n 10000000 --ignore-eos -p " +
                  "\"$(head -c 100000 /dev/zero | tr '\\0' a)\"; echo code $? >&2 ) | sleep 1.5");
    CHECK(stuck.err.find("code " + std::to_string(code)) != std::string::npos);

    const auto before = scene.files();
    const Ran prepared =
        scene.run("( cat text; sleep 0.6 ) | " + stop + " 0.3 prepare - --t2s off -o ckpt.bin");
    check_one_line(prepared, "prepare", code, {"signal", "nothing was written"});
    CHECK(scene.files() == before);
  }
}

TEST_CASE("bad machine: more memory than there is") {
  const Scene scene;
  const std::string model = train() + "-d zhwiki.bin -o x ";
  scene.refuses(
      "train_gpt",
      {{model + "--width 1048576 --ffn 16777216 --layers 4096", 6, {"memory", "MiB", "--batch"}},
       {model + "--width 1048576 --ffn 16777216 --layers 4096 --dry-run", 6, {"memory", "MiB", "--batch"}},
       {model + "-b 1M --ffn 16777216", 6, {"memory", "MiB", "--batch"}}});
}

TEST_CASE("bad machine: a limit on memory" *
          doctest::skip(tests::lacks("bad machine: a limit on memory", tests::kSanitized,
                                     "the address sanitizer needs more"))) {
  const Scene scene;
  const std::string model = train() + "-d zhwiki.bin -o x ";
  const Ran ran =
      scene.run("export OMP_NUM_THREADS=1; ulimit -v 2000000; timeout 20 " + model + "-b 64k >/dev/null");
  check_one_line(ran, "train_gpt", 6, {"memory", "MiB", "--batch"});
}

TEST_CASE("bad machine: training that leaves the finite numbers") {
  const Scene scene;
  const std::string wild = " --lr 1000 --weight-decay 1000 --clip 0 --warmup 0 -k constant -v 0 -s 0 -x 60 ";
  const auto before = scene.files();
  const Ran ran = scene.run("train_gpt --resume --overwrite >/dev/null -n 0" + wild);
  check_one_line(ran, "train_gpt", 5, {"step 2", "not finite", "--lr", "--on-nonfinite skip"});
  CHECK(scene.files().at("ckpt.bin") == before.at("ckpt.bin"));
  CHECK(scene.files().at("ckpt.best.bin") == before.at("ckpt.best.bin"));
  CHECK(!has_left_over(scene));
  CHECK(scene.run("train_gpt --resume -x 22").code == 0);

  const Ran skipped = scene.run(train() + "-d zhwiki.bin -o new --on-nonfinite skip -x 8" + wild + "-x 8");
  CHECK(skipped.code == 0);
  CHECK(skipped.err == "");
  CHECK(tests::read_file(scene / "new.log.jsonl").find("\"event\":\"nonfinite\"") != std::string::npos);
  CHECK(scene.run("inspect verify new").code == 0);
}
