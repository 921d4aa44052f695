#include "kernels/basic.h"

#include "kernels/column_sum.cuh"

namespace k {
namespace {

template <class Y, class X> __global__ void __launch_bounds__(kFlatThreads)
    accumulate(Y* y, const X* x, std::int64_t count, bool add, bool packed) {
  constexpr int n = kLanes<Y, X>;
  for_each_run<n>(count, packed, [&](std::int64_t first, std::int64_t left, bool whole) {
    const auto run = load_lanes<n>(x + first, left, whole);
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = run[i];
    put_lanes(y + first, value, left, whole, add);
  });
}

template <class T> __global__ void __launch_bounds__(kFlatThreads)
    add(T* y, const T* a, const T* b, std::int64_t count, bool packed) {
  constexpr int n = kLanes<T>;
  for_each_run<n>(count, packed, [&](std::int64_t first, std::int64_t left, bool whole) {
    const auto from_a = load_lanes<n>(a + first, left, whole), from_b = load_lanes<n>(b + first, left, whole);
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = from_a[i] + from_b[i];
    put_lanes(y + first, value, left, whole, false);
  });
}

constexpr int kSquareThreads = 512, kSquareWarps = kSquareThreads / 32;

// partial[b]: the block's 65,536 squares, four at a time in fp32, the rest of the way in fp64.
template <bool packed> __global__ void __launch_bounds__(kSquareThreads)
    sum_squares(double* partial, const float* x, std::int64_t count) {
  constexpr int n = kLanes<float>;
  __shared__ double sums[kSquareWarps];
  const std::int64_t begin = std::int64_t(blockIdx.x) * kSumBlock, end = min(count, begin + kSumBlock);
  double sum = 0;
#pragma unroll 4
  for (std::int64_t first = begin + std::int64_t(threadIdx.x) * n; first < end; first += kSquareThreads * n) {
    const auto run = load_lanes<n>(x + first, end - first, packed && end - first >= n);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < n; i++) squares += run[i] * run[i];
    sum += double(squares);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0;
    for (int w = 0; w < kSquareWarps; w++) total += sums[w];
    partial[blockIdx.x] = total;
  }
}

// One thread adds in order what the block has fetched at full width.
__global__ void __launch_bounds__(kSquareThreads)
    sum_in_order(double* sum, const double* partial, std::int64_t count) {
  __shared__ double fetched[kSquareThreads];
  double total = 0;
  for (std::int64_t first = 0; first < count; first += kSquareThreads) {
    const int here = int(min(std::int64_t(kSquareThreads), count - first));
    if (int(threadIdx.x) < here) fetched[threadIdx.x] = partial[first + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int i = 0; i < here; i++) total += fetched[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace

Status run(Cuda c, const Accumulate& p) noexcept {
  if (!p.y.p) return {};
  return by_cuda_dtype(p.y.t, [&](auto y_type) {
    return by_cuda_dtype(p.x.t, [&](auto x_type) {
      using Y = typename decltype(y_type)::is;
      using X = typename decltype(x_type)::is;
      const unsigned blocks = blocks_for(p.count, kFlatThreads * kLanes<Y, X>);
      accumulate<<<blocks, kFlatThreads, 0, stream_of(c)>>>(data<Y>(p.y), data<X>(p.x), p.count, p.y.add,
                                                            aligned(data<Y>(p.y), data<X>(p.x)));
      return launched();
    });
  });
}

Status run(Cuda c, const Add& p) noexcept {
  if (!holds(p.a, p.y.t) || !holds(p.b, p.y.t)) return unsupported_dtype();
  return by_cuda_dtype(p.y.t, [&](auto t) {
    using T = typename decltype(t)::is;
    T* y = data<T>(p.y);
    const T *a = data<T>(p.a), *b = data<T>(p.b);
    add<<<blocks_for(p.count, kFlatThreads * kLanes<T>), kFlatThreads, 0, stream_of(c)>>>(y, a, b, p.count,
                                                                                          aligned(y, a, b));
    return launched();
  });
}

Status run(Cuda c, const ColumnSum& p) noexcept {
  if (!p.y.p) return {};
  if (p.y.t != DType::f32) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto t) {
    using T = typename decltype(t)::is;
    const std::int64_t groups = column_sum_groups(p.rows);
    const Status status = column_sum(stream_of(c), p.partial, data<T>(p.x), p.rows, p.dim, groups);
    if (!status.ok()) return status;
    return sum_groups(stream_of(c), data<float>(p.y), p.partial, groups, p.dim, p.y.add);
  });
}

Status run(Cuda c, const SumSquares& p) noexcept {
  if (p.x.t != DType::f32) return unsupported_dtype();
  const float* x = data<float>(p.x);
  const std::int64_t blocks = (p.count + kSumBlock - 1) / kSumBlock;
  if (blocks > 0) {
    const Status status = by_flag(aligned(x), [&](auto packed) {
      sum_squares<packed.value><<<unsigned(blocks), kSquareThreads, 0, stream_of(c)>>>(p.partial, x, p.count);
      return launched();
    });
    if (!status.ok()) return status;
  }
  sum_in_order<<<1, kSquareThreads, 0, stream_of(c)>>>(p.sum, p.partial, blocks);
  return launched();
}

}  // namespace k
