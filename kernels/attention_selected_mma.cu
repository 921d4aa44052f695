// Attention to selected blocks on tensor cores: bf16, blocks of a multiple of 16 tokens, at most 16 picks. A
// warp's 16 queries pick for themselves; it goes through the union of their picks, in which a query sees its
// own only.
#include <limits>

#include "kernels/attention_tiles.cuh"

namespace k {
namespace {

using namespace tiles;

constexpr int kMostPicks = 16;
constexpr int kNone = std::numeric_limits<int>::max();

// The tiles of 16 queries: the blocks that any of them picked, ascending, then their own up to each query.
// Lane 2 r and 2 r + 1 hold the picks of query r.
template <int entries> struct PickedKeys {
  struct Tile {
    int first;         // key
    unsigned pickers;  // two bits a query, any of which says that it picked the tile; own: all ones
    bool own;
  };
  int picks[entries];
  int block, pieces, own_first, own_last;  // pieces: tiles of a block; own_*: tiles of the own block
  int current = -1, piece = 0;
  unsigned pickers = 0;

  __device__ PickedKeys(const std::int32_t* selected, std::int64_t top, int block, int first, int count)
      : block(block), pieces(block / kRows), own_first(first / block * block), own_last(first) {
    const int query = lane_id() / 2;
#pragma unroll
    for (int e = 0; e < entries; e++) {
      const int j = lane_id() % 2 * entries + e;
      const int pick = query < count && j < top ? selected[query * top + j] : -1;
      picks[e] = pick < 0 ? kNone : pick;
    }
  }
  __device__ bool next(Tile& tile) {
    if (current != kNone && piece == 0) {
      int least = kNone;
#pragma unroll
      for (int e = 0; e < entries; e++)
        if (picks[e] > current) least = min(least, picks[e]);
      current = __reduce_min_sync(~0u, least);
      bool mine = false;
#pragma unroll
      for (int e = 0; e < entries; e++) mine |= picks[e] == current;
      pickers = __ballot_sync(~0u, mine);
    }
    if (current != kNone) {
      tile = {current * block + piece * kRows, pickers, false};
      piece = piece + 1 == pieces ? 0 : piece + 1;
      return true;
    }
    if (own_first > own_last) return false;
    tile = {own_first, ~0u, true};
    own_first += kRows;
    return true;
  }
  // Calls f(visible), visible(half, key), for the queries from `first` on; a picked tile is seen whole or
  // not.
  template <class F> __device__ static void with_visible(const Tile& tile, int first, F&& f) {
    if (tile.own) return f([&](int half, int key) { return tile.first + key <= first + row_of(half); });
    const bool seen[2] = {bool((tile.pickers >> (2 * row_of(0))) & 3u),
                          bool((tile.pickers >> (2 * row_of(1))) & 3u)};
    f([&](int half, int) { return seen[half]; });
  }
};

template <int dim, int entries> __global__ void __launch_bounds__(32 * kWarps<dim>)
    forward(SelectedForward p) {
  const auto& s = p.shape;
  const Place here = Place::of<kWarps<dim>>(s.length);
  if (here.unit >= s.batch * s.heads) return;
  auto& memory = warp_memory<dim>();
  const std::int64_t matrix = here.unit / (s.heads / s.kv_heads) * s.length * dim;
  const bf *k = data<bf>(p.k) + matrix, *v = data<bf>(p.v) + matrix;
  const int length = int(s.length);
  using Keys = PickedKeys<entries>;

  Softmax<dim> queries;
  fetch<dim>(memory[0][0], data<bf>(p.q) + here.row * dim, here.count);
  mma::copy_commit();
  Keys keys(p.selected + here.row * p.top, p.top, int(p.block), here.first, here.count);
  mma::copy_wait<0>();
  __syncwarp();
  load_left<dim>(queries.q, memory[0][0]);
  __syncwarp();
  walk<dim>(
      keys, memory,
      [&](const typename Keys::Tile& tile, bf* to_k, bf* to_v) {
        fetch<dim>(to_k, k + std::int64_t(tile.first) * dim, length - tile.first);
        fetch<dim>(to_v, v + std::int64_t(tile.first) * dim, length - tile.first);
      },
      [&](const typename Keys::Tile& tile, const bf* tile_k, const bf* tile_v) {
        Keys::with_visible(tile, here.first, [&](auto visible) {
          mma::D dot[2];
          queries.attend(tile_k, tile_v, kLog2e * p.scale, visible, dot);
        });
      });
  queries.finish();
  queries.write(data<bf>(p.out) + here.row * dim, p.lse + here.row, here.count, memory[0][0]);
}

// Which of 16 queries picked a block: [batch * heads, blocks, query tiles], a bit a query.
struct Pickers {
  std::uint16_t* bits;
  int blocks, query_tiles;
  __host__ __device__ std::uint16_t* of(std::int64_t unit, int block) const {
    return bits + (unit * blocks + block) * query_tiles;
  }
};

template <int dim, int entries> __global__ void __launch_bounds__(32 * kWarps<dim>)
    backward_queries(SelectedBackward p, Pickers all) {
  const auto& s = p.shape;
  const Place here = Place::of<kWarps<dim>>(s.length);
  if (here.unit >= s.batch * s.heads) return;
  auto& memory = warp_memory<dim>();
  const std::int64_t matrix = here.unit / (s.heads / s.kv_heads) * s.length * dim;
  const bf *k = data<bf>(p.k) + matrix, *v = data<bf>(p.v) + matrix;
  const int length = int(s.length), block = int(p.block);
  using Keys = PickedKeys<entries>;

  Keys keys(p.selected + here.row * p.top, p.top, block, here.first, here.count);
  const QuerySide<dim> queries(memory, data<bf>(p.q) + here.row * dim, data<bf>(p.dout) + here.row * dim,
                               data<bf>(p.out) + here.row * dim, p.lse + here.row, p.delta + here.row,
                               here.count);
  mma::D dq[dim / 8];
  walk<dim>(
      keys, memory,
      [&](const typename Keys::Tile& tile, bf* to_k, bf* to_v) {
        fetch<dim>(to_k, k + std::int64_t(tile.first) * dim, length - tile.first);
        fetch<dim>(to_v, v + std::int64_t(tile.first) * dim, length - tile.first);
      },
      [&](const typename Keys::Tile& tile, const bf* tile_k, const bf* tile_v) {
        if (!tile.own && tile.first % block == 0) {
          const bool picked = (tile.pickers >> (2 * (lane_id() % kRows))) & 3u;
          const unsigned bits = __ballot_sync(~0u, picked) & 0xffffu;
          if (lane_id() == 0) all.of(here.unit, tile.first / block)[here.first / kRows] = std::uint16_t(bits);
        }
        mma::D weights[2], ds[2];
        Keys::with_visible(tile, here.first, [&](auto visible) {
          queries.look(tile_k, tile_v, p.scale, visible, weights, ds);
        });
        add_rows<dim>(dq, mma::as_left(ds[0], ds[1]), tile_k);
      });
  store<dim>(data<bf>(p.dq) + here.row * dim, dq, here.count, p.dq.add, memory[0][0]);
}

// The queries of a head that see 16 keys: tiles of those in the keys' own block from the keys on, then tiles
// in which somebody picked it. 32 tiles' bits are looked at together.
struct Pickings {
  struct Tile {
    int first;         // query
    unsigned pickers;  // a bit a query; own: of no meaning
    bool own;
  };
  const std::uint16_t* bits;  // of the block, by query tile; null: it is not complete, nobody can pick it
  int own_at, own_end, query_tiles, base;
  unsigned word = 0, waiting = 0;  // the lane's tile's bits; which of the 32 have any

  __device__ Pickings(const std::uint16_t* bits, int first_key, int block_end, int query_tiles)
      : bits(bits),
        own_at(first_key),
        own_end(block_end),
        query_tiles(query_tiles),
        base((block_end - 1) / kRows - 32) {}

  __device__ bool next(Tile& tile) {
    if (own_at < own_end) {
      tile = {own_at, 0, true};
      own_at += kRows;
      return true;
    }
    if (!bits) return false;
    while (waiting == 0) {
      base += 32;
      if (base >= query_tiles) return false;
      word = base + lane_id() < query_tiles ? bits[base + lane_id()] : 0;
      waiting = __ballot_sync(~0u, word != 0);
    }
    const int from = __ffs(waiting) - 1;
    waiting &= waiting - 1;
    tile = {(base + from) * kRows, __shfl_sync(~0u, word, from), false};
    return true;
  }
};

// The warps of a block share 16 keys.
template <int dim> __global__ void __launch_bounds__(32 * kWarps<dim>)
    backward_keys(SelectedBackward p, Pickers all) {
  const auto& s = p.shape;
  const Place here = Place::at_tile(blockIdx.x, s.length);
  if (here.unit >= s.batch * s.kv_heads) return;
  auto& memory = warp_memory<dim>();
  const int length = int(s.length), block = int(p.block), group = int(s.heads / s.kv_heads);
  const int own = here.first / block, block_end = min(length, (own + 1) * block);

  KeySide<dim> keys(memory, data<bf>(p.k) + here.row * dim, data<bf>(p.v) + here.row * dim, here.count);
  for (int head = 0; head < group; head++) {
    const std::int64_t unit = here.unit * group + head, start = unit * s.length;
    const bf *q = data<bf>(p.q) + start * dim, *dout = data<bf>(p.dout) + start * dim;
    Share<kWarps<dim>, Pickings> queries{
        {own < all.blocks ? all.of(unit, own) : nullptr, here.first, block_end, all.query_tiles}};
    walk<dim>(
        queries, memory,
        [&](const Pickings::Tile& tile, bf* to_q, bf* to_dout) {
          fetch<dim>(to_q, q + std::int64_t(tile.first) * dim, length - tile.first);
          fetch<dim>(to_dout, dout + std::int64_t(tile.first) * dim, length - tile.first);
        },
        [&](const Pickings::Tile& tile, const bf* q_tile, const bf* dout_tile) {
          keys.collect(q_tile, dout_tile, p.lse + start + tile.first, p.delta + start + tile.first,
                       min(kRows, (tile.own ? block_end : length) - tile.first), p.scale,
                       [&](int half, int query) {
                         return tile.own ? here.first + row_of(half) <= tile.first + query
                                         : (tile.pickers >> query) & 1u;
                       });
        });
  }
  if (!add_up<dim>(keys)) return;
  store<dim>(data<bf>(p.dk) + here.row * dim, keys.dk, here.count, p.dk.add, memory[0][0]);
  store<dim>(data<bf>(p.dv) + here.row * dim, keys.dv, here.count, p.dv.add, memory[0][0]);
}

template <class P> bool usual(const P& p) noexcept {
  return has_dim(p.shape.dim) && p.block % kRows == 0 && p.block <= 1024 && p.top <= kMostPicks &&
         p.shape.length <= std::numeric_limits<int>::max() / 2 - 1024;
}

// Calls f(entries): half of a query's picks.
template <class F> Status by_top(std::int64_t top, F&& f) noexcept {
  return top <= 4 ? f(std::integral_constant<int, 2>{}) : f(std::integral_constant<int, kMostPicks / 2>{});
}

}  // namespace

bool takes_mma(const SelectedForward& p) noexcept {
  return usual(p) && all_bf16(p.out, p.q, p.k, p.v) && aligned(p.out.p, p.q.p, p.k.p, p.v.p);
}
bool takes_mma(const SelectedBackward& p) noexcept {
  return usual(p) && !p.d_importance && p.pickers &&
         all_bf16(p.dq, p.dk, p.dv, p.dout, p.out, p.q, p.k, p.v) && p.delta &&
         aligned(p.dq.p, p.dk.p, p.dv.p, p.dout.p, p.out.p, p.q.p, p.k.p, p.v.p);
}

Status run_mma(Cuda cuda, const SelectedForward& p) noexcept {
  return by_dim(p.shape.dim, [&](auto d) {
    return by_top(p.top, [&](auto entries) {
      constexpr int dim = decltype(d)::value;
      return launch<dim>(forward<dim, decltype(entries)::value>,
                         blocks_for_rows<dim>(p.shape.batch * p.shape.heads, p.shape.length), cuda, p);
    });
  });
}

Status run_mma(Cuda cuda, const SelectedBackward& p) noexcept {
  const auto& s = p.shape;
  const Pickers pickers{p.pickers, int(s.length / p.block), int((s.length + kRows - 1) / kRows)};
  const std::size_t bytes = std::size_t(selected_pickers(s, p.block)) * sizeof(std::uint16_t);
  if (auto status = status_of(cudaMemsetAsync(p.pickers, 0, bytes, stream_of(cuda))); !status.ok())
    return status;
  return by_dim(s.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    const auto status = by_top(p.top, [&](auto entries) {
      return launch<dim>(backward_queries<dim, decltype(entries)::value>,
                         blocks_for_rows<dim>(s.batch * s.heads, s.length), cuda, p, pickers);
    });
    if (!status.ok()) return status;
    return launch<dim>(backward_keys<dim>, unsigned(s.batch * s.kv_heads * pickers.query_tiles), cuda, p,
                       pickers);
  });
}

}  // namespace k
