// Window and dense attention on tensor cores: bf16, any length.
#include <limits>

#include "kernels/attention_tiles.cuh"

namespace k {
namespace {

using namespace tiles;

// Tiles of 16 positions, first to last; `first` of each is its first position.
struct Range {
  struct Tile {
    int first;
  };
  int at, last;
  __device__ bool next(Tile& tile) {
    if (at > last) return false;
    tile.first = at;
    at += kRows;
    return true;
  }
};

template <int dim> __global__ void __launch_bounds__(32 * kWarps<dim>) forward(WindowForward p) {
  const auto& s = p.shape;
  const Place here = Place::of<kWarps<dim>>(s.length);
  if (here.unit >= s.batch * s.heads) return;
  auto& memory = warp_memory<dim>();
  const std::int64_t matrix = here.unit / (s.heads / s.kv_heads) * s.length * dim;
  const bf *k = data<bf>(p.k) + matrix, *v = data<bf>(p.v) + matrix;
  const int reach = int(min(p.reach, s.length)), length = int(s.length);

  Softmax<dim> queries;
  fetch<dim>(memory[0][0], data<bf>(p.q) + here.row * dim, here.count);
  mma::copy_commit();
  mma::copy_wait<0>();
  __syncwarp();
  load_left<dim>(queries.q, memory[0][0]);
  __syncwarp();
  Range keys{max(0, here.first - reach) / kRows * kRows, here.first};
  walk<dim>(
      keys, memory,
      [&](const Range::Tile& tile, bf* to_k, bf* to_v) {
        fetch<dim>(to_k, k + std::int64_t(tile.first) * dim, length - tile.first);
        fetch<dim>(to_v, v + std::int64_t(tile.first) * dim, length - tile.first);
      },
      [&](const Range::Tile& tile, const bf* tile_k, const bf* tile_v) {
        mma::D s_tile[2];
        queries.attend(
            tile_k, tile_v, kLog2e * p.scale,
            [&](int half, int key) {
              const int distance = here.first + row_of(half) - tile.first - key;
              return distance >= 0 && distance <= reach;
            },
            s_tile);
      });
  queries.finish();
  queries.write(data<bf>(p.out) + here.row * dim, p.lse + here.row, here.count, memory[0][0]);
}

template <int dim> __global__ void __launch_bounds__(32 * kWarps<dim>) backward_queries(WindowBackward p) {
  const auto& s = p.shape;
  const Place here = Place::of<kWarps<dim>>(s.length);
  if (here.unit >= s.batch * s.heads) return;
  auto& memory = warp_memory<dim>();
  const std::int64_t matrix = here.unit / (s.heads / s.kv_heads) * s.length * dim;
  const bf *k = data<bf>(p.k) + matrix, *v = data<bf>(p.v) + matrix;
  const int reach = int(min(p.reach, s.length)), length = int(s.length);

  const QuerySide<dim> queries(memory, data<bf>(p.q) + here.row * dim, data<bf>(p.dout) + here.row * dim,
                               data<bf>(p.out) + here.row * dim, p.lse + here.row, p.delta + here.row,
                               here.count);
  mma::D dq[dim / 8];
  Range keys{max(0, here.first - reach) / kRows * kRows, here.first};
  walk<dim>(
      keys, memory,
      [&](const Range::Tile& tile, bf* to_k, bf* to_v) {
        fetch<dim>(to_k, k + std::int64_t(tile.first) * dim, length - tile.first);
        fetch<dim>(to_v, v + std::int64_t(tile.first) * dim, length - tile.first);
      },
      [&](const Range::Tile& tile, const bf* tile_k, const bf* tile_v) {
        mma::D weights[2], ds[2];
        queries.look(
            tile_k, tile_v, p.scale,
            [&](int half, int key) {
              const int distance = here.first + row_of(half) - tile.first - key;
              return distance >= 0 && distance <= reach;
            },
            weights, ds);
        add_rows<dim>(dq, mma::as_left(ds[0], ds[1]), tile_k);
      });
  store<dim>(data<bf>(p.dq) + here.row * dim, dq, here.count, p.dq.add, memory[0][0]);
}

template <int dim> __global__ void __launch_bounds__(32 * kWarps<dim>) backward_keys(WindowBackward p) {
  const auto& s = p.shape;
  const Place here = Place::of<kWarps<dim>>(s.length);
  if (here.unit >= s.batch * s.kv_heads) return;
  auto& memory = warp_memory<dim>();
  const int reach = int(min(p.reach, s.length)), length = int(s.length), group = int(s.heads / s.kv_heads);

  KeySide<dim> keys(memory, data<bf>(p.k) + here.row * dim, data<bf>(p.v) + here.row * dim, here.count);
  for (int head = 0; head < group; head++) {
    const std::int64_t start = (here.unit * group + head) * s.length;  // the head's first row
    const bf *q = data<bf>(p.q) + start * dim, *dout = data<bf>(p.dout) + start * dim;
    Range queries{here.first, min(length - 1, here.first + here.count - 1 + reach)};
    walk<dim>(
        queries, memory,
        [&](const Range::Tile& tile, bf* to_q, bf* to_dout) {
          fetch<dim>(to_q, q + std::int64_t(tile.first) * dim, length - tile.first);
          fetch<dim>(to_dout, dout + std::int64_t(tile.first) * dim, length - tile.first);
        },
        [&](const Range::Tile& tile, const bf* q_tile, const bf* dout_tile) {
          keys.collect(q_tile, dout_tile, p.lse + start + tile.first, p.delta + start + tile.first,
                       min(kRows, length - tile.first), p.scale, [&](int half, int query) {
                         const int distance = tile.first + query - here.first - row_of(half);
                         return distance >= 0 && distance <= reach;
                       });
        });
  }
  store<dim>(data<bf>(p.dk) + here.row * dim, keys.dk, here.count, p.dk.add, memory[0][0]);
  store<dim>(data<bf>(p.dv) + here.row * dim, keys.dv, here.count, p.dv.add, memory[0][0]);
}

template <class P> bool usual(const P& p) noexcept {
  return has_dim(p.shape.dim) && p.shape.length <= std::numeric_limits<int>::max() / 2;
}

}  // namespace

bool takes_mma(const WindowForward& p) noexcept {
  return usual(p) && all_bf16(p.out, p.q, p.k, p.v) && aligned(p.out.p, p.q.p, p.k.p, p.v.p);
}
bool takes_mma(const WindowBackward& p) noexcept {
  return usual(p) && all_bf16(p.dq, p.dk, p.dv, p.dout, p.out, p.q, p.k, p.v) && p.delta &&
         aligned(p.dq.p, p.dk.p, p.dv.p, p.dout.p, p.out.p, p.q.p, p.k.p, p.v.p);
}

Status run_mma(Cuda cuda, const WindowForward& p) noexcept {
  return by_dim(p.shape.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    return launch<dim>(forward<dim>, blocks_for_rows<dim>(p.shape.batch * p.shape.heads, p.shape.length),
                       cuda, p);
  });
}

Status run_mma(Cuda cuda, const WindowBackward& p) noexcept {
  return by_dim(p.shape.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    const auto& s = p.shape;
    if (auto status =
            launch<dim>(backward_queries<dim>, blocks_for_rows<dim>(s.batch * s.heads, s.length), cuda, p);
        !status.ok())
      return status;
    return launch<dim>(backward_keys<dim>, blocks_for_rows<dim>(s.batch * s.kv_heads, s.length), cuda, p);
  });
}

}  // namespace k
