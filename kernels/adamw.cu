#include "kernels/adamw.h"

#include "kernels/lanes.cuh"

namespace k {
namespace {

// T: the type of the values. With bf16 `value` is written from `master`; fp32 values are their own master.
template <class T> __global__ void __launch_bounds__(kFlatThreads)
    adamw(const AdamW p, T* value, float* master, bool packed) {
  constexpr int n = kLanes<float>;
  __shared__ float factor;  // of the gradients; NaN: no update
  if (threadIdx.x == 0) {
    const double norm = sqrt(*p.sum_of_squares);
    factor = !isfinite(norm) ? NAN : p.clip > 0 && norm > p.clip ? float(p.clip / norm) : 1.f;
  }
  __syncthreads();
  const float grad_scale = factor;
  if (isnan(grad_scale)) return;

  const float rate = p.scalars->learning_rate;
  const float unbias1 = 1.f / p.scalars->correction1, unbias2 = 1.f / p.scalars->correction2;
  for_each_run<n>(p.count, packed, [&](std::int64_t first, std::int64_t left, bool whole) {
    const auto grad = load_lanes<n>(p.grad + first, left, whole);
    const auto old_m = load_lanes<n>(p.m + first, left, whole),
               old_v = load_lanes<n>(p.v + first, left, whole),
               old = load_lanes<n>(master + first, left, whole);
    float m[n], v[n], updated[n];
#pragma unroll
    for (int i = 0; i < n; i++) {
      const float g = grad[i] * grad_scale, decay = first + i < p.decayed ? p.decay : 0.f;
      m[i] = p.beta1 * old_m[i] + (1.f - p.beta1) * g;
      v[i] = p.beta2 * old_v[i] + (1.f - p.beta2) * g * g;
      const float step = m[i] * unbias1 / (sqrtf(v[i] * unbias2) + p.eps);
      updated[i] = old[i] - rate * (step + decay * old[i]);
    }
    put_lanes(p.m + first, m, left, whole, false);
    put_lanes(p.v + first, v, left, whole, false);
    put_lanes(master + first, updated, left, whole, false);
    if constexpr (sizeof(T) < sizeof(float)) put_lanes(value + first, updated, left, whole, false);
  });
}

constexpr std::int64_t kBlocks = 4096;  // at most: each takes a square root and a division in fp64

}  // namespace

Status run(Cuda c, const AdamW& p) noexcept {
  if (p.value.t != (p.master ? DType::bf16 : DType::f32)) return unsupported_dtype();
  return by_cuda_dtype(p.value.t, [&](auto t) {
    using T = typename decltype(t)::is;
    T* value = data<T>(p.value);
    float* master = p.master ? p.master : static_cast<float*>(p.value.p);
    adamw<<<blocks_for(p.count, kFlatThreads * kLanes<float>, kBlocks), kFlatThreads, 0, stream_of(c)>>>(
        p, value, master, aligned(value, master, p.m, p.v, p.grad));
    return launched();
  });
}

}  // namespace k
