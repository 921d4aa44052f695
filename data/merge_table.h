// The merges of a byte-pair encoding: two tokens -> the token that joins them.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "data/tokenizer.h"

namespace data {

class MergeTable {
 public:
  explicit MergeTable(std::size_t most)
      : slots_(std::bit_ceil(2 * most + 2)),
        filter_(std::max<std::size_t>(1, slots_.size() / 4)),
        slot_shift_(64 - std::countr_zero(slots_.size())),
        filter_shift_(64 - std::countr_zero(filter_.size() * 64)) {}

  // A pair that is not there yet; at most `most` of them.
  void add(std::uint32_t left, std::uint32_t right, std::uint32_t joined) {
    const std::uint64_t mixed = mix(left, right), bit = mixed >> filter_shift_;
    filter_[bit / 64] |= std::uint64_t{1} << bit % 64;
    std::size_t at = mixed >> slot_shift_;
    while (slots_[at].joined != kNoToken) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = {left, right, joined};
  }

  // kNoToken: the two are not merged.
  std::uint32_t find(std::uint32_t left, std::uint32_t right) const noexcept {
    const std::uint64_t mixed = mix(left, right), bit = mixed >> filter_shift_;
    if ((filter_[bit / 64] >> bit % 64 & 1) == 0) return kNoToken;
    for (std::size_t at = mixed >> slot_shift_;; at = (at + 1) & (slots_.size() - 1)) {
      const Slot& slot = slots_[at];
      if (slot.joined == kNoToken || (slot.left == left && slot.right == right)) return slot.joined;
    }
  }

 private:
  struct Slot {
    std::uint32_t left = kNoToken, right = kNoToken, joined = kNoToken;
  };
  static std::uint64_t mix(std::uint32_t left, std::uint32_t right) noexcept {
    return (std::uint64_t{left} << 32 | right) * 0x9E3779B97F4A7C15u;
  }

  std::vector<Slot> slots_;            // open addressing, at most half full
  std::vector<std::uint64_t> filter_;  // a bit of 32 for each pair: most of those asked for are not there
  int slot_shift_, filter_shift_;
};

}  // namespace data
