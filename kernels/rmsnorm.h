// y = w * x * rstd, rstd = 1 / sqrt(mean(x^2) + eps), row by row (docs/model.md 1.1).
#pragma once
#include <algorithm>

#include "kernels/types.h"

namespace k {

struct RmsNormForward {
  Out y;        // [rows, dim]
  float* rstd;  // [rows], kept for the backward pass
  In x, w;      // [rows, dim], [dim]
  std::int64_t rows, dim;
  float eps;
};

// dL/dw comes in parts, whose sum over the groups it is: row r belongs to group r * groups / rows.
struct RmsNormBackward {
  Grad dx;         // [rows, dim]
  float* partial;  // [rmsnorm_groups(rows), dim]
  In dy, x, w;
  const float* rstd;
  std::int64_t rows, dim;
};

constexpr std::int64_t rmsnorm_groups(std::int64_t rows) noexcept {
  return std::min<std::int64_t>(1024, (rows + 7) / 8);
}

Cost cost(const RmsNormForward&);
Cost cost(const RmsNormBackward&);
Status run(Cpu, const RmsNormForward&) noexcept;
Status run(Cuda, const RmsNormForward&) noexcept;
Status run(Cpu, const RmsNormBackward&) noexcept;
Status run(Cuda, const RmsNormBackward&) noexcept;

}  // namespace k
