// Attention to selected blocks on tensor cores: bf16, blocks of a multiple of 16 tokens, at most 16 picks.
//
// Neighbouring queries pick different blocks, so tiles of them share few keys. Here the blocks gather the
// queries instead: a warp holds 16 keys and values and takes those that visit them, 16 at a time. Each leaves
// the softmax over these keys alone, which are put together afterwards in the order of a query's slots.
#include "kernels/attention_selected_mma.cuh"

namespace k {
namespace {

using namespace selected;

// The lists of a head's blocks: a block of threads takes kListRows queries and kListBlocks blocks, after
// looking through all picks of the head to know how many visits come before.
constexpr int kListThreads = 1024, kListRows = 512, kListBlocks = kListThreads, kListWords = kListRows / 32;
struct ListMemory {
  int picked[kListBlocks], before[kListBlocks];  // by all queries, by those before these
  unsigned pickers[kListWords][kListBlocks];     // of these queries, a bit each
  int first_visit[kListBlocks + 1];
  int sums[32], lower;  // lower: picks of blocks before these
};

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

__global__ void __launch_bounds__(kListThreads)
    make_lists(std::int32_t* numbers, const std::int32_t* selected, Lists lists) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto& memory = *reinterpret_cast<ListMemory*>(shared);
  const int shares = (lists.rows + kListRows - 1) / kListRows, share = int(blockIdx.x % shares);
  const std::int64_t unit = blockIdx.x / shares;
  const int thread = int(threadIdx.x), top = lists.slots - 1, group = lists.rows / lists.length;
  const int first_row = share * kListRows, rows = min(kListRows, lists.rows - first_row);
  const int first_block = int(blockIdx.y) * kListBlocks,
            blocks = min(kListBlocks, lists.blocks - first_block);
  const std::int32_t* picks = selected + unit * lists.rows * top;

  for (int w = thread; w < blocks; w += kListThreads) {
    memory.picked[w] = memory.before[w] = 0;
    for (int word = 0; word < kListWords; word++) memory.pickers[word][w] = 0;
  }
  if (thread == 0) memory.lower = 0;
  __syncthreads();
  int lower = 0;
  constexpr int kTogether = 8;
  for (int base = thread; base < lists.rows * top; base += kTogether * kListThreads) {
    int pick[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; i++) {
      const int at = base + i * kListThreads;
      pick[i] = at < lists.rows * top ? picks[at] : -1;
    }
#pragma unroll
    for (int i = 0; i < kTogether; i++) {
      const int w = pick[i] - first_block;
      lower += pick[i] >= 0 && w < 0;
      if (w < 0 || w >= blocks) continue;
      atomicAdd(&memory.picked[w], 1);
      if (base + i * kListThreads < first_row * top) atomicAdd(&memory.before[w], 1);
    }
  }
  atomicAdd(&memory.lower, lower);
  for (int at = thread; at < rows * top; at += kListThreads) {
    const int w = picks[first_row * top + at] - first_block, row = at / top;
    if (w >= 0 && w < blocks) atomicOr(&memory.pickers[row / 32][w], 1u << row % 32);
  }
  __syncthreads();

  // A block's list: its own queries, head after head, then those that picked it.
  const auto own = [&](int w) { return min(lists.block, lists.length - (first_block + w) * lists.block); };
  const int count = thread < blocks ? group * own(thread) + memory.picked[thread] : 0;
  const int first =
      memory.lower + group * min(lists.length, first_block * lists.block) + sum_before(count, memory.sums);
  if (thread <= blocks) memory.first_visit[thread] = first;
  if (thread == kListThreads - 1) memory.first_visit[blocks] = first + count;
  __syncthreads();
  std::int32_t* visits = numbers + lists.visits_at(unit);
  for (int at = thread; at < rows; at += kListThreads) {
    const int row = first_row + at, head = row / lists.length, t = row % lists.length;
    const int w = t / lists.block - first_block;
    if (w >= 0 && w < blocks)
      visits[memory.first_visit[w] + head * own(w) + t % lists.block] = visit_of(row, top);
  }
  for (int at = thread; at < rows * top; at += kListThreads) {
    const int w = picks[first_row * top + at] - first_block, row = at / top;
    if (w < 0 || w >= blocks) continue;
    int rank = group * own(w) + memory.before[w];
    for (int word = 0; word < row / 32; word++) rank += __popc(memory.pickers[word][w]);
    rank += __popc(memory.pickers[row / 32][w] & ((1u << row % 32) - 1));
    visits[memory.first_visit[w] + rank] = visit_of(first_row + row, at % top);
  }

  if (share != 0) return;
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

constexpr int kForwardWarps = 4, kShares = 1;
template <int dim> __global__ void __launch_bounds__(32 * kForwardWarps, dim > 64 ? 2 : 4)
    parts_of_keys(SelectedForward p, Lists lists, Parts parts, std::int64_t first_unit, int units) {
  const Work work(lists, std::int64_t(blockIdx.x) * kForwardWarps + threadIdx.x / 32, first_unit, units,
                  kShares);
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
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int last = lists.last_key(visit[half], work.first_key);
      float max = -INFINITY, sum = 0;
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
          float& x = s[n].x[2 * half + odd];
          x = column_of(n, odd) <= last ? scale2 * x : -INFINITY;
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
      inverse[half] = sum == 0 ? 0.f : 1 / sum;
      if (lane_id() % 4 == 0 && at + row_of(half) < work.run.end)
        parts.logs[lists.part(work.local, visit[half], work.piece)] = max + log2f(sum);
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
template <int dim> __global__ void __launch_bounds__(256)
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
    Lanes<8, bf> run[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
      log[j] = there[j] ? logs[part[j]] : -INFINITY;
      if (there[j]) run[j] = load_lanes<8>(part_rows + part[j] * dim, 8, true);
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
        for (int e = 0; e < 8; e++) out[e] = fmaf(weight, run[j][e], out[e]);
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
  if (auto status = status_of(cudaFuncSetAttribute(make_lists, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   int(sizeof(ListMemory))));
      !status.ok())
    return status;
  const dim3 grid(unsigned(plan.units * ((plan.rows + kListRows - 1) / kListRows)),
                  unsigned((plan.blocks + kListBlocks - 1) / kListBlocks));
  make_lists<<<grid, kListThreads, sizeof(ListMemory), stream>>>(p.lists, p.selected, lists);
  if (auto status = launched(); !status.ok()) return status;
  return by_dim(s.dim, [&](auto d) {
    constexpr int dim = decltype(d)::value;
    const std::int64_t at_once = plan.units_at_once(dim);
    const Parts parts{reinterpret_cast<bf*>(p.parts), p.parts + at_once * plan.query_parts() * dim / 2};
    for (std::int64_t first = 0; first < plan.units; first += at_once) {
      const std::int64_t units = std::min(at_once, plan.units - first),
                         warps = units * plan.runs() * plan.pieces * kShares, rows = units * plan.rows;
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
