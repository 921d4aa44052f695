// train_gpt as a program: what it prints and writes, how it goes on, and what it refuses.
#include <algorithm>

#include "tests/trained_model.h"
#include "tests/training.h"

namespace {

using nlohmann::json;
using tests::check_refused;
using tests::hash_of;
using tests::lines_of;
using tests::logged;
using tests::program;
using tests::Ran;
using tests::run_command;
using tests::TempDir;
using tests::train;
using tests::TrainedModel;

std::string train_small(const TempDir& folder, const std::string& rest) {
  return TrainedModel::flags() + "-s 0 -d " + TrainedModel::get().data() + " -o '" +
         (folder / "m.bin").string() + "' " + rest;
}

}  // namespace

TEST_CASE("train_gpt: what a run prints and writes") {
  const auto& model = TrainedModel::get();
  const auto lines = lines_of(model.training().out);
  CHECK(model.training().err == "");
  CHECK(lines.front().starts_with("train_gpt 0."));
  std::size_t steps = 0, validations = 0, samples = 0;
  for (const auto& line : lines) {
    steps += line.starts_with("step ") && line.find("/20 | loss ") != line.npos;
    validations += line.starts_with("val 10 | loss ") || line.starts_with("val 20 | loss ");
    samples += line.starts_with("sample 10 | 北京") || line.starts_with("sample 20 | 北京");
    CHECK(line.find('\r') == line.npos);
  }
  CHECK(steps == 20);
  CHECK(validations == 2);
  CHECK(samples == 2);
  CHECK(lines.back().find("./sample -c ") != std::string::npos);
  for (const char* file : {"ckpt.bin", "ckpt.best.bin", "ckpt.log.jsonl"})
    CHECK(std::filesystem::exists(model.folder() / file));

  double first = 0, last = 0;
  for (const auto& line : lines_of(tests::read_file(model.folder() / "ckpt.log.jsonl"))) {
    const json j = json::parse(line);
    if (!j.contains("loss")) continue;
    if (j["step"] == 1) first = j["loss"];
    last = j["loss"];
    CHECK(j["tokens"].get<std::int64_t>() == j["step"].get<std::int64_t>() * 4 * 2 * 40);
    CHECK(j["grad_norm"].get<double>() > 0);
  }
  CHECK(first > 6.5);
  CHECK(last < first - 0.1);
}

TEST_CASE("train_gpt: a start from the weights of another run") {
  const auto& model = TrainedModel::get();
  TempDir folder;
  const Ran ran = train(train_small(folder, "-x 1 -v 1 --lr 0 --init-from " + model.checkpoint()));
  REQUIRE(ran.code == 0);
  const auto before = logged(model.folder() / "ckpt.log.jsonl"), after = logged(folder / "m.log.jsonl");
  CHECK(before.back()["val_loss"] == after.back()["val_loss"]);
}

TEST_CASE("train_gpt: bf16 on the CPU is a way to store") {
  TempDir folder;
  const auto out = [&](const char* name) { return "'" + (folder / name).string() + "'"; };
  const std::string flags = tests::small_run() + " -x 6 -v 3 -s 0 -n 0 ";
  const Ran narrow = train(flags + "--dtype bf16 -o " + out("narrow.bin"));
  REQUIRE(narrow.code == 0);
  CHECK(narrow.out.find("fp32 (the CPU computes in it), stored as bf16") != std::string::npos);
  REQUIRE(train(flags + "--dtype fp32 -o " + out("wide.bin")).code == 0);
  CHECK(logged(folder / "narrow.log.jsonl") == logged(folder / "wide.log.jsonl"));
  const std::string listed = run_command(program("inspect") + " info " + out("narrow.bin")).out;
  CHECK(listed.find("BF16") != std::string::npos);
  CHECK(listed.find("optimizer.master.token_emb.weight") != std::string::npos);
  CHECK(tests::verifies(folder / "narrow.bin"));

  REQUIRE(train(flags + "--dtype bf16 --stop-at 2 -o " + out("parts.bin")).code == 0);
  REQUIRE(train("--resume --stop-at 0 -o " + out("parts.bin")).code == 0);
  CHECK(hash_of(folder / "parts.bin") == hash_of(folder / "narrow.bin"));
  CHECK(run_command(program("sample") + " -n 4 --seed 1 -c " + out("narrow.best.bin")).code == 0);
}

TEST_CASE("train_gpt: --profile prints a table after its last step, --check changes nothing") {
  TempDir folder;
  const auto out = [&](const char* name) { return " -o '" + (folder / name).string() + "'"; };
  const std::string flags = tests::small_run() + " -x 4 -v 0 -s 0 -n 0 ";
  const Ran profiled = train(flags + "--profile 2:3" + out("p.bin"));
  REQUIRE(profiled.code == 0);
  const auto lines = lines_of(profiled.out);
  const auto row = [&](std::string_view start) {
    return std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.starts_with(start); }) -
           lines.begin();
  };
  CHECK(row("step 3/4") < row("op  "));
  CHECK(row("op  ") < row("adamw "));
  CHECK(row("adamw ") < row("step 4/4"));
  REQUIRE(train(flags + "--check" + out("c.bin")).code == 0);
  CHECK(hash_of(folder / "c.bin") == hash_of(folder / "p.bin"));
  for (const char* steps : {"3", "3:2", "0:1", "a:b", "1:2:3", ":", ""})
    check_refused(train(flags + "--profile '" + steps + "'" + out("x.bin")), "train_gpt", 2, "--profile");
}

TEST_CASE("train_gpt: --check names the op that is the first to be not finite") {
  TempDir folder;
  const std::string flags =
      tests::small_run() +
      " -x 60 -v 0 -s 0 -n 0 --warmup 0 --clip 0 --lr 1000 --weight-decay 1000 -k constant --check -o '";
  const Ran ran = train(flags + (folder / "m.bin").string() + "'");
  CHECK(ran.code == 5);
  CHECK(ran.err.find(" holds ") != std::string::npos);
  CHECK(ran.err.find("not finite") != std::string::npos);
}

TEST_CASE("train_gpt: refusals") {
  const auto& model = TrainedModel::get();
  TempDir folder;
  const std::string out = " -o '" + (folder / "m.bin").string() + "'", data = " -d " + model.data();
  const std::string file = "'" + (folder / "file").string() + "'";
  check_refused(train("--bacth 3" + data + out), "train_gpt", 2, "--batch");
  check_refused(train("--batch 0" + data + out), "train_gpt", 2, "--batch 0");
  check_refused(train("--batch three" + data + out), "train_gpt", 2, "three");
  check_refused(train("--batch"), "train_gpt", 2, "--batch");
  check_refused(train("--schedule step" + data + out), "train_gpt", 2, "cosine|wsd|linear|constant");
  check_refused(train("--preset huge" + data + out), "train_gpt", 2, "tiny, seed, gpt2-124m");
  check_refused(train("--head-dim 15" + data + out), "train_gpt", 2, "head-dim 15");
  check_refused(train("--heads 8 --kv-heads 3" + data + out), "train_gpt", 2, "kv-heads");
  check_refused(train("--attn dense --block 8" + data + out), "train_gpt", 2, "dense");
  check_refused(train("extra" + data + out), "train_gpt", 2, "extra");
  check_refused(train(out), "train_gpt", 2, "-d");
  check_refused(train("-d 16" + out), "train_gpt", 2, "-d 16");
  check_refused(train("-d " + model.data() + " -o " + model.checkpoint()), "train_gpt", 2, "--resume");
  check_refused(train("-d /nowhere.bin" + out), "train_gpt", 3, "/nowhere.bin");
  check_refused(train("-d '" + folder.path().string() + "'" + out), "train_gpt", 3, "folder");
  tests::write_file(folder / "file", "");
  check_refused(train("-d " + file + out), "train_gpt", 3, "empty");
  tests::write_file(folder / "file", "plain text, no token file");
  check_refused(train("-d " + file + out), "train_gpt", 3, "file");
  const std::string bytes = tests::read_file(model.folder() / "zhwiki.bin");
  tests::write_file(folder / "file", std::string_view(bytes).substr(0, bytes.size() - 100));
  check_refused(train("-d " + file + out), "train_gpt", 3, "truncated");
  check_refused(train("-d " + model.checkpoint() + out), "train_gpt", 3, "nsa-tokens");
  check_refused(train("-t 100k" + data + out), "train_gpt", 3, "-t");
  const Ran other =
      run_command("printf 'a b c\\n\\nd e f\\n' | " + program("prepare") + " - --kind char -o " + file);
  REQUIRE(other.code == 0);
  check_refused(train("--val-data " + file + data + out), "train_gpt", 4, "another vocabulary");
  check_refused(train("--resume" + data + out), "train_gpt", 4, "--resume");
  check_refused(train("--init-from " + model.data() + data + out), "train_gpt", 4, "nsa-checkpoint");
  check_refused(train(TrainedModel::flags() + "--layers 2 --init-from " + model.checkpoint() + data + out),
                "train_gpt", 4, "another model");
  check_refused(train(data + " -x 1 --preset tiny -o '" + (folder / "absent" / "m.bin").string() + "'"),
                "train_gpt", 7, "m.bin");
  if (!std::filesystem::exists("/dev/nvidia0"))
    check_refused(train("--device cuda" + data + out), "train_gpt", 9, "cuda");
  check_refused(train("--device tpu" + data + out), "train_gpt", 2, "tpu");
  std::size_t left = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    left += entry.path() != folder / "file";
  CHECK(left == 0);

  CHECK(train("--help").code == 0);
  CHECK(train("--help").out.find("--accum") != std::string::npos);
  CHECK(train("--version").out.starts_with("train_gpt 0."));
  CHECK(train("--preset list").out.find("gpt2-124m") != std::string::npos);
  CHECK(train("--list-devices").out.starts_with("cpu: "));
}

TEST_CASE("train_gpt: a plan writes nothing, and no output is in its way") {
  for (const char* flag : {"--memory", "--dry-run"}) {
    TempDir folder;
    tests::write_file(folder / "m.bin", "an earlier run");
    const Ran ran = train(train_small(folder, flag));
    CAPTURE(ran.err);
    CHECK(ran.code == 0);
    CHECK(ran.out.find("memory ") != std::string::npos);
    CHECK(ran.out.find("step 1/") == std::string::npos);
    CHECK(tests::read_file(folder / "m.bin") == "an earlier run");
    CHECK(!std::filesystem::exists(folder / "m.log.jsonl"));
  }
}

TEST_CASE("train_gpt: goes on when nobody reads its output") {
  TempDir folder;
  const Ran ran =
      run_command("{ " + program("train_gpt") + " " + train_small(folder, "-x 12 -v 0 -n 0 --resume=auto") +
                  "; echo $? >'" + (folder / "code").string() + "'; } | head -n 1 >/dev/null");
  CHECK(tests::read_file(folder / "code") == "0\n");
  CHECK(ran.err == "");
  REQUIRE(std::filesystem::exists(folder / "m.bin"));
  CHECK(logged(folder / "m.log.jsonl").size() == 12);
}
