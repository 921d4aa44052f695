// Training samples out of several files as one endless sequence, in which each file has its share at all
// times (docs/model.md, "Objective and windows").
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "data/windows.h"

namespace data {

// Deals draws 0, 1, 2, .. to parts by their shares: of the first n, part i has floor(n * p) or ceil(n * p),
// where p is its share of the sum. A function of the shares alone, with the period of their sum. This is
// scheduling on one machine by the earliest deadline (Baruah et al. 1996, "Proportionate progress").
class Interleaving {
 public:
  // At least one share; each is positive, and their sum below 2^62.
  explicit Interleaving(std::vector<std::uint64_t> shares);

  struct Draw {
    std::size_t part;
    std::uint64_t index;  // draws that the part had before this one
  };
  Draw next() noexcept;
  // What follows is what follows the first `draws`. Takes the time of as many, or of a period if that is
  // less.
  void seek(std::uint64_t draws) noexcept;

  std::span<const std::uint64_t> shares() const noexcept { return shares_; }  // in lowest terms
  double share(std::size_t part) const noexcept { return double(shares_[part]) / double(sum_); }

 private:
  std::vector<std::uint64_t> shares_;
  std::uint64_t sum_ = 0;
  std::vector<std::int64_t> lag_;     // sum_ * (draws that the part is due - draws that it had)
  std::vector<std::uint64_t> drawn_;  // draws that the part had
};

// Positive weights from 1e-9 to 1e9 as whole numbers in their proportion, up to 1e9 together: what is decimal
// stays exact, and a weight that is too small beside the others counts as one.
std::vector<std::uint64_t> shares_of(std::span<const double> weights);

class Mixture {
 public:
  // `parts` with whole() > 0 each, and a share for each. No shares: each part has its windows as its share,
  // so that whole() draws take every window of all parts once.
  Mixture(std::vector<Windows> parts, std::vector<std::uint64_t> shares, std::uint64_t seed);

  std::uint64_t whole() const noexcept { return whole_; }  // windows of all parts
  std::span<const Windows> parts() const noexcept { return parts_; }
  const Interleaving& order() const noexcept { return order_; }

  // Reads the next window, as Windows::read() does. Each part runs through its own shuffled() order and on
  // into its next epoch whenever that is; with one part this is that order.
  void read_next(std::span<std::int32_t> ids, std::span<std::int32_t> targets);
  void seek(std::uint64_t windows) noexcept { order_.seek(windows); }

 private:
  std::vector<Windows> parts_;
  std::uint64_t seed_, whole_ = 0;
  Interleaving order_;
};

}  // namespace data
