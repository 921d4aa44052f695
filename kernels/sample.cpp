#include "kernels/sample.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "kernels/cpu.h"
#include "kernels/sample_math.h"

namespace k {
namespace {

// A candidate is one number: larger logits first, then lower tokens.
using Candidate = std::uint64_t;

Candidate candidate(float logit, std::int64_t token) {
  return std::uint64_t(key_of(logit)) << 32 | ~std::uint32_t(token);
}
float logit_in(Candidate c) { return logit_of(std::uint32_t(c >> 32)); }
std::int32_t token_in(Candidate c) { return std::int32_t(~std::uint32_t(c)); }

struct Row {
  const SampleRule& rule;
  const float* logits;
  std::int64_t vocab;
  const std::int32_t* tokens;
  std::int64_t position;  // of the token to draw, so there are as many before it
  std::uint64_t seed;
  Candidate* candidates;
  std::int64_t count = 0;

  std::int32_t draw() {
    for (std::int64_t i = 0; i < vocab; i++)
      if (i != rule.banned) candidates[count++] = candidate(logits[i], i);
    penalize();
    if (rule.temperature <= 0) return token_in(*std::max_element(candidates, candidates + count));
    keep_largest();
    keep_probable();
    return largest_with_noise();
  }

 private:
  void penalize() {
    if (rule.repeat_penalty == 1) return;
    for (std::int64_t i = std::max<std::int64_t>(position - rule.repeat_last, 0); i < position; i++) {
      const std::int64_t token = tokens[i];
      if (token < 0 || token >= vocab || token == rule.banned) continue;
      const bool behind_banned = rule.banned >= 0 && token > rule.banned;
      candidates[token - behind_banned] = candidate(penalized(logits[token], rule.repeat_penalty), token);
    }
  }

  void keep_largest() {
    if (rule.keep <= 0 || rule.keep >= count) return;
    std::nth_element(candidates, candidates + rule.keep - 1, candidates + count, std::greater<>());
    count = rule.keep;
  }

  void keep_probable() {
    if (rule.top_p >= 1 && rule.min_p <= 0) return;
    std::sort(candidates, candidates + count, std::greater<>());
    const float top = logit_in(candidates[0]);
    if (rule.top_p < 1) {
      std::uint64_t total = 0, sum = 0;
      for (std::int64_t i = 0; i < count; i++) total += weight_of(logit_in(candidates[i]), top);
      const std::uint64_t share = share_of(total, rule.top_p);
      std::int64_t kept = 0;
      while (sum < share) sum += weight_of(logit_in(candidates[kept++]), top);
      count = kept;
    }
    if (rule.min_p > 0) {
      const double least = double(top) + std::log(rule.min_p);
      while (double(logit_in(candidates[count - 1])) < least) count--;
    }
  }

  std::int32_t largest_with_noise() const {
    double best = -std::numeric_limits<double>::infinity();
    std::int32_t chosen = std::numeric_limits<std::int32_t>::max();
    for (std::int64_t i = 0; i < count; i++) {
      const std::int32_t token = token_in(candidates[i]);
      const double score = double(logit_in(candidates[i])) / rule.temperature +
                           noise_of(seed, std::uint64_t(position), std::uint64_t(token));
      if (score > best || (score == best && token < chosen)) best = score, chosen = token;
    }
    return chosen;
  }
};

// NaN or +infinity; -1: none is.
std::int64_t first_not_finite(const float* logits, std::int64_t vocab) {
  for (std::int64_t i = 0; i < vocab; i++)
    if (!(logits[i] < std::numeric_limits<float>::infinity())) return i;
  return -1;
}

}  // namespace

Cost cost(const Sample& p) {
  const double logits = double(p.rows) * double(p.vocab);
  return {logits, logits * double(size_of(p.logits.t))};
}

Status run(Cpu, const Sample& p) noexcept {
  if (!all_f32(p.logits.t)) return unsupported_dtype();
#pragma omp parallel for schedule(static) if (p.rows * p.vocab >= kParallelFrom)
  for (std::int64_t r = 0; r < p.rows; r++) {
    const float* logits = f32(p.logits) + r * p.stride;
    std::int32_t* tokens = p.tokens + r * p.capacity;
    const std::int64_t position = p.positions[r] + 1, bad = first_not_finite(logits, p.vocab);
    const std::int32_t token = bad >= 0 ? 0
                                        : Row{.rule = p.rule,
                                              .logits = logits,
                                              .vocab = p.vocab,
                                              .tokens = tokens,
                                              .position = position,
                                              .seed = p.rule.seed + std::uint64_t(r),
                                              .candidates = p.scratch + r * p.vocab}
                                              .draw();
    tokens[position] = token;
    p.positions[r] = std::int32_t(position);
    p.drawn[r] = token;
    p.drawn[p.rows + r] = std::int32_t(bad);
  }
  return {};
}

}  // namespace k
