// Attention to selected blocks on tensor cores: bf16, blocks of a multiple of 16 tokens, at most 16 picks.
//
// Neighbouring queries pick different blocks, so tiles of them share few keys. Here the blocks gather the
// queries instead: a warp holds 16 keys and values and takes those that visit them, 16 at a time. Each leaves
// the softmax over these keys alone, which are put together afterwards in the order of a query's slots.
#include "kernels/attention_selected_mma.cuh"

namespace k {
namespace {

using namespace selected;

// The lists of a head's blocks: a block of threads takes a share of the queries and kListBlocks blocks, a
// thread each.
constexpr int kListThreads = 1024, kListBlocks = kListThreads, kShare = int(SelectedPlan::kShare),
              kListWords = kShare / 32;
struct ListMemory {
  unsigned pickers[kListWords][kListBlocks];  // of the share's queries, a bit each
  int before[kListBlocks];                    // picks by earlier shares
  int first_visit[kListBlocks + 1];
  int sums[32], lower;  // lower: picks of blocks before these
};

struct PickShare {
  std::int64_t unit;
  const std::int32_t* picks;  // of its first query
  int index, count, top, first_row, rows, first_block, blocks;

  __device__ PickShare(const std::int32_t* selected, const Lists& lists)
      : count((lists.rows + kShare - 1) / kShare), top(lists.slots - 1) {
    index = int(blockIdx.x) % count, unit = int(blockIdx.x) / count;
    first_row = index * kShare, rows = min(kShare, lists.rows - first_row);
    first_block = int(blockIdx.y) * kListBlocks, blocks = min(kListBlocks, lists.blocks - first_block);
    picks = selected + (unit * lists.rows + first_row) * top;
  }
  // Calls f(row, slot, block) for the thread's picks among the blocks, both counted from the share's first.
  template <class F> __device__ void for_picks(F&& f) const {
    for (int at = int(threadIdx.x); at < rows * top; at += kListThreads) {
      const int w = picks[at] - first_block;
      if (w >= 0 && w < blocks) f(at / top, at % top, w);
    }
  }
  // Marks who picked what; how many picked the thread's block.
  __device__ int mark(ListMemory& memory) const {
    const int w = int(threadIdx.x), words = (rows + 31) / 32;
    if (w < blocks)
      for (int word = 0; word < words; word++) memory.pickers[word][w] = 0;
    __syncthreads();
    for_picks([&](int row, int, int w) { atomicOr(&memory.pickers[row / 32][w], 1u << row % 32); });
    __syncthreads();
    int picked = 0;
    if (w < blocks)
      for (int word = 0; word < words; word++) picked += __popc(memory.pickers[word][w]);
    return picked;
  }
};

__device__ inline ListMemory& list_memory() {
  extern __shared__ __align__(16) unsigned char shared[];
  return *reinterpret_cast<ListMemory*>(shared);
}

// counts [unit, share, block]: what make_lists must know of other shares.
__global__ void __launch_bounds__(kListThreads)
    count_picks(std::uint16_t* counts, const std::int32_t* selected, Lists lists) {
  const PickShare share(selected, lists);
  const int picked = share.mark(list_memory()), w = int(threadIdx.x);
  if (w < share.blocks)
    counts[(share.unit * share.count + share.index) * lists.blocks + share.first_block + w] =
        std::uint16_t(picked);
}

// The sum over the threads before this one; every thread of the block must call it.
__device__ inline int sum_before(int x, int* sums) {
  int sum = x;
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const int other = __shfl_up_sync(~0u, sum, lanes);
    if (lane_id() >= lanes) sum += other;
  }
  const int warp = int(threadIdx.x) / 32;
  if (lane_id() == 31) sums[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; w++) sum += sums[w];
  return sum - x;
}

__global__ void __launch_bounds__(kListThreads) make_lists(std::int32_t* numbers, const std::uint16_t* counts,
                                                           const std::int32_t* selected, Lists lists) {
  auto& memory = list_memory();
  const PickShare share(selected, lists);
  const int thread = int(threadIdx.x), group = lists.rows / lists.length;
  const int first_block = share.first_block, blocks = share.blocks;
  const std::int64_t unit = share.unit;
  if (thread == 0) memory.lower = 0;
  int picked = share.mark(memory);
  if (share.count > 1) {
    const std::uint16_t* of_unit = counts + unit * share.count * lists.blocks;
    int before = 0, lower = 0;
    picked = 0;
    if (thread < blocks)
#pragma unroll 8
      for (int other = 0; other < share.count; other++) {
        const int count = of_unit[std::int64_t(other) * lists.blocks + first_block + thread];
        picked += count;
        if (other < share.index) before += count;
      }
    memory.before[thread] = before;
    for (int w = thread; w < first_block; w += kListThreads)
      for (int other = 0; other < share.count; other++)
        lower += of_unit[std::int64_t(other) * lists.blocks + w];
    if (first_block > 0) atomicAdd(&memory.lower, lower);
  } else {
    memory.before[thread] = 0;
  }
  __syncthreads();

  // A block's list: its own queries, head after head, then those that picked it.
  const auto own = [&](int w) { return min(lists.block, lists.length - (first_block + w) * lists.block); };
  const int count = thread < blocks ? group * own(thread) + picked : 0;
  const int first =
      memory.lower + group * min(lists.length, first_block * lists.block) + sum_before(count, memory.sums);
  if (thread < blocks) memory.first_visit[thread] = first;
  if (thread == blocks - 1) memory.first_visit[blocks] = first + count;
  __syncthreads();
  std::int32_t* visits = numbers + lists.visits_at(unit);
  for (int at = thread; at < share.rows; at += kListThreads) {
    const int row = share.first_row + at, head = row / lists.length, t = row % lists.length;
    const int w = t / lists.block - first_block;
    if (w >= 0 && w < blocks)
      visits[memory.first_visit[w] + head * own(w) + t % lists.block] = visit_of(row, share.top);
  }
  share.for_picks([&](int row, int slot, int w) {
    int at = memory.first_visit[w] + group * own(w) + memory.before[w];
    for (int word = 0; word < row / 32; word++) at += __popc(memory.pickers[word][w]);
    at += __popc(memory.pickers[row / 32][w] & ((1u << row % 32) - 1));
    visits[at] = visit_of(share.first_row + row, slot);
  });

  if (share.index != 0) return;
  std::int32_t* first_visits = numbers + lists.first_visits_at(unit) + first_block;
  auto* runs = reinterpret_cast<int4*>(numbers + lists.runs_at(unit));
  if (thread < blocks) {
    const int begin = first, end = first + count;
    first_visits[thread] = begin;
    const int at = lists.first_run(first_block + thread, begin),
              past = lists.first_run(first_block + thread + 1, end);
    for (int r = 0; at + r < past; r++) {
      const int from = begin + r * kRun;
      runs[at + r] = from < end ? int4{first_block + thread, from, min(end, from + kRun), count <= kRun}
                                : int4{-1, 0, 0, 0};
    }
  }
  if (first_block + blocks < lists.blocks) return;
  const int end = memory.first_visit[blocks];
  if (thread == 0) first_visits[blocks] = end;
  for (int at = lists.first_run(lists.blocks, end) + thread; at < lists.runs; at += kListThreads)
    runs[at] = {-1, 0, 0, 0};
}

// Parts of queries' results over 16 keys: rows of bf16, and the base-2 logarithms of their sums.
struct Parts {
  bf* rows;
  float* logs;
};

constexpr int kForwardWarps = 4;
template <int dim> __global__ void __launch_bounds__(32 * kForwardWarps, dim > 64 ? 2 : 4)
    parts_of_keys(SelectedForward p, Lists lists, Parts parts, std::int64_t first_unit, int units) {
  const Work work(lists, blockIdx.x * kForwardWarps + threadIdx.x / 32, first_unit, unsigned(units));
  if (!work.there) return;
  const std::int64_t first_row = work.unit * lists.length + work.first_key;
  const bf* q = data<bf>(p.q) + work.unit * lists.rows * dim;
  const std::int32_t* visits = lists.numbers + lists.visits_at(work.unit);
  const float scale2 = kLog2e * p.scale;

  const auto visit_at = [&](int at, int half) { return visits[min(at + row_of(half), work.run.end - 1)]; };
  const auto query_of = [&](int visit) { return q + std::int64_t(row_of_visit(visit)) * dim; };
  int visit[2], next_visit[2], later_visit[2];
  Rows<dim> queries, next_queries, keys, values;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    visit[half] = visit_at(work.run.begin, half);
    next_visit[half] = visit_at(work.run.begin + kRows, half);
  }
  keys.load_first(data<bf>(p.k) + first_row * dim, work.keys);
  values.load_first(data<bf>(p.v) + first_row * dim, work.keys);
#pragma unroll
  for (int half = 0; half < 2; half++) queries.load(half, query_of(visit[half]));
  mma::B columns[dim / 8];  // of the values
#pragma unroll
  for (int n = 0; n < dim / 8; n++) columns[n] = values.right_transposed(n);

  for (int at = work.run.begin; at < work.run.end; at += kRows) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      next_queries.load(half, query_of(next_visit[half]));
      later_visit[half] = visit_at(at + 2 * kRows, half);
    }
    mma::D s[2];
#pragma unroll
    for (int step = 0; step < dim / 16; step++)
#pragma unroll
      for (int n = 0; n < 2; n++) mma::multiply_add(s[n], queries.left(step), keys.right(step, n));
    float inverse[2];
    int last_key[2] = {kRows - 1, kRows - 1};
    if (__any_sync(~0u, lists.is_own(visit[0]) || lists.is_own(visit[1])))
#pragma unroll
      for (int half = 0; half < 2; half++) last_key[half] = lists.last_key(visit[half], work.first_key);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float max = -INFINITY, sum = 0;
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
          float& x = s[n].x[2 * half + odd];
          x = column_of(n, odd) <= last_key[half] ? scale2 * x : -INFINITY;
          max = fmaxf(max, x);
        }
      max = quad_max(max);
      const float reference = max == -INFINITY ? 0.f : max;
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
          float& x = s[n].x[2 * half + odd];
          x = exp2_approx(x - reference);
          sum += x;
        }
      sum = quad_sum(sum);
      inverse[half] = sum == 0 ? 0.f : __fdividef(1, sum);
      if (lane_id() % 4 == 0 && at + row_of(half) < work.run.end)
        parts.logs[lists.part(work.local, visit[half], work.piece)] = max + __log2f(sum);
    }
    const mma::A weights = mma::as_left(s[0], s[1]);
#pragma unroll
    for (int r = 0; r < dim / 32; r++) {
      mma::D out[4];
#pragma unroll
      for (int n = 0; n < 4; n++) mma::multiply_add(out[n], weights, columns[4 * r + n]);
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int n = 0; n < 4; n++)
          out[n].x[2 * half] *= inverse[half], out[n].x[2 * half + 1] *= inverse[half];
        if (at + row_of(half) < work.run.end)
          *reinterpret_cast<uint4*>(parts.rows + lists.part(work.local, visit[half], work.piece) * dim +
                                    32 * r + lane_id() % 4 * 8) = packed_run(out, half);
      }
    }
    queries = next_queries;
#pragma unroll
    for (int half = 0; half < 2; half++) visit[half] = next_visit[half], next_visit[half] = later_visit[half];
  }
}

// Puts the parts of a query together: dim / 8 lanes a query, 8 elements each.
template <int dim> __global__ void __launch_bounds__(256, 4)
    join_parts(SelectedForward p, Lists lists, Parts parts, std::int64_t first_unit, std::int64_t rows) {
  const std::int64_t thread = thread_index(), local = thread / (dim / 8),
                     row = first_unit * lists.rows + local;
  if (local >= rows) return;
  const int column = int(thread % (dim / 8)) * 8;
  const float* logs = parts.logs + local * lists.slots * lists.pieces;
  const bf* part_rows = parts.rows + local * lists.slots * lists.pieces * dim + column;
  float max = -INFINITY, sum = 0, out[8] = {};
  for_parts(lists, p.selected, row, [&](const bool(&there)[kTogether], const int(&part)[kTogether]) {
    float log[kTogether], most = max;
    uint4 run[kTogether] = {};
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
      log[j] = there[j] ? logs[part[j]] : -INFINITY;
      if (there[j]) run[j] = *reinterpret_cast<const uint4*>(part_rows + part[j] * dim);
    }
#pragma unroll
    for (int j = 0; j < kTogether; j++) most = fmaxf(most, log[j]);
    if (most == -INFINITY) return;
    const float shrink = exp2_approx(max - most);
    max = most;
    sum *= shrink;
#pragma unroll
    for (int e = 0; e < 8; e++) out[e] *= shrink;
#pragma unroll
    for (int j = 0; j < kTogether; j++)
      if (there[j]) {
        const float weight = exp2_approx(log[j] - max);
        sum += weight;
#pragma unroll
        for (int e = 0; e < 8; e++) out[e] = fmaf(weight, element_of(run[j], e), out[e]);
      }
  });
#pragma unroll
  for (int e = 0; e < 8; e++) out[e] /= sum;
  put_lanes(data<bf>(p.out) + row * dim + column, out, 8, true, false);
  if (column == 0) p.lse[row] = (max + log2f(sum)) / kLog2e;
}

}  // namespace

bool takes_mma(const SelectedForward& p) noexcept {
  return selected_on_tiles(p.shape, p.block, p.top) && p.lists && p.parts && all_bf16(p.out, p.q, p.k, p.v) &&
         aligned(p.out.p, p.q.p, p.k.p, p.v.p);
}

Status run_mma(Cuda cuda, const SelectedForward& p) noexcept {
  const auto& s = p.shape;
  const SelectedPlan plan(s, p.block, p.top);
  const Lists lists(p);
  const cudaStream_t stream = stream_of(cuda);
  const dim3 grid(unsigned(plan.units * plan.shares()),
                  unsigned((plan.blocks + kListBlocks - 1) / kListBlocks));
  auto* counts = reinterpret_cast<std::uint16_t*>(p.parts);  // until there are parts
  for (const auto status : {with_shared_memory(count_picks, sizeof(ListMemory)),
                            with_shared_memory(make_lists, sizeof(ListMemory))})
    if (!status.ok()) return status;
  if (plan.shares() > 1)
    count_picks<<<grid, kListThreads, sizeof(ListMemory), stream>>>(counts, p.selected, lists);
  make_lists<<<grid, kListThreads, sizeof(ListMemory), stream>>>(p.lists, counts, p.selected, lists);
  if (auto status = launched(); !status.ok()) return status;
  return by_dim(s.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    const std::int64_t at_once = plan.units_at_once(dim);
    const Parts parts{reinterpret_cast<bf*>(p.parts), p.parts + at_once * plan.query_parts() * dim / 2};
    for (std::int64_t first = 0; first < plan.units; first += at_once) {
      const std::int64_t units = std::min(at_once, plan.units - first),
                         warps = units * plan.runs() * plan.pieces, rows = units * plan.rows;
      parts_of_keys<dim>
          <<<unsigned((warps + kForwardWarps - 1) / kForwardWarps), 32 * kForwardWarps, 0, stream>>>(
              p, lists, parts, first, int(units));
      join_parts<dim>
          <<<unsigned((rows * (dim / 8) + 255) / 256), 256, 0, stream>>>(p, lists, parts, first, rows);
    }
    return launched();
  });
}

}  // namespace k
