#include "kernels/rope.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"

namespace k {
namespace {

// Where the pair c of a head's features lies, and how far apart its two members are.
struct Pairs {
  std::int64_t step, apart;
  Pairs(Rotation rotation, std::int64_t dim) {
    step = rotation == Rotation::adjacent ? 2 : 1;
    apart = rotation == Rotation::adjacent ? 1 : dim / 2;
  }
};

// y (=|+=) x turned by the angles of one position; `turn` -1 turns back.
void rotate(const float* x, float* y, const float* angles, Pairs pairs, std::int64_t dim, float turn,
            bool add) {
#pragma omp simd
  for (std::int64_t c = 0; c < dim / 2; c++) {
    float cosine = angles[2 * c], sine = turn * angles[2 * c + 1];
    std::int64_t i = c * pairs.step, j = i + pairs.apart;
    float u = x[i] * cosine - x[j] * sine, v = x[j] * cosine + x[i] * sine;
    y[i] = add ? y[i] + u : u;
    y[j] = add ? y[j] + v : v;
  }
}

}  // namespace

Cost cost(const RopeTable& p) {
  double angles = double(p.length) * double(p.dim / 2);
  return {3 * angles, 8 * angles};
}

Cost cost(const SplitHeads& p) {
  double count = double(p.batch) * double(p.heads) * double(p.length) * double(p.dim);
  return {p.rotation == Rotation::none ? 0 : 3 * count, count * double(size_of(p.x.t) + size_of(p.y.t))};
}

Cost cost(const MergeHeads& p) {
  double count = double(p.batch) * double(p.heads) * double(p.length) * double(p.dim);
  double moved = double(size_of(p.y.t)) + double(size_of(p.x.t)) * (p.x.add ? 2 : 1);
  return {(p.rotation == Rotation::none ? 0 : 3 * count) + (p.x.add ? count : 0), count * moved};
}

Status run(Cpu, const RopeTable& p) noexcept {
  std::int64_t half = p.dim / 2;
  for (std::int64_t c = 0; c < half; c++) {
    auto frequency = static_cast<float>(std::pow(double(p.base), -2. * double(c) / double(p.dim)));
    for (std::int64_t t = 0; t < p.length; t++) {
      float angle = static_cast<float>(p.first_position + t) * frequency;
      float* at = p.table + (t * half + c) * 2;
      at[0] = static_cast<float>(std::cos(double(angle)));
      at[1] = static_cast<float>(std::sin(double(angle)));
    }
  }
  return {};
}

Status run(Cpu, const SplitHeads& p) noexcept {
  if (!all_f32(p.x.t, p.y.t)) return unsupported_dtype();
  auto* x = f32(p.x);
  auto* y = f32(p.y);
  Pairs pairs(p.rotation, p.dim);
#pragma omp parallel for schedule(static) if (p.batch * p.heads * p.length * p.dim >= kParallelFrom)
  for (std::int64_t unit = 0; unit < p.batch * p.heads; unit++) {
    std::int64_t b = unit / p.heads, h = unit % p.heads;
    for (std::int64_t t = 0; t < p.length; t++) {
      const float* from = x + (b * p.length + t) * p.row_width + p.first_column + h * p.dim;
      float* to = y + (unit * p.length + t) * p.dim;
      if (p.rotation == Rotation::none) std::copy_n(from, p.dim, to);
      else rotate(from, to, p.table + t * p.dim, pairs, p.dim, 1, false);
    }
  }
  return {};
}

Status run(Cpu, const MergeHeads& p) noexcept {
  if (!p.x.p) return {};
  if (!all_f32(p.x.t, p.y.t)) return unsupported_dtype();
  auto* x = f32(p.x);
  auto* y = f32(p.y);
  Pairs pairs(p.rotation, p.dim);
#pragma omp parallel for schedule(static) if (p.batch * p.heads * p.length * p.dim >= kParallelFrom)
  for (std::int64_t unit = 0; unit < p.batch * p.heads; unit++) {
    std::int64_t b = unit / p.heads, h = unit % p.heads;
    for (std::int64_t t = 0; t < p.length; t++) {
      const float* from = y + (unit * p.length + t) * p.dim;
      float* to = x + (b * p.length + t) * p.row_width + p.first_column + h * p.dim;
      if (p.rotation != Rotation::none) rotate(from, to, p.table + t * p.dim, pairs, p.dim, -1, p.x.add);
      else if (p.x.add)
        for (std::int64_t d = 0; d < p.dim; d++) to[d] += from[d];
      else std::copy_n(from, p.dim, to);
    }
  }
  return {};
}

}  // namespace k
