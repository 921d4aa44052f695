// One slab of device memory per context with deterministic first-fit offsets: the same sequence of take and
// give yields the same addresses every step. Before commit() there is no memory: takes only raise the
// high-water mark (a rehearsal), and that mark is the plan.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>

#include "engine/device.h"

namespace engine {

class Arena {
 public:
  explicit Arena(Device device) : device_(device) {}
  std::size_t take(
      std::size_t bytes);  // 256-byte aligned offset; throws std::logic_error past the rehearsed peak
  void give(std::size_t offset) noexcept;
  // While jobs, numbered from 1, run beside whoever takes and gives (engine/lanes.h), what is given back may
  // still be read by one: it stays out of use until the jobs begun by then are over. The first `job` have
  // begun; the first `job` are over.
  void begun(std::uint64_t job) noexcept { begun_ = job; }
  void over(std::uint64_t job) noexcept;
  void commit();  // allocates exactly peak() bytes; throws DeviceError(memory)
  bool committed() const noexcept { return slab_ != nullptr; }
  std::byte* base() const noexcept { return slab_.get(); }
  std::size_t peak() const noexcept { return peak_; }
  bool empty() const noexcept { return live_.empty(); }
  Device device() const noexcept { return device_; }

 private:
  void release(std::size_t offset) noexcept;
  void trim() noexcept;

  Device device_;
  std::map<std::size_t, std::size_t> free_, live_;  // offset -> bytes
  std::size_t top_ = 0, peak_ = 0;
  struct Kept {
    std::uint64_t job;
    std::size_t offset;
  };
  std::deque<Kept> kept_;  // given back, still out of use
  std::uint64_t begun_ = 0, over_ = 0;
  std::shared_ptr<std::byte> slab_;
};

}  // namespace engine
