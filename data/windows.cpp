#include "data/windows.h"

#include <algorithm>
#include <bit>

namespace data {
namespace {

std::uint64_t mix(std::uint64_t x) {  // the finalizer of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

std::uint64_t permuted(std::uint64_t index, std::uint64_t count, std::uint64_t seed,
                       std::uint64_t epoch) noexcept {
  if (count < 2) return index;
  const int half =
      (std::bit_width(count - 1) + 1) / 2;  // the network permutes [0, 2^(2 half)), less than 4 count
  const std::uint64_t mask = (std::uint64_t(1) << half) - 1;
  const std::uint64_t key = mix(seed + 0x9e3779b97f4a7c15u * (epoch + 1));
  do {
    std::uint64_t left = index >> half, right = index & mask;
    for (std::uint64_t round = 0; round < 6; round++) {
      const std::uint64_t next = left ^ (mix(key + (round << 56) + right) & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= count);
  return index;
}

void Windows::read(std::uint64_t w, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const {
  const std::uint64_t from = first_ + w * length_;
  const std::uint64_t count = std::min(length_, last_ - 1 - from);  // targets that exist
  file_.read(from, ids.first(1));
  file_.read(from + 1, targets.first(count));
  std::ranges::copy(targets.first(count - 1), ids.begin() + 1);
  std::ranges::fill(ids.subspan(count), 0);
  std::ranges::fill(targets.subspan(count), -1);
}

}  // namespace data
