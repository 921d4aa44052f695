// sample in conversation: lines from a pipe and from a terminal, signals, and what single writes hold.
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "data/utf8.h"
#include "tests/trained_model.h"

namespace {

using tests::program;
using tests::Ran;
using tests::run_command;
using tests::TrainedModel;

std::string command(const std::string& rest) {
  return program("sample") + " -c " + TrainedModel::get().checkpoint() + " " + rest;
}
Ran talk(const std::string& lines, const std::string& rest) {
  return run_command("printf '" + lines + "' | " + command("-i " + rest));
}

// A program on a terminal of its own.
class OnTerminal {
 public:
  explicit OnTerminal(const std::string& command) {
    child_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    REQUIRE(child_ >= 0);
    if (child_ == 0) {
      ::execl("/bin/sh", "sh", "-c", ("exec " + command).c_str(), nullptr);
      ::_exit(127);
    }
    ::tcgetattr(terminal_, &settings_);
  }
  ~OnTerminal() {
    if (child_ > 0) ::kill(child_, SIGKILL), ::waitpid(child_, nullptr, 0);
    ::close(terminal_);
  }
  void type(std::string_view keys) {
    CHECK(::write(terminal_, keys.data(), keys.size()) == ssize_t(keys.size()));
  }
  // What the terminal shows until `wanted` is in it, which is dropped with all before it; fails after 30 s.
  std::string until(std::string_view wanted) {
    for (;;) {
      const std::size_t at = shown_.find(wanted);
      if (at != shown_.npos) {
        const std::string before = shown_.substr(0, at);
        shown_.erase(0, at + wanted.size());
        return before;
      }
      REQUIRE(more());
    }
  }
  int exit_code() {  // the settings of the terminal must be what they were
    termios now{};
    while (more()) ::tcgetattr(terminal_, &now);
    CHECK(now.c_lflag == settings_.c_lflag);
    CHECK(now.c_iflag == settings_.c_iflag);
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& rest() const { return shown_; }

 private:
  bool more() {
    pollfd ready{terminal_, POLLIN, 0};
    REQUIRE(::poll(&ready, 1, 30000) == 1);
    char bytes[4096];
    const ssize_t n = ::read(terminal_, bytes, sizeof bytes);  // EIO: nobody is there any more
    if (n > 0) shown_.append(bytes, std::size_t(n));
    return n > 0;
  }
  pid_t child_ = -1;
  int terminal_ = -1;
  termios settings_{};
  std::string shown_;
};

}  // namespace

TEST_CASE("sample: a conversation goes on from each line, and nothing but replies is on stdout") {
  const Ran two = talk("北京\\n数学\\n", "-n 8 --seed 3");
  REQUIRE(two.code == 0);
  CHECK(std::ranges::count(two.out, '\n') == 2);
  CHECK(two.err.find("> ") == std::string::npos);
  CHECK(two.err.find("seed 3") != std::string::npos);
  const std::string first = two.out.substr(0, two.out.find('\n'));
  // The reply to a line is what follows it as a prompt; the second line follows the first reply.
  CHECK("北京" + first + "\n" == run_command(command("-p 北京 -n 8 --seed 3")).out);
  CHECK("北京" + first + "数学" + two.out.substr(first.size() + 1) ==
        run_command(command("-p 北京" + first + "数学 -n 8 --seed 3")).out);
  CHECK(talk("北京\\n数学", "-n 8 --seed 3").out == two.out);  // no line feed at the end
  CHECK(talk("北京\\n数学\\n", "-n 8 --seed 3 --no-stream").out == two.out);
  CHECK(talk("数学\\n", "-p 北京 -n 8 --seed 3").out == "北京" + two.out);
  CHECK(talk("", "-n 8").out == "");
  CHECK(talk("", "-n 8").code == 0);
  CHECK(talk("\\n", "-n 8 --seed 3").out == run_command(command("-n 8 --seed 3")).out);
  const std::size_t second = data::utf8_length(first[0]);
  const std::string stop = "'" + first.substr(second, data::utf8_length(first[second])) + "'";
  CHECK(talk("北京\\n", "-n 8 --seed 3 --stop " + stop).out == first.substr(0, second) + "\n");
}

TEST_CASE("sample: a conversation of any length") {
  std::string lines;
  for (int i = 0; i < 20; i++) lines += i % 7 == 6 ? "\\n" : "北京是中国的首都\\n";
  for (int i = 0; i < 100; i++) lines += "数学";
  lines += "\\n";
  const Ran ran = talk(lines, "-n 30 --seed 1 --ignore-eos");
  CHECK(ran.code == 0);
  CHECK(std::ranges::count(ran.out, '\n') == 21);
  CHECK(data::is_well_formed(ran.out));
  const std::size_t said = ran.err.find("trained length of 40 tokens is full");
  CHECK(said != std::string::npos);
  CHECK(ran.err.find("is full:", said + 40) == std::string::npos);  // once
  CHECK(talk(lines, "-n -1 --seed 1 --ignore-eos --quiet").err == "");
  CHECK(talk(lines, "-n 0").out == std::string(21, '\n'));
}

TEST_CASE("sample: a conversation with a model that was trained at a length of one token") {
  tests::TempDir folder;
  const std::string out = "'" + (folder / "m.bin").string() + "'";
  const Ran trained = run_command(program("train_gpt") + " -d " + TrainedModel::get().data() + " " +
                                  TrainedModel::flags() + " -t 1 -x 1 -v 0 -s 0 -o " + out);
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  for (const char* tokens : {"3", "-1", "0"}) {
    CAPTURE(tokens);
    const Ran ran = run_command("printf '数学\\n北\\n\\n' | " + program("sample") + " -c " + out +
                                " -i --ignore-eos --seed 1 -n " + tokens);
    CHECK(ran.code == 0);
    CHECK(std::ranges::count(ran.out, '\n') == 3);
    CHECK((ran.out == "\n\n\n") == (*tokens == '0'));
  }
}

TEST_CASE("sample: on a terminal a conversation has a marker, and Ctrl-C ends a reply, then the program") {
  OnTerminal run(command("-i -n 1000000000 --ignore-eos --seed 3"));
  run.until("> ");
  run.type("北京\n");
  run.until("北京");
  for (int i = 0; i < 3; i++) run.until("\xe4");  // the reply has begun
  run.type("\x03");
  run.until("\n> ");
  run.type("数学\n");
  run.until("数学");
  run.until("\xe4");
  run.type("\x03");
  run.until("\n> ");
  run.type("\x03");
  CHECK(run.exit_code() == 130);
  CHECK(run.rest().find("sample: stopped by a signal") != std::string::npos);
}

TEST_CASE("sample: on a terminal the end of input ends a conversation") {
  OnTerminal run(command("-i -n 5 --seed 3"));
  run.until("> ");
  run.type("a\x7f数学\n");  // the terminal edits the line
  run.until("\n");
  CHECK(run.until("\r\n> ") ==
        talk("数学\\n", "-n 5 --seed 3").out.substr(0, talk("数学\\n", "-n 5 --seed 3").out.size() - 1));
  run.type("\x04");
  CHECK(run.exit_code() == 0);
}

TEST_CASE("sample: signals to a conversation without a terminal end it") {
  const tests::TempDir folder;
  for (const auto& [name, code] : {std::pair("INT", 130), std::pair("TERM", 143)}) {
    const std::string out = "'" + (folder / name).string() + "'";
    tests::write_file(folder / "run", "(echo 北京; sleep 1) | " +
                                          command("-i -n 1000000000 --ignore-eos --quiet >" + out + " &\n") +
                                          "until [ -s " + out + " ]; do sleep 0.05; done\nkill -" + name +
                                          " $!\nwait $!\n");
    const Ran ran = run_command("bash -m '" + (folder / "run").string() + "'");
    CHECK(ran.code == code);
    CHECK(tests::read_file(folder / name).ends_with("\n"));
    CHECK(ran.err.find("stopped by a signal") != std::string::npos);
  }
}

TEST_CASE("sample: every write is whole characters") {
  const tests::TempDir folder;
  std::string prompt = "a";
  for (int i = 0; i < 5000; i++) prompt += i % 2 ? "数" : "学";
  tests::write_file(folder / "prompt", prompt);
  int ends[2];
  REQUIRE(::pipe2(ends, O_DIRECT) == 0);  // a read gives what one write wrote
  const std::string line = "exec " + command("-f '" + (folder / "prompt").string() +
                                             "' -n 200 --ignore-eos --seed 3 --quiet 2>/dev/null");
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], 1), ::close(ends[0]), ::close(ends[1]);
    ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  std::string all;
  int writes = 0;
  char bytes[8192];
  for (ssize_t n; (n = ::read(ends[0], bytes, sizeof bytes)) > 0; writes++) {
    CHECK(data::is_well_formed({bytes, std::size_t(n)}));
    all.append(bytes, std::size_t(n));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(writes > 100);
  CHECK(all.starts_with(prompt));
}
