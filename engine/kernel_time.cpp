#include "engine/kernel_time.h"

#include "engine/error.h"
#include "kernels/kernel_trace.h"

namespace engine {

std::optional<KernelTime> kernel_time(Device device, const std::function<void()>& work) {
  if constexpr (has_cuda) {
    if (device.kind == DeviceKind::cuda) {
      const auto check = [](const k::Status& status) {
        if (!status.ok()) throw DeviceError(fmt::format("kernel times: {}", status.what), Exit::gpu);
      };
      check(k::kernel_trace_begin());
      work();
      k::KernelTrace trace;
      check(k::kernel_trace_end(trace));
      return KernelTime{trace.seconds, trace.launches};
    }
  }
  work();
  return std::nullopt;
}

}  // namespace engine
