// Attention to the memory and to compressed blocks on tensor cores, with the choice of blocks: bf16, at most
// 16 memory slots and 4 picks.
#include <limits>

#include "kernels/attention_tiles.cuh"

namespace k {
namespace {

using namespace tiles;

constexpr int kMostSlots = kRows, kMostPicks = 4;
constexpr int kNone = std::numeric_limits<int>::max();

// The memory, a tile of its own, then the compressed blocks that somebody sees.
struct CompressedKeys {
  struct Tile {
    int first;  // block; the memory: -1
    int count;  // rows
  };
  int slots, end, at = -1;  // end: blocks that the last query sees
  __device__ bool next(Tile& tile) {
    if (at >= end) return false;
    tile = at < 0 ? Tile{-1, slots} : Tile{at, min(kRows, end - at)};
    at = at < 0 ? 0 : at + kRows;
    return true;
  }
};
// Does a query see row `key` of a tile? Block w is complete, and so visible, from its last token on.
__device__ inline bool sees(const CompressedKeys::Tile& tile, int block, int query, int key) {
  return key < tile.count && (tile.first < 0 || std::int64_t(tile.first + key + 1) * block - 1 <= query);
}

// Where the rows of a tile lie, of keys (0) or values (1) of a head.
template <int dim> struct Source {
  const bf *memory, *blocks;
  template <class P> __device__ Source(const P& p, const In& of_blocks, std::int64_t unit, int which)
      : memory(data<bf>(p.memory) + (which * p.shape.kv_heads + unit % p.shape.kv_heads) * p.slots * dim),
        blocks(data<bf>(of_blocks) + unit * p.blocks * dim) {}
  __device__ const bf* rows(int first) const {
    return first < 0 ? memory : blocks + std::int64_t(first) * dim;
  }
};

// The best blocks of a query so far, by falling logits, the lower index first among equals.
struct Best {
  float logit[kMostPicks];
  int index[kMostPicks];
  __device__ Best() {
#pragma unroll
    for (int i = 0; i < kMostPicks; i++) logit[i] = -INFINITY, index[i] = kNone;
  }
  __device__ void swap(int i) {
    const float x = logit[i];
    const int w = index[i];
    logit[i] = logit[i - 1], index[i] = index[i - 1];
    logit[i - 1] = x, index[i - 1] = w;
  }
  // A block later than all offered before.
  __device__ void offer(float x, int w) {
    if (!(x > logit[kMostPicks - 1])) return;
    logit[kMostPicks - 1] = x, index[kMostPicks - 1] = w;
#pragma unroll
    for (int i = kMostPicks - 1; i > 0; i--)
      if (logit[i] > logit[i - 1]) swap(i);
  }
  // The best of the four lanes that share a query, in every one of them.
  __device__ Best of_quad() const {
    Best own = *this, all;
#pragma unroll
    for (int rank = 0; rank < kMostPicks; rank++) {
      float x = own.logit[0];
      int w = own.index[0];
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) {
        const float other = __shfl_xor_sync(~0u, x, lanes);
        const int other_w = __shfl_xor_sync(~0u, w, lanes);
        if (other > x || (other == x && other_w < w)) x = other, w = other_w;
      }
      all.logit[rank] = x, all.index[rank] = w;
      if (own.index[0] == w) {
#pragma unroll
        for (int i = 1; i < kMostPicks; i++) own.logit[i - 1] = own.logit[i], own.index[i - 1] = own.index[i];
        own.logit[kMostPicks - 1] = -INFINITY, own.index[kMostPicks - 1] = kNone;
      }
    }
    return all;
  }
  // The first `top` with p > 1e-10 by rising index, then -1.
  __device__ void write(std::int32_t* picks, int top, float scale, float lse) {
#pragma unroll
    for (int i = 0; i < kMostPicks; i++)
      if (i >= top || !(exp2f(kLog2e * (scale * logit[i] - lse)) > 1e-10f)) index[i] = kNone;
#pragma unroll
    for (int pass = 1; pass < kMostPicks; pass++)
#pragma unroll
      for (int i = kMostPicks - 1; i >= pass; i--)
        if (index[i] < index[i - 1]) swap(i);
#pragma unroll
    for (int i = 0; i < kMostPicks; i++)
      if (i < top) picks[i] = index[i] == kNone ? -1 : index[i];
  }
};

template <class P> __device__ inline CompressedKeys keys_of(const P& p, const Place& here) {
  return {int(p.slots), min(int(p.blocks), int((here.first + here.count) / p.block))};
}

template <int dim> __global__ void __launch_bounds__(32 * kWarps<dim>) forward(CompressedForward p) {
  const auto& s = p.shape;
  const Place here = Place::of<kWarps<dim>>(s.length);
  if (here.unit >= s.batch * s.heads) return;
  auto& memory = warp_memory<dim>();
  const std::int64_t unit = here.unit / (s.heads / s.kv_heads);
  const Source<dim> k(p, p.ck, unit, 0), v(p, p.cv, unit, 1);
  const int block = int(p.block), top = int(p.top);

  Softmax<dim> queries;
  fetch<dim>(memory[0][0], data<bf>(p.q) + here.row * dim, here.count);
  mma::copy_commit();
  mma::copy_wait<0>();
  __syncwarp();
  load_left<dim>(queries.q, memory[0][0]);
  __syncwarp();
  CompressedKeys keys = keys_of(p, here);
  Best best[2];
  walk<dim>(
      keys, memory,
      [&](const CompressedKeys::Tile& tile, bf* to_k, bf* to_v) {
        fetch<dim>(to_k, k.rows(tile.first), tile.count);
        fetch<dim>(to_v, v.rows(tile.first), tile.count);
      },
      [&](const CompressedKeys::Tile& tile, const bf* tile_k, const bf* tile_v) {
        mma::D dot[2];
        queries.attend(
            tile_k, tile_v, kLog2e * p.scale,
            [&](int half, int key) { return sees(tile, block, here.first + row_of(half), key); }, dot);
        if (tile.first < 0 || top == 0) return;
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
          for (int n = 0; n < 2; n++)
#pragma unroll
            for (int odd = 0; odd < 2; odd++)
              if (sees(tile, block, here.first + row_of(half), column_of(n, odd)))
                best[half].offer(dot[n].x[2 * half + odd], tile.first + column_of(n, odd));
      });
  queries.finish();
  queries.write(data<bf>(p.out) + here.row * dim, p.lse + here.row, here.count, memory[0][0]);
  if (top == 0) return;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    Best all = best[half].of_quad();
    if (lane_id() % 4 == 0 && row_of(half) < here.count)
      all.write(p.selected + (here.row + row_of(half)) * top, top, p.scale, queries.max[half]);
  }
}

template <int dim> __global__ void __launch_bounds__(32 * kWarps<dim>)
    backward_queries(CompressedBackward p) {
  const auto& s = p.shape;
  const Place here = Place::of<kWarps<dim>>(s.length);
  if (here.unit >= s.batch * s.heads) return;
  auto& memory = warp_memory<dim>();
  const std::int64_t unit = here.unit / (s.heads / s.kv_heads);
  const Source<dim> k(p, p.ck, unit, 0), v(p, p.cv, unit, 1);
  const int block = int(p.block);

  const QuerySide<dim> queries(memory, data<bf>(p.q) + here.row * dim, data<bf>(p.dout) + here.row * dim,
                               data<bf>(p.out) + here.row * dim, p.lse + here.row, p.delta + here.row,
                               here.count);
  mma::D dq[dim / 8];
  CompressedKeys keys = keys_of(p, here);
  walk<dim>(
      keys, memory,
      [&](const CompressedKeys::Tile& tile, bf* to_k, bf* to_v) {
        fetch<dim>(to_k, k.rows(tile.first), tile.count);
        fetch<dim>(to_v, v.rows(tile.first), tile.count);
      },
      [&](const CompressedKeys::Tile& tile, const bf* tile_k, const bf* tile_v) {
        mma::D weights[2], ds[2];
        queries.look(
            tile_k, tile_v, p.scale,
            [&](int half, int key) { return sees(tile, block, here.first + row_of(half), key); }, weights,
            ds);
        add_rows<dim>(dq, mma::as_left(ds[0], ds[1]), tile_k);
      });
  store<dim>(data<bf>(p.dq) + here.row * dim, dq, here.count, p.dq.add, memory[0][0]);
}

// How the work on keys is divided: a warp takes one tile of keys (the memory or 16 blocks) of a key/value
// head and one chunk of its queries, and leaves its sums in a part of its own, [2 (key, value), 16, dim].
struct Parts {
  float* sums;
  int key_tiles, chunks, chunk_tiles;  // chunk_tiles: tiles of 16 queries in a chunk
  template <class P> explicit Parts(const P& p)
      : sums(p.tile_parts),
        key_tiles(int(1 + (p.blocks + kRows - 1) / kRows)),
        chunks(int(compressed_chunks(p.shape.length))),
        chunk_tiles(int((tiles_of(p.shape.length) + chunks - 1) / chunks)) {}
  static std::int64_t tiles_of(std::int64_t length) { return (length + kRows - 1) / kRows; }
  // The first chunk that holds a query which sees a key of the tile.
  __device__ int first_chunk(int key_tile, std::int64_t block) const {
    if (key_tile == 0) return 0;
    return int((std::int64_t(key_tile - 1) * kRows + 1) * block - 1) / kRows / chunk_tiles;
  }
  __device__ std::int64_t at(std::int64_t unit, int key_tile, int chunk) const {
    return (unit * key_tiles + key_tile) * chunks + chunk;
  }
};

struct Queries {
  struct Tile {
    int first;
  };
  int at, end;
  __device__ bool next(Tile& tile) {
    if (at >= end) return false;
    tile.first = at;
    at += kRows;
    return true;
  }
};

template <int dim> __global__ void __launch_bounds__(32 * kWarps<dim>)
    backward_keys(CompressedBackward p, Parts parts) {
  const auto& s = p.shape;
  const int chunk = int(blockIdx.x % parts.chunks),
            key_tile = int(blockIdx.x / parts.chunks % parts.key_tiles);
  const std::int64_t unit = blockIdx.x / parts.chunks / parts.key_tiles;
  if (chunk < parts.first_chunk(key_tile, p.block)) return;
  auto& memory = warp_memory<dim>();
  const int length = int(s.length), block = int(p.block), group = int(s.heads / s.kv_heads);
  const int first_key = key_tile == 0 ? -1 : (key_tile - 1) * kRows;
  const CompressedKeys::Tile tile{first_key,
                                  key_tile == 0 ? int(p.slots) : min(kRows, int(p.blocks) - first_key)};
  const int sees_from = key_tile == 0 ? 0 : ((first_key + 1) * block - 1) / kRows * kRows;
  const int start_query = max(sees_from, chunk * parts.chunk_tiles * kRows),
            end_query = min(length, (chunk + 1) * parts.chunk_tiles * kRows);

  KeySide<dim> keys(memory, Source<dim>(p, p.ck, unit, 0).rows(first_key),
                    Source<dim>(p, p.cv, unit, 1).rows(first_key), tile.count);
  for (int head = 0; head < group; head++) {
    const std::int64_t start = (unit * group + head) * s.length;
    const bf *q = data<bf>(p.q) + start * dim, *dout = data<bf>(p.dout) + start * dim;
    Share<kWarps<dim>, Queries> queries{{start_query, end_query}};
    walk<dim>(
        queries, memory,
        [&](const Queries::Tile& at, bf* to_q, bf* to_dout) {
          fetch<dim>(to_q, q + std::int64_t(at.first) * dim, length - at.first);
          fetch<dim>(to_dout, dout + std::int64_t(at.first) * dim, length - at.first);
        },
        [&](const Queries::Tile& at, const bf* q_tile, const bf* dout_tile) {
          keys.collect(q_tile, dout_tile, p.lse + start + at.first, p.delta + start + at.first,
                       min(kRows, length - at.first), p.scale, [&](int half, int query) {
                         return sees(tile, block, at.first + query, row_of(half));
                       });
        });
  }
  if (!add_up<dim>(keys)) return;
  float* part = parts.sums + parts.at(unit, key_tile, chunk) * 2 * kRows * dim;
#pragma unroll
  for (int n = 0; n < dim / 8; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float* to = part + row_of(half) * dim + column_of(n, 0);
      *reinterpret_cast<float2*>(to) = {keys.dk[n].x[2 * half], keys.dk[n].x[2 * half + 1]};
      *reinterpret_cast<float2*>(to + kRows * dim) = {keys.dv[n].x[2 * half], keys.dv[n].x[2 * half + 1]};
    }
}

// Adds up the parts in order: of a block those of its chunks, of a memory row those of all sequences.
template <int dim> __global__ void __launch_bounds__(256) add_parts(CompressedBackward p, Parts parts) {
  const auto& s = p.shape;
  const std::int64_t units = s.batch * s.kv_heads, of_blocks = units * p.blocks * 2 * dim,
                     of_memory = s.kv_heads * p.slots * 2 * dim;
  std::int64_t at = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int column = int(at % dim), which = int(at / dim % 2);  // neighbours read and write neighbours
  const auto add_chunks = [&](std::int64_t unit, int key_tile, int row, float sum) {
    for (int chunk = parts.first_chunk(key_tile, p.block); chunk < parts.chunks; chunk++)
      sum += parts.sums[((parts.at(unit, key_tile, chunk) * 2 + which) * kRows + row) * dim + column];
    return sum;
  };
  if (at < of_blocks) {
    const std::int64_t w = at / (2 * dim) % p.blocks, unit = at / (2 * dim) / p.blocks;
    const float sum = add_chunks(unit, int(1 + w / kRows), int(w % kRows), 0.f);
    const Grad& to = which == 0 ? p.dck : p.dcv;
    put(data<bf>(to), (unit * p.blocks + w) * dim + column, sum, to.add);
    return;
  }
  at -= of_blocks;
  if (at >= of_memory || !p.dmemory.p) return;
  const std::int64_t slot = at / (2 * dim) % p.slots, head = at / (2 * dim) / p.slots;
  float sum = 0;
  for (std::int64_t b = 0; b < s.batch; b++) sum = add_chunks(b * s.kv_heads + head, 0, int(slot), sum);
  put(data<float>(p.dmemory), ((which * s.kv_heads + head) * p.slots + slot) * dim + column, sum,
      p.dmemory.add);
}

template <class P> bool usual(const P& p) noexcept {
  return has_dim(p.shape.dim) && p.slots <= kMostSlots && p.top <= kMostPicks &&
         p.block <= p.shape.length + 1 && p.shape.length <= std::numeric_limits<int>::max() / 4;
}
bool is_bf16(const In& x) noexcept { return x.t == DType::bf16; }

}  // namespace

bool takes_mma(const CompressedForward& p) noexcept {
  return usual(p) && all_bf16(p.out, p.q, p.memory) && is_bf16(p.ck) && is_bf16(p.cv) &&
         aligned(p.out.p, p.q.p, p.ck.p, p.cv.p, p.memory.p);
}
bool takes_mma(const CompressedBackward& p) noexcept {
  return usual(p) && !p.d_importance && p.tile_parts && p.delta &&
         all_bf16(p.dq, p.dout, p.out, p.q, p.memory) && is_bf16(p.ck) && is_bf16(p.cv) &&
         p.dck.t == DType::bf16 && p.dcv.t == DType::bf16 && (!p.dmemory.p || p.dmemory.t == DType::f32) &&
         aligned(p.dq.p, p.dck.p, p.dcv.p, p.dout.p, p.out.p, p.q.p, p.ck.p, p.cv.p, p.memory.p);
}

Status run_mma(Cuda cuda, const CompressedForward& p) noexcept {
  return by_dim(p.shape.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    return launch<dim>(forward<dim>, blocks_for_rows<dim>(p.shape.batch * p.shape.heads, p.shape.length),
                       cuda, p);
  });
}

Status run_mma(Cuda cuda, const CompressedBackward& p) noexcept {
  const auto& s = p.shape;
  const Parts parts(p);
  return by_dim(s.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    if (auto status =
            launch<dim>(backward_queries<dim>, blocks_for_rows<dim>(s.batch * s.heads, s.length), cuda, p);
        !status.ok())
      return status;
    const std::int64_t blocks = s.batch * s.kv_heads * parts.key_tiles * parts.chunks;
    if (auto status = launch<dim>(backward_keys<dim>, unsigned(blocks), cuda, p, parts); !status.ok())
      return status;
    const std::int64_t sums = s.kv_heads * (s.batch * p.blocks + p.slots) * 2 * dim;
    add_parts<dim><<<unsigned((sums + 255) / 256), 256, 0, stream_of(cuda)>>>(p, parts);
    return launched();
  });
}

}  // namespace k
