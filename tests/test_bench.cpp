// bench as a program: that it runs and what it prints, never how fast anything was.
#include <algorithm>
#include <map>
#include <sstream>

#include "tests/support.h"
#include "tests/trained_model.h"
#include "tools/bench_text.h"

namespace {

tests::Ran bench(const std::string& arguments) {
  return tests::run_command(tests::program("bench") + " " + arguments);
}

std::map<std::string, double> rates(const std::string& table) {  // by stage
  std::map<std::string, double> found;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    if (line.size() < 41) continue;
    const std::string stage = line.substr(0, line.find("  "));
    std::istringstream(line.substr(32)) >> found[stage];
  }
  return found;
}

void check_table(const tests::Ran& ran) {
  CAPTURE(ran.out);
  CAPTURE(ran.err);
  CHECK(ran.code == 0);
  CHECK(ran.err == "");
  const auto found = rates(ran.out);
  for (const char* stage :
       {"memcpy", "zlib inflate", "read documents", "UTF-8 check and repair", "t2s",
        "WordPiece encode, first pass", "WordPiece encode, later passes", "WordPiece decode", "bbpe training",
        "bbpe encode, first pass", "bbpe encode, later passes", "bbpe decode", "prepare of .gz, 1 thread",
        "prepare of .gz, 2 threads", "wikitext to text"}) {
    CAPTURE(stage);
    REQUIRE(found.contains(stage));
    CHECK(found.at(stage) > 0);
  }
}

}  // namespace

TEST_CASE("bench: data on a text of its own and on a given one") {
  check_table(bench("data --bytes 1M --threads 2 --repeats 1"));
  const tests::TempDir dir;
  std::string text;  // enough that no stage rounds to 0 MB/s on a busy machine
  for (int i = 0; i < 3000; i++) text += "數學\n\n第二篇 and more.\n\n";
  tests::write_file(dir / "text", text);
  check_table(bench("data --bytes 100k --threads 2 --repeats 1 '" + (dir / "text").string() + "'"));
}

TEST_CASE("bench: errors") {
  for (const std::string arguments : {"", "cook", "data --bytes 0", "data --threads 0", "data --byte 1M"}) {
    CAPTURE(arguments);
    const tests::Ran ran = bench(arguments);
    CHECK(ran.code == 2);
    CHECK(ran.out == "");
    CHECK(ran.err.starts_with("bench: "));
    CHECK(std::ranges::count(ran.err, '\n') == 1);
  }
  CHECK(bench("data /nowhere").code == 3);
  CHECK(bench("data --bytes 10k --vocab /nowhere").code == 4);
}

TEST_CASE("bench: the text made for it") {
  const std::string dump = tools::make_abstract_dump(100'000, 3);
  CHECK(dump == tools::make_abstract_dump(100'000, 3));
  CHECK(dump != tools::make_abstract_dump(100'000, 4));
  CHECK(dump.size() >= 100'000);
  CHECK(dump.size() < 110'000);
}

TEST_CASE("bench cpu: every op of a step with its time, the step, and dense attention beside it") {
  const tests::Ran ran = tests::run_command(
      tests::program("bench") + " cpu --preset tiny -b 1 -t 32 --vocab-size 100 --steps 1 --threads 1");
  CAPTURE(ran.err);
  REQUIRE(ran.code == 0);
  for (const char* op : {"linear", "linear dweight", "selected attention backward", "adamw", "rmsnorm"})
    CHECK(ran.out.find(std::string("\n") + op + " ") != ran.out.npos);
  for (const char* line :
       {"\nceilings: sgemm ", "\nstep, sparse attention", "\nstep, dense attention", "\nsparse / dense: "})
    CHECK(ran.out.find(line) != ran.out.npos);
  CHECK(ran.out.find("inf") == ran.out.npos);
  CHECK(ran.out.find("nan") == ran.out.npos);
}

TEST_CASE("bench cpu: a bad preset or count is one line and exit 2") {
  for (const char* flags : {"--preset huge", "--steps 0", "--batch x"})
    tests::check_refused(tests::run_command(tests::program("bench") + " cpu " + flags), "bench", 2, "");
}
