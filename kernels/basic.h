// Element-wise and whole-array ops.
#pragma once
#include <algorithm>

#include "kernels/types.h"

namespace k {

struct Accumulate {  // y (=|+=) x
  Grad y;            // [count]
  In x;              // [count]
  std::int64_t count;
};
Cost cost(const Accumulate&);
Status run(Cpu, const Accumulate&) noexcept;
Status run(Cuda, const Accumulate&) noexcept;

struct Add {  // y = a + b
  Out y;      // [count]
  In a, b;    // [count]
  std::int64_t count;
};
Cost cost(const Add&);
Status run(Cpu, const Add&) noexcept;
Status run(Cuda, const Add&) noexcept;

struct ColumnSum {           // y[c] (=|+=) sum over rows of x[r, c]: the gradient of a bias
  Grad y;                    // [dim], fp32
  In x;                      // [rows, dim]
  float* partial = nullptr;  // scratch [column_sum_groups(rows), dim], for CUDA only
  std::int64_t rows, dim;
};
constexpr std::int64_t column_sum_groups(std::int64_t rows) noexcept {
  return std::min<std::int64_t>(256, (rows + 63) / 64);
}
Cost cost(const ColumnSum&);
Status run(Cpu, const ColumnSum&) noexcept;
Status run(Cuda, const ColumnSum&) noexcept;

// The sum of squares of a flat range, by fixed blocks of 65,536 elements added in order, so that it does not
// depend on threads. `partial` holds one double a block.
struct SumSquares {
  double* sum;      // [1]
  double* partial;  // [(count + 65535) / 65536]
  In x;             // [count]
  std::int64_t count;
};
inline constexpr std::int64_t kSumBlock = 65536;
Cost cost(const SumSquares&);
Status run(Cpu, const SumSquares&) noexcept;
Status run(Cuda, const SumSquares&) noexcept;

}  // namespace k
