#include "engine/rng.h"

#include <cmath>
#include <numbers>

namespace engine {
namespace {
std::uint64_t join(std::uint32_t low, std::uint32_t high) { return std::uint64_t(high) << 32 | low; }
double unit(std::uint64_t bits) { return double(bits >> 11) * 0x1p-53; }
}  // namespace

std::uint64_t Rng::bits(std::uint64_t stream, std::uint64_t index) const noexcept {
  auto p = k::philox(seed, stream, index);
  return join(p.word[0], p.word[1]);
}

double Rng::uniform(std::uint64_t stream, std::uint64_t index) const noexcept {
  return unit(bits(stream, index));
}

double Rng::normal(std::uint64_t stream, std::uint64_t index) const noexcept {  // Box-Muller
  auto p = k::philox(seed, stream, index);
  double radius = std::sqrt(-2 * std::log1p(-unit(join(p.word[0], p.word[1]))));
  return radius * std::cos(2 * std::numbers::pi * unit(join(p.word[2], p.word[3])));
}

std::uint64_t Rng::stream_of(std::string_view name) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

}  // namespace engine
