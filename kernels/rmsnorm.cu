#include "kernels/rmsnorm.h"

#include "kernels/column_sum.cuh"

namespace k {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// A warp per row. The first kHeld runs of every lane stay in registers, what a longer row has beyond them is
// read again.
constexpr int kHeld = 4;

template <int n, class T> __device__ float add_squares(float sum, const Lanes<n, T>& run) {
#pragma unroll
  for (int i = 0; i < n; i++) sum += run[i] * run[i];
  return sum;
}

template <class T, bool whole> __global__ void __launch_bounds__(kThreads, 4)
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

// A block per group of rows, a team of `width` threads per row: a warp if it can hold the row, which then
// needs no barrier; else 2 or 4 warps. A thread holds `held` runs of columns of a row and of dw in registers.
// Rows that are longer still are read a second time (from a cache) beyond them, and add to dw in the scratch
// memory, which only this thread touches.
constexpr int kBackThreads = 128, kBackWarps = kBackThreads / 32;
template <class T, int held, bool whole> __global__ void __launch_bounds__(kBackThreads)
    backward(const Backward<T> p) {
  constexpr int n = kLanes<T>;
  __shared__ float dots[kBackWarps], sums[kBackThreads * n];
  const int thread = int(threadIdx.x), team = thread / p.width, place = thread % p.width;
  const int teams = kBackThreads / p.width, team_warps = p.width / 32;
  const std::int64_t groups = gridDim.x, group = blockIdx.x, dim = p.dim;
  const std::int64_t begin = (group * p.rows + groups - 1) / groups,
                     end = ((group + 1) * p.rows + groups - 1) / groups;
  const std::int64_t step = std::int64_t(p.width) * n, first = std::int64_t(place) * n,
                     beyond = first + held * step;
  float* partial = p.partial + group * dim;

  const auto write = [&](std::int64_t at, std::int64_t left, const auto& before, const auto& dy,
                         const auto& x, const auto& w, float rstd, float scale) {
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = before[i] + rstd * (dy[i] * w[i] - scale * x[i]);
    put_lanes(p.dx + at, value, left, whole, false);
  };

  float dw[held][n] = {};
  for (std::int64_t r = begin + team; r - team < end; r += teams) {
    const bool works = r < end;  // a team without a row takes part in the barriers
    Lanes<n, T> dy[held] = {}, x[held] = {}, before[held] = {};
#pragma unroll
    for (int k = 0; k < held; k++) {
      const std::int64_t c = first + k * step, at = r * dim + c;
      if (!works || c >= dim) continue;
      dy[k] = load_lanes<n>(p.dy + at, dim - c, whole);
      x[k] = load_lanes<n>(p.x + at, dim - c, whole);
      if (p.dx && p.add) before[k] = load_lanes<n>(p.dx + at, dim - c, whole);
    }
    const float rstd = works ? p.rstd[r] : 0.f;
    float dot = 0;
#pragma unroll
    for (int k = 0; k < held; k++)
      if (const std::int64_t c = first + k * step; c < dim)
        dot = add_products(dot, dy[k], x[k], load_lanes<n>(p.w + c, dim - c, whole));
    if (works)
#pragma unroll 1
      for (std::int64_t c = beyond; c < dim; c += step)
        dot = add_products(dot, load_lanes<n>(p.dy + r * dim + c, dim - c, whole),
                           load_lanes<n>(p.x + r * dim + c, dim - c, whole),
                           load_lanes<n>(p.w + c, dim - c, whole));
    dot = warp_sum(dot);
    if (team_warps > 1) {
      if (thread % 32 == 0) dots[thread / 32] = dot;
      __syncthreads();
      dot = 0;
      for (int warp = 0; warp < team_warps; warp++) dot += dots[team * team_warps + warp];
      __syncthreads();
    }
    if (!works) continue;

    const float scale = dot / float(dim) * rstd * rstd;
#pragma unroll
    for (int k = 0; k < held; k++) {
      const std::int64_t c = first + k * step;
      if (c >= dim) break;
      if (p.dx)
        write(r * dim + c, dim - c, before[k], dy[k], x[k], load_lanes<n>(p.w + c, dim - c, whole), rstd,
              scale);
#pragma unroll
      for (int i = 0; i < n; i++) dw[k][i] += dy[k][i] * x[k][i] * rstd;
    }
#pragma unroll 1
    for (std::int64_t c = beyond; c < dim; c += step) {
      const std::int64_t at = r * dim + c, left = dim - c;
      const auto dy_c = load_lanes<n>(p.dy + at, left, whole), x_c = load_lanes<n>(p.x + at, left, whole);
      if (p.dx)
        write(at, left, p.add ? load_lanes<n>(p.dx + at, left, whole) : Lanes<n, T>{}, dy_c, x_c,
              load_lanes<n>(p.w + c, left, whole), rstd, scale);
      float value[n];
#pragma unroll
      for (int i = 0; i < n; i++) value[i] = dy_c[i] * x_c[i] * rstd;
      put_lanes(partial + c, value, left, whole, r > begin);
    }
  }

#pragma unroll
  for (int k = 0; k < held; k++) {
    const std::int64_t c = first + k * step;
#pragma unroll
    for (int i = 0; i < n; i++) sums[thread * n + i] = dw[k][i];
    __syncthreads();
    if (team == 0 && c < dim) {
      for (int other = 1; other < teams; other++)
#pragma unroll
        for (int i = 0; i < n; i++) dw[k][i] += sums[(other * p.width + place) * n + i];
      put_lanes(partial + c, dw[k], dim - c, whole, false);
    }
    __syncthreads();
  }
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
  if (!holds(p.dy, t) || !holds(p.w, t) || !holds(p.dx, t)) return unsupported_dtype();
  const std::int64_t groups = rmsnorm_groups(p.rows);
  return by_cuda_dtype(t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    const std::int64_t runs = (p.dim + n - 1) / n;
    const bool three = runs > 2 * 32 && runs <= 3 * 32;  // so that a warp is enough
    const int width =
        three ? 32 : int(std::bit_ceil(unsigned(std::clamp<std::int64_t>((runs + 1) / 2, 32, kBackThreads))));
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
                     const auto kernel = three ? backward<T, 3, whole.value> : backward<T, 2, whole.value>;
                     kernel<<<unsigned(groups), kBackThreads, 0, stream_of(c)>>>(args);
                     return launched();
                   });
  });
}

}  // namespace k
