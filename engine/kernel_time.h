// How long kernels run, as the card itself counts it.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>

#include "engine/device.h"

namespace engine {

struct KernelTime {
  double seconds = 0;         // the sum of all kernels, copies and fills
  std::int64_t launches = 0;  // so many
};

// Of what `work` launches, in graphs or not; nothing on the CPU. The rest of the step is slower meanwhile,
// the kernels are not. Throws DeviceError.
std::optional<KernelTime> kernel_time(Device, const std::function<void()>& work);

}  // namespace engine
