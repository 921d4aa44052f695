// Gradients of compressed attention on tensor cores: bf16, at most 16 memory slots, no gradient of picks.
#include <limits>

#include "kernels/attention_compressed_mma.cuh"

namespace k {
namespace {

using namespace compressed;

constexpr int kKeyTeam = 4;  // warps of a block of threads where keys collect

// Sums over queries are divided: a block of threads takes a tile of keys of a key/value head and a chunk of
// its queries, and leaves what it has in a part of its own, [2 (key, value), keys of a tile, dim]. The last
// of those that share keys to be done adds the parts up, in order.
struct Parts {
  float* sums;
  std::int32_t *arrived, *memory_arrived;  // [units, key tiles], [kv heads]
  int keys_wide;                           // warps next to each other over the keys; the others share queries
  int key_tiles, query_tiles, chunks, chunk_tiles;
  template <class P> explicit Parts(const P& p) : sums(p.tile_parts) {
    const std::int64_t rows = p.slots + p.blocks, units = p.shape.batch * p.shape.kv_heads;
    keys_wide = rows > kKeyTeam / 2 * kRows ? kKeyTeam : kKeyTeam / 2;
    key_tiles = int((rows + tile_keys() - 1) / tile_keys());
    query_tiles = int((p.shape.length + kTile - 1) / kTile);
    chunks = int(compressed_chunks(p.shape.length));
    chunk_tiles = (query_tiles + chunks - 1) / chunks;
    arrived =
        reinterpret_cast<std::int32_t*>(sums + units * key_tiles * chunks * 2 * tile_keys() * p.shape.dim);
    memory_arrived = arrived + units * key_tiles;
  }
  __host__ __device__ int tile_keys() const { return keys_wide * kRows; }
  // The first chunk with a query that sees a key of the tile.
  __device__ int first_chunk(const Sight& sight, int key_tile) const {
    return sight.first_query(key_tile * tile_keys()) / kTile / chunk_tiles;
  }
  __device__ std::int64_t at(unsigned unit, int key_tile, int chunk) const {
    return (std::int64_t(unit) * key_tiles + key_tile) * chunks + chunk;
  }
};

// P and dS (scaled) from dot products: weight = e^(s - lse), ds = scale * weight * (dp - delta).
__device__ inline void weigh(float& s, float& dp, float scale, float lse2, float delta) {
  s = exp2_approx(fmaf(kLog2e * scale, s, -lse2));
  dp = scale * s * (dp - delta);
}

template <int dim> __global__ void __launch_bounds__(32 * kTeam<dim>, dim > 64 ? 1 : 2)
    backward_queries(CompressedBackward p, Parts parts) {
  const Team team = Team::of<dim>(p.shape);
  if (blockIdx.x == 0) {
    const std::int64_t counters = parts.memory_arrived - parts.arrived + p.shape.kv_heads;
    for (std::int64_t i = threadIdx.x; i < counters; i += blockDim.x) parts.arrived[i] = 0;
  }
  const unsigned unit = team.key_unit(p.shape);
  const KeyRows<dim> k(p, p.ck, unit, 0), v(p, p.cv, unit, 1);
  const Sight sight(p);
  extern __shared__ __align__(16) bf shared[];
  auto& stages = reinterpret_cast<Stages<dim>&>(*shared);
  bf* const own = shared + kStagesBytes<dim> / int(sizeof(bf)) + threadIdx.x / 32 * 3 * kTileElements<dim>;

  if (team.count > 0) {
    fetch<dim>(own, data<bf>(p.q) + team.row * dim, team.count);
    fetch<dim>(own + kTileElements<dim>, data<bf>(p.dout) + team.row * dim, team.count);
    fetch<dim>(own + 2 * kTileElements<dim>, data<bf>(p.out) + team.row * dim, team.count);
  }
  float lse2[2], delta[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; half++)
    lse2[half] = row_of(half) < team.count ? kLog2e * p.lse[team.row + row_of(half)] : INFINITY;
  const int rows = sight.of(team.last), least = sight.of(team.first),
            end = team.count > 0 ? sight.of(team.first + team.count - 1) : 0;
  const int seen[2] = {sight.of(team.first + row_of(0)), sight.of(team.first + row_of(1))};

  mma::A q[dim / 16], dout[dim / 16];
  mma::D dq[dim / 8];
  const auto look_at_queries = [&] {
    load_left<dim>(q, own);
    load_left<dim>(dout, own + kTileElements<dim>);
#pragma unroll
    for (int step = 0; step < dim / 16; step++) {
      const mma::A out = mma::left(own + 2 * kTileElements<dim> + 16 * step, kStride<dim>);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const auto a = reinterpret_cast<const __nv_bfloat162&>(out.x[i]),
                   b = reinterpret_cast<const __nv_bfloat162&>(dout[step].x[i]);
        delta[i % 2] = fmaf(__low2float(a), __low2float(b), delta[i % 2]);
        delta[i % 2] = fmaf(__high2float(a), __high2float(b), delta[i % 2]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      delta[half] = quad_sum(delta[half]);
      if (lane_id() % 4 == 0 && row_of(half) < team.count) p.delta[team.row + row_of(half)] = delta[half];
    }
  };
  walk_tiles<dim>(
      stages, 0, max(1, (rows + kTile - 1) / kTile),
      [&](int tile, bf* to_k, bf* to_v) {
        const int first = tile * kTile;
        if (first >= rows) return;
        fetch_tile<dim, kTeam<dim>>(to_k, rows - first, [&](int i) { return k(first + i); });
        fetch_tile<dim, kTeam<dim>>(to_v, rows - first, [&](int i) { return v(first + i); });
      },
      [&](int tile, const bf* tile_k, const bf* tile_v) {
        if (team.count <= 0) return;
        if (tile == 0) look_at_queries();
#pragma unroll 1
        for (int part = 0; part < kTile && tile * kTile + part < end; part += kPart) {
          const int first = tile * kTile + part;
          const bf* keys = tile_k + part * kStride<dim>;
          mma::D s[kPart / 8], ds[kPart / 8];
          dots_of_two<dim>(s, ds, q, dout, keys, tile_v + part * kStride<dim>);
#pragma unroll
          for (int n = 0; n < kPart / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) weigh(s[n].x[e], ds[n].x[e], p.scale, lse2[e / 2], delta[e / 2]);
          if (first + kPart > least)
#pragma unroll
            for (int n = 0; n < kPart / 8; n++)
#pragma unroll
              for (int e = 0; e < 4; e++)
                if (first + column_of(n, e % 2) >= seen[e / 2]) ds[n].x[e] = 0;
#pragma unroll
          for (int n = 0; n < kPart / 8; n += 2)
            add_rows<dim>(dq, mma::as_left(ds[n], ds[n + 1]), keys + 8 * n * kStride<dim>);
        }
      });
  if (team.count > 0) store<dim>(data<bf>(p.dq) + team.row * dim, dq, team.count, p.dq.add, own);
}

// What a warp has collected for its 16 keys.
template <int dim> struct Collected {
  mma::D dk[dim / 8], dv[dim / 8];
  // Calls f(which, row, column, x, y) for the pairs of neighbours that a lane holds.
  template <class F> __device__ void each(F&& f) {
#pragma unroll
    for (int n = 0; n < dim / 8; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        f(0, row_of(half), column_of(n, 0), dk[n].x[2 * half], dk[n].x[2 * half + 1]);
        f(1, row_of(half), column_of(n, 0), dv[n].x[2 * half], dv[n].x[2 * half + 1]);
      }
  }
};

// Adds up, in order, what warps that share keys have collected: `wide` warps lie next to each other. True in
// those that have the sums.
template <int dim> __device__ inline bool add_up(Collected<dim>& own, int wide) {
  extern __shared__ __align__(16) bf shared[];
  auto* sums = reinterpret_cast<float2*>(shared) + lane_id();  // [warp - wide][pair][lane]
  const int warp = int(threadIdx.x) / 32;
  constexpr int kPairs = dim / 2;
  if (wide == kKeyTeam) return true;
  __syncthreads();
  if (warp >= wide) {
    int i = (warp - wide) * kPairs;
    own.each([&](int, int, int, float x, float y) { sums[i++ * 32] = {x, y}; });
  }
  __syncthreads();
  if (warp >= wide) return false;
  for (int of = warp; of + wide < kKeyTeam; of += wide) {
    int i = of * kPairs;
    own.each([&](int, int, int, float& x, float& y) {
      const float2 other = sums[i++ * 32];
      x += other.x, y += other.y;
    });
  }
  return true;
}

// Where the gradient of a key (or value) of a unit goes.
template <int dim> __device__ inline void put_pair(const CompressedBackward& p, unsigned unit, int which,
                                                   int block, int column, float x, float y) {
  const Grad& to = which == 0 ? p.dck : p.dcv;
  if (!to.p) return;
  auto* pair = reinterpret_cast<__nv_bfloat162*>(data<bf>(to) + (unit * p.blocks + block) * dim + column);
  if (to.add) x += __low2float(*pair), y += __high2float(*pair);
  *pair = __floats2bfloat162_rn(x, y);
}

// The sums over parts, by the whole block of threads: of the blocks in a tile those over chunks, of a head's
// memory those over sequences and chunks.
template <int dim> __device__ inline void add_chunks(const CompressedBackward& p, const Parts& parts,
                                                     unsigned unit, int key_tile, int first_chunk) {
  const int keys = parts.tile_keys(), stride = 2 * keys * dim;
  const float* from = parts.sums + parts.at(unit, key_tile, 0) * stride;
  for (int at = int(threadIdx.x) * 4; at < stride; at += 32 * kKeyTeam * 4) {
    const int which = at / dim / keys, block = key_tile * keys + at / dim % keys - int(p.slots);
    const Grad& to = which == 0 ? p.dck : p.dcv;
    if (block < 0 || block >= p.blocks || !to.p) continue;
    float sum[4] = {};
#pragma unroll 8
    for (int chunk = first_chunk; chunk < parts.chunks; chunk++) {
      const float4 part = *reinterpret_cast<const float4*>(from + std::int64_t(chunk) * stride + at);
      sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
    }
    put_lanes(data<bf>(to) + (unit * p.blocks + block) * dim + at % dim, sum, 4, true, to.add);
  }
}
template <int dim>
__device__ inline void add_memory(const CompressedBackward& p, const Parts& parts, unsigned head) {
  const int keys = parts.tile_keys(), stride = 2 * keys * dim, count = int(p.slots) * dim;
  const std::int64_t next_sequence = std::int64_t(p.shape.kv_heads) * parts.key_tiles * parts.chunks * stride;
  const int terms = int(p.shape.batch) * parts.chunks;
  for (int at = int(threadIdx.x); at < 2 * count; at += 32 * kKeyTeam) {
    const int which = at / count, element = at % count;
    const float* from = parts.sums + parts.at(head, 0, 0) * stride + which * keys * dim + element;
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < terms; i++)
      sum += from[i / parts.chunks * next_sequence + std::int64_t(i % parts.chunks) * stride];
    put(data<float>(p.dmemory), (which * p.shape.kv_heads + head) * count + element, sum, p.dmemory.add);
  }
}

template <int dim> __global__ void __launch_bounds__(32 * kKeyTeam, dim > 64 ? 1 : 3)
    backward_keys(CompressedBackward p, Parts parts) {
  const auto& s = p.shape;
  const Sight sight(p);
  const unsigned tile = blockIdx.x / unsigned(parts.chunks), unit = tile / unsigned(parts.key_tiles);
  const int chunk = int(blockIdx.x % unsigned(parts.chunks)),
            key_tile = int(tile % unsigned(parts.key_tiles));
  const int first_chunk = parts.first_chunk(sight, key_tile);
  if (chunk < first_chunk) return;
  extern __shared__ __align__(16) bf shared[];
  __shared__ float of_queries[2][2][kTile];  // [stage][lse times log2 e, delta]
  __shared__ bool last_of_tile, last_of_memory;
  auto& stages = reinterpret_cast<Stages<dim>&>(*shared);
  bf* const own = shared + kStagesBytes<dim> / int(sizeof(bf)) + threadIdx.x / 32 * 2 * kTileElements<dim>;
  const int warp = int(threadIdx.x) / 32, wide = parts.keys_wide, tile_first = key_tile * parts.tile_keys();
  const int key = tile_first + warp % wide * kRows, count = sight.keys() - key;
  const int length = int(s.length), group = int(s.heads / s.kv_heads);
  const KeyRows<dim> k(p, p.ck, unit, 0), v(p, p.cv, unit, 1);
#pragma unroll
  for (int at = lane_id(); at < kRows * dim / 8; at += 32) {
    const int i = at / (dim / 8), column = at % (dim / 8) * 8;
    bf* to = own + i * kStride<dim> + column;
    mma::copy_async(to, k(i < count ? key + i : 0) + column, i < count);
    mma::copy_async(to + kTileElements<dim>, v(i < count ? key + i : 0) + column, i < count);
  }
  const int first_query[2] = {sight.first_query(key + row_of(0)), sight.first_query(key + row_of(1))};
  const int first = sight.first_query(key), all_from = sight.first_query(key + kRows - 1);

  // The query heads of the group one after the other, each with the tiles of the chunk.
  const int start = max(sight.first_query(tile_first) / kTile, chunk * parts.chunk_tiles),
            tiles = min(parts.query_tiles, (chunk + 1) * parts.chunk_tiles) - start;
  const auto place = [&](int i, int& query) {
    query = (start + i % tiles) * kTile;
    return (std::int64_t(unit) * group + i / tiles) * s.length + query;
  };
  float own_value = 0;  // on its way to of_queries
  const auto load_of_queries = [&](int i) {
    int query;
    const std::int64_t row = place(i, query);
    const int at = int(threadIdx.x) % kTile;
    const bool there = query + at < length;
    if (threadIdx.x < kTile) own_value = there ? kLog2e * p.lse[row + at] : INFINITY;
    else if (threadIdx.x < 2 * kTile) own_value = there ? p.delta[row + at] : 0.f;
  };
  const auto keep_of_queries = [&](int i) {
    if (threadIdx.x < 2 * kTile) of_queries[i % 2][threadIdx.x / kTile][threadIdx.x % kTile] = own_value;
  };
  load_of_queries(0);
  keep_of_queries(0);
  mma::A of_key[dim / 16], of_value[dim / 16];
  Collected<dim> sum;
  walk_tiles<dim>(
      stages, 0, group * tiles,
      [&](int i, bf* to_q, bf* to_dout) {
        int query;
        const std::int64_t row = place(i, query);
        const bf *q = data<bf>(p.q) + row * dim, *dout = data<bf>(p.dout) + row * dim;
        fetch_tile<dim, kKeyTeam>(to_q, length - query, [&](int at) { return q + at * dim; });
        fetch_tile<dim, kKeyTeam>(to_dout, length - query, [&](int at) { return dout + at * dim; });
      },
      [&](int i, const bf* tile_q, const bf* tile_dout) {
        if (i == 0) {
          load_left<dim>(of_key, own);
          load_left<dim>(of_value, own + kTileElements<dim>);
        }
        if (i + 1 < group * tiles) load_of_queries(i + 1);
        int query;
        place(i, query);
#pragma unroll 1
        for (int part = warp / wide * kPart; part < kTile; part += kKeyTeam / wide * kPart) {
          const int from = query + part;
          if (from + kPart <= first || from >= length) continue;
          const bf *q = tile_q + part * kStride<dim>, *dout = tile_dout + part * kStride<dim>;
          mma::D w[kPart / 8], ds[kPart / 8];
          dots_of_two<dim>(w, ds, of_key, of_value, q, dout);
#pragma unroll
          for (int n = 0; n < kPart / 8; n++) {
            const float2 lse2 =
                             *reinterpret_cast<const float2*>(&of_queries[i % 2][0][part + column_of(n, 0)]),
                         delta =
                             *reinterpret_cast<const float2*>(&of_queries[i % 2][1][part + column_of(n, 0)]);
#pragma unroll
            for (int half = 0; half < 2; half++) {
              weigh(w[n].x[2 * half], ds[n].x[2 * half], p.scale, lse2.x, delta.x);
              weigh(w[n].x[2 * half + 1], ds[n].x[2 * half + 1], p.scale, lse2.y, delta.y);
            }
          }
          if (from < all_from || from + kPart > length)
#pragma unroll
            for (int n = 0; n < kPart / 8; n++)
#pragma unroll
              for (int e = 0; e < 4; e++)
                if (const int at = from + column_of(n, e % 2); at < first_query[e / 2] || at >= length)
                  w[n].x[e] = ds[n].x[e] = 0;
#pragma unroll
          for (int n = 0; n < kPart / 8; n += 2) {
            add_rows<dim>(sum.dv, mma::as_left(w[n], w[n + 1]), dout + 8 * n * kStride<dim>);
            add_rows<dim>(sum.dk, mma::as_left(ds[n], ds[n + 1]), q + 8 * n * kStride<dim>);
          }
        }
        if (i + 1 < group * tiles) keep_of_queries(i + 1);
      });

  const bool whole = first_chunk + 1 == parts.chunks;  // nobody else has these keys
  const bool has_memory = key_tile == 0 && p.dmemory.p && sight.slots > 0;
  if (add_up(sum, wide)) {
    float* part = parts.sums + parts.at(unit, key_tile, chunk) * 2 * parts.tile_keys() * dim;
    sum.each([&](int which, int row, int column, float x, float y) {
      const int block = key + row - sight.slots;
      if (whole && block >= 0) {
        if (block < sight.blocks) put_pair<dim>(p, unit, which, block, column, x, y);
      } else {
        *reinterpret_cast<float2*>(part + (which * parts.tile_keys() + key - tile_first + row) * dim +
                                   column) = {x, y};
      }
    });
  }
  if (whole && !has_memory) return;
  const unsigned head = unit % unsigned(s.kv_heads);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const int chunks = parts.chunks - first_chunk;
    last_of_tile = !whole && atomicAdd(&parts.arrived[unit * parts.key_tiles + key_tile], 1) == chunks - 1;
    last_of_memory = has_memory && atomicAdd(&parts.memory_arrived[head], 1) == s.batch * chunks - 1;
  }
  __syncthreads();
  __threadfence();
  if (last_of_tile) add_chunks<dim>(p, parts, unit, key_tile, first_chunk);
  if (last_of_memory) add_memory<dim>(p, parts, head);
}

}  // namespace

bool takes_mma(const CompressedBackward& p) noexcept {
  return usual(p) && !p.d_importance && p.tile_parts && p.delta &&
         all_bf16(p.dq, p.dout, p.out, p.q, p.memory) && p.ck.t == DType::bf16 && p.cv.t == DType::bf16 &&
         p.dck.t == DType::bf16 && p.dcv.t == DType::bf16 && (!p.dmemory.p || p.dmemory.t == DType::f32) &&
         aligned(p.dq.p, p.dck.p, p.dcv.p, p.dout.p, p.out.p, p.q.p, p.ck.p, p.cv.p, p.memory.p);
}

Status run_mma(Cuda cuda, const CompressedBackward& p) noexcept {
  const auto& s = p.shape;
  return by_dim(s.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    constexpr int kRowsBytes = kTileElements<dim> * int(sizeof(bf));  // of the rows of a warp
    constexpr int kAddUpBytes = (kKeyTeam - kKeyTeam / 2) * dim / 2 * 32 * int(sizeof(float2));
    const Parts parts(p);
    if (auto status = launch_team(backward_queries<dim>, teams<dim>(s), 32 * kTeam<dim>,
                                  kStagesBytes<dim> + 3 * kTeam<dim> * kRowsBytes, cuda, p, parts);
        !status.ok())
      return status;
    const std::int64_t blocks = s.batch * s.kv_heads * parts.key_tiles * parts.chunks;
    if (blocks == 0) return Status{};
    return launch_team(backward_keys<dim>, unsigned(blocks), 32 * kKeyTeam,
                       std::max(kStagesBytes<dim> + 2 * kKeyTeam * kRowsBytes, kAddUpBytes), cuda, p, parts);
  });
}

}  // namespace k
