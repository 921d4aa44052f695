// The next token of each row: filters over logits, then a draw (docs/reference.md, sample).
#pragma once
#include "kernels/types.h"

namespace k {

struct SampleRule {          // neutral: penalty 1, keep 0, top_p 1, min_p 0; temperature 0 is greedy
  double repeat_penalty;     // above 0
  std::int64_t repeat_last;  // tokens that the penalty looks back
  std::int64_t keep;         // the most candidates, by top-frac and top-k; 0: all
  double top_p, min_p;       // each in [0, 1]
  double temperature;
  std::int32_t banned;  // never drawn; -1: nothing is
  std::uint64_t seed;   // row r draws under seed + r
};

// A row's draw is a function of its logits, its last tokens, its position and its seed: each candidate gets
// Gumbel noise keyed by (seed, position, token), the largest wins. Equal logits are in the order of their
// tokens, and shares of probability are sums of integers (kernels/sample_math.h), so that no order of
// evaluation can change what passes a filter.
struct Sample {
  std::int32_t* tokens;  // [rows, capacity], the token drawn is appended
  std::int32_t*
      positions;        // [rows], of the newest token, -1: none; in [-1, capacity - 1), one more afterwards
  std::int32_t* drawn;  // [2, rows]: the token; the first index of a logit that is NaN or +infinity, or
                        // -1. Where there is one the token drawn is 0.
  In logits;            // [rows, stride], columns from vocab on are not read; the CPU takes f32 only
  std::uint64_t* scratch;                      // [rows, vocab]
  std::int64_t rows, vocab, stride, capacity;  // vocab <= 2^23, and not all of it is banned
  SampleRule rule;
};
Cost cost(const Sample&);
Status run(Cpu, const Sample&) noexcept;
Status run(Cuda, const Sample&) noexcept;

}  // namespace k
