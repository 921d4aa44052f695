// The line at the bottom of a terminal that a running training keeps up to date.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace tools {

// The loss so far as a row of at most `kColumns` bars, each the mean of equally many steps.
class Sparkline {
 public:
  static constexpr std::size_t kColumns = 24;
  void add(double loss);     // values that are not finite leave no mark
  std::string text() const;  // empty before the first column is full
 private:
  std::vector<double> columns_;
  std::int64_t steps_each_ = 1, in_last_ = 0;
  double last_ = 0;  // sum of the column that is being filled
};

struct ProgressState {
  std::int64_t step = 0, steps = 0;
  double loss = 0, tokens_per_second = 0, seconds_left = 0;
};

// A bar, numbers and the sparkline in at most `width` columns; what does not fit is left out from the right.
std::string progress_line(const ProgressState&, const std::string& sparkline, int width);

// Draws on standard output, and only where that is a terminal.
class Progress {
 public:
  explicit Progress(bool wanted);
  bool shown() const noexcept { return shown_; }
  void update(const ProgressState&);  // at most ten times a second, and for the last step
  void clear();                       // before anything else is printed

 private:
  bool shown_, drawn_ = false;
  Sparkline losses_;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace tools
