#include "kernels/rmsnorm.h"

#include "kernels/column_sum.cuh"

namespace k {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// A warp per row. The first kHeld runs of every lane stay in registers, what a longer row has beyond them is
// read again.
constexpr int kHeld = 8;

template <int n, class T> __device__ float add_squares(float sum, const Lanes<n, T>& run) {
#pragma unroll
  for (int i = 0; i < n; i++) sum += run[i] * run[i];
  return sum;
}

template <class T, bool whole> __global__ void __launch_bounds__(kThreads, 3)
    forward(T* y, float* rstd, const T* x, const T* w, std::int64_t rows, std::int64_t dim, float eps) {
  constexpr int n = kLanes<T>;
  const std::int64_t mine = std::int64_t(threadIdx.x % 32) * n;
  for (std::int64_t r = thread_index() / 32; r < rows; r += thread_count() / 32) {
    const T* from = x + r * dim;
    const auto write = [&](std::int64_t c, const Lanes<n, T>& run, float scale) {
      const auto weight = load_lanes<n>(w + c, dim - c, whole);
      float value[n];
#pragma unroll
      for (int i = 0; i < n; i++) value[i] = run[i] * scale * weight[i];
      put_lanes(y + r * dim + c, value, dim - c, whole, false);
    };

    Lanes<n, T> held[kHeld];
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kHeld; k++) {
      const std::int64_t c = mine + k * 32 * n;
      held[k] = c < dim ? load_lanes<n>(from + c, dim - c, whole) : Lanes<n, T>{};
    }
#pragma unroll
    for (int k = 0; k < kHeld; k++) sum = add_squares(sum, held[k]);
#pragma unroll 1
    for (std::int64_t c = mine + kHeld * 32 * n; c < dim; c += 32 * n)
      sum = add_squares(sum, load_lanes<n>(from + c, dim - c, whole));

    const float scale = 1.f / sqrtf(warp_sum(sum) / float(dim) + eps);
    if (threadIdx.x % 32 == 0) rstd[r] = scale;
#pragma unroll
    for (int k = 0; k < kHeld; k++)
      if (const std::int64_t c = mine + k * 32 * n; c < dim) write(c, held[k], scale);
#pragma unroll 1
    for (std::int64_t c = mine + kHeld * 32 * n; c < dim; c += 32 * n)
      write(c, load_lanes<n>(from + c, dim - c, whole), scale);
  }
}

constexpr int kRows = 4;  // of a thread at once

template <class T> struct Backward {
  T* dx;
  bool add;
  float* partial;
  const T *dy, *x, *w;
  const float* rstd;
  std::int64_t rows, dim;
  int width;
};

template <int n, class T>
__device__ float add_products(float sum, const Lanes<n, T>& dy, const Lanes<n, T>& x, const Lanes<n, T>& w) {
#pragma unroll
  for (int i = 0; i < n; i++) sum += dy[i] * x[i] * w[i];
  return sum;
}

// A block per group of rows. `width` threads, a power of two from 32 up, share a row; the kThreads / width
// teams take kRows rows each at a time, so that the sums within rows cost two barriers for all of them. A
// thread holds its first run of columns of these rows and of dw in registers. Rows of more than kThreads runs
// have one team; their other runs are read a second time (from a cache) and add to dw in the scratch memory,
// which only this thread touches.
template <class T, bool whole> __global__ void __launch_bounds__(kThreads, 2) backward(const Backward<T> p) {
  constexpr int n = kLanes<T>;
  __shared__ float dots[kRows][kWarps], sums[kThreads * n];
  const int thread = int(threadIdx.x), team = thread / p.width, place = thread % p.width;
  const int teams = kThreads / p.width, team_warps = p.width / 32;
  const std::int64_t groups = gridDim.x, group = blockIdx.x, dim = p.dim;
  const std::int64_t begin = (group * p.rows + groups - 1) / groups,
                     end = ((group + 1) * p.rows + groups - 1) / groups;
  const std::int64_t c = std::int64_t(place) * n, beyond = c + std::int64_t(p.width) * n;
  float* partial = p.partial + group * dim;

  const auto write = [&](std::int64_t r, std::int64_t c, const auto& dy, const auto& x, const auto& w,
                         float rstd, float scale) {
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = rstd * (dy[i] * w[i] - scale * x[i]);
    put_lanes(p.dx + r * dim + c, value, dim - c, whole, p.add);
  };

  const auto w = c < dim ? load_lanes<n>(p.w + c, dim - c, whole) : Lanes<n, T>{};
  float dw[n] = {};
  for (std::int64_t first = begin; first < end; first += teams * kRows) {
    Lanes<n, T> dy[kRows], x[kRows];
    float rstd[kRows];
#pragma unroll
    for (int k = 0; k < kRows; k++) {
      const std::int64_t r = first + k * teams + team;
      const bool works = r < end && c < dim;
      dy[k] = works ? load_lanes<n>(p.dy + r * dim + c, dim - c, whole) : Lanes<n, T>{};
      x[k] = works ? load_lanes<n>(p.x + r * dim + c, dim - c, whole) : Lanes<n, T>{};
      rstd[k] = r < end ? p.rstd[r] : 0.f;
    }
#pragma unroll
    for (int k = 0; k < kRows; k++) {
      const std::int64_t r = first + k * teams + team;
      float dot = add_products(0.f, dy[k], x[k], w);
      if (r < end)
#pragma unroll 1
        for (std::int64_t d = beyond; d < dim; d += p.width * n)
          dot = add_products(dot, load_lanes<n>(p.dy + r * dim + d, dim - d, whole),
                             load_lanes<n>(p.x + r * dim + d, dim - d, whole),
                             load_lanes<n>(p.w + d, dim - d, whole));
      dot = warp_sum(dot);
      if (thread % 32 == 0) dots[k][thread / 32] = dot;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kRows; k++) {
      const std::int64_t r = first + k * teams + team;
      if (r >= end) break;
      float dot = 0;
      for (int warp = 0; warp < team_warps; warp++) dot += dots[k][team * team_warps + warp];
      const float scale = dot / float(dim) * rstd[k] * rstd[k];
      if (p.dx && c < dim) write(r, c, dy[k], x[k], w, rstd[k], scale);
#pragma unroll
      for (int i = 0; i < n; i++) dw[i] += dy[k][i] * x[k][i] * rstd[k];
#pragma unroll 1
      for (std::int64_t d = beyond; d < dim; d += p.width * n) {
        const auto dy_d = load_lanes<n>(p.dy + r * dim + d, dim - d, whole),
                   x_d = load_lanes<n>(p.x + r * dim + d, dim - d, whole);
        if (p.dx) write(r, d, dy_d, x_d, load_lanes<n>(p.w + d, dim - d, whole), rstd[k], scale);
        float value[n];
#pragma unroll
        for (int i = 0; i < n; i++) value[i] = dy_d[i] * x_d[i] * rstd[k];
        put_lanes(partial + d, value, dim - d, whole, r > begin);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < n; i++) sums[thread * n + i] = dw[i];
  __syncthreads();
  if (team > 0 || c >= dim) return;
  for (int other = 1; other < teams; other++)
#pragma unroll
    for (int i = 0; i < n; i++) dw[i] += sums[(other * p.width + place) * n + i];
  put_lanes(partial + c, dw, dim - c, whole, false);
}

}  // namespace

Status run(Cuda c, const RmsNormForward& p) noexcept {
  if (!holds(p.x, p.y.t) || !holds(p.w, p.y.t)) return unsupported_dtype();
  return by_cuda_dtype(p.y.t, [&](auto t) {
    using T = typename decltype(t)::is;
    T* y = data<T>(p.y);
    const T *x = data<T>(p.x), *w = data<T>(p.w);
    return by_flag(aligned(y, x, w) && p.dim % kLanes<T> == 0, [&](auto whole) {
      forward<T, whole.value>
          <<<blocks_for(p.rows, kWarps), kThreads, 0, stream_of(c)>>>(y, p.rstd, x, w, p.rows, p.dim, p.eps);
      return launched();
    });
  });
}

Status run(Cuda c, const RmsNormBackward& p) noexcept {
  const DType t = p.x.t;
  if (!holds(p.dy, t) || !holds(p.w, t) || !holds(p.dx, t) || !holds(p.dw, DType::f32))
    return unsupported_dtype();
  const std::int64_t groups = rmsnorm_groups(p.rows);
  const Status status = by_cuda_dtype(t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    const std::int64_t runs = (p.dim + n - 1) / n;
    const int width = int(std::bit_ceil(unsigned(std::clamp<std::int64_t>(runs, 32, kThreads))));
    const Backward<T> args{.dx = data<T>(p.dx),
                           .add = p.dx.add,
                           .partial = p.partial,
                           .dy = data<T>(p.dy),
                           .x = data<T>(p.x),
                           .w = data<T>(p.w),
                           .rstd = p.rstd,
                           .rows = p.rows,
                           .dim = p.dim,
                           .width = width};
    return by_flag(aligned(args.dx, args.partial, args.dy, args.x, args.w) && p.dim % n == 0,
                   [&](auto whole) {
                     backward<T, whole.value><<<unsigned(groups), kThreads, 0, stream_of(c)>>>(args);
                     return launched();
                   });
  });
  if (!status.ok() || !p.dw.p) return status;
  return column_sum<float>(stream_of(c), data<float>(p.dw), p.partial, groups, p.dim, 1, p.dw.add);
}

}  // namespace k
