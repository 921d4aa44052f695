#include "data/document_sample.h"

#include <algorithm>

namespace data {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): its numbers for different states are all different.
std::uint64_t scrambled(std::uint64_t state) noexcept {
  state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9u;
  state = (state ^ state >> 27) * 0x94D049BB133111EBu;
  return state ^ state >> 31;
}

}  // namespace

void DocumentSample::add(std::string document) {
  const std::uint64_t number = scrambled(scrambled(seed_) + ++documents_ * 0x9E3779B97F4A7C15u);
  bytes_ += document.size();
  if (!kept_.empty() && kept_bytes_ + document.size() > most_bytes_ && number > kept_.front().first) return;
  kept_bytes_ += document.size();
  kept_.emplace_back(number, std::move(document));
  std::push_heap(kept_.begin(), kept_.end(), Lower{});
  while (kept_bytes_ > most_bytes_ && kept_.size() > 1) {
    std::pop_heap(kept_.begin(), kept_.end(), Lower{});
    kept_bytes_ -= kept_.back().second.size();
    kept_.pop_back();
  }
}

std::vector<std::string> DocumentSample::take() {
  std::vector<std::string> documents;
  documents.reserve(kept_.size());
  for (auto& [number, document] : kept_) documents.push_back(std::move(document));
  kept_.clear();
  return documents;
}

}  // namespace data
