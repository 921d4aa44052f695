// Drawing tokens on the device that made the logits.
#pragma once
#include "engine/ops.h"

namespace engine {

struct SamplerConfig {  // neutral: penalty 1, top_k 0, top_p 1, min_p 0; temperature 0 is greedy
  double repeat_penalty = 1;
  std::int64_t repeat_last = 64;  // tokens that the penalty looks back
  double top_frac = 0;            // > 0: keep ceil(top_frac * vocabulary), the reference program's filter
  std::int64_t top_k = 40;
  double top_p = 0.95, min_p = 0.05, temperature = 0.8;
};

// What a draw reads and writes (kernels/sample.h), one row a sample.
struct Draws {
  Tensor tokens;     // i32 [samples, capacity]: what each sample holds
  Tensor positions;  // i32 [samples]: where its newest token stands
  Tensor drawn;      // i32 [2, samples]: the tokens drawn; the first whose logit is not finite, or -1
};

namespace ops {

// The next token of each sample from logits, fp32 [samples, at least vocab]. Sample i
// draws under seed + i; `banned` is never drawn, -1: nothing is.
void draw(Tape&, const Tensor& logits, const Draws&, const SamplerConfig&, std::int64_t vocab,
          std::uint64_t seed, std::int32_t banned);

}  // namespace ops
}  // namespace engine
