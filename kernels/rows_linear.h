// The products of generation: few rows, each summed in an order of its own, so that a row's bits do not
// depend on how many others there are (those of a BLAS product do).
#pragma once
#include "kernels/types.h"

namespace k {

// y = act(norm(x) weight^T + bias) + residual. What rounds where is what the ops of training round: the
// normed rows, the sum with its bias where an activation follows, the result.
struct RowsLinear {
  Out y;                    // [rows, out], of x's type or fp32
  In x, weight;             // [rows, in], [out, in], of one type
  In norm = {};             // [in]: x is normed first as by RmsNormForward; null: it is not
  In bias = {};             // [out] or null
  In residual = {};         // [rows, out] or null; excludes `gelu`
  float* normed = nullptr;  // scratch with `norm`: [rows, in + 1]
  std::int64_t rows, out, in;
  float eps = 0;
  bool gelu = false;
};
Cost cost(const RowsLinear&);
Status run(Cpu, const RowsLinear&) noexcept;
Status run(Cuda, const RowsLinear&) noexcept;

}  // namespace k
