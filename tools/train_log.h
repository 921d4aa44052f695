// What a training run says: lines on stdout, and one JSON object a line in the log file.
#pragma once
#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>

#include "tools/format.h"
#include "tools/progress.h"

namespace tools {

// A line, or a part of one, on stdout. A reader that has gone away does not end a run: the log goes on.
template <class... A> void say(fmt::format_string<A...> format, A&&... a) {
  const std::string text = fmt::format(format, std::forward<A>(a)...);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

struct StepReport {
  std::int64_t step = 0, steps = 0, tokens = 0, epoch = 0, step_tokens = 0;
  double loss = 0, grad_norm = 0, learning_rate = 0, seconds = 0;
  std::uint64_t memory_bytes = 0;    // engine::peak_memory()
  double flops = 0, peak_flops = 0;  // of the step; of the device a second, 0: not known
};

struct ValidationReport {
  std::int64_t step = 0, tokens = 0, epoch = 0;
  double loss = 0, bits_per_byte = 0;
};

struct LogStart {
  std::int64_t keep_through = 0;  // the step a resumed run goes on from
  bool evaluation_due = false;    // that step's evaluation is still to come, and its line is cut off too
  bool quiet = false;
};

// Steps are a line each in a pipe and a progress bar on a terminal; quiet: neither.
class TrainLog {
 public:
  // Opens the log for appending; what it says of steps after `keep_through` is cut off first (a resumed run),
  // all of it for 0. Throws Error(io).
  TrainLog(std::filesystem::path, const LogStart&);
  TrainLog(const TrainLog&) = delete;
  TrainLog& operator=(const TrainLog&) = delete;
  ~TrainLog();

  void step(const StepReport&);
  void validation(const ValidationReport&);
  void sample(std::int64_t step, const std::string& text);
  void event(std::int64_t step, const char* event, const std::string& detail);  // into the file only
  void end_display() { progress_.clear(); }                                     // before others print

 private:
  void write(const std::string& line);
  double elapsed() const;

  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t first_step_ = 0;
  bool quiet_;
  Progress progress_;
};

std::string duration(double seconds);        // 12s, 3m05s, 1h02m
std::string mebibytes(std::uint64_t bytes);  // 179.4 MiB

}  // namespace tools
