// A vocabulary as a trie over bytes: the longest entry that a text starts with, in time linear in its length.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace data {

class PieceTrie {
 public:
  using State = std::uint32_t;
  static constexpr State kRoot = 0;
  static constexpr State kNowhere = 0xFFFFFFFF;
  static constexpr std::size_t kMaxBytes = std::size_t{1} << 24;  // of all tokens together, exclusive

  struct Match {
    std::uint32_t id = kNoToken;  // kNoToken: none
    std::size_t bytes = 0;
  };

  // The id of a token is its index. The tokens are all different and have fewer than kMaxBytes bytes
  // together.
  explicit PieceTrie(std::span<const std::string> tokens);

  // The state after reading `text` from the root; kNowhere if no token starts so.
  State after(std::string_view text) const noexcept;

  // The longest token, of at least one byte from `from` on, that `text` starts with.
  Match longest(State from, std::string_view text) const noexcept {
    Match match;
    for (std::size_t i = 0; i < text.size() && from != kNowhere; ++i) {
      from = next(from, text[i]);
      if (from != kNowhere && ids_[from] != kNoToken) match = {ids_[from], i + 1};
    }
    return match;
  }

 private:
  struct Slot {
    std::uint32_t key = 0;  // state << 8 | byte
    State next = kRoot;     // kRoot: the slot is empty, for nothing leads to the root
  };

  static std::uint32_t key_of(State state, char byte) noexcept {
    return state << 8 | static_cast<unsigned char>(byte);
  }
  std::size_t slot_of(std::uint32_t key) const noexcept { return std::uint32_t{key * 0x9E3779B1u} >> shift_; }
  State next(State state, char byte) const noexcept {
    const std::uint32_t key = key_of(state, byte);
    for (std::size_t at = slot_of(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].next == kRoot) return kNowhere;
      if (slots_[at].key == key) return slots_[at].next;
    }
  }

  std::vector<Slot> slots_;  // open addressing; a power of two, at least twice the number of states
  int shift_ = 0;
  std::vector<std::uint32_t> ids_;  // [states] the token that ends there
};

}  // namespace data
