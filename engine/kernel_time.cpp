#include "engine/kernel_time.h"

#include <cxxabi.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "engine/error.h"
#include "kernels/kernel_trace.h"

namespace engine {
namespace {

// The kernel's name as it is written, with its parameters, without the namespaces.
[[maybe_unused]] std::string readable(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> written(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
  std::string text = status == 0 ? written.get() : name;
  if (text.starts_with("void ")) text.erase(0, 5);
  for (const char* part : {"(anonymous namespace)::", "k::"})
    for (std::size_t at; (at = text.find(part)) != std::string::npos;) text.erase(at, std::strlen(part));
  return text;
}

}  // namespace

std::optional<KernelTimes> kernel_times(Device device, const std::function<void()>& work) {
  if constexpr (has_cuda) {
    if (device.kind == DeviceKind::cuda) {
      const auto check = [](const k::Status& status) {
        if (!status.ok()) throw DeviceError(fmt::format("kernel times: {}", status.what), Exit::gpu);
      };
      check(k::kernel_trace_begin());
      work();
      k::KernelTrace found;
      check(k::kernel_trace_end(found));
      KernelTimes times{{}, found.busy_seconds};
      for (const auto& [name, time] : found.kernels) {
        KernelTime& of_name = times.kernels[readable(name)];
        of_name.seconds += time.seconds;
        of_name.launches += time.launches;
      }
      return times;
    }
  }
  work();
  return std::nullopt;
}

}  // namespace engine
