#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"

namespace k {
namespace {

void update(const AdamW& p, std::int64_t first, std::int64_t end, float grad_scale, float decay) {
  float *value = f32(p.value), *m = p.m, *v = p.v;
  const float* grad = p.grad;
  const float rate = p.scalars->learning_rate;
  const float unbias1 = 1.f / p.scalars->correction1, unbias2 = 1.f / p.scalars->correction2;
  const float beta1 = p.beta1, beta2 = p.beta2, eps = p.eps;
#pragma omp parallel for simd schedule(static) if (end - first >= kParallelFrom)
  for (std::int64_t i = first; i < end; i++) {
    const float g = grad[i] * grad_scale;
    m[i] = beta1 * m[i] + (1.f - beta1) * g;
    v[i] = beta2 * v[i] + (1.f - beta2) * g * g;
    const float step = m[i] * unbias1 / (std::sqrt(v[i] * unbias2) + eps);
    value[i] -= rate * (step + decay * value[i]);
  }
}

}  // namespace

Cost cost(const AdamW& p) {
  double n = double(p.count);
  return {16 * n, n * (5 * sizeof(float) + 2 * double(size_of(p.value.t)))};
}

Status run(Cpu, const AdamW& p) noexcept {
  if (!all_f32(p.value.t)) return unsupported_dtype();
  const double norm = std::sqrt(*p.sum_of_squares);
  if (!std::isfinite(norm)) return {};
  const float grad_scale = p.clip > 0 && norm > p.clip ? float(p.clip / norm) : 1.f;
  const std::int64_t decayed = std::clamp<std::int64_t>(p.decayed, 0, p.count);
  update(p, 0, decayed, grad_scale, p.decay);
  update(p, decayed, p.count, grad_scale, 0);
  return {};
}

}  // namespace k
