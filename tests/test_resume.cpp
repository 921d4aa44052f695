// A run of train_gpt that was stopped, or killed, and resumed is the run in one go: the same checkpoint, the
// same best model and the same log, to the bit.
#include <algorithm>
#include <cstdlib>

#include "tests/changed_container.h"
#include "tests/trained_model.h"
#include "tests/training.h"

namespace {

using nlohmann::json;
using tests::check_refused;
using tests::hash_of;
using tests::logged;
using tests::names_in;
using tests::Ran;
using tests::samples_in;
using tests::small_run;
using tests::state_of;
using tests::TempDir;
using tests::train;
using tests::trained;
using Names = std::vector<std::string>;

std::string out(const TempDir& folder) { return " -o '" + (folder / "m.bin").string() + "' "; }

void run(const std::string& arguments) {
  CAPTURE(arguments);
  const Ran ran = train(arguments);
  CAPTURE(ran.err);
  REQUIRE(ran.code == 0);
}

// Whole files, not only tensors: the state of a resumed run is the same as well.
void check_same(const TempDir& a, const TempDir& b, bool best = true) {
  CHECK(hash_of(a / "m.bin") == hash_of(b / "m.bin"));
  CHECK(tests::read_file(a / "m.bin") == tests::read_file(b / "m.bin"));
  CHECK(logged(a / "m.log.jsonl") == logged(b / "m.log.jsonl"));
  CHECK(samples_in(a / "m.log.jsonl") == samples_in(b / "m.log.jsonl"));
  if (!best) return;
  CHECK(hash_of(a / "m.best.bin") == hash_of(b / "m.best.bin"));
  CHECK(tests::read_file(a / "m.best.bin") == tests::read_file(b / "m.best.bin"));
}

}  // namespace

TEST_CASE("resume: stopped once or often, a run ends with the same bits, whatever the schedule") {
  for (const char* schedule : {"cosine", "wsd", "linear", "constant"}) {
    CAPTURE(schedule);
    TempDir whole, once, often;
    const std::string flags = small_run() + "-x 60 -v 10 -s 0 -n 0 -k " + schedule;
    run(flags + out(whole));
    run(flags + " --stop-at 25" + out(once));
    CHECK(state_of(once / "m.bin")["step"] == 25);
    const Ran resumed = train("--resume" + out(once));
    REQUIRE(resumed.code == 0);
    CHECK(resumed.out.find("after step 25\n") != std::string::npos);
    check_same(whole, once);
    run(flags + " --stop-at 7" + out(often));
    for (const char* stop : {"25", "26", "59"}) run("--resume --stop-at " + std::string(stop) + out(often));
    run("--resume" + out(often));
    check_same(whole, often);

    const auto log = trained(whole / "m.log.jsonl");
    REQUIRE(log.size() == 60);
    CHECK(log.back()["epoch"] == 60 * 4 / 108);  // so that an epoch ends on the way
    CHECK(log.back()["tokens"] == 60 * 4 * 32);
    CHECK(log[25]["loss"] != log[24]["loss"]);
  }
}

TEST_CASE("resume: evaluating, sampling and saving at other times changes nothing of what is trained") {
  TempDir whole, parts;
  const std::string flags = small_run() + "-x 30 --accum 3 ";
  run(flags + "-v 0 -s 0 -n 0" + out(whole));
  run(flags + "-v 4 -s 3 -n 5 --eval-tokens 40 --stop-at 11" + out(parts));
  run("--resume -v 3 -s 7 -n 2 --keep 2 --stop-at 22" + out(parts));
  run("--resume -v 0 -s 5 -n 0" + out(parts));
  CHECK(hash_of(whole / "m.bin") == hash_of(parts / "m.bin"));
  CHECK(trained(whole / "m.log.jsonl") == trained(parts / "m.log.jsonl"));
  TempDir recomputed;  // and so does how much is kept for the backward pass
  run(flags + "-v 0 -s 0 -n 0 --stop-at 11" + out(recomputed));
  run("--resume --recompute block" + out(recomputed));
  CHECK(hash_of(whole / "m.bin") == hash_of(recomputed / "m.bin"));
}

TEST_CASE("resume: the samples are those of the run in one go, whatever was drawn before") {
  TempDir whole, parts, sparse;
  const std::string flags = small_run() + "-x 24 -v 0 -n 0 --prompt 一丁七 ";
  run(flags + "-s 3" + out(whole));
  run(flags + "-s 3 --stop-at 6" + out(parts));
  run("--resume --stop-at 11" + out(parts));
  run("--resume" + out(parts));
  check_same(whole, parts, false);
  const auto all = samples_in(whole / "m.log.jsonl");
  REQUIRE(all.size() == 8);
  for (std::size_t i = 0; i < all.size(); i++) {
    CHECK(all[i].first == std::int64_t(3 * (i + 1)));
    CHECK(all[i].second.starts_with("一丁七"));
    CHECK(all[i].second != all[(i + 1) % 8].second);
  }
  run(flags + "-s 12" + out(sparse));  // a generator's second sample is another run's eighth
  const auto few = samples_in(sparse / "m.log.jsonl");
  REQUIRE(few.size() == 2);
  CHECK(few[0] == all[3]);
  CHECK(few[1] == all[7]);
}

TEST_CASE("resume: the flags come from the checkpoint, a stated one wins, model and data must agree") {
  TempDir folder;
  const auto log = folder / "other.jsonl";
  run(small_run() + "-x 9 -v 3 -s 0 --threads 1 --stop-at 4 --log '" + log.string() + "'" + out(folder));
  const std::string resume = "--resume" + out(folder);
  check_refused(train(resume + "--width 64"), "train_gpt", 4, "another model");
  check_refused(train(resume + "-t 16"), "train_gpt", 4, "another model");
  const auto& model = tests::TrainedModel::get();
  const std::string other = tests::TrainedModel::flags() + "-x 9 -d " + model.data();
  check_refused(train(other + " --resume --overwrite" + out(folder)), "train_gpt", 4, "m.bin");
  check_refused(train(resume + "--init-from x"), "train_gpt", 2, "--init-from");
  const Ran resumed = train(resume + "--stop-at 6");
  REQUIRE(resumed.code == 0);
  CHECK(resumed.out.find("cpu, 1 thread;") != std::string::npos);
  CHECK(trained(log).size() == 6);
  CHECK(!std::filesystem::exists(folder / "m.log.jsonl"));
  for (const char* again : {"6", "5"}) {  // a job that is started once more goes no farther
    const std::string before = tests::read_file(folder / "m.bin");
    const Ran stopped = train(resume + "--stop-at " + again);
    CHECK(stopped.code == 0);
    CHECK(stopped.out.find("asks for no more") != std::string::npos);
    CHECK(tests::read_file(folder / "m.bin") == before);
  }
  run(resume + "--lr 0");
  const auto steps = trained(log);
  REQUIRE(steps.size() == 9);
  CHECK(steps[5]["lr"] > 0);
  CHECK(steps[6]["lr"] == 0);
}

TEST_CASE("resume: a position in the data that is not that of the tokens read is refused") {
  TempDir folder;
  run(small_run() + "-x 4 -v 0 -s 0 --stop-at 2" + out(folder));
  tests::write_file(folder / "saved", tests::read_file(folder / "m.bin"));
  const auto position = tests::state_of(folder / "m.bin")["next_sample"].get<std::uint64_t>();
  for (const std::uint64_t wrong : {position - 1, position + 1, position + (std::uint64_t{1} << 59)}) {
    CAPTURE(wrong);
    tests::copy_changed(folder / "saved", folder / "m.bin", [&](tests::ContainerParts& checkpoint) {
      auto state = nlohmann::json::parse(checkpoint.metadata["state"]);
      state["next_sample"] = wrong;
      checkpoint.metadata["state"] = state.dump();
    });
    check_refused(train("--resume" + out(folder)), "train_gpt", 4, std::to_string(wrong) + " windows");
  }
}

TEST_CASE("resume: other validation data are refused, the best loss would mean nothing") {
  TempDir folder;
  const std::string text = "'" + (folder / "text").string() + "'", validation = "'" + (folder / "v").string();
  for (const char* number : {"1", "2"}) {
    std::string documents;
    for (int i = 0; i < 40 * std::atoi(number); i++)
      documents += std::string(std::size_t(i), '0') + "丁七万丈三上下\n\n";
    tests::write_file(folder / "text", documents);
    const Ran made =
        tests::run_command(tests::program("prepare") + " " + text +
                           " --kind char --t2s off --val 0.3 --split tail -o " + validation + number + "'");
    REQUIRE(made.code == 0);
  }
  run("-d " + validation + "1' --preset tiny --layers 1 -t 16 -b 1 -x 4 -v 1 -s 0 --stop-at 2 --val-data " +
      validation + "2'" + out(folder));
  check_refused(train("--resume --val-data " + validation + "1'" + out(folder)), "train_gpt", 4,
                "--val-data");
  run("--resume" + out(folder));
}

TEST_CASE("resume=auto: starts where nothing is, goes on where something is, ends where all is done") {
  TempDir whole, folder;
  run(small_run() + "-x 12 -v 5 -s 4" + out(whole));
  const std::string command = small_run() + "-x 12 -v 5 -s 4 --resume=auto" + out(folder);
  check_refused(train("--resume " + small_run() + out(folder)), "train_gpt", 4, "there is no");
  CHECK(names_in(folder.path()).empty());
  const Ran first = train(command + "--stop-at 8");
  CHECK(first.code == 0);
  CHECK(first.out.find("starting anew") != std::string::npos);
  CHECK(first.out.find("go on: the same command with --resume") != std::string::npos);
  const Ran second = train(command);
  CHECK(second.code == 0);
  CHECK(second.out.find("starting anew") == std::string::npos);
  CHECK(second.out.find("after step 8\n") != std::string::npos);
  check_same(whole, folder);

  const std::string checkpoint = tests::read_file(folder / "m.bin"),
                    log = tests::read_file(folder / "m.log.jsonl");
  for (const auto& again : {command, "--resume" + out(folder), "--resume -x 5" + out(folder)}) {
    const Ran finished = train(again);
    CHECK(finished.code == 0);
    CHECK(finished.err == "");
    CHECK(finished.out.find("the run is finished: 12 of ") != std::string::npos);
    CHECK(tests::read_file(folder / "m.bin") == checkpoint);
    CHECK(tests::read_file(folder / "m.log.jsonl") == log);
  }
  TempDir started;  // the weights of another run are for the start only
  const std::string tuned = small_run() + "-x 4 -v 1 -s 0 --resume=auto --init-from '" +
                            (whole / "m.bin").string() + "'" + out(started);
  run(tuned + "--stop-at 2");
  run(tuned);
  TempDir in_one_go;
  run(small_run() + "-x 4 -v 1 -s 0 --init-from '" + (whole / "m.bin").string() + "'" + out(in_one_go));
  check_same(in_one_go, started);
}

TEST_CASE("resume: more steps lengthen a finished run, on the schedule of the longer one") {
  TempDir longer, extended;
  run(small_run() + "-x 30 -v 5 -s 0" + out(longer));
  run(small_run() + "-x 20 -v 5 -s 0" + out(extended));
  run("--resume -x 30" + out(extended));
  const auto a = trained(longer / "m.log.jsonl"), b = trained(extended / "m.log.jsonl");
  REQUIRE(a.size() == 30);
  REQUIRE(b.size() == 30);
  for (std::size_t i = 0; i < 30; i++) {
    CHECK(a[i]["tokens"] == b[i]["tokens"]);
    if (i >= 20 || i < 5) CHECK(a[i]["lr"] == b[i]["lr"]);  // the warm-up, and what came after the extension
    else if (i > 5) CHECK(a[i]["lr"] > b[i]["lr"]);
  }
  CHECK(a[20]["loss"] != b[20]["loss"]);
  CHECK(state_of(extended / "m.bin")["flags"]["steps"] == 30);
}

TEST_CASE("resume: --max-minutes saves and ends with 0, and is not kept") {
  TempDir whole, folder;
  run(small_run() + "-x 6 -v 2 -s 0" + out(whole));
  run(small_run() + "-x 6 -v 2 -s 0 --max-minutes 1e-9" + out(folder));
  CHECK(state_of(folder / "m.bin")["step"] == 1);
  run("--resume --max-minutes 1e-9" + out(folder));
  CHECK(state_of(folder / "m.bin")["step"] == 2);
  run("--resume" + out(folder));
  check_same(whole, folder);
}

TEST_CASE("resume: the best model stays the best") {
  TempDir folder;
  run(small_run() + "-x 40 -v 5 -s 0 --stop-at 20" + out(folder));
  const std::string best = tests::read_file(folder / "m.best.bin");
  const json state = state_of(folder / "m.bin");
  CHECK(state["best_validation"] > 0);
  run("--resume --lr 0.5 --stop-at 30" + out(folder));  // far too much: every evaluation is worse
  const auto log = logged(folder / "m.log.jsonl");
  int worse = 0;
  for (const auto& line : log)
    if (line["step"] > 20 && line.contains("val_loss")) {
      CHECK(line["val_loss"] > state["best_validation"]);
      worse++;
    }
  CHECK(worse == 2);
  CHECK(tests::read_file(folder / "m.best.bin") == best);
  CHECK(state_of(folder / "m.bin")["best_validation"] == state["best_validation"]);
}

TEST_CASE("resume: --keep keeps the latest numbered checkpoints of the whole run") {
  TempDir whole, folder;
  run(small_run() + "-x 20 -v 0 -s 0 -n 3 --keep 9" + out(whole));
  run(small_run() + "-x 20 -v 0 -s 0 -n 3 --keep 2 --stop-at 7" + out(folder));
  CHECK(names_in(folder.path()) == Names{"m.00000003.bin", "m.00000006.bin", "m.bin", "m.log.jsonl"});
  run("--resume --stop-at 10" + out(folder));
  CHECK(names_in(folder.path()) == Names{"m.00000006.bin", "m.00000009.bin", "m.bin", "m.log.jsonl"});
  const auto same = [&](const char* name) { return hash_of(whole / name) == hash_of(folder / name); };
  CHECK(same("m.00000006.bin"));
  CHECK(same("m.00000009.bin"));

  for (const char* other : {"m.0000009.bin", "m.00000001.bin.old", "m.0000000x.bin", "n.00000003.bin"})
    tests::write_file(folder / other, "not of this run");
  run("--resume -n 5 --keep 1 --stop-at 17" + out(folder));  // another rhythm
  CHECK(names_in(folder.path()) == Names{"m.00000001.bin.old", "m.0000000x.bin", "m.00000015.bin",
                                         "m.0000009.bin", "m.bin", "m.log.jsonl", "n.00000003.bin"});
  CHECK(same("m.00000015.bin"));

  std::filesystem::copy_file(whole / "m.00000009.bin", folder / "m.bin",  // back to an earlier state
                             std::filesystem::copy_options::overwrite_existing);
  run("--resume -n 4 --keep 3" + out(folder));
  CHECK(same("m.bin"));
  CHECK(trained(whole / "m.log.jsonl") == trained(folder / "m.log.jsonl"));
  for (const char* kept : {"m.00000015.bin", "m.00000016.bin", "m.00000020.bin"})
    CHECK(std::filesystem::exists(folder / kept));
  CHECK(!std::filesystem::exists(folder / "m.00000012.bin"));
}

TEST_CASE("resume: a value that is not finite ends a run with 5 and leaves the last good checkpoint") {
  const std::string wild = small_run() + "-x 9 -u 0 -k constant --lr 1e3 --weight-decay 1e3 -n 1 -v 2 -s 0 ";
  TempDir stopped;
  const Ran ran = train(wild + out(stopped));
  CHECK(ran.code == 5);
  CHECK(ran.err.starts_with("train_gpt: step "));
  CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  const auto step = state_of(stopped / "m.bin")["step"].get<std::int64_t>();
  CHECK(step >= 1);
  CHECK(ran.err.find("step " + std::to_string(step + 1) + ":") != std::string::npos);
  CHECK(tests::verifies(stopped / "m.bin"));
  const auto log = trained(stopped / "m.log.jsonl");
  REQUIRE(log.size() == std::size_t(step + 1));
  CHECK(log.back()["loss"].is_null());
  const std::string good = hash_of(stopped / "m.bin");
  CHECK(train("--resume" + out(stopped)).code == 5);
  CHECK(hash_of(stopped / "m.bin") == good);
  CHECK(trained(stopped / "m.log.jsonl") == log);

  TempDir skipped;
  run(wild + "--on-nonfinite skip" + out(skipped));
  CHECK(trained(skipped / "m.log.jsonl").size() == 9);
  CHECK(hash_of(skipped / "m.bin") == good);  // weights and moments as they were
  CHECK(state_of(skipped / "m.bin")["step"] == 9);
  run("--resume -x 11" + out(skipped));  // a loss that is no number is no damage
  CHECK(hash_of(skipped / "m.bin") == good);
}
