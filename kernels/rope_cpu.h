// Private to the CPU kernels: the rotation of one head.
#pragma once
#include "kernels/rope.h"

namespace k {

// y (=|+=) x turned by the angles of one position; `turn` -1 turns back.
template <Rotation rotation, bool add>
void rotate(const float* x, float* y, const float* angles, std::int64_t dim, float turn) {
  constexpr bool kAdjacent = rotation == Rotation::adjacent;
  const std::int64_t apart = kAdjacent ? 1 : dim / 2;
#pragma omp simd
  for (std::int64_t c = 0; c < dim / 2; c++) {
    const std::int64_t i = kAdjacent ? 2 * c : c, j = i + apart;
    const float cosine = angles[2 * c], sine = turn * angles[2 * c + 1];
    const float u = x[i] * cosine - x[j] * sine, v = x[j] * cosine + x[i] * sine;
    y[i] = add ? y[i] + u : u;
    y[j] = add ? y[j] + v : v;
  }
}

}  // namespace k
