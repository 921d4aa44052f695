// Private to the CUDA attention kernels: one warp takes a few rows through runs of up to 32 columns. Rows are
// queries and columns are keys, or, where a key collects its gradient, the other way round.
//
// A row's elements are spread over the lanes, in fp32 registers. A column's logit is a sum over lanes, made
// by a tree that leaves one column a lane (`dots`), so that the softmax costs one exponential a column.
// Columns come from global memory, 16 bytes a lane; the rows of a warp and the warps of a block share them in
// the L1 cache. Nothing here depends on the length of a sequence. Columns that a row must not see are never
// multiplied, not even with 0: NaN there stays there.
#pragma once
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/lanes.cuh"

namespace k {

// How a warp holds rows of at most kDim elements: kSharers neighbours share a row, kRun elements at a
// time, and the warp reads kRows rows at once. kWhole: the rows have kDim elements and begin at multiples of
// 16 bytes; otherwise they are read one element at a time.
template <class Storage, int kDim_, bool kWhole_> struct Layout {
  using T = Storage;
  static constexpr int kDim = kDim_;
  static constexpr bool kWhole = kWhole_;
  static constexpr int kRun = kLanes<T>;  // elements of one access
  static constexpr int kSharers = std::min(32, kDim / kRun);
  static constexpr int kRows = 32 / kSharers;
  static constexpr int kOwn = kDim / kSharers;  // elements of a row that one lane holds
};

inline constexpr std::int64_t kMaxDim = 256;

template <class... Arrays> bool all_of_type(DType t, const Arrays&... a) noexcept {
  return ((!a.p || a.t == t) && ...);
}

// Calls f(Layout) for rows of `dim` elements in all these arrays, which must have one type.
template <class F, class... Arrays>
Status by_layout(std::int64_t dim, F&& f, In first, const Arrays&... more) noexcept {
  if (dim > kMaxDim) return {1, "a head size above 256"};
  if (!all_of_type(first.t, more...)) return unsupported_dtype();
  return by_cuda_dtype(first.t, [&](auto tag) {
    using T = typename decltype(tag)::is;
    if (aligned(first.p, more.p...)) switch (dim) {
        case 16: return f(Layout<T, 16, true>{});
        case 32: return f(Layout<T, 32, true>{});
        case 64: return f(Layout<T, 64, true>{});
        case 128: return f(Layout<T, 128, true>{});
      }
    return f(Layout<T, kMaxDim, false>{});
  });
}

// Positions, blocks and the rows of a group of heads are 32-bit numbers inside the kernels; offsets are not.
inline bool fits(const AttentionShape& s) noexcept {
  return s.length <= std::numeric_limits<std::int32_t>::max() / 2 / (s.heads / s.kv_heads);
}
inline constexpr Status kTooLong{1, "a sequence is too long"};

inline constexpr int kWarps = 4;  // of a block, where its warps are on their own
inline constexpr int kThreads = 32 * kWarps;
inline unsigned blocks_of_warps(std::int64_t warps) noexcept {
  return unsigned((warps + kWarps - 1) / kWarps);
}

__device__ inline int lane_id() { return int(threadIdx.x) % 32; }
__device__ inline int warp_id() { return int(threadIdx.x) / 32; }
// Of the whole grid.
__device__ inline std::int64_t global_warp() { return std::int64_t(blockIdx.x) * kWarps + warp_id(); }

// A block longer than the sequence is never complete, as one of the same length is until the last token.
template <class P> __device__ inline int block_of(const P& p) { return int(min(p.block, p.shape.length)); }

// The R consecutive positions that a warp takes of a matrix [units, length, dim]; past the end there is none.
template <int R> struct Tile {
  std::int64_t unit, first, row;  // row: of position `first` of `unit`, counted over all units
  int rows;                       // positions, at most R
  __device__ explicit Tile(std::int64_t length) {
    const std::int64_t tiles = (length + R - 1) / R, tile = global_warp();
    unit = tile / tiles;
    first = tile % tiles * R;
    row = unit * length + first;
    rows = int(min(std::int64_t(R), length - first));
  }
};
template <int R> unsigned blocks_of_tiles(std::int64_t units, std::int64_t length) noexcept {
  return blocks_of_warps(units * ((length + R - 1) / R));
}

template <class L> __device__ inline int first_element(int run) {
  return (run * L::kSharers + lane_id() % L::kSharers) * L::kRun;
}

template <class L> __device__ inline void load_row(const typename L::T* row, int dim, float (&x)[L::kOwn]) {
  constexpr int n = L::kRun;
#pragma unroll
  for (int k = 0; k < L::kOwn / n; k++) {
    const int at = first_element<L>(k);
    const auto run = load_lanes<n>(row + at, dim - at, L::kWhole);
#pragma unroll
    for (int e = 0; e < n; e++) x[k * n + e] = run[e];
  }
}

// row (=|+=) x. Every group of kSharers lanes may come with a row of its own.
template <class L>
__device__ inline void store_row(typename L::T* row, int dim, const float (&x)[L::kOwn], bool add) {
  constexpr int n = L::kRun;
#pragma unroll
  for (int k = 0; k < L::kOwn / n; k++) {
    const int at = first_element<L>(k);
    float value[n];
#pragma unroll
    for (int e = 0; e < n; e++) value[e] = x[k * n + e];
    put_lanes(row + at, value, dim - at, L::kWhole, add);
  }
}

// `count` consecutive rows; those that are missing to R repeat the last.
template <class L, int R>
__device__ inline void load_rows(const typename L::T* rows, int count, int dim, float (&x)[R][L::kOwn]) {
#pragma unroll
  for (int r = 0; r < R; r++) load_row<L>(rows + std::int64_t(min(r, count - 1)) * dim, dim, x[r]);
}

// Sums what the kRows groups of lanes have collected; every group gets the sum.
template <class L> __device__ inline void merge(float (&x)[L::kOwn]) {
#pragma unroll
  for (int lanes = L::kSharers; lanes < 32; lanes *= 2)
#pragma unroll
    for (int e = 0; e < L::kOwn; e++) x[e] += __shfl_xor_sync(~0u, x[e], lanes);
}

// Rows first, first + 1, .. (=|+=) x, after merge(); nothing if the gradient is unwanted.
template <class L, int R>
__device__ inline void store_rows(Grad to, std::int64_t first, int count, int dim, float (&x)[R][L::kOwn]) {
  if (!to.p) return;
#pragma unroll
  for (int r = 0; r < R; r++) {
    merge<L>(x[r]);
    if (r < count && lane_id() < L::kSharers)
      store_row<L>(data<typename L::T>(to) + (first + r) * dim, dim, x[r], to.add);
  }
}

// Of one row, in every lane that holds it.
template <class L> __device__ inline float row_dot(const float (&a)[L::kOwn], const float (&b)[L::kOwn]) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < L::kOwn; e++) sum = fmaf(a[e], b[e], sum);
#pragma unroll
  for (int lanes = L::kSharers / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  return sum;
}

// The column whose dot product `dots` leaves in this lane, and the lane that has a column's.
template <class L> __device__ inline int own_column() {
  return lane_id() % L::kSharers * L::kRows + lane_id() / L::kSharers;
}
template <class L> __device__ inline int lane_of(int column) {
  return column % L::kRows * L::kSharers + column / L::kRows;
}

inline constexpr int kBatch = 8;  // columns under way at once; no more than that many are read in vain

// y[r] = x[r] . column, for the lane's own column of the `count` in 1..32 that at(column) gives the address
// of; of no meaning in the other lanes. Equal columns give equal bits wherever they stand: the tree is the
// same.
template <class L, int R, int kSteps = L::kSharers, class At>
__device__ inline void dots(const float (&x)[R][L::kOwn], At at, int count, int dim, float (&y)[R],
                            int step = 0) {
  if constexpr (kSteps == 1) {
    float column[L::kOwn];
    load_row<L>(at(min(step * L::kRows + lane_id() / L::kSharers, count - 1)), dim, column);
#pragma unroll
    for (int r = 0; r < R; r++) {
      y[r] = 0;
#pragma unroll
      for (int e = 0; e < L::kOwn; e++) y[r] = fmaf(x[r][e], column[e], y[r]);
    }
  } else {
    constexpr int kHalf = kSteps / 2;
    float lower[R], upper[R] = {};
    dots<L, R, kHalf>(x, at, count, dim, lower, step);
    if (kHalf * L::kRows < kBatch || (step + kHalf) * L::kRows < count)
      dots<L, R, kHalf>(x, at, count, dim, upper, step + kHalf);
    const bool in_upper = lane_id() & kHalf;
#pragma unroll
    for (int r = 0; r < R; r++)
      y[r] = (in_upper ? upper[r] : lower[r]) + __shfl_xor_sync(~0u, in_upper ? lower[r] : upper[r], kHalf);
  }
}

// sum[r] += weight[r] column over `count` columns; a lane brings the weights of its own column, 0 if there is
// none. The sums are spread over the groups of lanes until merge().
template <class L, int R, class At> __device__ inline void add_columns(const float (&weight)[R], At at,
                                                                       int count, int dim,
                                                                       float (&sum)[R][L::kOwn]) {
  constexpr int kSteps = kBatch > L::kRows ? kBatch / L::kRows : 1;
  for (int first = 0; first < L::kSharers && first * L::kRows < count; first += kSteps) {
#pragma unroll
    for (int s = 0; s < kSteps; s++) {
      float column[L::kOwn];
      load_row<L>(at(min((first + s) * L::kRows + lane_id() / L::kSharers, count - 1)), dim, column);
      float w[R];
#pragma unroll
      for (int r = 0; r < R; r++) w[r] = __shfl_sync(~0u, weight[r], first + s, L::kSharers);
#pragma unroll
      for (int r = 0; r < R; r++)
        if (R == 1 || w[r] != 0)  // a column that only other rows of the warp see may hold NaN
#pragma unroll
          for (int e = 0; e < L::kOwn; e++) sum[r][e] = fmaf(w[r], column[e], sum[r][e]);
    }
  }
}

// The forward pass of R queries by online softmax: `out` holds sum_j exp(logit_j - max) v_j until finish().
template <class L, int R> struct QueriesForward {
  using T = typename L::T;
  float q[R][L::kOwn], out[R][L::kOwn] = {}, max[R], sum[R] = {};  // a lane's sum is over its own columns

  __device__ QueriesForward(const T* rows, int count, int dim) {
    load_rows<L, R>(rows, count, dim, q);
#pragma unroll
    for (int r = 0; r < R; r++) max[r] = -INFINITY;
  }

  // visible(r, column) says which of `count` keys and values a query sees. Leaves the logits of the lane's
  // own column in `s`, -infinity where it is not visible.
  template <class AtKey, class AtValue, class Visible>
  __device__ void attend(AtKey key, AtValue value, int count, int dim, float scale, Visible visible,
                         float (&s)[R]) {
    const int column = own_column<L>();
    float p[R];
    dots<L, R>(q, key, count, dim, s);
#pragma unroll
    for (int r = 0; r < R; r++) {
      s[r] = column < count && visible(r, column) ? scale * s[r] : -INFINITY;
      const float top = fmaxf(max[r], warp_max(s[r]));
      if (top > max[r]) {
        const float shrink = expf(max[r] - top);
        sum[r] *= shrink;
#pragma unroll
        for (int e = 0; e < L::kOwn; e++) out[r][e] *= shrink;
        max[r] = top;
      }
      p[r] = expf(s[r] - (top == -INFINITY ? 0.f : top));  // no key yet: 0
      sum[r] += p[r];
    }
    add_columns<L, R>(p, value, count, dim, out);
  }

  // Writes `count` rows of outputs and log-sum-exps (also left in max); without any key 0 and -infinity.
  __device__ void finish(T* rows, float* lse, int count, int dim) {
#pragma unroll
    for (int r = 0; r < R; r++) {
      const float total = warp_sum(sum[r]), inverse = total == 0 ? 0 : 1 / total;
      merge<L>(out[r]);
#pragma unroll
      for (int e = 0; e < L::kOwn; e++) out[r][e] *= inverse;
      max[r] += logf(total);
      if (r < count && lane_id() < L::kSharers)
        store_row<L>(rows + std::int64_t(r) * dim, dim, out[r], false);
      if (r < count && lane_id() == 0) lse[r] = max[r];
    }
  }
};

// The backward pass of R queries, as far as it concerns them: with P = exp(S - lse), dP_j = dout . v_j and
// dS_j = P_j (dP_j - delta), dq = sum_j scale dS_j k_j.
template <class L, int R> struct QueriesBackward {
  using T = typename L::T;
  float q[R][L::kOwn], dout[R][L::kOwn], dq[R][L::kOwn] = {};
  float lse[R], delta[R];

  __device__ QueriesBackward(const T* q_rows, const T* dout_rows, const float* lses, const float* deltas,
                             int count, int dim) {
    load_rows<L, R>(q_rows, count, dim, q);
    load_rows<L, R>(dout_rows, count, dim, dout);
#pragma unroll
    for (int r = 0; r < R; r++) {
      lse[r] = lses[min(r, count - 1)];
      delta[r] = deltas[min(r, count - 1)];
    }
  }

  // Of the lane's own column: the scaled logit, P and dP; 0 where it is not visible.
  template <class AtKey, class AtValue, class Visible>
  __device__ void look(AtKey key, AtValue value, int count, int dim, float scale, Visible visible,
                       float (&s)[R], float (&p)[R], float (&dp)[R]) const {
    const int column = own_column<L>();
    dots<L, R>(q, key, count, dim, s);
    dots<L, R>(dout, value, count, dim, dp);
#pragma unroll
    for (int r = 0; r < R; r++) {
      const bool sees = column < count && visible(r, column);
      s[r] = sees ? scale * s[r] : 0.f;
      p[r] = sees ? expf(s[r] - lse[r]) : 0.f;
      dp[r] = sees ? dp[r] : 0.f;
    }
  }
};

// The backward pass of R keys and values, over queries: dk = sum_i scale dS_i q_i, dv = sum_i P_i dout_i.
template <class L, int R> struct KeysBackward {
  using T = typename L::T;
  float k[R][L::kOwn], v[R][L::kOwn], dk[R][L::kOwn] = {}, dv[R][L::kOwn] = {};

  // lse and delta are those of the lane's own query (column); extra(r, p) is added to its dS.
  template <class AtQuery, class AtDout, class Visible, class Extra>
  __device__ void attend(AtQuery query, AtDout dout, int count, int dim, float scale, float lse, float delta,
                         Visible visible, Extra extra) {
    const int column = own_column<L>();
    float p[R], ds[R];
    dots<L, R>(k, query, count, dim, p);
    dots<L, R>(v, dout, count, dim, ds);
#pragma unroll
    for (int r = 0; r < R; r++) {
      const bool seen = column < count && visible(r, column);
      p[r] = seen ? expf(scale * p[r] - lse) : 0.f;
      ds[r] = seen ? scale * (p[r] * (ds[r] - delta) + extra(r, p[r])) : 0.f;
    }
    add_columns<L, R>(p, dout, count, dim, dv);
    add_columns<L, R>(ds, query, count, dim, dk);
  }
};

// delta[row] = dout[row] . out[row]
template <class L> __global__ void __launch_bounds__(kThreads)
    delta_kernel(float* delta, const typename L::T* dout, const typename L::T* out, std::int64_t rows,
                 int dim) {
  const std::int64_t row = global_warp() * L::kRows + lane_id() / L::kSharers, at = min(row, rows - 1) * dim;
  float a[L::kOwn], b[L::kOwn];
  load_row<L>(dout + at, dim, a);
  load_row<L>(out + at, dim, b);
  const float sum = row_dot<L>(a, b);
  if (row < rows && lane_id() % L::kSharers == 0) delta[row] = sum;
}
template <class L>
Status write_delta(Cuda cuda, float* delta, In dout, In out, std::int64_t rows, std::int64_t dim) noexcept {
  using T = typename L::T;
  delta_kernel<L><<<blocks_of_warps((rows + L::kRows - 1) / L::kRows), kThreads, 0, stream_of(cuda)>>>(
      delta, data<T>(dout), data<T>(out), rows, int(dim));
  return launched();
}

// Rows that a warp takes at once where neighbours see the same columns: what the registers hold.
template <class L> inline constexpr int kQueries = 4;
template <class L> inline constexpr int kKeys = L::kOwn > 4 ? 2 : 4;

}  // namespace k
