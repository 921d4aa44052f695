// The products of generation: few rows, each summed in an order of its own, so that a row's bits do not
// depend on how many others there are (those of a BLAS product do).
#pragma once
#include "kernels/types.h"

namespace k {

struct RowsProduct {
  Out y;                 // [rows, out], of x's type or fp32
  In weight, bias = {};  // [out, in], [out] or null
  std::int64_t out = 0;
};
// y = act(norm(x) weight^T + bias) + residual. What rounds: the sum with its bias where an activation
// follows, and the result. The rows' norm is exact in fp32; in bf16 it is x times the norm's weights that is
// rounded, and the sum is multiplied by 1 / sqrt(mean(x^2) + eps).
struct RowsLinear {
  RowsProduct first, second = {};  // of the same rows; the second, without activation and residual, if it has
                                   // outputs
  In x;                            // [rows, in], of the weights' type
  In norm = {};                    // [in]: x is normed first as by RmsNormForward; null: it is not
  In residual = {};                // [rows, out] or null; excludes `gelu`
  float* normed = nullptr;         // scratch of the CPU body with `norm`: [rows, in + 1]
  std::int64_t rows, in;
  float eps = 0;
  bool gelu = false;
};
Cost cost(const RowsLinear&);
Status run(Cpu, const RowsLinear&) noexcept;
Status run(Cuda, const RowsLinear&) noexcept;

}  // namespace k
