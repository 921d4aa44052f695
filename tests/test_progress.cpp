#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include "tests/support.h"
#include "tests/trained_model.h"
#include "tools/progress.h"

namespace {

std::int64_t columns(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// What a command writes to a terminal of 100 columns.
std::string on_terminal(const std::string& command) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  REQUIRE(grantpt(terminal) == 0);
  REQUIRE(unlockpt(terminal) == 0);
  const std::string name = ptsname(terminal);
  const int program_side = open(name.c_str(), O_RDWR | O_NOCTTY);
  const winsize size{.ws_row = 30, .ws_col = 100, .ws_xpixel = 0, .ws_ypixel = 0};
  REQUIRE(ioctl(program_side, TIOCSWINSZ, &size) == 0);
  std::string text;
  std::thread reader([&] {
    char buffer[4096];
    for (ssize_t n; (n = read(terminal, buffer, sizeof buffer)) > 0;) text.append(buffer, std::size_t(n));
  });
  const tests::Ran ran = tests::run_command(command + " >" + name);
  close(program_side);  // the last one: the reader's read() ends
  reader.join();
  close(terminal);
  CAPTURE(ran.err);
  CHECK(ran.code == 0);
  return text;
}

std::string training(const tests::TempDir& folder, const std::string& more) {
  const auto& model = tests::TrainedModel::get();
  return tests::program("train_gpt") + tests::TrainedModel::flags() + "-x 6 -v 3 -s 0 --overwrite -d " +
         model.data() + " -o '" + (folder / "m.bin").string() + "' " + more;
}

}  // namespace

TEST_CASE("progress: the sparkline runs from the highest to the lowest loss in at most 24 columns") {
  tools::Sparkline line;
  CHECK(line.text().empty());
  line.add(3);
  CHECK(line.text() == "▁");
  line.add(NAN);
  line.add(1);
  CHECK(line.text() == "█▁");
  line.add(2);
  CHECK(line.text() == "█▁▅");
  for (int i = 0; i < 10000; i++) {
    line.add(1 + 1. / (i + 2));
    CHECK(columns(line.text()) <= 24);
    if (i > 30) CHECK(columns(line.text()) >= 12);
  }
}

TEST_CASE("progress: halving a full sparkline keeps the means") {
  tools::Sparkline fine;
  for (int i = 0; i < 25; i++) fine.add(i < 8 ? 2 : i < 16 ? 1 : 0);  // 25: one more than fits
  CHECK(fine.text() == "████▅▅▅▅▁▁▁▁");
  fine.add(0);  // the second half of the thirteenth column
  CHECK(fine.text() == "████▅▅▅▅▁▁▁▁▁");
}

TEST_CASE("progress: the line keeps to the terminal's width and leaves out whole parts from the right") {
  const tools::ProgressState state{
      .step = 5, .steps = 20, .loss = 4.3011, .tokens_per_second = 123456, .seconds_left = 3720};
  CHECK(tools::progress_line(state, "█▁", 200) ==
        "█████░░░░░░░░░░░░░░░ 5/20 | eta 1h02m | loss 4.3011 | 123,456 tok/s | █▁");
  for (int width = 0; width < 100; width++) CHECK(columns(tools::progress_line(state, "█▁", width)) <= width);
  CHECK(tools::progress_line(state, "█▁", 40) == "█████░░░░░░░░░░░░░░░ 5/20 | eta 1h02m");
}

TEST_CASE("progress: a terminal gets a bar that makes way for other lines, a pipe a line for each step") {
  const tests::TempDir folder;
  const std::string shown = on_terminal(training(folder, ""));
  CHECK(shown.find("\r\x1b[K████████████████████ 6/6 | eta 0s | loss ") != shown.npos);
  CHECK(shown.find("\r\x1b[Kval 6 | loss ") != shown.npos);
  CHECK(shown.find("step 1/6") == shown.npos);
  CHECK(shown.rfind("\x1b[K") < shown.find("best validation loss"));

  const std::string piped = tests::run_command(training(folder, "")).out;
  CHECK(piped.find('\r') == piped.npos);
  CHECK(piped.find('\x1b') == piped.npos);
  CHECK(piped.find("\nstep 6/6 | loss ") != piped.npos);
}

TEST_CASE("progress: --quiet shows neither bar nor steps, but validation and the last line") {
  const tests::TempDir folder;
  const std::string shown = on_terminal(training(folder, "--quiet"));
  CHECK(shown.find("\x1b") == shown.npos);
  CHECK(shown.find("step 1/6") == shown.npos);
  CHECK(shown.find("val 6 | loss ") != shown.npos);
  CHECK(shown.find("./sample -c ") != shown.npos);
}
