// Sums over the rows of a matrix, in two steps of one kernel: within groups of rows, then over the groups.
#pragma once
#include "kernels/lanes.cuh"

namespace k {

inline constexpr int kColumnWarps = 16;

// y[g, c] (=|+=) sum over the rows r of group g = blockIdx.y of x[r, c]; row r belongs to group r * groups /
// rows. A warp takes every 16th row of the group, the block adds up its warps in order.
template <class X, bool whole> __global__ void __launch_bounds__(32 * kColumnWarps)
    column_sum_kernel(float* y, const X* x, std::int64_t rows, std::int64_t dim, bool add) {
  constexpr int n = kLanes<X>, columns = 32 * n;
  __shared__ float sums[kColumnWarps][columns];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const std::int64_t groups = gridDim.y, group = blockIdx.y;
  const std::int64_t begin = (group * rows + groups - 1) / groups,
                     end = ((group + 1) * rows + groups - 1) / groups;
  const std::int64_t first = std::int64_t(blockIdx.x) * columns, c = first + lane * n;
  float sum[n] = {};
  if (c < dim) {
#pragma unroll 4
    for (std::int64_t r = begin + warp; r < end; r += kColumnWarps) {
      const auto run = load_lanes<n>(x + r * dim + c, dim - c, whole);
#pragma unroll
      for (int i = 0; i < n; i++) sum[i] += run[i];
    }
  }
#pragma unroll
  for (int i = 0; i < n; i++) sums[warp][lane * n + i] = sum[i];
  __syncthreads();
  if (const int i = int(threadIdx.x); i < columns && first + i < dim) {
    float total = 0;
    for (int w = 0; w < kColumnWarps; w++) total += sums[w][i];
    put(y, group * dim + first + i, total, add);
  }
}

// y: [groups, dim] fp32, x: [rows, dim].
template <class X> Status column_sum(cudaStream_t stream, float* y, const X* x, std::int64_t rows,
                                     std::int64_t dim, std::int64_t groups, bool add) noexcept {
  constexpr std::int64_t columns = 32 * kLanes<X>;
  static_assert(columns <= 32 * kColumnWarps, "a thread writes one column");
  return by_flag(aligned(x) && dim % kLanes<X> == 0, [&](auto whole) {
    const dim3 grid(unsigned((dim + columns - 1) / columns), unsigned(groups));
    column_sum_kernel<X, whole.value><<<grid, 32 * kColumnWarps, 0, stream>>>(y, x, rows, dim, add);
    return launched();
  });
}

}  // namespace k
