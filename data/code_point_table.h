// A value for every code point in two stages: pages of 256 cells, the page that nobody wrote to stored once.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace data {

template <class T> class CodePointTable {
 public:
  explicit CodePointTable(T everywhere = {}) : pages_(kPages, 0), cells_(kPageSize, everywhere) {}

  // `c` is at most U+10FFFF.
  const T& operator[](char32_t c) const noexcept {
    return cells_[std::size_t{pages_[c >> 8]} << 8 | (c & (kPageSize - 1))];
  }

  // For writing: the page becomes one of its own. Valid until the next call.
  T& cell(char32_t c) {
    std::uint16_t& page = pages_[c >> 8];
    if (page == 0) {
      page = static_cast<std::uint16_t>(cells_.size() / kPageSize);
      cells_.resize(cells_.size() + kPageSize);
      std::copy_n(cells_.begin(), kPageSize, cells_.end() - kPageSize);
    }
    return cells_[std::size_t{page} << 8 | (c & (kPageSize - 1))];
  }

 private:
  static constexpr std::size_t kPageSize = 256, kPages = 0x110000 / kPageSize;

  std::vector<std::uint16_t> pages_;
  std::vector<T> cells_;
};

}  // namespace data
