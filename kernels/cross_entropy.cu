#include "kernels/cross_entropy.h"

#include <cfloat>

#include "kernels/lanes.cuh"

namespace k {
namespace {

constexpr int kThreads = 512;

// A block per row: one pass for the largest logit and the sum of exponentials together (Milakov & Gimelshein
// 2018), one to turn the logits into their gradient. The second read mostly comes from the L2 cache.
template <class T, bool whole> __global__ void __launch_bounds__(kThreads)
    cross_entropy(float* loss, T* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t vocab,
                  std::int64_t row_width, float grad_scale, bool gradient) {
  constexpr int n = kLanes<T>;
  constexpr std::int64_t kStep = kThreads * n;
  __shared__ float shared[32];
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
    float top = -FLT_MAX, sum = 0;  // finite, so that a logit of -infinity counts as 0, not as NaN
#pragma unroll 2
    for (std::int64_t c = mine; c < vocab; c += kStep) {
      const auto run =
          load_lanes<n>(x + c, vocab - c, whole);  // whole: the row goes on behind the vocabulary
      const int counted = int(min(vocab - c, std::int64_t(n)));
      float value[n], next = top;
#pragma unroll
      for (int i = 0; i < n; i++) {
        value[i] = i < counted ? run[i] : -INFINITY;
        next = fmaxf(next, value[i]);  // passes over NaN, which the sum does not
      }
      float here = 0;
#pragma unroll
      for (int i = 0; i < n; i++) here += expf(value[i] - next);
      sum = sum * expf(top - next) + here;
      top = next;
    }
    const float row_top = block_max<kThreads>(top, shared);
    const float total = block_sum<kThreads>(sum * expf(top - row_top), shared);
    if (threadIdx.x == 0) loss[r] = float(double(logf(total)) + (double(row_top) - double(at_target)));

    if (!gradient) continue;
    const float scale = grad_scale / total;
#pragma unroll 2
    for (std::int64_t c = mine; c < row_width; c += kStep) {
      const auto run = load_lanes<n>(x + c, row_width - c, whole);
      const int counted = int(max(std::int64_t(0), min(vocab - c, std::int64_t(n))));
      const int hit = target >= c && target < c + n ? int(target - c) : -1;
      float value[n];
#pragma unroll
      for (int i = 0; i < n; i++) {
        const float softmax = scale * expf(run[i] - row_top);
        value[i] = i >= counted ? 0.f : i == hit ? softmax - grad_scale : softmax;
      }
      put_lanes(x + c, value, row_width - c, whole, false);
    }
  }
}

}  // namespace

Status run(Cuda c, const CrossEntropy& p) noexcept {
  return by_cuda_dtype(p.logits.t, [&](auto t) {
    using T = typename decltype(t)::is;
    T* logits = data<T>(p.logits);
    return by_flag(aligned(logits) && p.row_width % kLanes<T> == 0, [&](auto whole) {
      cross_entropy<T, whole.value><<<blocks_for(p.rows, 1), kThreads, 0, stream_of(c)>>>(
          p.loss, logits, p.targets, p.rows, p.vocab, p.row_width, p.grad_scale, p.gradient);
      return launched();
    });
  });
}

}  // namespace k
