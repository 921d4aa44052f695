// Private to compressed attention on tensor cores. The warps of a block of threads, each with 16 queries (or
// 16 keys) of its own, go together through tiles of 64 keys (or queries) in shared memory.
//
// The keys of a head are one list: its memory rows, then its blocks. A query sees the first so many of it.
#pragma once
#include "kernels/attention_tiles.cuh"

namespace k::compressed {

using namespace tiles;

inline constexpr int kTile = 64, kPart = 32;  // rows of a tile, and of what a warp multiplies at once
template <int dim> inline constexpr int kTeam = dim > 64 ? 4 : 8;             // warps of a block of threads
template <int dim> inline constexpr int kTeamRows = kRows* kTeam<dim>;        // queries of those
template <int dim> inline constexpr int kRowsElements = kTile* kStride<dim>;  // of a tile
template <int dim> using Stages = bf[2][2][kRowsElements<dim>];               // [stage][keys, values]
template <int dim> inline constexpr int kStagesBytes = int(sizeof(Stages<dim>));  // 4 tiles

// A tile into shared memory, in the background, by all warps of a block of threads; row(i) is where row i
// lies, and rows from `count` (at least 1) on become 0.
template <int dim, int warps, class Row> __device__ inline void fetch_tile(bf* to, int count, Row row) {
  constexpr int kRuns = dim / 8;
#pragma unroll
  for (int at = int(threadIdx.x); at < kTile * kRuns; at += 32 * warps) {
    const int i = at / kRuns, column = at % kRuns * 8;
    const bool there = i < count;
    mma::copy_async(to + i * kStride<dim> + column, row(there ? i : 0) + column, there);
  }
}

// The keys (which: 0) or values (1) of a key/value head.
template <int dim> struct KeyRows {
  const bf *memory, *blocks;
  int slots;
  template <class P> __device__ KeyRows(const P& p, const In& of_blocks, unsigned unit, int which)
      : memory(data<bf>(p.memory) +
               (which * p.shape.kv_heads + unit % unsigned(p.shape.kv_heads)) * p.slots * dim),
        blocks(data<bf>(of_blocks) + unit * p.blocks * dim),
        slots(int(p.slots)) {}
  __device__ const bf* operator()(int i) const {
    return i < slots ? memory + i * dim : blocks + std::int64_t(i - slots) * dim;
  }
};

inline constexpr int kNobody = std::numeric_limits<int>::max();

// How many keys a query sees: block w is complete, and so visible, from its last token on.
struct Sight {
  int slots, blocks, block;
  template <class P> __device__ explicit Sight(const P& p)
      : slots(int(p.slots)), blocks(int(p.blocks)), block(int(p.block)) {}
  __device__ int keys() const { return slots + blocks; }
  __device__ int of(int query) const { return slots + min(blocks, (query + 1) / block); }
  // The first query that sees key i; behind the last key nobody.
  __device__ int first_query(int i) const {
    if (i < slots) return 0;
    return i < keys() ? (i - slots + 1) * block - 1 : kNobody;
  }
};

// The queries of a block of threads and of its warp. The last ones of every head, which see most, come first.
struct Team {
  unsigned unit;           // head of a sequence
  std::int64_t row;        // the warp's first query, counted over all heads
  int first, count, last;  // the warp's queries, none if count <= 0; the block's last query
  template <int dim> __device__ static Team of(const AttentionShape& s) {
    const unsigned units = unsigned(s.batch * s.heads), tiles = gridDim.x / units;
    const int start = int(tiles - 1 - blockIdx.x / units) * kTeamRows<dim>, length = int(s.length);
    Team team;
    team.unit = blockIdx.x % units;
    team.first = start + int(threadIdx.x) / 32 * kRows;
    team.count = min(kRows, length - team.first);
    team.last = min(length, start + kTeamRows<dim>) - 1;
    team.row = team.unit * s.length + team.first;
    return team;
  }
  // The key/value head that this one reads.
  __device__ unsigned key_unit(const AttentionShape& s) const {
    return unit / unsigned(s.heads / s.kv_heads);
  }
};
template <int dim> unsigned teams(const AttentionShape& s) noexcept {
  return unsigned(s.batch * s.heads * ((s.length + kTeamRows<dim> - 1) / kTeamRows<dim>));
}

// Calls f(i, first tile, second tile) for i in [start, end); fetch(i, first tile, second tile) starts the
// copies of one, while the one before is worked on.
template <int dim, class Fetch, class F>
__device__ inline void walk_tiles(Stages<dim>& stages, int start, int end, Fetch fetch, F&& f) {
  const auto start_fetch = [&](int i) {
    if (i < end) fetch(i, stages[i % 2][0], stages[i % 2][1]);
    mma::copy_commit();
  };
  start_fetch(start);
  for (int i = start; i < end; i++) {
    mma::copy_wait<0>();
    __syncthreads();
    start_fetch(i + 1);
    f(i, stages[i % 2][0], stages[i % 2][1]);
  }
}

// Two products [16, 32] = left x rows^T, interleaved.
template <int dim>
__device__ inline void dots_of_two(mma::D (&s)[4], mma::D (&t)[4], const mma::A (&left_s)[dim / 16],
                                   const mma::A (&left_t)[dim / 16], const bf* rows_s, const bf* rows_t) {
#pragma unroll
  for (int step = 0; step < dim / 16; step++) {
    mma::B b[4], c[4];
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      mma::right(reinterpret_cast<mma::B(&)[2]>(b[n]), rows_s + 8 * n * kStride<dim> + 16 * step,
                 kStride<dim>);
      mma::right(reinterpret_cast<mma::B(&)[2]>(c[n]), rows_t + 8 * n * kStride<dim> + 16 * step,
                 kStride<dim>);
    }
#pragma unroll
    for (int n = 0; n < 4; n++) {
      mma::multiply_add(s[n], left_s[step], b[n]);
      mma::multiply_add(t[n], left_t[step], c[n]);
    }
  }
}

template <class P> bool usual(const P& p) noexcept {
  constexpr int kMostSlots = 16, kMostPicks = 4;
  return has_dim(p.shape.dim) && p.slots <= kMostSlots && p.top <= kMostPicks && p.scale > 0 &&
         p.block <= p.shape.length + 1 && p.shape.length <= std::numeric_limits<int>::max() / 4;
}

template <class... Parameters, class... Arguments>
Status launch_team(void (*kernel)(Parameters...), unsigned blocks, int threads, int shared, Cuda cuda,
                   const Arguments&... arguments) noexcept {
  if (auto status =
          status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
      !status.ok())
    return status;
  kernel<<<blocks, threads, shared, stream_of(cuda)>>>(arguments...);
  return launched();
}

}  // namespace k::compressed
