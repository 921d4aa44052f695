// The gradients of attention to selected blocks on tensor cores. A warp takes 16 keys and values through the
// queries that visit them, which gives all of their gradients, or those of a run, and a part of dq each.
#include "kernels/attention_selected_mma.cuh"

namespace k {
namespace {

using namespace selected;

// Parts of dq in bf16; dk and dv of the runs of blocks that have several: [run, piece, 2, 16, dim].
struct Parts {
  bf* rows;
  float* keys;
};

// delta = dout . out: dim / 8 lanes a query.
template <int dim> __global__ void __launch_bounds__(256) write_delta(SelectedBackward p, std::int64_t rows) {
  const std::int64_t at = thread_index(), row = at / (dim / 8);
  float sum = 0;
  if (row < rows) {
    const auto dout = load_lanes<8>(data<bf>(p.dout) + at * 8, 8, true),
               out = load_lanes<8>(data<bf>(p.out) + at * 8, 8, true);
#pragma unroll
    for (int e = 0; e < 8; e++) sum = fmaf(dout[e], out[e], sum);
  }
#pragma unroll
  for (int lanes = dim / 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  if (row < rows && at % (dim / 8) == 0) p.delta[row] = sum;
}

// The visits of a run, 16 at a time. A lane brings one of them, with the query's lse or delta.
struct Visitors {
  struct Tile {
    int visit, count;
    float number;  // of the lane's visit: lse in lanes 0 .. 15, delta in the others
  };
  const std::int32_t* visits;
  const float* numbers;  // of the head's first query
  int at, end, ahead;

  __device__ Visitors(const std::int32_t* visits, const float* lse, const float* delta, const Run& run)
      : visits(visits),
        numbers(lane_id() < kRows ? lse : delta),
        at(run.begin),
        end(run.end),
        ahead(look()) {}
  __device__ int look() const { return visits[min(at + lane_id() % kRows, end - 1)]; }
  __device__ bool next(Tile& tile) {
    if (at >= end) return false;
    tile = {ahead, min(kRows, end - at), numbers[row_of_visit(ahead)]};
    at += kRows;
    if (at < end) ahead = look();
    return true;
  }
};

// The rows of a tile's queries into shared memory, in the background; past the last visit it again.
template <int dim>
__device__ inline void fetch_rows(bf* to_q, bf* to_dout, const bf* q, const bf* dout, int visit) {
  constexpr int kRuns = dim / 8, kTogether = 32 / kRuns;
  const int row = lane_id() / kRuns, column = lane_id() % kRuns * 8;
#pragma unroll
  for (int i = 0; i < kRows / kTogether; i++) {
    const int at = row + i * kTogether, to = at * kStride<dim> + column;
    const std::int64_t from = std::int64_t(row_of_visit(__shfl_sync(~0u, visit, at))) * dim + column;
    mma::copy_async(to_q + to, q + from);
    mma::copy_async(to_dout + to, dout + from);
  }
}

template <int dim> struct KeysMemory {
  WarpMemory<dim> tiles;           // queries and their dout
  bf columns[kTileElements<dim>];  // the keys, elements in the order in which Rows has them as columns
};

template <int dim> __global__ void __launch_bounds__(32)
    backward_keys(SelectedBackward p, Lists lists, Parts parts, std::int64_t first_unit, int units) {
  const Work work(lists, blockIdx.x, first_unit, unsigned(units));
  if (!work.there) return;
  extern __shared__ __align__(16) bf shared[];
  auto& memory = *reinterpret_cast<KeysMemory<dim>*>(shared);
  const std::int64_t first_row = work.unit * lists.length + work.first_key,
                     first_query = work.unit * lists.rows;
  const bf *k_rows = data<bf>(p.k) + first_row * dim, *q = data<bf>(p.q) + first_query * dim,
           *dout = data<bf>(p.dout) + first_query * dim;

  KeySide<dim> keys(memory.tiles, k_rows, data<bf>(p.v) + first_row * dim, work.keys);
  {
    Rows<dim> rows;
    rows.load_first(k_rows, work.keys);
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int n = 0; n < dim / 8; n++)
        *reinterpret_cast<std::uint32_t*>(memory.columns + row_of(half) * kStride<dim> + column_of(n, 0)) =
            rows.x[half][n];
  }
  Visitors visitors(lists.numbers + lists.visits_at(work.unit), p.lse + first_query, p.delta + first_query,
                    work.run);
  walk<dim>(
      visitors, memory.tiles,
      [&](const Visitors::Tile& tile, bf* to_q, bf* to_dout) {
        fetch_rows<dim>(to_q, to_dout, q, dout, tile.visit);
      },
      [&](const Visitors::Tile& tile, const bf* q_tile, const bf* dout_tile) {
        const bool some_own = __any_sync(~0u, lists.is_own(tile.visit));
        const int last = some_own ? lists.last_key(tile.visit, work.first_key) : 0;
        mma::D ds[2];
        keys.collect(
            q_tile, dout_tile, tile.number, tile.count, p.scale,
            [&](int half, int query) { return !some_own || row_of(half) <= __shfl_sync(~0u, last, query); },
            ds);
        const mma::A of_queries = mma::transpose(mma::as_left(ds[0], ds[1]));
        int visit[2];
#pragma unroll
        for (int half = 0; half < 2; half++) visit[half] = __shfl_sync(~0u, tile.visit, row_of(half));
#pragma unroll
        for (int r = 0; r < dim / 32; r++) {
          mma::D dq[4];
#pragma unroll
          for (int n = 0; n < 4; n += 2) {
            mma::B b[2];
            mma::right_transposed(b, memory.columns + 8 * (4 * r + n), kStride<dim>);
            mma::multiply_add(dq[n], of_queries, b[0]);
            mma::multiply_add(dq[n + 1], of_queries, b[1]);
          }
#pragma unroll
          for (int half = 0; half < 2; half++)
            if (row_of(half) < tile.count)
              *reinterpret_cast<uint4*>(parts.rows + lists.part(work.local, visit[half], work.piece) * dim +
                                        32 * r + lane_id() % 4 * 8) = packed_run(dq, half);
        }
      });
  if (work.run.whole) {
    store<dim>(data<bf>(p.dk) + first_row * dim, keys.dk, work.keys, p.dk.add, memory.tiles[0][0]);
    store<dim>(data<bf>(p.dv) + first_row * dim, keys.dv, work.keys, p.dv.add, memory.tiles[0][0]);
    return;
  }
  float* to =
      parts.keys +
      ((std::int64_t(work.local) * lists.runs + work.index) * lists.pieces + work.piece) * 2 * kRows * dim;
#pragma unroll
  for (int n = 0; n < dim / 8; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float* at = to + row_of(half) * dim + column_of(n, 0);
      *reinterpret_cast<float2*>(at) = {keys.dk[n].x[2 * half], keys.dk[n].x[2 * half + 1]};
      *reinterpret_cast<float2*>(at + kRows * dim) = {keys.dv[n].x[2 * half], keys.dv[n].x[2 * half + 1]};
    }
}

// Adds up, in order, the runs of blocks that have several, a warp 128 numbers, and the parts of dq, dim / 8
// lanes a query.
constexpr int kSumThreads = 256;
template <int dim> __global__ void __launch_bounds__(kSumThreads, 4)
    add_parts(SelectedBackward p, Lists lists, Parts parts, std::int64_t first_unit, int units) {
  constexpr int kNumbers = 2 * kRows * dim, kWarpsOfTile = kNumbers / 128;
  const unsigned tiles = unsigned(units) * unsigned(lists.blocks) * unsigned(lists.pieces);
  for (auto at = unsigned(thread_index() / 32); at < tiles * kWarpsOfTile;
       at += unsigned(thread_count() / 32)) {
    const int tile = int(at / kWarpsOfTile), piece = tile % lists.pieces,
              block = tile / lists.pieces % lists.blocks, local = tile / lists.pieces / lists.blocks;
    const std::int64_t unit = first_unit + local;
    const std::int32_t* first_visits = lists.numbers + lists.first_visits_at(unit) + block;
    const int begin = first_visits[0], runs = (first_visits[1] - begin + kRun - 1) / kRun;
    if (runs <= 1) continue;
    const std::int64_t stride = std::int64_t(lists.pieces) * kNumbers;
    const int number = int(at % kWarpsOfTile) * 128 + lane_id() * 4, which = number / (kRows * dim),
              element = number % (kRows * dim);
    const float* sums = parts.keys +
                        (std::int64_t(local) * lists.runs + lists.first_run(block, begin)) * stride +
                        piece * kNumbers + number;
    float sum[4] = {};
#pragma unroll 8
    for (int run = 0; run < runs; run++) {
      const auto numbers = *reinterpret_cast<const Lanes<4, float>*>(sums + run * stride);
#pragma unroll
      for (int e = 0; e < 4; e++) sum[e] += numbers[e];
    }
    const std::int64_t first_key = std::int64_t(block) * lists.block + kRows * piece;
    const Grad& to = which == 0 ? p.dk : p.dv;
    if (first_key + element / dim < lists.length)
      put_lanes(data<bf>(to) + (unit * lists.length + first_key) * dim + element, sum, 4, true, to.add);
  }

  const std::int64_t thread = thread_index(), local = thread / (dim / 8),
                     row = first_unit * lists.rows + local;
  if (local >= std::int64_t(units) * lists.rows) return;
  const int column = int(thread % (dim / 8)) * 8;
  const bf* part_rows = parts.rows + local * lists.slots * lists.pieces * dim + column;
  float sum[8] = {};
  for_parts(lists, p.selected, row, [&](const bool(&there)[kTogether], const int(&part)[kTogether]) {
    uint4 run[kTogether] = {};
#pragma unroll
    for (int j = 0; j < kTogether; j++)
      if (there[j]) run[j] = *reinterpret_cast<const uint4*>(part_rows + part[j] * dim);
#pragma unroll
    for (int j = 0; j < kTogether; j++)
      if (there[j])
#pragma unroll
        for (int e = 0; e < 8; e++) sum[e] += element_of(run[j], e);
  });
  put_lanes(data<bf>(p.dq) + row * dim + column, sum, 8, true, p.dq.add);
}

}  // namespace

// What the forward pass has made the lists for, it has made them for here.
bool takes_mma(const SelectedBackward& p) noexcept {
  return selected_on_tiles(p.shape, p.block, p.top) && !p.d_importance && p.lists && p.parts && p.delta &&
         all_bf16(p.dq, p.dk, p.dv, p.dout, p.out, p.q, p.k, p.v) &&
         aligned(p.dq.p, p.dk.p, p.dv.p, p.dout.p, p.out.p, p.q.p, p.k.p, p.v.p);
}

Status run_mma(Cuda cuda, const SelectedBackward& p) noexcept {
  const auto& s = p.shape;
  const SelectedPlan plan(s, p.block, p.top);
  const Lists lists(p);
  const cudaStream_t stream = stream_of(cuda);
  return by_dim(s.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    if (auto status = with_shared_memory(backward_keys<dim>, sizeof(KeysMemory<dim>)); !status.ok())
      return status;
    const auto blocks_for_parts = [](std::int64_t rows) { return unsigned((rows * (dim / 8) + 255) / 256); };
    write_delta<dim><<<blocks_for_parts(plan.units * plan.rows), 256, 0, stream>>>(p, plan.units * plan.rows);
    const std::int64_t at_once = plan.units_at_once(dim);
    const Parts parts{reinterpret_cast<bf*>(p.parts), p.parts + at_once * plan.query_parts() * dim / 2};
    for (std::int64_t first = 0; first < plan.units; first += at_once) {
      const std::int64_t units = std::min(at_once, plan.units - first);
      backward_keys<dim>
          <<<unsigned(units * plan.runs() * plan.pieces), 32, sizeof(KeysMemory<dim>), stream>>>(
              p, lists, parts, first, int(units));
      add_parts<dim><<<blocks_for_parts(units * plan.rows), kSumThreads, 0, stream>>>(p, lists, parts, first,
                                                                                      int(units));
    }
    return launched();
  });
}

}  // namespace k
