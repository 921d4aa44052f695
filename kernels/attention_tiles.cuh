// Private to the CUDA attention kernels on tensor cores: a warp takes 16 queries (or, where keys collect
// their gradient, 16 keys) of a head through tiles of 16 keys (queries). What a query sees is a set: it hands
// out the tiles one after the other, each with the pairs in it that count.
//
// A tile that a query does not see changes no bit of it: its weights there are exactly 0 and its maximum
// stays. Values inside a sequence must be finite; rows behind its end are never read and count as 0.
#pragma once
#include "kernels/attention_mma.cuh"
#include "kernels/lanes.cuh"
#include "kernels/mma.cuh"

namespace k::tiles {

using bf = __nv_bfloat16;

inline constexpr int kRows = 16;
inline constexpr float kLog2e = 1.4426950408889634f;
template <int dim> inline constexpr int kStride = dim + 8;
template <int dim> inline constexpr int kTileElements = kRows* kStride<dim>;
template <int dim> inline constexpr int kWarps = dim > 64 ? 2 : 4;  // of a block of threads
inline constexpr int kStages = 3;                                   // tiles that are there or on their way
template <int dim> using WarpMemory = bf[kStages][2][kTileElements<dim>];  // [stage][keys, values]
template <int dim> inline constexpr int kSharedBytes = kWarps<dim>* int(sizeof(WarpMemory<dim>));

// A warp's own part of the shared memory that the launch asks for.
template <int dim> __device__ inline WarpMemory<dim>& warp_memory() {
  extern __shared__ __align__(16) bf shared[];
  return reinterpret_cast<WarpMemory<dim>*>(shared)[threadIdx.x / 32];
}

__device__ inline int lane_id() { return int(threadIdx.x) % 32; }
__device__ inline int row_of(int half) {
  return lane_id() / 4 + 8 * half;
}  // of a lane's x[2 half], x[2 half + 1]
__device__ inline int column_of(int n, int odd) { return 8 * n + lane_id() % 4 * 2 + odd; }

// 16 rows of `dim` into shared memory, in the background; those from `count` (at least 1) on become 0.
template <int dim> __device__ inline void fetch(bf* to, const bf* rows, int count) {
  constexpr unsigned kRuns = dim / 8, kTogether = 32 / kRuns;  // of a row; rows that a warp fetches at once
  const unsigned row = unsigned(lane_id()) / kRuns, column = unsigned(lane_id()) % kRuns * 8;
  bf* at = to + row * kStride<dim> + column;
  const bf* from = rows + row * dim + column;
  if (count >= kRows) {
#pragma unroll
    for (unsigned i = 0; i < kRows / kTogether; i++)
      mma::copy_async(at + i * kTogether * kStride<dim>, from + i * kTogether * dim);
    return;
  }
#pragma unroll
  for (unsigned i = 0; i < kRows / kTogether; i++) {
    const bool there = int(row + i * kTogether) < count;
    mma::copy_async(at + i * kTogether * kStride<dim>, there ? from + i * kTogether * dim : rows, there);
  }
}

template <int dim> __device__ inline void load_left(mma::A (&a)[dim / 16], const bf* tile) {
#pragma unroll
  for (int step = 0; step < dim / 16; step++) a[step] = mma::left(tile + 16 * step, kStride<dim>);
}

// [16, 16] = left x tile^T
template <int dim>
__device__ inline void dots(mma::D (&s)[2], const mma::A (&left)[dim / 16], const bf* tile) {
#pragma unroll
  for (int step = 0; step < dim / 16; step++) {
    mma::B b[2];
    mma::right(b, tile + 16 * step, kStride<dim>);
    mma::multiply_add(s[0], left[step], b[0]);
    mma::multiply_add(s[1], left[step], b[1]);
  }
}

// sum[16, dim] += weights[16, 16] x tile
template <int dim>
__device__ inline void add_rows(mma::D (&sum)[dim / 8], const mma::A& weights, const bf* tile) {
#pragma unroll
  for (int n = 0; n < dim / 8; n += 2) {
    mma::B b[2];
    mma::right_transposed(b, tile + 8 * n, kStride<dim>);
    mma::multiply_add(sum[n], weights, b[0]);
    mma::multiply_add(sum[n + 1], weights, b[1]);
  }
}

// The first `count` of 16 rows (=|+=) sum, by way of shared memory.
template <int dim>
__device__ inline void store(bf* rows, const mma::D (&sum)[dim / 8], int count, bool add, bf* tile) {
#pragma unroll
  for (int n = 0; n < dim / 8; n++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      *reinterpret_cast<std::uint32_t*>(tile + row_of(half) * kStride<dim> + column_of(n, 0)) =
          mma::pack(sum[n].x[2 * half], sum[n].x[2 * half + 1]);
  __syncwarp();
#pragma unroll
  for (int chunk = lane_id(); chunk < kRows * dim / 8; chunk += 32) {
    const int row = chunk / (dim / 8), column = chunk % (dim / 8) * 8;
    if (row >= count) continue;
    const auto run = *reinterpret_cast<const Lanes<8, bf>*>(tile + row * kStride<dim> + column);
    float value[8];
#pragma unroll
    for (int e = 0; e < 8; e++) value[e] = run[e];
    put_lanes(rows + std::int64_t(row) * dim + column, value, 8, true, add);
  }
  __syncwarp();
}

// Calls f(tile, keys, values) for the tiles of a set; the next kStages - 1 are fetched meanwhile.
// fetch_tile(tile, keys, values) starts the copies.
template <int dim, class Set, class Fetch, class F>
__device__ inline void walk(Set& set, WarpMemory<dim>& memory, Fetch fetch_tile, F&& f) {
  constexpr int kAhead = kStages - 1;
  typename Set::Tile tiles[kAhead + 1];
  bool there[kAhead + 1];
  bool more = true;
  const auto fetch_next = [&](typename Set::Tile& tile, bool& is_there, int stage) {
    more = more && set.next(tile);
    is_there = more;
    if (more) fetch_tile(tile, memory[stage][0], memory[stage][1]);
    mma::copy_commit();
  };
#pragma unroll
  for (int i = 0; i < kAhead; i++) fetch_next(tiles[i], there[i], i);
  for (int stage = 0; there[0]; stage = stage + 1 == kStages ? 0 : stage + 1) {
    fetch_next(tiles[kAhead], there[kAhead], stage == 0 ? kAhead : stage - 1);
    mma::copy_wait<kAhead>();
    __syncwarp();
    f(tiles[0], memory[stage][0], memory[stage][1]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kAhead; i++) tiles[i] = tiles[i + 1], there[i] = there[i + 1];
  }
}

// Every kWarps-th tile of a set that the warps of a block share: the same ones for the same set.
template <int warps, class Set> struct Share {
  using Tile = typename Set::Tile;
  Set set;
  int count = 0;
  __device__ bool next(Tile& tile) {
    while (set.next(tile))
      if (count++ % warps == int(threadIdx.x) / 32) return true;
    return false;
  }
};

// The warp's 16 of all rows of a matrix [units, length, dim].
struct Place {
  std::int64_t unit, row;  // row: of the first, counted over all units
  int first, count;
  template <int warps> __device__ static Place of(std::int64_t length) {
    return at_tile(std::int64_t(blockIdx.x) * warps + threadIdx.x / 32, length);
  }
  __device__ static Place at_tile(std::int64_t at, std::int64_t length) {
    const std::int64_t per_unit = (length + kRows - 1) / kRows;
    Place p;
    p.unit = at / per_unit;
    p.first = int(at % per_unit) * kRows;
    p.row = p.unit * length + p.first;
    p.count = int(min(std::int64_t(kRows), length - p.first));
    return p;
  }
};
template <int dim> unsigned blocks_for_rows(std::int64_t units, std::int64_t length) noexcept {
  return unsigned((units * ((length + kRows - 1) / kRows) + kWarps<dim> - 1) / kWarps<dim>);
}

// 2^x to 2 units in the last place; results too small for a normal number become 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Online softmax of 16 queries.
template <int dim> struct Softmax {
  mma::A q[dim / 16];
  mma::D out[dim / 8];
  float max[2] = {-INFINITY, -INFINITY},
        sum[2] = {0, 0};  // logits times log2 e; a lane's sum is of its columns

  // visible(half, key): does the query row_of(half) see this key of the tile? `s` gets the dot products.
  template <class Visible>
  __device__ void attend(const bf* keys, const bf* values, float scale2, Visible visible, mma::D (&s)[2]) {
    dots<dim>(s, q, keys);
    mma::D p[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
          float& x = p[n].x[2 * half + odd];
          x = visible(half, column_of(n, odd)) ? scale2 * s[n].x[2 * half + odd] : -INFINITY;
          top = fmaxf(top, x);
        }
      top = fmaxf(max[half], quad_max(top));
      const float reference = top == -INFINITY ? 0.f : top, shrink = exp2_approx(max[half] - reference);
      max[half] = top;
      sum[half] *= shrink;
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
          float& x = p[n].x[2 * half + odd];
          x = exp2_approx(x - reference);
          sum[half] += x;
        }
#pragma unroll
      for (int n = 0; n < dim / 8; n++) {
        out[n].x[2 * half] *= shrink;
        out[n].x[2 * half + 1] *= shrink;
      }
    }
    add_rows<dim>(out, mma::as_left(p[0], p[1]), values);
  }

  // Divides by the sums; leaves the log-sum-exp, natural, in max. Without any key 0 and -infinity.
  __device__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float total = quad_sum(sum[half]), inverse = total == 0 ? 0.f : 1 / total;
#pragma unroll
      for (int n = 0; n < dim / 8; n++) {
        out[n].x[2 * half] *= inverse;
        out[n].x[2 * half + 1] *= inverse;
      }
      max[half] = total == 0 ? -INFINITY : (max[half] + log2f(total)) / kLog2e;
    }
  }
  __device__ void write(bf* rows, float* lse, int count, bf* tile) {
    store<dim>(rows, out, count, false, tile);
    if (lane_id() % 4 == 0)
#pragma unroll
      for (int half = 0; half < 2; half++)
        if (row_of(half) < count) lse[row_of(half)] = max[half];
  }
};

// What the gradient of 16 queries starts from: rows of q and dout, and delta = dout . out, which it also
// writes.
template <int dim> struct QuerySide {
  mma::A q[dim / 16], dout[dim / 16];
  float lse2[2], delta[2];  // lse times log2 e

  __device__ QuerySide(WarpMemory<dim>& memory, const bf* q_rows, const bf* dout_rows, const bf* out_rows,
                       const float* lse, float* deltas, int count) {
    bf *dout_tile = memory[0][1], *out_tile = memory[1][0];
    fetch<dim>(memory[0][0], q_rows, count);
    fetch<dim>(dout_tile, dout_rows, count);
    fetch<dim>(out_tile, out_rows, count);
    mma::copy_commit();
    mma::copy_wait<0>();
    __syncwarp();
    load_left<dim>(q, memory[0][0]);
    load_left<dim>(dout, dout_tile);
    const int row = lane_id() / 2, from = lane_id() % 2 * (dim / 2);
    float own = 0;
#pragma unroll
    for (int e = 0; e < dim / 2; e++)
      own = fmaf(__bfloat162float(dout_tile[row * kStride<dim> + from + e]),
                 __bfloat162float(out_tile[row * kStride<dim> + from + e]), own);
    own += __shfl_xor_sync(~0u, own, 1);
    if (lane_id() % 2 == 0 && row < count) deltas[row] = own;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      delta[half] = __shfl_sync(~0u, own, 2 * row_of(half));
      lse2[half] = row_of(half) < count ? kLog2e * lse[row_of(half)] : INFINITY;  // weights of rows behind: 0
    }
    __syncwarp();
  }

  // P and dS (scaled) of a tile of keys; both 0 where a pair does not count.
  template <class Visible> __device__ void look(const bf* keys, const bf* values, float scale,
                                                Visible visible, mma::D (&p)[2], mma::D (&ds)[2]) const {
    dots<dim>(p, q, keys);
    dots<dim>(ds, dout, values);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const bool seen = visible(e / 2, column_of(n, e % 2));
        const float weight = seen ? exp2_approx(kLog2e * scale * p[n].x[e] - lse2[e / 2]) : 0.f;
        p[n].x[e] = weight;
        ds[n].x[e] = seen ? scale * weight * (ds[n].x[e] - delta[e / 2]) : 0.f;
      }
  }
};

// The gradients of 16 keys and values.
template <int dim> struct KeySide {
  mma::A k[dim / 16], v[dim / 16];
  mma::D dk[dim / 8], dv[dim / 8];

  __device__ KeySide(WarpMemory<dim>& memory, const bf* k_rows, const bf* v_rows, int count) {
    fetch<dim>(memory[0][0], k_rows, count);
    fetch<dim>(memory[0][1], v_rows, count);
    mma::copy_commit();
    mma::copy_wait<0>();
    __syncwarp();
    load_left<dim>(k, memory[0][0]);
    load_left<dim>(v, memory[0][1]);
    __syncwarp();
  }

  // Adds what a tile of `count` queries sends; lse and delta are those of its first. visible(half, query):
  // does the key row_of(half) count for this query of the tile?
  template <class Visible> __device__ void collect(const bf* q_tile, const bf* dout_tile, const float* lse,
                                                   const float* delta, int count, float scale,
                                                   Visible visible) {
    const int query = lane_id() % kRows;
    mma::D ds[2];
    collect(q_tile, dout_tile, query < count ? (lane_id() < kRows ? lse : delta)[query] : 0.f, count, scale,
            visible, ds);
  }
  // The same where lanes 0 .. 15 bring the queries' lse and lanes 16 .. 31 their delta. Leaves dS (scaled),
  // a row a key.
  template <class Visible> __device__ void collect(const bf* q_tile, const bf* dout_tile, float number,
                                                   int count, float scale, Visible visible, mma::D (&ds)[2]) {
    const float own = lane_id() >= kRows ? number : lane_id() < count ? kLog2e * number : INFINITY;
    mma::D p[2];
    dots<dim>(p, k, q_tile);
    dots<dim>(ds, v, dout_tile);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        const int column = column_of(n, odd);
        const float lse2 = __shfl_sync(~0u, own, column), of_query = __shfl_sync(~0u, own, kRows + column);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int e = 2 * half + odd;
          const bool seen = visible(half, column);
          const float weight = seen ? exp2_approx(kLog2e * scale * p[n].x[e] - lse2) : 0.f;
          p[n].x[e] = weight;
          ds[n].x[e] = seen ? scale * weight * (ds[n].x[e] - of_query) : 0.f;
        }
      }
    add_rows<dim>(dv, mma::as_left(p[0], p[1]), dout_tile);
    add_rows<dim>(dk, mma::as_left(ds[0], ds[1]), q_tile);
  }
};

// Adds up, in order, what the warps of a block have collected for the same keys; true in the warp that has
// the sums. Every warp of the block must call it.
template <int dim> __device__ inline bool add_up(KeySide<dim>& keys) {
  extern __shared__ __align__(16) bf shared[];
  auto* sums = reinterpret_cast<float*>(shared) + lane_id();  // [warp - 1][dk, dv][dim / 2][lane]
  const int warp = int(threadIdx.x) / 32;
  static_assert((kWarps<dim> - 1) * dim * 32 * int(sizeof(float)) <= kSharedBytes<dim>);
  const auto at = [&](int of, int which, int n, int e) -> float& {
    return sums[(((of - 1) * 2 + which) * (dim / 2) + 4 * n + e) * 32];
  };
  __syncthreads();
  if (warp > 0)
#pragma unroll
    for (int n = 0; n < dim / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) at(warp, 0, n, e) = keys.dk[n].x[e], at(warp, 1, n, e) = keys.dv[n].x[e];
  __syncthreads();
  if (warp > 0) return false;
  for (int of = 1; of < kWarps<dim>; of++)
#pragma unroll
    for (int n = 0; n < dim / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) keys.dk[n].x[e] += at(of, 0, n, e), keys.dv[n].x[e] += at(of, 1, n, e);
  __syncwarp();
  return true;
}

// Launches warps of their own, each with its memory.
template <int dim, class... Parameters, class... Arguments>
Status launch(void (*kernel)(Parameters...), unsigned blocks, Cuda cuda,
              const Arguments&... arguments) noexcept {
  if (auto status = status_of(
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<dim>));
      !status.ok())
    return status;
  kernel<<<blocks, 32 * kWarps<dim>, kSharedBytes<dim>, stream_of(cuda)>>>(arguments...);
  return launched();
}

// Calls f(dim) for the head sizes that there are bodies for.
template <class F> Status by_dim(std::int64_t dim, F&& f) noexcept {
  switch (dim) {
    case 32: return f(std::integral_constant<int, 32>{});
    case 64: return f(std::integral_constant<int, 64>{});
    case 128: return f(std::integral_constant<int, 128>{});
    default: return {1, "a head size without a tensor-core body"};
  }
}
inline bool has_dim(std::int64_t dim) noexcept { return dim == 32 || dim == 64 || dim == 128; }
template <class... T> bool all_bf16(const T&... x) noexcept { return ((x.p && x.t == DType::bf16) && ...); }

}  // namespace k::tiles
