#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace data {
namespace {

std::vector<std::uint64_t> sizes_of(std::span<const Windows> parts) {
  std::vector<std::uint64_t> sizes;
  for (const Windows& part : parts) sizes.push_back(part.whole());
  return sizes;
}

}  // namespace

Interleaving::Interleaving(std::vector<std::uint64_t> shares)
    : shares_(std::move(shares)), lag_(shares_.size(), 0), drawn_(shares_.size(), 0) {
  std::uint64_t divisor = 0;
  for (const std::uint64_t share : shares_) divisor = std::gcd(divisor, share);
  for (std::uint64_t& share : shares_) {
    share /= divisor;
    sum_ += share;
  }
}

Interleaving::Draw Interleaving::next() noexcept {
  std::size_t part = 0;
  std::uint64_t nearest = ~std::uint64_t{0};
  for (std::size_t i = 0; i < shares_.size(); i++) {
    lag_[i] += std::int64_t(shares_[i]);
    if (lag_[i] <= 0) continue;  // one more would be more than its share rounded up
    // Draws from now on, this one not counted, before one more is less than its share rounded down.
    const std::uint64_t slack = (sum_ + shares_[i] - std::uint64_t(lag_[i]) - 1) / shares_[i];
    if (slack < nearest) nearest = slack, part = i;
  }
  lag_[part] -= std::int64_t(sum_);
  return {part, drawn_[part]++};
}

void Interleaving::seek(std::uint64_t draws) noexcept {
  const std::uint64_t periods = draws / sum_;
  std::ranges::fill(lag_, 0);
  std::ranges::transform(shares_, drawn_.begin(), [&](std::uint64_t share) { return periods * share; });
  for (std::uint64_t i = periods * sum_; i < draws; i++) next();
}

std::vector<std::uint64_t> shares_of(std::span<const double> weights) {
  constexpr double kMost = 1e9;
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double scale = std::pow(10, std::floor(std::log10(kMost / sum)));
  std::vector<std::uint64_t> shares;
  for (const double weight : weights)
    shares.push_back(std::uint64_t(std::max(1.0, std::round(weight * scale))));
  return shares;
}

Mixture::Mixture(std::vector<Windows> parts, std::vector<std::uint64_t> shares, std::uint64_t seed)
    : parts_(std::move(parts)), seed_(seed), order_(shares.empty() ? sizes_of(parts_) : std::move(shares)) {
  for (const Windows& part : parts_) whole_ += part.whole();
}

void Mixture::read_next(std::span<std::int32_t> ids, std::span<std::int32_t> targets) {
  const auto [part, index] = order_.next();
  parts_[part].read(parts_[part].shuffled(index, seed_), ids, targets);
}

}  // namespace data
