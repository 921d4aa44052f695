// How long kernels run, as the card itself counts it.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "engine/device.h"

namespace engine {

struct KernelTime {
  double seconds = 0;
  std::int64_t launches = 0;
};
struct KernelTimes {
  std::map<std::string, KernelTime> kernels;  // copies and fills among them
  double busy_seconds = 0;                    // in which at least one ran
};

// Of what `work` launches, in graphs or not; nothing on the CPU. The rest of the step is slower meanwhile,
// the kernels are not. Throws DeviceError.
std::optional<KernelTimes> kernel_times(Device, const std::function<void()>& work);

}  // namespace engine
