// The standard normal distribution, as GELU needs it. Included by .cu files only.
#pragma once
#include "kernels/cuda.cuh"

namespace k {

struct Normal {
  float density, below;  // of the standard normal distribution: phi(x), Phi(x)
};

// As normal_f32 of vector_math.h: Phi(-a) = phi(a) M(a) for a >= 0, Mills' ratio M by a polynomial. One
// exponential for both, and none of erff's branches.
__device__ inline Normal normal(float x) {
  const float a = fminf(fabsf(x), 13.2f);
  const float e = fast_exp(-0.5f * a * a), scale = __fdividef(1.f, a + 3.5f), q = (a - 3.5f) * scale;
  float p = 1.106886888e-4f;
  p = fmaf(p, q, 4.218976959e-4f);
  p = fmaf(p, q, -4.949420777e-4f);
  p = fmaf(p, q, -3.175310322e-3f);
  p = fmaf(p, q, 6.493115011e-3f);
  p = fmaf(p, q, 1.740637822e-2f);
  p = fmaf(p, q, -1.160530406e-1f);
  p = fmaf(p, q, 3.154250487e-1f);
  p = fmaf(p, q, -5.655617451e-1f);
  p = fmaf(p, q, 7.444160741e-1f);
  const float tail = e * (p * scale);
  return {0.398942280f * e, isnan(x) ? x : x < 0 ? tail : 1.f - tail};  // fminf drops a NaN
}

}  // namespace k
