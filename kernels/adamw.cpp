#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cpu.h"

namespace k {
namespace {

// `Rounded`: the type of the copy of the values beside their master, or void if they are the master.
template <class Rounded>
void update(const AdamW& p, std::int64_t first, std::int64_t end, float grad_scale, float decay) {
  constexpr bool apart = !std::is_void_v<Rounded>;
  auto* rounded = static_cast<Rounded*>(p.value.p);
  float *value = apart ? p.master : f32(p.value), *m = p.m, *v = p.v;
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
    if constexpr (apart) rounded[i] = Rounded(value[i]);
  }
}

}  // namespace

Cost cost(const AdamW& p) {
  double n = double(p.count);
  const double moments = 5 * sizeof(float), master = p.master ? 2 * sizeof(float) : 0;  // and the gradient
  return {16 * n, n * (moments + master + (p.master ? 1 : 2) * double(size_of(p.value.t)))};
}

Status run(Cpu, const AdamW& p) noexcept {
  if (p.value.t != (p.master ? DType::bf16 : DType::f32)) return unsupported_dtype();
  const double norm = std::sqrt(*p.sum_of_squares);
  if (!std::isfinite(norm)) return {};
  const float grad_scale = p.clip > 0 && norm > p.clip ? float(p.clip / norm) : 1.f;
  const std::int64_t decayed = std::clamp<std::int64_t>(p.decayed, 0, p.count);
  const auto update_range = p.master ? update<bf16> : update<void>;
  update_range(p, 0, decayed, grad_scale, p.decay);
  update_range(p, decayed, p.count, grad_scale, 0);
  return {};
}

}  // namespace k
