// How fast work is done, for the benchmarks of the data path.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>

#include "data/interrupt.h"

namespace tools {

// MB/s of `work` on so many bytes, the best of `repeats`. Throws Interrupted.
inline double best_rate(std::uint64_t bytes, std::int64_t repeats, const data::Interrupt& interrupt,
                        const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (; repeats > 0; --repeats) {
    interrupt.check();
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return static_cast<double>(bytes) / 1e6 / std::max(best, 1e-9);
}

}  // namespace tools
