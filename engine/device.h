// Where work runs: the CPU or one CUDA card, its memory and its queue.
#pragma once
#include <chrono>
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
// "auto", "cpu", "cuda", "cuda:3". auto: the first card that this build has code for, else the CPU. Throws
// Error(usage) for anything else, DeviceError(gpu) for a card that is not there or that it has no code for.
Device parse_device(std::string_view);

bool has_fast_bf16(Device) noexcept;  // a card with tensor cores for it: sm_80 and newer

// What the card's tensor cores do at best in bf16, floating-point operations a second, as its maker states it
// (dense); 0: not known.
double peak_flops(Device) noexcept;

// `bytes` of the device's memory, zeroed, at a 256-byte boundary. On the CPU a page takes memory when it is
// first touched. Throws DeviceError(memory).
std::shared_ptr<std::byte> allocate(Device, std::size_t bytes);
// Host memory that the device copies from and to while the host goes on. Throws DeviceError(memory).
std::shared_ptr<std::byte> allocate_staging(Device, std::size_t bytes);

// The most memory held so far, in bytes: on the CPU this process' resident memory less mapped files; on a
// card what is in use there now, by everybody (a run takes all of its memory at the start).
std::uint64_t peak_memory(Device);

class Event;

class Stream {  // a device's compute queue; on the CPU everything happens at once
 public:
  explicit Stream(Device);
  // A further queue of the same card for what is less urgent; it shares the plans of products.
  static Stream beside(const Stream&);
  void follow(const Event&);  // what is queued from now on runs after the event's last record()ed moment
  void copy(void* to, const void* from, std::size_t bytes);  // any direction, ordered with launches
  void fill(void* at, int byte, std::size_t bytes);
  void wait();  // until everything queued has run; throws DeviceError
  Device device() const noexcept { return device_; }
  void* handle() const noexcept { return queue_.get(); }

 private:
  Stream() = default;

  Device device_;
  std::shared_ptr<void> queue_;
};

class Event {  // a moment of a stream's work
 public:
  explicit Event(Device);
  void record(Stream&);                              // now, after everything queued so far; may be repeated
  void wait() const;                                 // until the last record()ed moment; throws DeviceError
  double seconds_since(const Event& earlier) const;  // waits for both

 private:
  friend class Stream;
  std::shared_ptr<void> event_;  // null on the CPU
  std::chrono::steady_clock::time_point time_;
};

// Work that is the same every time: the same launches and copies with the same arguments. On a card the first
// run() is performed as it comes, the second recorded, and from then on a run is one launch. On the CPU every
// run is performed.
class Graph {
 public:
  void run(Stream&, const std::function<void()>& work);
  void forget() noexcept { *this = Graph(); }

 private:
  bool warm_ = false;  // work has run once: its plans are made
  std::shared_ptr<void> graph_;
};

}  // namespace engine
