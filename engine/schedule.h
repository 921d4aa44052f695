// Learning rate as a function of the step.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace engine {

struct Schedule {
  enum class Kind : std::uint8_t {
    cosine,  // half a cosine from the peak to final_fraction of it
    wsd,     // stable, then over the last fifth of the steps down by 1 - sqrt(progress) (Hägele et al. 2024)
    linear,  // straight to final_fraction
    constant,  // the peak
  };
  Kind kind = Kind::cosine;
  double peak = 6e-4;
  std::int64_t steps = 2000,
               warmup = 100;  // the first `warmup` steps rise linearly, the last of them is at the peak
  double final_fraction = 0.1;

  double rate(std::int64_t step) const noexcept;  // of step 1, 2, ..., steps
};

Schedule::Kind parse_schedule(std::string_view);  // throws Error(usage)
std::string_view name_of(Schedule::Kind) noexcept;

}  // namespace engine
