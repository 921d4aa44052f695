// From logits to the next token: repeat penalty, the largest, top-p, min-p, temperature, in this order
// (docs/reference.md).
#pragma once
#include "kernels/types.h"

namespace k {

struct SampleRule {
  double repeat_penalty = 1;      // a positive logit of a recent token is divided, a negative one multiplied
  std::int64_t repeat_last = 64;  // recent: among so many tokens
  std::int64_t keep = 0;          // so many of the largest logits, the lower token first among equals; 0: all
  double top_p = 1;               // of these the fewest largest that hold this share of their weight
  double min_p = 0;               // of these those at least so many times as probable as the best
  double temperature = 1;         // 0: the largest
  std::int32_t banned = -1;       // never drawn
  std::uint64_t seed = 0;         // row i draws under seed + i
};

// One token a row. Each candidate gets Gumbel noise keyed by (position, token), the largest sum wins, the
// lower token among equals. Weights are e^(logit - largest) in whole 2^-40, so that sums are exact in any
// order.
struct Sample {
  std::int32_t* tokens;     // [rows, capacity]: what each sample holds; the token drawn is appended
  std::int32_t* positions;  // [rows]: where the newest token stands; one more afterwards
  std::int32_t* drawn;  // [2, rows]: the token; the first of them whose logit is NaN or +infinity, or -1 (if
                        // there is one, the token drawn is 0)
  float* logits;        // [rows, stride], changed
  std::int32_t* order;  // scratch of the CPU body: [rows, vocab]
  std::int64_t rows, vocab, stride, capacity;
  SampleRule rule;
};
Cost cost(const Sample&);
Status run(Cpu, const Sample&) noexcept;
Status run(Cuda, const Sample&) noexcept;

}  // namespace k
