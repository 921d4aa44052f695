// From logits to the next token: repeat penalty, top-frac, top-k, top-p, min-p, temperature, in this order.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/rng.h"

namespace model {

struct SamplerConfig {  // neutral: penalty 1, top_k 0, top_p 1, min_p 0; temperature 0 is greedy
  double repeat_penalty = 1;
  std::int64_t repeat_last = 64;  // tokens that the penalty looks back
  double top_frac = 0;            // > 0: keep ceil(top_frac * vocabulary), the reference program's filter
  std::int64_t top_k = 40;
  double top_p = 0.95, min_p = 0.05, temperature = 0.8;
};

class Sampler {
 public:
  Sampler(SamplerConfig config, std::uint64_t seed) : config_(config), rng_{seed} {}
  // The token at `position` after `history`; logits [vocab]. A pure function of its arguments, the
  // configuration and the seed: each candidate gets Gumbel noise keyed by (position, token), the largest
  // wins, ties to the lower token. `banned`, when given, can not be drawn. Throws Error(diverged) if a logit
  // is NaN or +infinity.
  std::int32_t next(std::span<const float> logits, std::span<const std::int32_t> history,
                    std::uint64_t position, std::optional<std::int32_t> banned = std::nullopt);

 private:
  struct Candidate {
    float logit;
    std::int32_t token;
  };
  void penalize(std::span<const std::int32_t> history);
  void keep_largest(std::size_t count);
  void keep_probable();

  SamplerConfig config_;
  engine::Rng rng_;
  std::vector<Candidate> candidates_;
};

}  // namespace model
