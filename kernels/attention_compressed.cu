#include "kernels/attention_cuda.cuh"
#include "kernels/attention_mma.cuh"

namespace k {
namespace {

template <class P> __device__ inline int visible_blocks(const P& p, std::int64_t i) {
  return min(int(p.blocks), int(i + 1) / block_of(p));
}

// Keys (or values) of a key/value head as columns: the memory, then the blocks.
template <class T> struct Columns {
  const T *memory, *blocks;
  int slots, dim;

  // which: 0 keys, 1 values
  template <class P> __device__ Columns(const P& p, In of_blocks, std::int64_t kv, int which)
      : memory(data<T>(p.memory) +
               (which * p.shape.kv_heads + kv % p.shape.kv_heads) * p.slots * p.shape.dim),
        blocks(data<T>(of_blocks) + kv * p.blocks * p.shape.dim),
        slots(int(p.slots)),
        dim(int(p.shape.dim)) {}

  __device__ const T* operator()(int column) const {
    return column < slots ? memory + std::int64_t(column) * dim : blocks + std::int64_t(column - slots) * dim;
  }
};

// The best blocks so far, one a lane: by falling logits, the lower index first among equals.
struct Best {
  float logit = 0;
  int index = 0, kept = 0;  // lanes 0 .. kept - 1 hold one

  // The lane's block, later than all before, is compared with the `most` <= 32 best.
  __device__ void offer(float x, bool candidate, int block, int most) {
    unsigned done = 0;
    for (;;) {
      const float worst = __shfl_sync(~0u, logit, most - 1);
      const unsigned better = __ballot_sync(~0u, candidate && (kept < most || x > worst)) & ~done;
      if (better == 0) return;
      const int from = __ffs(better) - 1;
      done |= (2u << from) - 1;
      const float new_logit = __shfl_sync(~0u, x, from);
      const int new_index = __shfl_sync(~0u, block, from);
      const int at = 32 - __clz(__ballot_sync(~0u, lane_id() < kept && !(new_logit > logit)));
      const float up_logit = __shfl_up_sync(~0u, logit, 1);
      const int up_index = __shfl_up_sync(~0u, index, 1);
      if (lane_id() > at) {
        logit = up_logit;
        index = up_index;
      } else if (lane_id() == at) {
        logit = new_logit;
        index = new_index;
      }
      kept = min(kept + 1, most);
    }
  }

  // Writes those with p > 1e-10 by rising index, then -1 up to `top`.
  __device__ void write(float lse, std::int32_t* picks, int top) const {
    const int valid = 32 - __clz(__ballot_sync(~0u, lane_id() < kept && expf(logit - lse) > 1e-10f));
    int before = 0;
    for (int lane = 0; lane < valid; lane++) before += __shfl_sync(~0u, index, lane) < index;
    if (lane_id() < valid) picks[before] = index;
    else if (lane_id() < top) picks[lane_id()] = -1;
  }
};

// A warp takes R consecutive queries of a head, and chooses their blocks too if a warp's lanes can hold them.
template <class L, int R> __global__ void __launch_bounds__(kThreads, 3) forward(CompressedForward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const Tile<R> tile(s.length);
  if (tile.unit >= s.batch * s.heads) return;
  const std::int64_t i = tile.first, row = tile.row, kv = tile.unit / (s.heads / s.kv_heads);
  const int dim = int(s.dim), slots = int(p.slots), rows = tile.rows;
  const int top = p.top <= 32 ? int(p.top) : 0;
  const Columns<T> keys(p, p.ck, kv, 0), values(p, p.cv, kv, 1);
  int end[R];  // columns that a query sees
#pragma unroll
  for (int r = 0; r < R; r++) end[r] = slots + visible_blocks(p, i + min(r, rows - 1));
  QueriesForward<L, R> queries(data<T>(p.q) + row * dim, rows, dim);
  Best best[R];
  for (int base = 0; base < end[R - 1]; base += 32) {
    float logits[R];
    queries.attend([&](int column) { return keys(base + column); },
                   [&](int column) { return values(base + column); }, min(32, end[R - 1] - base), dim,
                   p.scale, [&](int r, int column) { return base + column < end[r]; }, logits);
    if (top == 0) continue;
    const int column = base + lane_id();
#pragma unroll
    for (int r = 0; r < R; r++) {
      const float logit = __shfl_sync(~0u, logits[r], lane_of<L>(lane_id()));
      best[r].offer(logit, column >= slots && column < end[r], column - slots, top);
    }
  }
  queries.finish(data<T>(p.out) + row * dim, p.lse + row, rows, dim);
#pragma unroll
  for (int r = 0; r < R; r++)
    if (top > 0 && r < rows) best[r].write(queries.max[r], p.selected + (row + r) * p.top, top);
}

// The choice of more than 32 blocks, a warp a query: the logits are computed again, 32 ranks at a time down
// to the last that is wanted, and once more to write down what is not below it.
template <class L> __global__ void __launch_bounds__(kThreads) choose_many(CompressedForward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const std::int64_t row = global_warp(), unit = row / s.length;
  if (unit >= s.batch * s.heads) return;
  const int dim = int(s.dim), top = int(p.top), visible = visible_blocks(p, row % s.length);
  const T* ck = data<T>(p.ck) + unit / (s.heads / s.kv_heads) * p.blocks * dim;
  float q[1][L::kOwn];
  load_row<L>(data<T>(p.q) + row * dim, dim, q[0]);
  auto logit_of_lane = [&](int base) {  // block base + lane; of no meaning from `visible` on
    float logit[1];
    dots<L, 1>(
        q, [&](int column) { return ck + std::int64_t(base + column) * dim; }, min(32, visible - base), dim,
        logit);
    return p.scale * __shfl_sync(~0u, logit[0], lane_of<L>(lane_id()));
  };

  float last_logit = INFINITY;  // of the blocks ranked so far
  int last = -1;
  for (int wanted = min(top, visible); wanted > 0; wanted -= 32) {
    Best best;
    for (int base = 0; base < visible; base += 32) {
      const float logit = logit_of_lane(base);
      const int block = base + lane_id();
      const bool after = last < 0 || logit < last_logit || (logit == last_logit && block > last);
      best.offer(logit, block < visible && after, block, min(wanted, 32));
    }
    last_logit = __shfl_sync(~0u, best.logit, min(wanted, 32) - 1);
    last = __shfl_sync(~0u, best.index, min(wanted, 32) - 1);
  }

  std::int32_t* picks = p.selected + row * p.top;
  const float lse = p.lse[row];
  int written = 0;
  for (int base = 0; base < visible; base += 32) {
    const float logit = logit_of_lane(base);
    const int block = base + lane_id();
    const bool ranked = logit > last_logit || (logit == last_logit && block <= last);
    const bool picked = block < visible && ranked && expf(logit - lse) > 1e-10f;
    const unsigned all = __ballot_sync(~0u, picked);
    const int at = written + __popc(all & ((1u << lane_id()) - 1));
    if (picked && at < top) picks[at] = block;
    written += __popc(all);
  }
  for (int at = written + lane_id(); at < top; at += 32) picks[at] = -1;
}

// delta = dout . out + sum over the picks of p dL/dp: a warp a query.
template <class L> __global__ void __launch_bounds__(kThreads) delta_with_importance(CompressedBackward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const std::int64_t row = global_warp(), unit = row / s.length;
  if (unit >= s.batch * s.heads) return;
  const int dim = int(s.dim);
  const T* ck = data<T>(p.ck) + unit / (s.heads / s.kv_heads) * p.blocks * dim;
  float a[L::kOwn], b[L::kOwn], q[1][L::kOwn], weight = 0;
  load_row<L>(data<T>(p.dout) + row * dim, dim, a);
  load_row<L>(data<T>(p.out) + row * dim, dim, b);
  load_row<L>(data<T>(p.q) + row * dim, dim, q[0]);
  const float delta = row_dot<L>(a, b);
  for (std::int64_t j = row * p.top; j < (row + 1) * p.top; j += 32) {
    const int given = int(min(std::int64_t(32), (row + 1) * p.top - j));
    const int pick = lane_id() < given ? p.selected[j + lane_id()] : -1;
    const int count = __popc(__ballot_sync(~0u, pick >= 0));
    if (count == 0) break;
    float logit[1];
    dots<L, 1>(
        q, [&](int column) { return ck + std::int64_t(__shfl_sync(~0u, pick, column)) * dim; }, count, dim,
        logit);
    const int column = own_column<L>();
    if (column < count) weight += expf(p.scale * logit[0] - p.lse[row]) * p.d_importance[j + column];
  }
  weight = warp_sum(weight);
  if (lane_id() == 0) p.delta[row] = delta + weight;
}

// dL/dp of block w for the query in `row` if it was picked, else 0.
__device__ inline float importance_of(const CompressedBackward& p, std::int64_t row, int w) {
  for (std::int64_t j = row * p.top; j < (row + 1) * p.top && p.selected[j] >= 0; j++)
    if (p.selected[j] == w) return p.d_importance[j];
  return 0;
}

template <class L, int R> __global__ void __launch_bounds__(kThreads, 2)
    backward_queries(CompressedBackward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const Tile<R> tile(s.length);
  if (tile.unit >= s.batch * s.heads) return;
  const std::int64_t i = tile.first, row = tile.row, kv = tile.unit / (s.heads / s.kv_heads);
  const int dim = int(s.dim), slots = int(p.slots), rows = tile.rows;
  const Columns<T> keys(p, p.ck, kv, 0), values(p, p.cv, kv, 1);
  int end[R];
#pragma unroll
  for (int r = 0; r < R; r++) end[r] = slots + visible_blocks(p, i + min(r, rows - 1));
  QueriesBackward<L, R> queries(data<T>(p.q) + row * dim, data<T>(p.dout) + row * dim, p.lse + row,
                                p.delta + row, rows, dim);
  for (int base = 0; base < end[R - 1]; base += 32) {
    const int count = min(32, end[R - 1] - base), own = base + own_column<L>();
    auto at_key = [&](int column) { return keys(base + column); };
    float logit[R], weight[R], ds[R];
    queries.look(
        at_key, [&](int column) { return values(base + column); }, count, dim, p.scale,
        [&](int r, int column) { return base + column < end[r]; }, logit, weight, ds);
#pragma unroll
    for (int r = 0; r < R; r++) {
      ds[r] -= queries.delta[r];
      if (p.d_importance && own >= slots && own < end[r])
        ds[r] += importance_of(p, row + min(r, rows - 1), own - slots);
      ds[r] *= p.scale * weight[r];
    }
    add_columns<L, R>(ds, at_key, count, dim, queries.dq);
  }
  store_rows<L, R>(p.dq, row, rows, dim, queries.dq);
}

// A block of threads takes R consecutive keys of memory and blocks; its warps share the queries, 32 at a
// time, and their sums are added in the order of the warps.
constexpr int kSharing = 8;

template <class L, int R> __global__ void __launch_bounds__(32 * kSharing)
    backward_keys(CompressedBackward p) {
  using T = typename L::T;
  __shared__ float sums[kSharing][R][L::kDim];
  const auto& s = p.shape;
  const int dim = int(s.dim), slots = int(p.slots), length = int(s.length), block = block_of(p);
  const int all = slots + int(p.blocks), tiles = (all + R - 1) / R;
  const std::int64_t kv = blockIdx.x / tiles, group = s.heads / s.kv_heads;
  const int first = int(blockIdx.x % tiles) * R, rows = min(R, all - first);
  const Columns<T> key_at(p, p.ck, kv, 0), value_at(p, p.cv, kv, 1);
  KeysBackward<L, R> keys;
  int from[R];  // the first query that sees the key
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int column = min(first + r, all - 1);
    load_row<L>(key_at(column), dim, keys.k[r]);
    load_row<L>(value_at(column), dim, keys.v[r]);
    from[r] = column < slots ? 0 : (column - slots + 1) * block - 1;
  }
  for (std::int64_t h = 0; h < group; h++) {
    const std::int64_t head = (kv * group + h) * length;
    for (int i = from[0] + 32 * warp_id(); i < length; i += 32 * kSharing) {
      const int count = min(32, length - i);
      const std::int64_t row = head + i, own = row + min(own_column<L>(), count - 1);
      const T *q = data<T>(p.q) + row * dim, *dout = data<T>(p.dout) + row * dim;
      auto extra = [&](int r, float weight) {
        const int w = first + r - slots;
        return p.d_importance && w >= 0 ? weight * importance_of(p, own, w) : 0.f;
      };
      keys.attend([&](int column) { return q + column * dim; },
                  [&](int column) { return dout + column * dim; }, count, dim, p.scale, p.lse[own],
                  p.delta[own], [&](int r, int column) { return r < rows && i + column >= from[r]; }, extra);
    }
  }

  auto write = [&](Grad to, float(&x)[R][L::kOwn], int which) {
#pragma unroll
    for (int r = 0; r < R; r++) {
      merge<L>(x[r]);
#pragma unroll
      for (int e = 0; e < L::kOwn; e++)
        if (lane_id() < L::kSharers)
          sums[warp_id()][r][first_element<L>(e / L::kRun) + e % L::kRun] = x[r][e];
    }
    __syncthreads();
    for (int at = int(threadIdx.x); at < rows * dim; at += 32 * kSharing) {
      const int r = at / dim, d = at % dim, column = first + r;
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < kSharing; warp++) sum += sums[warp][r][d];
      if (column >= slots) {
        if (to.p) put(data<T>(to), (kv * p.blocks + column - slots) * dim + d, sum, to.add);
      } else if (p.dmemory.p) {
        const std::int64_t b = kv / s.kv_heads, h = kv % s.kv_heads;
        p.memory_parts[(((2 * b + which) * s.kv_heads + h) * slots + column) * dim + d] = sum;
      }
    }
    __syncthreads();
  };
  write(p.dck, keys.dk, 0);
  write(p.dcv, keys.dv, 1);
}

// dmemory (=|+=) the parts, over the batch in order.
__global__ void sum_memory(Grad dmemory, const float* parts, std::int64_t batch, std::int64_t count) {
  const std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = 0;
  for (std::int64_t b = 0; b < batch; b++) sum += parts[b * count + i];
  put(data<float>(dmemory), i, sum, dmemory.add);
}

template <class P> bool fits_all(const P& p) noexcept {
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max() / 4;
  return fits(p.shape) && p.slots <= kLimit && p.top <= kLimit;
}

}  // namespace

Status run(Cuda cuda, const CompressedForward& p) noexcept {
  if (takes_mma(p)) return run_mma(cuda, p);
  if (!fits_all(p)) return kTooLong;
  return by_layout(
      p.shape.dim,
      [&](auto layout) {
        using L = decltype(layout);
        constexpr int R = kQueries<L>;
        const auto& s = p.shape;
        const std::int64_t heads = s.batch * s.heads;
        forward<L, R><<<blocks_of_tiles<R>(heads, s.length), kThreads, 0, stream_of(cuda)>>>(p);
        if (p.top > 32)
          choose_many<L><<<blocks_of_warps(heads * s.length), kThreads, 0, stream_of(cuda)>>>(p);
        return launched();
      },
      p.q, p.ck, p.cv, p.memory, p.out);
}

Status run(Cuda cuda, const CompressedBackward& p) noexcept {
  if (takes_mma(p)) return run_mma(cuda, p);
  if (!fits_all(p)) return kTooLong;
  if (!all_of_type(DType::f32, p.dmemory)) return unsupported_dtype();
  return by_layout(
      p.shape.dim,
      [&](auto layout) {
        using L = decltype(layout);
        const auto& s = p.shape;
        const cudaStream_t stream = stream_of(cuda);
        const std::int64_t heads = s.batch * s.heads;
        if (p.d_importance) {
          delta_with_importance<L><<<blocks_of_warps(heads * s.length), kThreads, 0, stream>>>(p);
        } else if (auto status = write_delta<L>(cuda, p.delta, p.dout, p.out, heads * s.length, s.dim);
                   !status.ok()) {
          return status;
        }
        if (p.dq.p) {
          constexpr int R = kQueries<L>;
          backward_queries<L, R><<<blocks_of_tiles<R>(heads, s.length), kThreads, 0, stream>>>(p);
        }
        if (p.slots + p.blocks > 0 && (p.dck.p || p.dcv.p || p.dmemory.p)) {
          constexpr int R = kKeys<L>;
          const std::int64_t grid = s.batch * s.kv_heads * ((p.slots + p.blocks + R - 1) / R);
          backward_keys<L, R><<<unsigned(grid), 32 * kSharing, 0, stream>>>(p);
        }
        const std::int64_t count = 2 * s.kv_heads * p.slots * s.dim;
        if (p.dmemory.p && count > 0)
          sum_memory<<<unsigned((count + 255) / 256), 256, 0, stream>>>(p.dmemory, p.memory_parts, s.batch,
                                                                        count);
        return launched();
      },
      p.q, p.ck, p.cv, p.memory, p.out, p.dout, p.dq, p.dck, p.dcv);
}

}  // namespace k
