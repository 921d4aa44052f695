#include "engine/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "engine/error.h"

namespace engine {
namespace {
constexpr std::array<std::string_view, 4> kNames{"cosine", "wsd", "linear", "constant"};
constexpr double kCooldownShare = 0.2;
}  // namespace

double Schedule::rate(std::int64_t step) const noexcept {
  if (step <= warmup) return peak * double(step) / double(warmup);
  const double after = double(std::max<std::int64_t>(steps - warmup, 1));
  const double progress = std::min(1.0, double(step - warmup) / after);  // (0, 1]
  double share = 1;  // of the way from final_fraction to 1
  switch (kind) {
    case Kind::cosine: share = 0.5 * (1 + std::cos(std::numbers::pi * progress)); break;
    case Kind::linear: share = 1 - progress; break;
    case Kind::constant: return peak;
    case Kind::wsd: {
      const double cooldown = std::min(kCooldownShare * double(steps), after);
      const double into = double(step - steps) + cooldown;
      if (into <= 0) return peak;
      share = 1 - std::sqrt(std::min(1.0, into / cooldown));
      break;
    }
  }
  return peak * (final_fraction + (1 - final_fraction) * share);
}

Schedule::Kind parse_schedule(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  require(found != kNames.end(), Exit::usage, "--schedule {}: expected cosine, wsd, linear or constant",
          name);
  return Schedule::Kind(found - kNames.begin());
}

std::string_view name_of(Schedule::Kind kind) noexcept { return kNames[std::size_t(kind)]; }

}  // namespace engine
