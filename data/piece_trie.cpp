#include "data/piece_trie.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace data {

PieceTrie::PieceTrie(std::span<const std::string> tokens) {
  // Neighbours in sorted order share their longest common beginning, so the number of states is known before.
  std::vector<std::uint32_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return tokens[a] < tokens[b]; });
  std::size_t states = 1;
  std::string_view before;
  for (const std::uint32_t id : order) {
    const std::string_view token = tokens[id];
    const auto differ = std::mismatch(before.begin(), before.end(), token.begin(), token.end());
    states += static_cast<std::size_t>(token.end() - differ.second);
    before = token;
  }
  const std::size_t slots = std::bit_ceil(2 * states);
  shift_ = 32 - std::countr_zero(slots);
  slots_.resize(slots);
  ids_.reserve(states);
  ids_.push_back(kNoToken);
  for (const std::uint32_t id : order) {
    State state = kRoot;
    for (const char byte : tokens[id]) {
      const std::uint32_t key = key_of(state, byte);
      std::size_t at = slot_of(key);
      while (slots_[at].next != kRoot && slots_[at].key != key) at = (at + 1) & (slots - 1);
      if (slots_[at].next == kRoot) {
        slots_[at] = {key, static_cast<State>(ids_.size())};
        ids_.push_back(kNoToken);
      }
      state = slots_[at].next;
    }
    ids_[state] = id;
  }
  ids_[kRoot] = kNoToken;  // an empty token never matches
}

PieceTrie::State PieceTrie::after(std::string_view text) const noexcept {
  State state = kRoot;
  for (std::size_t i = 0; i < text.size() && state != kNowhere; ++i) state = next(state, text[i]);
  return state;
}

}  // namespace data
