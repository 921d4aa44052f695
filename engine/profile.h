// What the kernels of a step cost, op by op. A Context with a profile times every launch.
#pragma once
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "engine/device.h"
#include "kernels/types.h"

namespace engine {

class Profile {
 public:
  struct Total {
    std::int64_t launches = 0;
    double seconds = 0;
    k::Cost cost;  // summed over the launches
  };

  // Runs `kernel` between two events of the stream; nothing waits until totals().
  template <class Kernel> void time(std::string_view op, k::Cost cost, Stream& stream, Kernel&& kernel) {
    if (used_ == spans_.size()) spans_.push_back({{}, {}, Event(stream.device()), Event(stream.device())});
    Span& span = spans_[used_++];
    span.op = op;
    span.cost = cost;
    span.start.record(stream);
    kernel();
    span.end.record(stream);
  }

  // By op name; the names are those given to Context::launch, which are literals. Waits for the launches
  // timed since the last call.
  const std::map<std::string_view, Total>& totals() {
    for (std::size_t i = 0; i < used_; i++) {
      const Span& span = spans_[i];
      Total& total = totals_[span.op];
      total.launches++;
      total.seconds += span.end.seconds_since(span.start);
      total.cost.flops += span.cost.flops;
      total.cost.bytes += span.cost.bytes;
    }
    used_ = 0;
    return totals_;
  }

 private:
  struct Span {
    std::string_view op;
    k::Cost cost;
    Event start, end;
  };
  std::vector<Span> spans_;  // used again after totals()
  std::size_t used_ = 0;
  std::map<std::string_view, Total> totals_;
};

}  // namespace engine
