#include "kernels/ffn.h"

#include <algorithm>

#include "kernels/cpu.h"
#include "kernels/vector_math.h"

namespace k {
namespace {

// Two loops rather than a choice inside one, so that overwriting does not read.
template <class F> void write(Grad g, std::int64_t first, std::int64_t count, F value) {
  float* d = f32(g) + first;
  if (g.add) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; i++) d[i] += value(i);
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < count; i++) d[i] = value(i);
  }
}

constexpr std::int64_t kBlock = 4096;  // elements a thread takes at once

}  // namespace

Cost cost(const GeluForward& p) {
  double n = double(p.count);
  return {2 * n, n * double(size_of(p.x.t) + size_of(p.y.t))};
}
Cost cost(const GeluBackward& p) {
  double n = double(p.count);
  return {5 * n, n * double(size_of(p.x.t) + size_of(p.dy.t)) + traffic(p.dx, n)};
}
Cost cost(const SwiGluForward& p) {
  double n = double(p.rows) * double(p.dim);
  return {3 * n, n * double(2 * size_of(p.x.t) + size_of(p.y.t))};
}
Cost cost(const SwiGluBackward& p) {
  double n = double(p.rows) * double(p.dim);
  return {9 * n, n * double(2 * size_of(p.x.t) + size_of(p.dy.t)) + traffic(p.dx, 2 * n)};
}

Status run(Cpu, const GeluForward& p) noexcept {
  if (!all_f32(p.y.t, p.x.t)) return unsupported_dtype();
  float* y = f32(p.y);
  const float* x = f32(p.x);
#pragma omp parallel for simd schedule(static) if (p.count >= kParallelFrom)
  for (std::int64_t i = 0; i < p.count; i++) y[i] = x[i] * normal_f32(x[i]).below;
  return {};
}

Status run(Cpu, const GeluBackward& p) noexcept {
  if (!all_f32(p.dx.t, p.dy.t, p.x.t)) return unsupported_dtype();
  if (!p.dx.p) return {};
#pragma omp parallel for schedule(static) if (p.count >= kParallelFrom)
  for (std::int64_t first = 0; first < p.count; first += kBlock) {
    const float *x = f32(p.x) + first, *dy = f32(p.dy) + first;
    write(p.dx, first, std::min(kBlock, p.count - first), [=](std::int64_t i) {
      const Normal at = normal_f32(x[i]);
      return dy[i] * (at.below + x[i] * at.density);
    });
  }
  return {};
}

Status run(Cpu, const SwiGluForward& p) noexcept {
  if (!all_f32(p.y.t, p.x.t)) return unsupported_dtype();
#pragma omp parallel for schedule(static) if (p.rows * p.dim >= kParallelFrom)
  for (std::int64_t r = 0; r < p.rows; r++) {
    const float *gate = f32(p.x) + r * 2 * p.dim, *up = gate + p.dim;
    float* y = f32(p.y) + r * p.dim;
#pragma omp simd
    for (std::int64_t c = 0; c < p.dim; c++) y[c] = gate[c] * sigmoid_f32(gate[c]) * up[c];
  }
  return {};
}

Status run(Cpu, const SwiGluBackward& p) noexcept {
  if (!all_f32(p.dx.t, p.dy.t, p.x.t)) return unsupported_dtype();
  if (!p.dx.p) return {};
#pragma omp parallel for schedule(static) if (p.rows * p.dim >= kParallelFrom)
  for (std::int64_t r = 0; r < p.rows; r++) {
    const std::int64_t at = r * 2 * p.dim;
    const float *gate = f32(p.x) + at, *up = gate + p.dim, *dy = f32(p.dy) + r * p.dim;
    write(p.dx, at, p.dim, [=](std::int64_t c) {
      const float s = sigmoid_f32(gate[c]);
      return dy[c] * up[c] * s * (1.f + gate[c] * (1.f - s));
    });
    write(p.dx, at + p.dim, p.dim, [=](std::int64_t c) { return dy[c] * gate[c] * sigmoid_f32(gate[c]); });
  }
  return {};
}

}  // namespace k
