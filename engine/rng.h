// Random numbers as a pure function of (seed, stream, index): equal on every device, for any rank count and
// after a resume, with no generator state to save.
#pragma once
#include <cstdint>
#include <string_view>

#include "kernels/philox.h"

namespace engine {

struct Rng {
  std::uint64_t seed = 0;
  std::uint64_t bits(std::uint64_t stream, std::uint64_t index) const noexcept;  // 64 uniform bits
  double uniform(std::uint64_t stream, std::uint64_t index) const noexcept;      // in [0, 1), 53 bits
  double normal(std::uint64_t stream, std::uint64_t index) const noexcept;       // mean 0, deviation 1
  static std::uint64_t stream_of(std::string_view name) noexcept;                // FNV-1a of a name
};

}  // namespace engine
