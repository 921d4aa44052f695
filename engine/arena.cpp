#include "engine/arena.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace engine {

std::size_t Arena::take(std::size_t bytes) {
  bytes = (std::max<std::size_t>(bytes, 1) + 255) / 256 * 256;
  for (auto hole = free_.begin(); hole != free_.end(); ++hole) {
    if (hole->second < bytes) continue;
    std::size_t at = hole->first, rest = hole->second - bytes;
    free_.erase(hole);
    if (rest) free_[at + bytes] = rest;
    live_[at] = bytes;
    return at;
  }
  std::size_t at = top_;
  top_ += bytes;
  if (committed() && top_ > peak_) {
    top_ -= bytes;
    throw std::logic_error("arena: a step asked for more memory than its rehearsal");
  }
  peak_ = std::max(peak_, top_);
  live_[at] = bytes;
  return at;
}

void Arena::give(std::size_t offset) noexcept {
  if (begun_ > over_) kept_.push_back({begun_, offset});
  else release(offset);
}

void Arena::over(std::uint64_t job) noexcept {
  over_ = job;
  for (; !kept_.empty() && kept_.front().job <= job; kept_.pop_front()) release(kept_.front().offset);
}

void Arena::release(std::size_t offset) noexcept {
  auto block = live_.find(offset);
  std::size_t bytes = block->second;
  live_.erase(block);
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && offset + bytes == next->first) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return trim();
    }
  }
  free_[offset] = bytes;
  trim();
}

// The last hole is not a hole but the end of what is used.
void Arena::trim() noexcept {
  if (free_.empty()) return;
  auto last = std::prev(free_.end());
  if (last->first + last->second != top_) return;
  top_ = last->first;
  free_.erase(last);
}

void Arena::commit() { slab_ = allocate(device_, std::max<std::size_t>(peak_, 256)); }

}  // namespace engine
