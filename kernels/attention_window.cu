#include "kernels/attention_mma.cuh"
#include "kernels/attention_window_sm90.cuh"

namespace k {
namespace {

// The kernels take a reach of at most the length: it fits 32 bits.
template <class P> P clamped(P p) noexcept {
  p.reach = std::min(p.reach, p.shape.length);
  return p;
}
__device__ inline bool within(int reach, int behind) { return unsigned(behind) <= unsigned(reach); }

// A warp takes R consecutive queries of a head.
template <class L, int R> __global__ void __launch_bounds__(kThreads, 3) forward(WindowForward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const Tile<R> tile(s.length);
  if (tile.unit >= s.batch * s.heads) return;
  const std::int64_t i = tile.first, row = tile.row, end = i + tile.rows;
  const std::int64_t matrix = tile.unit / (s.heads / s.kv_heads) * s.length * s.dim;
  const int dim = int(s.dim), rows = tile.rows, reach = int(p.reach);
  QueriesForward<L, R> queries(data<T>(p.q) + row * dim, rows, dim);
  for (std::int64_t j = max(i - p.reach, std::int64_t(0)); j < end; j += 32) {
    const T *k = data<T>(p.k) + matrix + j * dim, *v = data<T>(p.v) + matrix + j * dim;
    auto visible = [reach, ahead = int(i - j)](int r, int column) {
      return within(reach, ahead + r - column);
    };
    float logits[R];
    queries.attend([&](int column) { return k + column * dim; }, [&](int column) { return v + column * dim; },
                   int(min(std::int64_t(32), end - j)), dim, p.scale, visible, logits);
  }
  queries.finish(data<T>(p.out) + row * dim, p.lse + row, rows, dim);
}

template <class L, int R> __global__ void __launch_bounds__(kThreads) backward_queries(WindowBackward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const Tile<R> tile(s.length);
  if (tile.unit >= s.batch * s.heads) return;
  const std::int64_t i = tile.first, row = tile.row, end = i + tile.rows;
  const std::int64_t matrix = tile.unit / (s.heads / s.kv_heads) * s.length * s.dim;
  const int dim = int(s.dim), rows = tile.rows, reach = int(p.reach);
  QueriesBackward<L, R> queries(data<T>(p.q) + row * dim, data<T>(p.dout) + row * dim, p.lse + row,
                                p.delta + row, rows, dim);
  for (std::int64_t j = max(i - p.reach, std::int64_t(0)); j < end; j += 32) {
    const T *k = data<T>(p.k) + matrix + j * dim, *v = data<T>(p.v) + matrix + j * dim;
    const int count = int(min(std::int64_t(32), end - j));
    auto at_key = [&](int column) { return k + column * dim; };
    auto visible = [reach, ahead = int(i - j)](int r, int column) {
      return within(reach, ahead + r - column);
    };
    float logit[R], weight[R], ds[R];
    queries.look(
        at_key, [&](int column) { return v + column * dim; }, count, dim, p.scale, visible, logit, weight,
        ds);
#pragma unroll
    for (int r = 0; r < R; r++) ds[r] = p.scale * weight[r] * (ds[r] - queries.delta[r]);
    add_columns<L, R>(ds, at_key, count, dim, queries.dq);
  }
  store_rows<L, R>(p.dq, row, rows, dim, queries.dq);
}

// A warp takes R consecutive keys, and all queries of the group that see one of them: head by head.
template <class L, int R> __global__ void __launch_bounds__(kThreads, 3) backward_keys(WindowBackward p) {
  using T = typename L::T;
  const auto& s = p.shape;
  const Tile<R> tile(s.length);
  if (tile.unit >= s.batch * s.kv_heads) return;
  const std::int64_t unit = tile.unit, j = tile.first, row = tile.row, last = j + tile.rows - 1;
  const std::int64_t end = min(s.length - 1 - last, p.reach) + last + 1;
  const std::int64_t group = s.heads / s.kv_heads;
  const int dim = int(s.dim), rows = tile.rows, reach = int(p.reach);
  KeysBackward<L, R> keys;
  load_rows<L, R>(data<T>(p.k) + row * dim, rows, dim, keys.k);
  load_rows<L, R>(data<T>(p.v) + row * dim, rows, dim, keys.v);
  for (std::int64_t head = unit * group; head < (unit + 1) * group; head++)
    for (std::int64_t i = j; i < end; i += 32) {
      const std::int64_t query = head * s.length + i;
      const T *q = data<T>(p.q) + query * dim, *dout = data<T>(p.dout) + query * dim;
      const int count = int(min(std::int64_t(32), end - i));
      const int own = min(own_column<L>(), count - 1);
      auto visible = [reach, ahead = int(i - j)](int r, int column) {
        return within(reach, ahead + column - r);
      };
      keys.attend([&](int column) { return q + column * dim; },
                  [&](int column) { return dout + column * dim; }, count, dim, p.scale, p.lse[query + own],
                  p.delta[query + own], visible, [](int, float) { return 0.f; });
    }
  store_rows<L, R>(p.dk, row, rows, dim, keys.dk);
  store_rows<L, R>(p.dv, row, rows, dim, keys.dv);
}

}  // namespace

bool takes_tokens(Cuda cuda, const AttentionShape& s, DType t) noexcept {
  return t == DType::bf16 && sm90_serves(cuda, s.dim);
}

Status run(Cuda cuda, const WindowForward& p) noexcept {
  if (!fits(p.shape)) return kTooLong;
  if (sm90_serves(cuda, p.shape, p.reach, p.q, p.k, p.v, p.out)) return forward_sm90(cuda, p);
  if (p.order != Order::heads) return kHeadsOnly;
  if (takes_mma(p)) return run_mma(cuda, p);
  return by_layout(
      p.shape.dim,
      [&](auto layout) {
        using L = decltype(layout);
        constexpr int R = kQueries<L>;
        const auto& s = p.shape;
        forward<L, R>
            <<<blocks_of_tiles<R>(s.batch * s.heads, s.length), kThreads, 0, stream_of(cuda)>>>(clamped(p));
        return launched();
      },
      p.q, p.k, p.v, p.out);
}

Status run(Cuda cuda, const WindowBackward& p) noexcept {
  if (!fits(p.shape)) return kTooLong;
  if (aligned(p.delta) && sm90_serves(cuda, p.shape, p.reach, p.q, p.k, p.v, p.out, p.dout, p.dq, p.dk, p.dv))
    return backward_sm90(cuda, p);
  if (p.order != Order::heads || p.turned) return kHeadsOnly;
  if (takes_mma(p)) return run_mma(cuda, p);
  return by_layout(
      p.shape.dim,
      [&](auto layout) {
        using L = decltype(layout);
        const auto& s = p.shape;
        const std::int64_t queries = s.batch * s.heads * s.length;
        if (auto status = write_delta<L>(cuda, p.delta, p.dout, p.out, queries, s.dim); !status.ok())
          return status;
        if (p.dq.p) {
          constexpr int R = kQueries<L>;
          const unsigned blocks = blocks_of_tiles<R>(s.batch * s.heads, s.length);
          backward_queries<L, R><<<blocks, kThreads, 0, stream_of(cuda)>>>(clamped(p));
        }
        if (p.dk.p || p.dv.p) {
          constexpr int R = kKeys<L>;
          const unsigned blocks = blocks_of_tiles<R>(s.batch * s.kv_heads, s.length);
          backward_keys<L, R><<<blocks, kThreads, 0, stream_of(cuda)>>>(clamped(p));
        }
        return launched();
      },
      p.q, p.k, p.v, p.out, p.dout, p.dq, p.dk, p.dv);
}

}  // namespace k
