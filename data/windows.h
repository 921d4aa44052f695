// Training samples out of a range of tokens: windows of `length` inputs and their `length` targets, in an
// order that is a function of (seed, epoch) alone.
#pragma once
#include <cstdint>
#include <span>

#include "data/token_file.h"

namespace data {

// A permutation of [0, count): where `index` goes. Needs no memory (a Feistel network with cycle walking).
std::uint64_t permuted(std::uint64_t index, std::uint64_t count, std::uint64_t seed,
                       std::uint64_t epoch) noexcept;

class Windows {
 public:
  // Tokens [first, last) of the file; window w has inputs [first + w * length, + length) and targets one
  // token on.
  Windows(const TokenFile& file, std::uint64_t first, std::uint64_t last, std::uint64_t length)
      : file_(file), first_(first), last_(last), length_(length) {}

  std::uint64_t whole() const noexcept { return targets() / length_; }  // windows with every target
  std::uint64_t all() const noexcept {
    return (targets() + length_ - 1) / length_;
  }  // and the short last one
  std::uint64_t targets() const noexcept { return last_ - first_ < 2 ? 0 : last_ - first_ - 1; }
  std::uint64_t length() const noexcept { return length_; }

  // Fills ids and targets [length] of window `w` < all(). Past the end of the range ids are 0 and targets -1.
  void read(std::uint64_t w, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const;

  // The window of sample `index` of an endless run: epoch index / whole(), each a permutation of all whole
  // windows.
  std::uint64_t shuffled(std::uint64_t index, std::uint64_t seed) const noexcept {
    return permuted(index % whole(), whole(), seed, index / whole());
  }

 private:
  const TokenFile& file_;
  std::uint64_t first_, last_, length_;
};

}  // namespace data
