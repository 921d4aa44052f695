// Numbers and names on command lines.
#include "tools/cli.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "tests/support.h"
#include "tools/format.h"

namespace {

template <class F> void check_refused(F f, const std::string& mentions) {
  try {
    f();
    FAIL_CHECK("taken, expected: ", mentions);
  } catch (const engine::Error& error) {
    const std::string what = error.what();
    CAPTURE(what);
    CHECK(error.code == engine::Exit::usage);
    CHECK(what.find(mentions) != what.npos);
  }
}

struct Outcome {
  int code = -1;
  std::int64_t number = 0;
  bool ran = false;
  std::string said;  // on stderr
};

class CapturedStderr {
 public:
  CapturedStderr() : before_(dup(STDERR_FILENO)) {
    const int file = open((folder_ / "said").c_str(), O_WRONLY | O_CREAT, 0600);
    dup2(file, STDERR_FILENO);
    close(file);
  }
  ~CapturedStderr() {
    dup2(before_, STDERR_FILENO);
    close(before_);
  }
  std::string text() const {
    std::fflush(stderr);
    return tests::read_file(folder_ / "said");
  }

 private:
  tests::TempDir folder_;
  int before_;
};

Outcome run(std::vector<std::string> arguments, engine::Exit failure = engine::Exit(0)) {
  Outcome o;
  const CapturedStderr captured;
  arguments.insert(arguments.begin(), "program");
  std::vector<char*> argv;
  for (auto& a : arguments) argv.push_back(a.data());
  o.code =
      tools::run_tool("program", "about", int(argv.size()), argv.data(), [&](CLI::App& app) -> tools::Body {
        tools::add_integer(app, "-n,--number", o.number, 0, 9, "a digit")->required();
        return [&o, failure] {
          o.ran = true;
          if (int(failure)) engine::fail(failure, "it\nfailed");
          return 0;
        };
      });
  o.said = captured.text();
  return o;
}

}  // namespace

TEST_CASE("cli: whole numbers and others") {
  CHECK(tools::parse_integer("-n", "-5", -5, 5) == -5);
  CHECK(tools::parse_integer("-n", "5", -5, 5) == 5);
  for (const char* bad : {"", "6", "-6", "1.0", "1e3", "0x1", " 1", "1 ", "99999999999999999999"})
    check_refused([&] { tools::parse_integer("-n", bad, -5, 5); },
                  fmt::format("-n {}: expected a whole number from -5 to 5", bad));
  CHECK(tools::parse_real("--lr", "6e-4", 0, 1) == 6e-4);
  CHECK(tools::parse_real("--lr", ".5", 0, 1) == 0.5);
  for (const char* bad : {"", "1.01", "-0.1", "nan", "inf", "-inf", "1,5", "1e", "1e999"})
    check_refused([&] { tools::parse_real("--lr", bad, 0, 1); },
                  fmt::format("--lr {}: expected a number", bad));
}

TEST_CASE("cli: sizes with k, M and G") {
  const std::int64_t most = std::int64_t(1) << 53;
  const auto size = [&](const char* text) { return tools::parse_size("-t", text, 1, most); };
  CHECK(size("1") == 1);
  CHECK(size("512k") == 512 * 1024);
  CHECK(size("0.5M") == 512 * 1024);
  CHECK(size("1.5K") == 1536);
  CHECK(size("2G") == std::int64_t(2) << 30);
  CHECK(size("9007199254740992") == most);
  CHECK(tools::parse_size("-t", "4611686018427387904", 1, INT64_MAX) == std::int64_t(1) << 62);
  check_refused([] { tools::parse_size("-t", "9223372036854775807", 1, INT64_MAX); }, "expected a count");
  for (const char* bad :
       {"", "k", "0", "-1", "1kk", "1T", "1 k", "nan", "inf", "infk", "9007199254740994", "1e300G"})
    check_refused([&] { size(bad); }, fmt::format("-t {}: expected a count", bad));
}

TEST_CASE("cli: the nearest known word") {
  const std::vector<std::string> known{"--steps", "--seed", "--temp", "-n"};
  CHECK(tools::nearest("--tmep", known) == "--temp");
  CHECK(tools::nearest("--step", known) == "--steps");
  CHECK(tools::nearest("--sed", known) == "--seed");
  CHECK(tools::nearest("--tempo", known) == "--temp");
  CHECK(tools::nearest("--n", known) == "-n");
  CHECK(tools::nearest("--temperature", known) == "--temp");
  for (const char* far : {"--completely-else", "-z", "--gpus", "--", ""})
    CHECK(tools::nearest(far, known) == "");
}

TEST_CASE("cli: exit codes, and the last value of a flag") {
  CHECK(run({"-n", "3"}).code == 0);
  CHECK(run({"--number=4"}).number == 4);
  CHECK(run({"-n", "3", "-n", "5"}).number == 5);
  const auto refused = [](std::vector<std::string> arguments, const std::string& mentions) {
    const Outcome o = run(std::move(arguments));
    CAPTURE(o.said);
    CHECK(o.code == 2);
    CHECK(!o.ran);
    CHECK(o.said.starts_with("program: "));
    CHECK(o.said.find(mentions) != std::string::npos);
    CHECK(std::count(o.said.begin(), o.said.end(), '\n') == 1);
  };
  refused({}, "--number is required");
  refused({"-n"}, "--number");
  refused({"-n", "10"}, "--number 10: expected a whole number from 0 to 9");
  refused({"--numbr", "2"}, "unknown flag --numbr, did you mean --number?");
  refused({"-n", "1", "word"}, "unexpected argument 'word'");
  CHECK(run({"-n", "1"}).said == "");
  const Outcome failed = run({"-n", "1"}, engine::Exit::checkpoint);
  CHECK(failed.code == 4);
  CHECK(failed.said == "program: it\\nfailed\n");
  CHECK(run({"-n", "1"}, engine::Exit::gpu).code == 9);
}

TEST_CASE("cli: what is quoted stays one line of UTF-8") {
  CHECK(tools::printable("plain 中国 é\U0001F600") == "plain 中国 é\U0001F600");
  CHECK(tools::printable("a\nb\tc\x1b[2J\x7f") == "a\\nb\\tc\\x1b[2J\\x7f");
  CHECK(tools::printable(std::string("\0", 1)) == "\\x00");
  CHECK(tools::printable("\xff中\xe4\xb8") == "\\xff中\\xe4\\xb8");
  CHECK(tools::printable("\xc2\x9b"
                         "31m\xe2\x80\xa8") == "\\xc2\\x9b31m\\xe2\\x80\\xa8");  // CSI, U+2028
}
