// General matrix product, through CBLAS on the CPU and cuBLASLt on a card.
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
// fp32 products are fp32 throughout (no TF32); bf16 ones are summed in fp32 and rounded once. `add` and
// `residual` exclude each other.
Status run(Cuda, const MatMul&) noexcept;

// run(Cpu, MatMul) calls BLAS from every OpenMP thread. A BLAS that starts threads of its own (OpenBLAS built
// on pthreads) is told to use one, or each of ours would start as many again. To be called before the first
// product.
void keep_blas_to_one_thread() noexcept;

}  // namespace k
