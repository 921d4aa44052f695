// Sums over the rows of a matrix, in two launches: within groups of rows, then over the groups.
#pragma once
#include "kernels/lanes.cuh"

namespace k {

inline constexpr int kColumnWarps = 16;

// partial[g, c] = the sum over the rows r of group g = blockIdx.y of what use(fetch(r, c), r, c, sum) adds to
// sum[0, n), for the columns c .. c + n - 1; row r belongs to group r * groups / rows. A warp takes every
// 16th row of the group, at_once of them at once; the block adds up its warps in order.
template <int n, int at_once, class Fetch, class Use>
__device__ inline void sum_columns(float* partial, std::int64_t rows, std::int64_t dim, Fetch fetch,
                                   Use use) {
  constexpr int columns = 32 * n;
  static_assert(columns <= 32 * kColumnWarps, "a thread writes one column");
  __shared__ float sums[kColumnWarps][columns];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const std::int64_t groups = gridDim.y, group = blockIdx.y;
  const std::int64_t begin = (group * rows + groups - 1) / groups,
                     end = ((group + 1) * rows + groups - 1) / groups;
  const std::int64_t first = std::int64_t(blockIdx.x) * columns, c = first + lane * n;
  float sum[n] = {};
  if (c < dim) {
#pragma unroll(at_once == 1 ? 4 : 1)
    for (std::int64_t r = begin + warp; r < end; r += at_once * kColumnWarps) {
      decltype(fetch(r, c)) fetched[at_once];
#pragma unroll
      for (int k = 0; k < at_once; k++)
        if (const std::int64_t at = r + k * kColumnWarps; at < end) fetched[k] = fetch(at, c);
#pragma unroll
      for (int k = 0; k < at_once; k++)
        if (const std::int64_t at = r + k * kColumnWarps; at < end) use(fetched[k], at, c, sum);
    }
  }
#pragma unroll
  for (int i = 0; i < n; i++) sums[warp][lane * n + i] = sum[i];
  __syncthreads();
  if (const int i = int(threadIdx.x); i < columns && first + i < dim) {
    float total = 0;
    for (int w = 0; w < kColumnWarps; w++) total += sums[w][i];
    partial[group * dim + first + i] = total;
  }
}
template <int n> dim3 column_grid(std::int64_t dim, std::int64_t groups) noexcept {
  return dim3(unsigned((dim + 32 * n - 1) / (32 * n)), unsigned(groups));
}

template <class X, bool whole> __global__ void __launch_bounds__(32 * kColumnWarps)
    column_sum_kernel(float* partial, const X* x, std::int64_t rows, std::int64_t dim) {
  constexpr int n = kLanes<X>;
  sum_columns<n, 1>(
      partial, rows, dim,
      [&](std::int64_t r, std::int64_t c) { return load_lanes<n>(x + r * dim + c, dim - c, whole); },
      [&](const Lanes<n, X>& run, std::int64_t, std::int64_t, float(&sum)[n]) {
#pragma unroll
        for (int i = 0; i < n; i++) sum[i] += run[i];
      });
}

// partial: [groups, dim] fp32, x: [rows, dim].
template <class X> Status column_sum(cudaStream_t stream, float* partial, const X* x, std::int64_t rows,
                                     std::int64_t dim, std::int64_t groups) noexcept {
  constexpr int n = kLanes<X>;
  return by_flag(aligned(x) && dim % n == 0, [&](auto whole) {
    column_sum_kernel<X, whole.value>
        <<<column_grid<n>(dim, groups), 32 * kColumnWarps, 0, stream>>>(partial, x, rows, dim);
    return launched();
  });
}

// y[c] (=|+=) the sum over g of partial[g, c]. A block takes 32 columns, a warp every 32nd group: up to 256
// groups are under way at once. The warps' sums are added as a tree, by a warp for each column.
inline constexpr int kGroupThreads = 1024;
static __global__ void __launch_bounds__(kGroupThreads)
    sum_groups_kernel(float* y, const float* partial, std::int64_t groups, std::int64_t dim, bool add) {
  __shared__ float sums[32][33];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const std::int64_t first = std::int64_t(blockIdx.x) * 32, c = first + lane;
  float sum = 0;
  if (c < dim) {
#pragma unroll 8
    for (std::int64_t g = warp; g < groups; g += 32) sum += partial[g * dim + c];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  sum = warp_sum(sums[lane][warp]);
  if (lane == 0 && first + warp < dim) put(y, first + warp, sum, add);
}
inline Status sum_groups(cudaStream_t stream, float* y, const float* partial, std::int64_t groups,
                         std::int64_t dim, bool add) noexcept {
  sum_groups_kernel<<<unsigned((dim + 31) / 32), kGroupThreads, 0, stream>>>(y, partial, groups, dim, add);
  return launched();
}

}  // namespace k
