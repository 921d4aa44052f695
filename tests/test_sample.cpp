// sample as a program: what it writes, how its seeds behave, and what it refuses.
#include <algorithm>
#include <cstring>

#include "tests/trained_model.h"

namespace {

using tests::check_refused;
using tests::program;
using tests::Ran;
using tests::run_command;
using tests::TempDir;
using tests::TrainedModel;

Ran sample(const std::string& rest) { return run_command(program("sample") + " " + rest); }
std::string trained(const std::string& rest) { return "-c " + TrainedModel::get().checkpoint() + " " + rest; }

}  // namespace

TEST_CASE("sample: the prompt, then the text, then a line feed") {
  const Ran ran = sample(trained("-p 北京 -n 20 --seed 3"));
  REQUIRE(ran.code == 0);
  CHECK(ran.out.starts_with("北京"));
  CHECK(ran.out.ends_with("\n"));
  CHECK(std::count(ran.out.begin(), ran.out.end(), '\n') == 1);
  CHECK(ran.err.find("seed 3") != std::string::npos);
  CHECK(ran.err.find("tok/s") != std::string::npos);
  CHECK(sample(trained("-p 北京 -n 0")).out == "北京\n");
  CHECK(sample(trained("-p 北京 -n 5 --quiet")).err == "");
  CHECK(sample(trained("-n 5 --ignore-eos --seed 1")).code == 0);
}

TEST_CASE("sample: a seed gives the same bytes however they are written") {
  const std::string first = sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos")).out;
  CHECK(sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos")).out == first);
  CHECK(sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos --no-stream")).out == first);
  CHECK(sample(trained("-p 北京 -n 30 --seed 6 --ignore-eos")).out != first);
  const std::string three = sample(trained("-p 北京 -n 30 --seed 5 --ignore-eos -N 3")).out;
  CHECK(three.starts_with(first + "---\n北京"));
  CHECK(sample(trained("-p 北京 -n 30 --temp 0 --seed 1")).out ==
        sample(trained("-p 北京 -n 30 --temp 0 --seed 2")).out);
  CHECK(sample(trained("-p 北京 -n 30 --temp 0.7 --top-frac 0.1 --seed 2")).code == 0);
}

TEST_CASE("sample: prompts from a file, standard input and longer than the context") {
  TempDir folder;
  const std::string file = "'" + (folder / "prompt").string() + "'";
  tests::write_file(folder / "prompt", "北京\n");
  const std::string expected = sample(trained("-p 北京 -n 10 --seed 1")).out;
  CHECK(sample(trained("-n 10 --seed 1 -f " + file)).out == expected);
  CHECK(run_command("cat " + file + " | " + program("sample") + " " + trained("-f - -n 10 --seed 1")).out ==
        expected);
  tests::write_file(folder / "prompt", std::string("北京\xff是"));
  CHECK(sample(trained("-n 0 -f " + file)).out == "北京\xef\xbf\xbd是\n");
  std::string longer;
  for (int i = 0; i < 50; i++) longer += "北京";
  tests::write_file(folder / "prompt", longer);
  const Ran ran = sample(trained("-n 2 -f " + file));
  CHECK(ran.code == 0);
  CHECK(ran.err.find("only its end") != std::string::npos);
}

TEST_CASE("sample: a reader that goes away ends it quietly") {
  const Ran ran = run_command(program("sample") + " " +
                              trained("-n 100000 --ignore-eos --quiet -N 1000 | head -c 30 >/dev/null"));
  CHECK(ran.code == 0);
  CHECK(ran.err.find("Broken") == std::string::npos);
}

TEST_CASE("sample: refusals") {
  TempDir folder;
  const std::string file = "'" + (folder / "file").string() + "'";
  check_refused(sample(""), "sample", 2, "--ckpt");
  check_refused(sample("-c 3"), "sample", 2, "-c 3");
  check_refused(sample(trained("--tmep 1")), "sample", 2, "--temp");
  check_refused(sample(trained("--temp hot")), "sample", 2, "hot");
  check_refused(sample(trained("--top-p 1.5")), "sample", 2, "1.5");
  check_refused(sample(trained("-N 0")), "sample", 2, "--samples 0");
  check_refused(sample("-c /nowhere.bin"), "sample", 4, "/nowhere.bin");
  check_refused(sample("-c " + TrainedModel::get().data()), "sample", 4, "nsa-checkpoint");
  check_refused(sample(trained("-f /nowhere.txt")), "sample", 3, "/nowhere.txt");
  const std::string bytes = tests::read_file(TrainedModel::get().folder() / "ckpt.bin");
  for (std::size_t size : {std::size_t(0), std::size_t(5), bytes.size() / 2, bytes.size() - 1}) {
    tests::write_file(folder / "file", std::string_view(bytes).substr(0, size));
    check_refused(sample("-c " + file), "sample", 4, "file");
  }
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  std::string damaged = bytes;
  damaged[8 + header + 101] = static_cast<char>(damaged[8 + header + 101] ^ 1);
  tests::write_file(folder / "file", damaged);
  check_refused(sample("-c " + file), "sample", 4, "checksum");
  if (!std::filesystem::exists("/dev/nvidia0"))
    check_refused(sample(trained("--device cuda")), "sample", 9, "cuda");
  CHECK(sample("--help").out.find("--top-frac") != std::string::npos);
}
