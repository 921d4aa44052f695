// The non-linearities of the feed-forward layer: exact GELU x Phi(x) (erf), and SwiGLU silu(gate) * up.
#pragma once
#include "kernels/types.h"

namespace k {

struct GeluForward {
  Out y;  // [count]
  In x;   // [count]
  std::int64_t count;
};
struct GeluBackward {
  Grad dx;
  In dy, x;
  std::int64_t count;
};
// Behind a bias: dx = dy gelu'(x), and the gradient of the bias, dbias[c] (=|+=) the sum over rows of dx[r,
// c], which costs no pass of its own here.
struct GeluBiasBackward {
  Out dx;          // [rows, dim]
  Grad dbias;      // [dim], fp32
  float* partial;  // scratch [column_sum_groups(rows), dim], for CUDA only
  In dy, x;
  std::int64_t rows, dim;
};
struct SwiGluForward {
  Out y;  // [rows, dim]
  In x;   // [rows, 2 * dim]: gate, then up
  std::int64_t rows, dim;
};
struct SwiGluBackward {
  Grad dx;
  In dy, x;
  std::int64_t rows, dim;
};
Cost cost(const GeluForward&);
Cost cost(const GeluBackward&);
Cost cost(const GeluBiasBackward&);
Cost cost(const SwiGluForward&);
Cost cost(const SwiGluBackward&);
Status run(Cpu, const GeluForward&) noexcept;
Status run(Cuda, const GeluForward&) noexcept;
Status run(Cpu, const GeluBackward&) noexcept;
Status run(Cuda, const GeluBackward&) noexcept;
Status run(Cpu, const GeluBiasBackward&) noexcept;
Status run(Cuda, const GeluBiasBackward&) noexcept;
Status run(Cpu, const SwiGluForward&) noexcept;
Status run(Cuda, const SwiGluForward&) noexcept;
Status run(Cpu, const SwiGluBackward&) noexcept;
Status run(Cuda, const SwiGluBackward&) noexcept;

}  // namespace k
