#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tests/support.h"
#include "tools/progress.h"

namespace {

std::int64_t columns(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
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
