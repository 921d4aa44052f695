#include "kernels/cross_entropy.h"

#include <cfloat>

#include "kernels/lanes.cuh"

namespace k {
namespace {

constexpr int kThreads = 512;

// The largest logit and the sum of exponentials below it, in one pass (Milakov & Gimelshein 2018).
struct Softmax {
  float top = -FLT_MAX, sum = 0;  // finite, so that a logit of -infinity counts as 0, not as NaN

  template <int n, class T> __device__ void add(const Lanes<n, T>& run, int counted) {
    float value[n], next = top, here = 0;
#pragma unroll
    for (int i = 0; i < n; i++) {
      value[i] = i < counted ? run[i] : -INFINITY;
      next = fmaxf(next, value[i]);  // passes over NaN, which the sum does not
    }
#pragma unroll
    for (int i = 0; i < n; i++) here += fast_exp(value[i] - next);
    sum = sum * fast_exp(top - next) + here;
    top = next;
  }
};

// A block per row: a pass for the softmax's sum, one to turn the logits into their gradient. Each thread
// keeps its logits in shared memory in between if a row is `kept` there; otherwise it reads them again.
template <class T, bool whole, bool kept> __global__ void __launch_bounds__(kThreads, kept ? 3 : 2)
    cross_entropy(float* loss, T* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t vocab,
                  std::int64_t row_width, float grad_scale, bool gradient) {
  constexpr int n = kLanes<T>;
  constexpr std::int64_t kStep = kThreads * n;
  constexpr int kAtOnce = kept ? 2 : 4;  // runs that a thread has under way
  extern __shared__ uint4 row[];
  __shared__ float shared[32];
  auto* const keep = reinterpret_cast<T*>(row);
  const std::int64_t mine = std::int64_t(threadIdx.x) * n;
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    T* x = logits + r * row_width;
    const std::int64_t target = targets[r];
    if (target < 0) {  // so for the whole block
      if (threadIdx.x == 0) loss[r] = 0;
      if (gradient)
        for (std::int64_t c = mine; c < row_width; c += kStep)
          put_lanes<n>(x + c, {}, row_width - c, whole, false);
      continue;
    }

    const float at_target = to_float(x[target]);
    Softmax mine_of_row;
    for (std::int64_t c = mine; c < vocab; c += kAtOnce * kStep) {
      Lanes<n, T> run[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; k++)
        if (const std::int64_t at = c + k * kStep; at < vocab)
          run[k] = load_lanes<n>(x + at, row_width - at, whole);
#pragma unroll
      for (int k = 0; k < kAtOnce; k++) {
        const std::int64_t at = c + k * kStep;
        if (at >= vocab) break;
        if constexpr (kept) store_lanes(keep + at, run[k]);
        mine_of_row.add(run[k], vocab - at < n ? int(vocab - at) : n);
      }
    }
    const float top = block_max<kThreads>(mine_of_row.top, shared);
    const float total = block_sum<kThreads>(mine_of_row.sum * fast_exp(mine_of_row.top - top), shared);
    if (threadIdx.x == 0) loss[r] = float(double(logf(total)) + (double(top) - double(at_target)));

    if (!gradient) continue;
    const float scale = grad_scale / total;
#pragma unroll 2
    for (std::int64_t c = mine; c < row_width; c += kStep) {
      float value[n] = {};
      if (c < vocab) {
        Lanes<n, T> run;
        if constexpr (kept) run = load_lanes<n>(keep + c, n, true);
        else run = load_lanes<n>(x + c, row_width - c, whole);
#pragma unroll
        for (int i = 0; i < n; i++) value[i] = scale * fast_exp(run[i] - top);
        if (vocab - c < n)
#pragma unroll
          for (int i = 0; i < n; i++) value[i] = i < int(vocab - c) ? value[i] : 0.f;
      }
      put_lanes(x + c, value, row_width - c, whole, false);
      if (target >= c && target < c + n)
        put(x, target, scale * fast_exp(at_target - top) - grad_scale, false);
    }
  }
}

// The most shared memory that a block of this device may take beside what the kernel has anyway.
std::int64_t shared_memory(int device) noexcept {
  int bytes = 0;
  return cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess
             ? bytes - 1024
             : 0;
}

}  // namespace

Status run(Cuda c, const CrossEntropy& p) noexcept {
  return by_cuda_dtype(p.logits.t, [&](auto t) {
    using T = typename decltype(t)::is;
    T* logits = data<T>(p.logits);
    const bool whole = aligned(logits) && p.row_width % kLanes<T> == 0;
    const std::int64_t row_bytes = p.row_width * std::int64_t(sizeof(T));
    const auto launch = [&](auto kernel, std::int64_t bytes) {
      if (auto status = status_of(
              cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
          !status.ok())
        return status;
      if (auto status = status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                                       cudaSharedmemCarveoutMaxShared));
          bytes > 0 && !status.ok())
        return status;
      kernel<<<blocks_for(p.rows, 1), kThreads, std::size_t(bytes), stream_of(c)>>>(
          p.loss, logits, p.targets, p.rows, p.vocab, p.row_width, p.grad_scale, p.gradient);
      return launched();
    };
    if (!whole) return launch(cross_entropy<T, false, false>, 0);
    if (!p.gradient || row_bytes > shared_memory(queue_of(c).device))
      return launch(cross_entropy<T, true, false>, 0);
    return launch(cross_entropy<T, true, true>, row_bytes);
  });
}

}  // namespace k
