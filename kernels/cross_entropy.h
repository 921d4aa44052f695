// Softmax cross entropy over rows of logits; turns the logits into their gradient in place.
#pragma once
#include "kernels/types.h"

namespace k {

// loss[r] = log(sum over c < vocab of exp(logits[r, c])) - logits[r, target]; targets < 0 are not counted:
// loss 0, gradient 0. With `gradient`, logits[r, c] becomes grad_scale * (softmax - onehot), 0 for c in
// [vocab, row_width).
struct CrossEntropy {
  float* loss;                  // [rows]
  Out logits;                   // [rows, row_width], read, and overwritten with `gradient`
  const std::int32_t* targets;  // [rows]
  std::int64_t rows, vocab, row_width;
  float grad_scale;
  bool gradient;
};
Cost cost(const CrossEntropy&);
Status run(Cpu, const CrossEntropy&) noexcept;
Status run(Cuda, const CrossEntropy&) noexcept;

}  // namespace k
