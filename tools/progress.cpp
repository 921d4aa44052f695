#include "tools/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "tools/format.h"
#include "tools/train_log.h"

namespace tools {
namespace {

int terminal_width() {
  constexpr int kUsual = 80;
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

std::string bar(double share) {
  constexpr int kCells = 20;
  const int full = int(std::clamp(share, 0., 1.) * kCells);
  std::string text;
  for (int i = 0; i < kCells; i++) text += i < full ? "█" : "░";
  return text;
}

// Terminal columns of our own text: each character is one wide.
std::int64_t columns(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

}  // namespace

void Sparkline::add(double loss) {
  if (!std::isfinite(loss)) return;
  last_ += loss;
  if (++in_last_ < steps_each_) return;
  columns_.push_back(last_ / double(steps_each_));
  in_last_ = 0;
  last_ = 0;
  if (columns_.size() <= kColumns) return;
  // One column too many: from now on each holds twice as many steps, and the odd one begins the next.
  std::vector<double> halved;
  for (std::size_t i = 0; i + 1 < columns_.size(); i += 2)
    halved.push_back((columns_[i] + columns_[i + 1]) / 2);
  if (columns_.size() % 2 != 0) {
    last_ = columns_.back() * double(steps_each_);
    in_last_ = steps_each_;
  }
  columns_ = std::move(halved);
  steps_each_ *= 2;
}

std::string Sparkline::text() const {
  static constexpr const char* kBars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  if (columns_.empty()) return {};
  const auto [low, high] = std::minmax_element(columns_.begin(), columns_.end());
  std::string text;
  for (double value : columns_) {
    const double height = *high > *low ? (value - *low) / (*high - *low) : 0;
    text += kBars[std::min(7, int(height * 8))];
  }
  return text;
}

std::string progress_line(const ProgressState& s, const std::string& sparkline, int width) {
  std::string line;
  const auto add = [&](const std::string& part) {
    const std::string joined = line.empty() ? part : line + " | " + part;
    if (columns(joined) > width) return false;
    line = joined;
    return true;
  };
  add(fmt::format("{} {}/{}", bar(double(s.step) / double(std::max<std::int64_t>(s.steps, 1))), s.step,
                  s.steps)) &&
      add(fmt::format("eta {}", duration(s.seconds_left))) && add(fmt::format("loss {:.4f}", s.loss)) &&
      add(fmt::format("{} tok/s", with_commas(std::int64_t(s.tokens_per_second)))) &&
      (sparkline.empty() || add(sparkline));
  return line;
}

Progress::Progress(bool wanted) : shown_(wanted && isatty(STDOUT_FILENO) != 0) {}

void Progress::update(const ProgressState& state) {
  if (!shown_) return;
  losses_.add(state.loss);
  const auto now = std::chrono::steady_clock::now();
  if (now < next_ && state.step < state.steps) return;
  next_ = now + std::chrono::milliseconds(100);
  // One column stays free: a terminal may wrap when its last one is written.
  say("\r\x1b[K{}", progress_line(state, losses_.text(), terminal_width() - 1));
  drawn_ = true;
}

void Progress::clear() {
  if (drawn_) say("\r\x1b[K");
  drawn_ = false;
}

}  // namespace tools
