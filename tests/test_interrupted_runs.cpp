// Signals and kill -9 at any moment: what is on the disk can be gone on from, and the run ends with the bits
// of one that nobody disturbed.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <random>
#include <set>
#include <thread>

#include "tests/training.h"

namespace {

using nlohmann::json;
using tests::hash_of;
using tests::logged;
using tests::names_in;
using tests::Ran;
using tests::small_run;
using tests::TempDir;
using tests::train;
using tests::Training;
namespace fs = std::filesystem;

std::string out(const TempDir& folder) { return " -o '" + (folder / "m.bin").string() + "' "; }

void pause_ms(double ms) { std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms)); }

template <class F> bool within_seconds(double seconds, F&& holds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    pause_ms(0.05);
  }
  return true;
}

bool has_bytes(const fs::path& path) {
  std::error_code absent;
  const auto size = fs::file_size(path, absent);
  return !absent && size > 0;
}

void check_same(const TempDir& a, const TempDir& b) {
  for (const char* name : {"m.bin", "m.best.bin"}) {
    CHECK(hash_of(a / name) == hash_of(b / name));
    CHECK(tests::read_file(a / name) == tests::read_file(b / name));
  }
  CHECK(logged(a / "m.log.jsonl") == logged(b / "m.log.jsonl"));
  CHECK(tests::samples_in(a / "m.log.jsonl") == tests::samples_in(b / "m.log.jsonl"));
}

// Every checkpoint there is whole.
void check_files(const TempDir& folder) {
  for (const auto& name : names_in(folder.path())) {
    CAPTURE(name);
    if (name.ends_with(".bin")) CHECK(tests::verifies(folder / name));
  }
}

bool left_over(const std::string& name) { return name.find(".tmp.") != name.npos; }

std::ptrdiff_t left_overs(const TempDir& folder) {
  const auto names = names_in(folder.path());
  return std::count_if(names.begin(), names.end(), left_over);
}

}  // namespace

TEST_CASE("interrupted: SIGTERM and SIGINT at random moments, until the run is done") {
  TempDir whole, parts, output;
  // Often between a step and its evaluation. Two threads, of which only one may see the signal.
  const std::string flags = small_run() + "--threads 2 -x 200 -v 2 -n 7 -s 9 ";
  REQUIRE(train(flags + out(whole)).code == 0);
  std::mt19937 bits(11);
  std::set<int> codes;
  for (int turn = 0; turn < 12; turn++) {
    Training running(flags + "--resume=auto" + out(parts), output.path());
    // Before it holds signals back, and says anything, a signal may end it as it would any program.
    const bool early = turn % 4 == 3;
    if (!early) REQUIRE(within_seconds(60, [&] { return has_bytes(output / "out"); }));
    pause_ms(double(bits() % 40));
    const int signal = turn % 2 ? SIGTERM : SIGINT;
    running.signal(signal);
    const int code = running.wait();
    CAPTURE(code);
    CHECK(tests::read_file(output / "err").empty());
    CHECK((code == 0 || code == 128 + signal || (early && code == -signal)));
    CHECK(left_overs(parts) == 0);
    codes.insert(code);
  }
  CHECK(codes.contains(130));
  CHECK(codes.contains(143));
  REQUIRE(train(flags + "--resume=auto" + out(parts)).code == 0);
  check_same(whole, parts);
}

TEST_CASE("interrupted: a signal before the last evaluation leaves it to the next run") {
  TempDir whole, folder, output;
  // Evaluations dwarf steps here, so that a signal hits one.
  const std::string flags = small_run() + "--threads 1 -x 2 -v 2 -n 0 -s 0 -b 1 --accum 1 --val-data ";
  const std::string all = small_run().substr(3, small_run().find("' ") - 2) + " ";
  REQUIRE(train(flags + all + out(whole)).code == 0);
  bool hit = false;
  for (int attempt = 0; attempt < 20 && !hit; attempt++) {
    Training running(flags + all + "--overwrite" + out(folder), output.path());
    REQUIRE(within_seconds(20, [&] {
      return !running.running() ||
             (fs::exists(folder / "m.log.jsonl") &&
              tests::read_file(folder / "m.log.jsonl").find("\"step\":2") != std::string::npos);
    }));
    running.signal(SIGTERM);
    hit = running.wait() == 143;
  }
  REQUIRE(hit);
  CHECK(tests::state_of(folder / "m.bin")["step"] == 2);
  CHECK(tests::state_of(folder / "m.bin")["evaluation_due"] == true);
  CHECK(!fs::exists(folder / "m.best.bin"));
  CHECK(tests::read_file(output / "out").find("go on: the same command with --resume") != std::string::npos);
  const Ran last = train("--resume" + out(folder));
  CHECK(last.code == 0);
  CHECK(last.out.find("val 2 | ") != std::string::npos);
  check_same(whole, folder);
}

TEST_CASE("interrupted: more signals while it saves change nothing") {
  TempDir whole, folder, output;
  const std::string flags = small_run() + "--threads 1 --width 128 -x 25 -v 5 -n 0 -s 0 ";
  REQUIRE(train(flags + out(whole)).code == 0);
  Training running(flags + out(folder), output.path());
  REQUIRE(within_seconds(20, [&] { return has_bytes(folder / "m.log.jsonl"); }));
  const auto done = [&] { return tests::read_file(output / "out").find("./sample -c") != std::string::npos; };
  for (int i = 0; running.running() && !done(); i++) running.signal(i % 2 ? SIGINT : SIGTERM);
  const int code = running.wait();
  CHECK((code == 143 || code == 130));
  CHECK(left_overs(folder) == 0);
  check_files(folder);
  CHECK(done());
  REQUIRE(train("--resume" + out(folder)).code == 0);
  check_same(whole, folder);
}

TEST_CASE("interrupted: kill -9 at random moments of a run that always saves") {
  TempDir whole, parts, output;
  const std::string flags = small_run() + "--threads 1 -x 60 -v 2 -n 1 --keep 3 -s 3 ";
  REQUIRE(train(flags + out(whole)).code == 0);
  std::mt19937 bits(12);
  int kills = 0;
  std::int64_t step = 0;
  for (int turn = 0; turn < 12; turn++) {
    Training running(flags + "--resume=auto" + out(parts), output.path());
    REQUIRE(within_seconds(60, [&] { return has_bytes(output / "out"); }));
    pause_ms(double(bits() % 40));
    running.signal(SIGKILL);
    kills += running.wait() == -SIGKILL;
    if (!fs::exists(parts / "m.bin")) continue;
    check_files(parts);
    const auto now = tests::state_of(parts / "m.bin")["step"].get<std::int64_t>();
    CHECK(now >= step);
    step = now;
  }
  CHECK(kills >= 3);
  REQUIRE(train(flags + "--resume=auto" + out(parts)).code == 0);
  CHECK(names_in(parts.path()) == names_in(whole.path()));  // the right history, and nothing left over
  for (const auto& name : names_in(whole.path()))
    if (name.ends_with(".bin")) CHECK(hash_of(whole / name) == hash_of(parts / name));
  check_same(whole, parts);
}

TEST_CASE("interrupted: kill -9 in the middle of a save") {
  const std::string flags = small_run() + "--threads 1 --width 256 -b 1 -x 6 -v 1 -n 1 --keep 2 -s 0 ";
  TempDir whole, output;
  REQUIRE(train(flags + out(whole)).code == 0);
  for (const char* name : {"m.bin", "m.best.bin", "m.00000003.bin"}) {
    CAPTURE(name);
    TempDir folder;
    bool hit = false;
    for (int attempt = 0; attempt < 20 && !hit; attempt++) {
      // A first part, so that there is something to fall back on.
      REQUIRE(train(flags + "--overwrite --stop-at 2" + out(folder)).code == 0);
      const std::string before = hash_of(folder / "m.bin");
      Training running("--resume" + out(folder), output.path());
      const fs::path temporary = folder / (name + (".tmp." + std::to_string(running.pid())));
      within_seconds(20, [&] { return has_bytes(temporary) || !running.running(); });
      running.signal(SIGKILL);
      running.wait();
      hit = has_bytes(temporary);
      if (!hit) continue;
      CHECK(left_overs(folder) == 1);
      check_files(folder);
      CHECK(tests::state_of(folder / "m.bin")["step"] == 2);
      CHECK(hash_of(folder / "m.bin") == before);
    }
    REQUIRE(hit);
    REQUIRE(train("--resume --stop-at 3" + out(folder)).code == 0);
    CHECK(left_overs(folder) == 0);
    REQUIRE(train("--resume" + out(folder)).code == 0);
    check_same(whole, folder);
    CHECK(names_in(whole.path()) == names_in(folder.path()));
  }
}

TEST_CASE("interrupted: the log is cut to the resumed step, whatever stands behind it") {
  TempDir whole, folder;
  const std::string flags = small_run() + "--threads 1 -x 14 -v 3 -n 4 -s 0 ",
                    log = (folder / "m.log.jsonl").string();
  REQUIRE(train(flags + out(whole)).code == 0);
  const std::string saved = tests::read_file(whole / "m.log.jsonl");
  const auto start_of = [&](const std::string& text) { return saved.find(text); };
  const std::size_t next = start_of("{\"step\":7");
  std::string zeros(300, '\0');
  const std::string tails[] = {saved.substr(next, 40),  // torn
                               saved.substr(next),      // steps that were lost
                               "{}\n",                  // no step
                               "{\"step\":\"x\"}\n",
                               "{\"step\":1e99}\n",
                               "[1]\n",
                               "\n",
                               zeros,
                               zeros + "\n"};
  for (const std::string& tail : tails) {
    CAPTURE(tail);
    REQUIRE(train(flags + "--overwrite --stop-at 6" + out(folder)).code == 0);
    const std::string kept = tests::read_file(log);
    tests::write_file(log, kept + tail);
    for (const auto& name : {"m.bin", "m.best.bin", "m.00000002.bin"})  // of a process that cannot be
      tests::write_file(folder / (name + std::string(".tmp.4194305")), "half");
    REQUIRE(train("--resume" + out(folder)).code == 0);
    CHECK(tests::read_file(log).starts_with(kept + "{\"step\":7,"));
    CHECK(left_overs(folder) == 0);
    check_same(whole, folder);
  }
  // Without its log a run goes on just the same, and says from where.
  REQUIRE(train(flags + "--overwrite --stop-at 6" + out(folder)).code == 0);
  fs::remove(log);
  REQUIRE(train("--resume" + out(folder)).code == 0);
  CHECK(hash_of(folder / "m.bin") == hash_of(whole / "m.bin"));
  CHECK(logged(log).front()["step"] == 7);
}
