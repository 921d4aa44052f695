#include "kernels/ffn.h"

#include "kernels/basic.h"
#include "kernels/cpu.h"
#include "kernels/vector_math.h"

namespace k {
namespace {

template <bool add> void put(float& d, float value) {
  if constexpr (add) d += value;
  else d = value;
}

template <bool add> void gelu_backward(float* dx, const float* dy, const float* x, std::int64_t count) {
#pragma omp parallel for simd schedule(static) if (count >= kParallelFrom)
  for (std::int64_t i = 0; i < count; i++) {
    const Normal at = normal_f32(x[i]);
    put<add>(dx[i], dy[i] * (at.below + x[i] * at.density));
  }
}

template <bool add> void swiglu_backward(const SwiGluBackward& p) {
#pragma omp parallel for schedule(static) if (p.rows * p.dim >= kParallelFrom)
  for (std::int64_t r = 0; r < p.rows; r++) {
    const float *gate = f32(p.x) + r * 2 * p.dim, *up = gate + p.dim, *dy = f32(p.dy) + r * p.dim;
    float *dgate = f32(p.dx) + r * 2 * p.dim, *dup = dgate + p.dim;
#pragma omp simd
    for (std::int64_t c = 0; c < p.dim; c++) {
      const float s = sigmoid_f32(gate[c]);
      put<add>(dgate[c], dy[c] * up[c] * s * (1.f + gate[c] * (1.f - s)));
      put<add>(dup[c], dy[c] * gate[c] * s);
    }
  }
}

}  // namespace

Cost cost(const GeluForward& p) {
  double n = double(p.count);
  return {2 * n, n * double(size_of(p.x.t) + size_of(p.y.t))};
}
Cost cost(const GeluBackward& p) {
  double n = double(p.count);
  return {5 * n, n * double(size_of(p.x.t) + size_of(p.dy.t)) + traffic(p.dx, n)};
}
Cost cost(const GeluBiasBackward& p) {
  double n = double(p.rows) * double(p.dim);
  return {6 * n,
          n * double(size_of(p.x.t) + size_of(p.dy.t) + size_of(p.dx.t)) + traffic(p.dbias, double(p.dim))};
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
  const auto backward = p.dx.add ? gelu_backward<true> : gelu_backward<false>;
  backward(f32(p.dx), f32(p.dy), f32(p.x), p.count);
  return {};
}

Status run(Cpu, const GeluBiasBackward& p) noexcept {
  if (!all_f32(p.dx.t, p.dbias.t, p.dy.t, p.x.t)) return unsupported_dtype();
  gelu_backward<false>(f32(p.dx), f32(p.dy), f32(p.x), p.rows * p.dim);
  return run(Cpu{}, ColumnSum{.y = p.dbias, .x = {p.dx.p, p.dx.t}, .rows = p.rows, .dim = p.dim});
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
  p.dx.add ? swiglu_backward<true>(p) : swiglu_backward<false>(p);
  return {};
}

}  // namespace k
