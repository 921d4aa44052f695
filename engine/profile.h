// What the kernels of a step cost, op by op. A Context with a profile times every launch.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <string_view>

#include "kernels/types.h"

namespace engine {

class Profile {
 public:
  struct Total {
    std::int64_t launches = 0;
    double seconds = 0;
    k::Cost cost;  // summed over the launches
  };

  // Runs `kernel`, which returns when the work is done, and adds its time to `op`'s.
  template <class Kernel> void time(std::string_view op, k::Cost cost, Kernel&& kernel) {
    const auto start = std::chrono::steady_clock::now();
    kernel();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    Total& total = totals_.try_emplace(op).first->second;
    total.launches++;
    total.seconds += seconds.count();
    total.cost.flops += cost.flops;
    total.cost.bytes += cost.bytes;
  }
  // By op name; the names are those given to Context::launch, which are literals.
  const std::map<std::string_view, Total>& totals() const noexcept { return totals_; }

 private:
  std::map<std::string_view, Total> totals_;
};

}  // namespace engine
