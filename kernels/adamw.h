// AdamW (Loshchilov & Hutter 2019) with clipping on the global norm, over a flat range of parameters.
#pragma once
#include "kernels/types.h"

namespace k {

struct AdamWScalars {  // what changes from step to step; lives in the device's memory
  float learning_rate;
  float correction1, correction2;  // 1 - beta^step
};

// g = grad * min(1, clip / norm), norm = sqrt(sum_of_squares); m and v are the usual moments;
// value -= learning_rate * (m / correction1 / (sqrt(v / correction2) + eps) + decay * value), decay only in
// [0, decayed). clip <= 0: no clipping. A norm that is not finite makes the whole update a no-op.
// fp32 values are updated in place and have no master; bf16 values are those of the fp32 master, rounded.
struct AdamW {
  Out value;                     // [count]
  float* master = nullptr;       // [count], updated; with bf16 values only
  float *m, *v;                  // [count]
  const float* grad;             // [count]
  const double* sum_of_squares;  // [1], over the gradients of all parameters
  const AdamWScalars* scalars;   // [1]
  std::int64_t count, decayed;
  float beta1, beta2, eps, decay, clip;
};
Cost cost(const AdamW&);
Status run(Cpu, const AdamW&) noexcept;
Status run(Cuda, const AdamW&) noexcept;

}  // namespace k
