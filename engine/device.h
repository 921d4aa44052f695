// Where work runs: the CPU or one CUDA card, its memory and its queue.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#ifndef ENGINE_CUDA
#define ENGINE_CUDA 0
#endif

namespace engine {

inline constexpr bool has_cuda = ENGINE_CUDA;  // set by make; read nowhere else

enum class DeviceKind : std::uint8_t { cpu, cuda };
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

int cuda_device_count() noexcept;   // 0 without nvcc, a driver or a card
std::string device_name(Device);    // "cpu, 2 threads" or the card's name
void use_cpu_threads(int threads);  // for OpenMP and BLAS
// "auto", "cpu", "cuda", "cuda:3". auto is the CPU. Throws Error(usage) for anything else,
// DeviceError(gpu) for a card that is not there.
Device parse_device(std::string_view);

// `bytes` of the device's memory, zeroed, at a 256-byte boundary. On the CPU a page takes memory when it is
// first touched. Throws DeviceError(memory).
std::shared_ptr<std::byte> allocate(Device, std::size_t bytes);

// The most memory this process has held so far, in bytes: on the CPU resident memory less mapped
// files; 0 where it is not counted.
std::uint64_t peak_memory(Device);

class Stream {  // the device's one compute queue; on the CPU everything happens at once
 public:
  explicit Stream(Device);
  void copy(void* to, const void* from, std::size_t bytes);  // any direction, ordered with launches
  void fill(void* at, int byte, std::size_t bytes);
  void wait();  // until everything queued has run; throws DeviceError
  Device device() const noexcept { return device_; }
  void* handle() const noexcept { return queue_.get(); }

 private:
  Device device_;
  std::shared_ptr<void> queue_;
};

}  // namespace engine
