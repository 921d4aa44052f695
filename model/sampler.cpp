#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/error.h"

namespace model {

std::int32_t Sampler::next(std::span<const float> logits, std::span<const std::int32_t> history,
                           std::uint64_t position, std::optional<std::int32_t> banned) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); i++) {
    engine::require(logits[i] < std::numeric_limits<float>::infinity(), engine::Exit::diverged,
                    "the model's output for token {} at position {} is {}; the checkpoint has diverged", i,
                    position, logits[i]);
    if (std::int32_t(i) != banned) candidates_.push_back({logits[i], std::int32_t(i)});
  }
  penalize(history);
  const bool greedy = config_.temperature <= 0;
  if (greedy) {
    keep_largest(1);
    return candidates_.front().token;
  }
  if (config_.top_frac > 0) keep_largest(std::size_t(std::ceil(config_.top_frac * double(logits.size()))));
  if (config_.top_k > 0) keep_largest(std::size_t(config_.top_k));
  if (config_.top_p < 1 || config_.min_p > 0) keep_probable();

  double best = -std::numeric_limits<double>::infinity();
  std::int32_t chosen = candidates_.front().token;
  for (const Candidate& c : candidates_) {
    // 1 - u is in (0, 1], so that its logarithm is finite; the noise of a token is the same for every filter
    const double exponential = -std::log(1 - rng_.uniform(position, std::uint64_t(c.token)));
    const double score = double(c.logit) / config_.temperature - std::log(std::max(exponential, 1e-300));
    if (score > best || (score == best && c.token < chosen)) best = score, chosen = c.token;
  }
  return chosen;
}

// A logit is divided by the penalty where positive, multiplied where negative (Keskar et al. 2019).
void Sampler::penalize(std::span<const std::int32_t> history) {
  if (config_.repeat_penalty == 1 || config_.repeat_last <= 0) return;
  const auto recent = history.last(std::min(history.size(), std::size_t(config_.repeat_last)));
  std::vector<std::int32_t> seen(recent.begin(), recent.end());
  std::sort(seen.begin(), seen.end());
  for (Candidate& c : candidates_) {
    if (!std::binary_search(seen.begin(), seen.end(), c.token)) continue;
    c.logit = float(c.logit > 0 ? c.logit / config_.repeat_penalty : c.logit * config_.repeat_penalty);
  }
}

void Sampler::keep_largest(std::size_t count) {
  if (count == 0 || count >= candidates_.size()) return;
  const auto larger = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  std::nth_element(candidates_.begin(), candidates_.begin() + std::ptrdiff_t(count - 1), candidates_.end(),
                   larger);
  candidates_.resize(count);
}

// top-p: the fewest largest whose probability reaches top_p; min-p: those at least min_p times as probable as
// the best. Always keeps one.
void Sampler::keep_probable() {
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  });
  const double top = candidates_.front().logit;
  double total = 0;
  for (const Candidate& c : candidates_) total += std::exp(c.logit - top);
  std::size_t keep = candidates_.size();
  if (config_.top_p < 1) {
    double sum = 0;
    for (std::size_t i = 0; i < candidates_.size(); i++) {
      sum += std::exp(candidates_[i].logit - top) / total;
      if (sum >= config_.top_p) {
        keep = i + 1;
        break;
      }
    }
  }
  if (config_.min_p > 0) {
    const double least = top + std::log(config_.min_p);
    while (keep > 1 && candidates_[keep - 1].logit < least) keep--;
  }
  candidates_.resize(keep);
}

}  // namespace model
