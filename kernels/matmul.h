// General matrix product, through CBLAS on the CPU.
#pragma once
#include "kernels/types.h"

namespace k {

struct MatMul {  // d (=|+=) op(a) op(b) + residual + bias, row major; d, residual and bias are added first
  Grad d;        // [m, n]
  In a, b;       // [m, k], or [k, m] with transpose_a; [k, n], or [n, k] with transpose_b
  In residual = {};  // [m, n] or null; may not alias d
  In bias = {};      // [n] or null
  std::int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
};
Cost cost(const MatMul&);
Status run(Cpu, const MatMul&) noexcept;

}  // namespace k
