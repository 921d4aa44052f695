#include "kernels/attention_cuda.cuh"
#include "kernels/attention_mma.cuh"

namespace k {
namespace {

// Picks come first in a row of `selected`, ascending, then -1.
__device__ inline int valid_picks(const std::int32_t* picks, std::int64_t top) {
  int count = 0;
  for (std::int64_t j = 0; j < top; j += 32) {
    const unsigned valid = __ballot_sync(~0u, j + lane_id() < top && picks[j + lane_id()] >= 0);
    count += __popc(valid);
    if (valid != ~0u) break;
  }
  return count;
}

// The tokens that query i of a head attends to, as columns: the picked blocks one after the other, then its
// own block up to itself.
struct Tokens {
  const std::int32_t* picks;
  int block, picked, own, total;  // picked: columns of picked blocks; own: the own block's first token

  template <class P> __device__ Tokens(const P& p, std::int64_t row, int i)
      : picks(p.selected + row * p.top),
        block(block_of(p)),
        picked(valid_picks(picks, p.top) * block),
        own(i / block * block),
        total(picked + i - own + 1) {}

  __device__ int operator[](int column) const {
    return column < picked ? picks[column / block] * block + column % block : own + column - picked;
  }
};

// A warp takes one query: neighbours differ in what they pick.
template <class L> __global__ void __launch_bounds__(kThreads, 6) forward(SelectedForward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const std::int64_t row = global_warp(), unit = row / s.length;
  if (unit >= s.batch * s.heads) return;
  const std::int64_t matrix = unit / (s.heads / s.kv_heads) * s.length * s.dim;
  const T *k = data<T>(p.k) + matrix, *v = data<T>(p.v) + matrix;
  const int dim = int(s.dim);
  const Tokens tokens(p, row, int(row % s.length));
  QueriesForward<L, 1> query(data<T>(p.q) + row * dim, 1, dim);
  for (int base = 0; base < tokens.total; base += 32) {
    const int token = tokens[min(base + lane_id(), tokens.total - 1)];
    auto offset = [&](int column) { return std::int64_t(__shfl_sync(~0u, token, column)) * dim; };
    float logit[1];
    query.attend([&](int column) { return k + offset(column); },
                 [&](int column) { return v + offset(column); }, min(32, tokens.total - base), dim, p.scale,
                 [](int, int) { return true; }, logit);
  }
  query.finish(data<T>(p.out) + row * dim, p.lse + row, 1, dim);
}

template <class L> __global__ void __launch_bounds__(kThreads, 5) backward_queries(SelectedBackward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const std::int64_t row = global_warp(), unit = row / s.length;
  if (unit >= s.batch * s.heads) return;
  const std::int64_t matrix = unit / (s.heads / s.kv_heads) * s.length * s.dim;
  const T *k = data<T>(p.k) + matrix, *v = data<T>(p.v) + matrix;
  const int dim = int(s.dim), lane = lane_id();
  const Tokens tokens(p, row, int(row % s.length));
  QueriesBackward<L, 1> query(data<T>(p.q) + row * dim, data<T>(p.dout) + row * dim, p.lse + row,
                              p.delta + row, 1, dim);
  float* d_importance = p.d_importance ? p.d_importance + row * p.top : nullptr;
  float importance = 0;  // of the pick that the last columns belonged to, so far
  for (int base = 0; base < tokens.total; base += 32) {
    const int token = tokens[min(base + lane, tokens.total - 1)], count = min(32, tokens.total - base);
    auto offset = [&](int column) { return std::int64_t(__shfl_sync(~0u, token, column)) * dim; };
    auto at_key = [&](int column) { return k + offset(column); };
    float logit[1], weight[1], ds[1];
    query.look(
        at_key, [&](int column) { return v + offset(column); }, count, dim, p.scale,
        [](int, int) { return true; }, logit, weight, ds);
    const float from_values = weight[0] * ds[0];
    ds[0] = weight[0] * (ds[0] - query.delta[0]);
    if (d_importance) {
      const int column = base + own_column<L>(), end = min(base + 32, tokens.picked);
      const float added = column < end ? ds[0] * logit[0] + from_values : 0.f;
      for (int first = base; first < end;) {  // a pick's columns in this run: [first, past)
        const int pick = first / tokens.block, past = min(end, (pick + 1) * tokens.block);
        importance += warp_sum(column >= first && column < past ? added : 0.f);
        if (past == (pick + 1) * tokens.block) {
          if (lane == 0) d_importance[pick] = importance;
          importance = 0;
        }
        first = past;
      }
    }
    ds[0] *= p.scale;
    add_columns<L, 1>(ds, at_key, count, dim, query.dq);
  }
  for (std::int64_t j = tokens.picked / tokens.block + lane; d_importance && j < p.top; j += 32)
    d_importance[j] = 0;
  store_rows<L, 1>(p.dq, row, 1, dim, query.dq);
}

// A block of threads takes up to kTile keys of one block, for all queries of the group: those that picked the
// block, found by looking through the picks of every later query, and those of the block itself. The search
// costs length^2 / block * top / 2 reads of 4 bytes a head, which is little beside the attention itself up to
// 16 thousand tokens.
constexpr int kTile = 16;
template <class L> inline constexpr int kTileThreads = kTile / kKeys<L> * 32;

template <class L> __global__ void __launch_bounds__(kTileThreads<L>) backward_keys(SelectedBackward p) {
  using T = typename L::T;
  constexpr int R = kKeys<L>, kAll = kTileThreads<L>;
  constexpr int kFound = 8 * kAll;  // queries that the list holds
  __shared__ int found[kFound], counts[kAll / 32];
  const auto& s = p.shape;
  const int block = block_of(p), length = int(s.length), dim = int(s.dim), lane = lane_id();
  const int tiles = (block + kTile - 1) / kTile, all_tiles = (length + block - 1) / block * tiles;
  const std::int64_t unit = blockIdx.x / all_tiles, group = s.heads / s.kv_heads;
  const std::int64_t group_row = unit * group * length;  // the group's first query
  const T *q = data<T>(p.q) + group_row * dim, *dout = data<T>(p.dout) + group_row * dim;
  const float *lse = p.lse + group_row, *delta = p.delta + group_row;
  const int tile = int(blockIdx.x % all_tiles), w = tile / tiles;
  const int end = min((w + 1) * std::int64_t(block), s.length);  // of the block
  const int key = w * block + tile % tiles * kTile + warp_id() * R;
  const int rows = min(R, end - key);  // this warp's keys: none if not positive
  const std::int64_t key_row = unit * length + min(key, length - 1);
  KeysBackward<L, R> keys;
  load_rows<L, R>(data<T>(p.k) + key_row * dim, max(rows, 1), dim, keys.k);
  load_rows<L, R>(data<T>(p.v) + key_row * dim, max(rows, 1), dim, keys.v);
  auto no_extra = [](int, float) { return 0.f; };

  const int first = (w + 1) * std::int64_t(block) <= s.length ? end - 1 : length;  // may pick this block
  const int span = length - first;
  const std::int64_t candidates = p.top > 0 ? group * span : 0;
  int listed = 0;
  for (std::int64_t base = 0; base < candidates; base += kAll) {
    const std::int64_t candidate = base + threadIdx.x;
    int query = -1;  // a row of the group
    if (candidate < candidates) {
      const int at = int(candidate / span) * length + first + int(candidate % span);
      const std::int32_t* picks = p.selected + (group_row + at) * p.top;
      std::int64_t j = 0;
      while (j < p.top && picks[j] >= 0 && picks[j] < w) j++;
      if (j < p.top && picks[j] == w) query = at;
    }
    const unsigned hits = __ballot_sync(~0u, query >= 0);
    if (lane == 0) counts[warp_id()] = __popc(hits);
    __syncthreads();
    int at = listed + __popc(hits & ((1u << lane) - 1));
    for (int other = 0; other < kAll / 32; other++) {
      if (other < warp_id()) at += counts[other];
      listed += counts[other];
    }
    if (query >= 0) found[at] = query;
    __syncthreads();
    if (listed <= kFound - kAll && base + kAll < candidates) continue;
    for (int start = 0; rows > 0 && start < listed; start += 32) {
      const int count = min(32, listed - start), own = found[start + min(own_column<L>(), count - 1)];
      auto offset = [&](int column) { return std::int64_t(found[start + column]) * dim; };
      keys.attend([&](int column) { return q + offset(column); },
                  [&](int column) { return dout + offset(column); }, count, dim, p.scale, lse[own],
                  delta[own], [rows](int r, int) { return r < rows; }, no_extra);
    }
    listed = 0;
    __syncthreads();  // the list is read before it is filled again
  }
  if (rows <= 0) return;

  for (std::int64_t h = 0; h < group; h++)
    for (int i = key; i < end; i += 32) {
      const std::int64_t at = h * length + i;
      const T *query = q + at * dim, *its_dout = dout + at * dim;
      const int count = min(32, end - i), own = min(own_column<L>(), count - 1);
      keys.attend([&](int column) { return query + column * dim; },
                  [&](int column) { return its_dout + column * dim; }, count, dim, p.scale, lse[at + own],
                  delta[at + own], [&](int r, int column) { return r < rows && i + column >= key + r; },
                  no_extra);
    }
  store_rows<L, R>(p.dk, key_row, rows, dim, keys.dk);
  store_rows<L, R>(p.dv, key_row, rows, dim, keys.dv);
}

}  // namespace

Status run(Cuda cuda, const SelectedForward& p) noexcept {
  if (takes_mma(p)) return run_mma(cuda, p);
  if (!fits(p.shape)) return kTooLong;
  return by_layout(
      p.shape.dim,
      [&](auto layout) {
        using L = decltype(layout);
        const std::int64_t queries = p.shape.batch * p.shape.heads * p.shape.length;
        forward<L><<<blocks_of_warps(queries), kThreads, 0, stream_of(cuda)>>>(p);
        return launched();
      },
      p.q, p.k, p.v, p.out);
}

Status run(Cuda cuda, const SelectedBackward& p) noexcept {
  if (takes_mma(p)) return run_mma(cuda, p);
  if (!fits(p.shape)) return kTooLong;
  return by_layout(
      p.shape.dim,
      [&](auto layout) {
        using L = decltype(layout);
        const auto& s = p.shape;
        const std::int64_t queries = s.batch * s.heads * s.length;
        if (auto status = write_delta<L>(cuda, p.delta, p.dout, p.out, queries, s.dim); !status.ok())
          return status;
        if (p.dq.p || p.d_importance)
          backward_queries<L><<<blocks_of_warps(queries), kThreads, 0, stream_of(cuda)>>>(p);
        if (p.dk.p || p.dv.p) {
          const std::int64_t block = std::min(p.block, s.length), tiles = (block + kTile - 1) / kTile;
          const std::int64_t grid = s.batch * s.kv_heads * ((s.length + block - 1) / block) * tiles;
          backward_keys<L><<<unsigned(grid), kTileThreads<L>, 0, stream_of(cuda)>>>(p);
        }
        return launched();
      },
      p.q, p.k, p.v, p.out, p.dout, p.dq, p.dk, p.dv);
}

}  // namespace k
