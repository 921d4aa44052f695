#include "kernels/ffn.h"

#include "kernels/basic.h"
#include "kernels/column_sum.cuh"
#include "kernels/normal.cuh"

namespace k {
namespace {

__device__ inline float gelu_slope(float x) {
  const Normal at = normal(x);
  return fmaf(x, at.density, at.below);
}

template <class T> __global__ void __launch_bounds__(kFlatThreads)
    gelu(T* y, const T* x, std::int64_t count, bool packed) {
  constexpr int n = kLanes<T>;
  for_each_run<n>(count, packed, [&](std::int64_t first, std::int64_t left, bool whole) {
    const auto run = load_lanes<n>(x + first, left, whole);
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = run[i] * normal(run[i]).below;
    put_lanes(y + first, value, left, whole, false);
  });
}

template <class T> __global__ void __launch_bounds__(kFlatThreads)
    gelu_backward(T* dx, const T* dy, const T* x, std::int64_t count, bool add, bool packed) {
  constexpr int n = kLanes<T>;
  for_each_run<n>(count, packed, [&](std::int64_t first, std::int64_t left, bool whole) {
    const auto run = load_lanes<n>(x + first, left, whole), dy_run = load_lanes<n>(dy + first, left, whole);
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = dy_run[i] * gelu_slope(run[i]);
    put_lanes(dx + first, value, left, whole, add);
  });
}

// The same over tiles of columns and groups of rows, with the sums of the columns over each group.
template <class T, bool whole> __global__ void __launch_bounds__(32 * kColumnWarps, 2)
    gelu_bias_backward(T* dx, float* partial, const T* dy, const T* x, std::int64_t rows, std::int64_t dim) {
  constexpr int n = kLanes<T>;
  struct Fetched {
    Lanes<n, T> dy, x;
  };
  sum_columns<n, 2>(
      partial, rows, dim,
      [&](std::int64_t r, std::int64_t c) {
        return Fetched{load_lanes<n>(dy + r * dim + c, dim - c, whole),
                       load_lanes<n>(x + r * dim + c, dim - c, whole)};
      },
      [&](const Fetched& at, std::int64_t r, std::int64_t c, float(&sum)[n]) {
        float value[n];
#pragma unroll
        for (int i = 0; i < n; i++) {
          value[i] = at.dy[i] * gelu_slope(at.x[i]);
          sum[i] += value[i];
        }
        put_lanes(dx + r * dim + c, value, dim - c, whole, false);
      });
}

template <class T, bool whole> __global__ void __launch_bounds__(kFlatThreads)
    swiglu(T* y, const T* x, std::int64_t rows, std::int64_t dim) {
  constexpr int n = kLanes<T>;
  for_each_run_of_rows<n>(rows, dim, [&](std::int64_t r, std::int64_t c) {
    const T* at = x + r * 2 * dim + c;
    const auto gate = load_lanes<n>(at, dim - c, whole), up = load_lanes<n>(at + dim, dim - c, whole);
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = gate[i] * sigmoid(gate[i]) * up[i];
    put_lanes(y + r * dim + c, value, dim - c, whole, false);
  });
}

template <class T, bool whole> __global__ void __launch_bounds__(kFlatThreads)
    swiglu_backward(T* dx, const T* dy, const T* x, std::int64_t rows, std::int64_t dim, bool add) {
  constexpr int n = kLanes<T>;
  for_each_run_of_rows<n>(rows, dim, [&](std::int64_t r, std::int64_t c) {
    const std::int64_t at = r * 2 * dim + c, left = dim - c;
    const auto gate = load_lanes<n>(x + at, left, whole), up = load_lanes<n>(x + at + dim, left, whole),
               dy_run = load_lanes<n>(dy + r * dim + c, left, whole);
    float dgate[n], dup[n];
#pragma unroll
    for (int i = 0; i < n; i++) {
      const float s = sigmoid(gate[i]);
      dgate[i] = dy_run[i] * up[i] * s * (1.f + gate[i] * (1.f - s));
      dup[i] = dy_run[i] * gate[i] * s;
    }
    put_lanes(dx + at, dgate, left, whole, add);
    put_lanes(dx + at + dim, dup, left, whole, add);
  });
}

}  // namespace

Status run(Cuda c, const GeluForward& p) noexcept {
  if (!holds(p.x, p.y.t)) return unsupported_dtype();
  return by_cuda_dtype(p.y.t, [&](auto t) {
    using T = typename decltype(t)::is;
    T* y = data<T>(p.y);
    const T* x = data<T>(p.x);
    gelu<<<blocks_for(p.count, kFlatThreads * kLanes<T>), kFlatThreads, 0, stream_of(c)>>>(y, x, p.count,
                                                                                           aligned(y, x));
    return launched();
  });
}

Status run(Cuda c, const GeluBackward& p) noexcept {
  if (!p.dx.p) return {};
  if (!holds(p.dy, p.x.t) || !holds(p.dx, p.x.t)) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto t) {
    using T = typename decltype(t)::is;
    T* dx = data<T>(p.dx);
    const T *dy = data<T>(p.dy), *x = data<T>(p.x);
    gelu_backward<<<blocks_for(p.count, kFlatThreads * kLanes<T>), kFlatThreads, 0, stream_of(c)>>>(
        dx, dy, x, p.count, p.dx.add, aligned(dx, dy, x));
    return launched();
  });
}

Status run(Cuda c, const GeluBiasBackward& p) noexcept {
  if (!holds(p.dy, p.x.t) || !holds(p.dx, p.x.t) || !holds(p.dbias, DType::f32)) return unsupported_dtype();
  const std::int64_t groups = column_sum_groups(p.rows);
  const Status status = by_cuda_dtype(p.x.t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    T* dx = data<T>(p.dx);
    const T *dy = data<T>(p.dy), *x = data<T>(p.x);
    return by_flag(aligned(dx, dy, x) && p.dim % n == 0, [&](auto whole) {
      gelu_bias_backward<T, whole.value>
          <<<column_grid<n>(p.dim, groups), 32 * kColumnWarps, 0, stream_of(c)>>>(dx, p.partial, dy, x,
                                                                                  p.rows, p.dim);
      return launched();
    });
  });
  if (!status.ok() || !p.dbias.p) return status;
  return sum_groups(stream_of(c), data<float>(p.dbias), p.partial, groups, p.dim, p.dbias.add);
}

Status run(Cuda c, const SwiGluForward& p) noexcept {
  if (!holds(p.x, p.y.t)) return unsupported_dtype();
  return by_cuda_dtype(p.y.t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    T* y = data<T>(p.y);
    const T* x = data<T>(p.x);
    return by_flag(aligned(y, x) && p.dim % n == 0, [&](auto whole) {
      const RowGrid at(p.rows, (p.dim + n - 1) / n);
      swiglu<T, whole.value><<<at.grid, at.block, 0, stream_of(c)>>>(y, x, p.rows, p.dim);
      return launched();
    });
  });
}

Status run(Cuda c, const SwiGluBackward& p) noexcept {
  if (!p.dx.p) return {};
  if (!holds(p.dy, p.x.t) || !holds(p.dx, p.x.t)) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    T* dx = data<T>(p.dx);
    const T *dy = data<T>(p.dy), *x = data<T>(p.x);
    return by_flag(aligned(dx, dy, x) && p.dim % n == 0, [&](auto whole) {
      const RowGrid at(p.rows, (p.dim + n - 1) / n);
      swiglu_backward<T, whole.value>
          <<<at.grid, at.block, 0, stream_of(c)>>>(dx, dy, x, p.rows, p.dim, p.dx.add);
      return launched();
    });
  });
}

}  // namespace k
