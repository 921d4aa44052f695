#include "kernels/embedding.h"

#include <limits>

#include "kernels/lanes.cuh"

namespace k {
namespace {

template <class T, bool whole> __global__ void copy_rows(T* y, const std::int32_t* ids, const T* table,
                                                         std::int64_t rows, std::int64_t dim) {
  constexpr int n = kLanes<T>;
  for_each_run_of_rows<n>(rows, dim, [&](std::int64_t r, std::int64_t c) {
    const auto run = load_lanes<n>(table + std::int64_t(ids[r]) * dim + c, dim - c, whole);
    float value[n];
#pragma unroll
    for (int i = 0; i < n; i++) value[i] = run[i];
    put_lanes(y + r * dim + c, value, dim - c, whole, false);
  });
}

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRare = 32;  // occurrences of an id that a warp adds up by itself

// Which rows have which id. `counts` and `lasts` (0: none; else a row + 1) head a list of an id's rows in
// `links`, in no particular order; `frequent` are the ids with more than kRare rows.
struct Tally {
  std::int32_t *counts, *lasts, *frequent_count, *links, *frequent;
  Tally(std::int32_t* scratch, std::int64_t rows, std::int64_t vocab)
      : counts(scratch),
        lasts(counts + vocab),
        frequent_count(lasts + vocab),
        links(frequent_count + 1),
        frequent(links + rows) {}
  static std::size_t zeroed_bytes(std::int64_t vocab) {
    return std::size_t(2 * vocab + 1) * sizeof(std::int32_t);
  }
};

__global__ void __launch_bounds__(kFlatThreads)
    tally_ids(const Tally tally, const std::int32_t* ids, std::int64_t rows) {
  for (std::int64_t r = thread_index(); r < rows; r += thread_count()) {
    const std::int32_t id = ids[r];
    tally.links[r] = atomicExch(&tally.lasts[id], std::int32_t(r) + 1);
    if (atomicAdd(&tally.counts[id], 1) == kRare) tally.frequent[atomicAdd(tally.frequent_count, 1)] = id;
  }
}

// sum += the rows of dy that row(i) gives for i = first, first + step, .. below count, in that order.
template <class T, bool whole, int n, class Row>
__device__ void add_rows(float (&sum)[n], const T* dy, std::int64_t dim, std::int64_t c, int first, int step,
                         int count, Row row) {
#pragma unroll 8
  for (int i = first; i < count; i += step) {
    const auto run = load_lanes<n>(dy + std::int64_t(row(i)) * dim + c, dim - c, whole);
#pragma unroll
    for (int e = 0; e < n; e++) sum[e] += run[e];
  }
}

// A warp sums the rows of an id, once it has put their list in order.
template <class T, bool whole> __device__ void sum_rare(float* dtable, const T* dy, const Tally& tally,
                                                        std::int64_t dim, std::int64_t id, bool add) {
  constexpr int n = kLanes<T>;
  const int lane = int(threadIdx.x) % 32, count = tally.counts[id];
  if (count > kRare || (count == 0 && add)) return;
  if (count == 0) {  // most ids: neighbouring lanes write neighbouring bytes
    constexpr int m = kLanes<float>;
    for (std::int64_t c = lane * m; c < dim; c += 32 * m)
      put_lanes<m>(dtable + id * dim + c, {}, dim - c, whole, false);
    return;
  }
  std::int32_t mine = 0, place = 0;  // lane i's row, and how many of the others are before it
  std::int32_t last = tally.lasts[id];
  for (int i = 0; i < count; i++) {
    if (i == lane) mine = last - 1;
    last = tally.links[last - 1];
  }
  for (int i = 0; i < count; i++) place += __shfl_sync(0xffffffffu, mine, i) < mine;
  std::int32_t ordered = 0;
  for (int i = 0; i < count; i++) {
    const std::int32_t row = __shfl_sync(0xffffffffu, mine, i);
    if (__shfl_sync(0xffffffffu, place, i) == lane) ordered = row;
  }
  for (std::int64_t first = 0; first < dim; first += 32 * n) {
    const std::int64_t c = first + lane * n;
    float sum[n] = {};
    add_rows<T, whole>(sum, dy, dim, c < dim ? c : 0, 0, 1, count,
                       [&](int i) { return __shfl_sync(0xffffffffu, ordered, i); });
    if (c < dim) put_lanes(dtable + id * dim + c, sum, dim - c, whole, add);
  }
}

constexpr int kWindow = 4096, kRounds = kWindow / kThreads;  // ids looked at between two barriers
constexpr int kShare = kWindow / 32 / 32;                    // words of matches of a lane

// A block sums the rows of a frequent id in one tile of columns: it looks at all ids, a window at a time,
// until it has found as many rows as there are. The warps take the found rows in turn and are added up in
// order.
template <class T, bool whole>
__device__ void sum_frequent(float* dtable, const T* dy, const std::int32_t* ids, std::int64_t rows,
                             std::int64_t dim, std::int64_t tile, std::int32_t id, int count, bool add) {
  constexpr int n = kLanes<T>;
  __shared__ unsigned matches[kWindow / 32];  // bit i: row `window + i` has the id
  __shared__ std::int32_t found[kWindow];     // these rows, in order
  __shared__ float sums[kThreads * n];
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::int64_t c = (tile * 32 + lane) * n;
  float sum[n] = {};
  int seen = 0;
  for (std::int64_t window = 0; seen < count; window += kWindow) {
    unsigned mine = 0;  // bit k: of round k
#pragma unroll
    for (int k = 0; k < kRounds; k++) {
      const std::int64_t r = window + k * kThreads + thread;
      const bool match = r < rows && ids[r] == id;
      const unsigned word = __ballot_sync(0xffffffffu, match);
      if (lane == 0) matches[k * kWarps + warp] = word;
      mine |= unsigned(match) << k;
    }
    __syncthreads();
    int own = 0;  // matches in the lane's words
#pragma unroll
    for (int i = 0; i < kShare; i++) own += __popc(matches[lane * kShare + i]);
    int upto = own;  // and in all before
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, upto, d);
      if (lane >= d) upto += other;
    }
    const int total = __shfl_sync(0xffffffffu, upto, 31);
#pragma unroll
    for (int k = 0; k < kRounds; k++) {
      const int word = k * kWarps + warp, first = word / kShare * kShare;
      int before = __shfl_sync(0xffffffffu, upto - own, word / kShare);
      for (int i = first; i < word; i++) before += __popc(matches[i]);
      if (mine >> k & 1)
        found[before + __popc(matches[word] & ((1u << lane) - 1))] =
            std::int32_t(window + k * kThreads + thread);
    }
    __syncthreads();
    if (c < dim) add_rows<T, whole>(sum, dy, dim, c, warp, kWarps, total, [&](int i) { return found[i]; });
    seen += total;
  }
#pragma unroll
  for (int e = 0; e < n; e++) sums[thread * n + e] = sum[e];
  __syncthreads();
  if (warp == 0 && c < dim) {
    for (int other = 1; other < kWarps; other++)
#pragma unroll
      for (int e = 0; e < n; e++) sum[e] += sums[(other * 32 + lane) * n + e];
    put_lanes(dtable + id * dim + c, sum, dim - c, whole, add);
  }
  __syncthreads();
}

// The first `frequent_blocks` take the frequent ids and tiles in turn, which are the longest work; the warps
// of the others have an id each.
template <class T, bool whole> __global__ void __launch_bounds__(kThreads, 4)
    sum_rows(float* dtable, const T* dy, const std::int32_t* ids, const Tally tally, std::int64_t rows,
             std::int64_t vocab, std::int64_t dim, unsigned frequent_blocks, bool add) {
  if (blockIdx.x >= frequent_blocks) {
    const std::int64_t id = std::int64_t(blockIdx.x - frequent_blocks) * kWarps + threadIdx.x / 32;
    if (id < vocab) sum_rare<T, whole>(dtable, dy, tally, dim, id, add);
    return;
  }
  constexpr int columns = 32 * kLanes<T>;
  const std::int64_t tiles = (dim + columns - 1) / columns, works = *tally.frequent_count * tiles;
  for (std::int64_t work = blockIdx.x; work < works; work += frequent_blocks) {
    const std::int32_t id = tally.frequent[work / tiles];
    sum_frequent<T, whole>(dtable, dy, ids, rows, dim, work % tiles, id, tally.counts[id], add);
  }
}

constexpr std::int64_t kFrequentBlocks = 1024;  // at most

}  // namespace

Status run(Cuda c, const EmbeddingForward& p) noexcept {
  if (!holds(p.table, p.y.t)) return unsupported_dtype();
  return by_cuda_dtype(p.y.t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    T* y = data<T>(p.y);
    const T* table = data<T>(p.table);
    return by_flag(aligned(y, table) && p.dim % n == 0, [&](auto whole) {
      const RowGrid at(p.rows, (p.dim + n - 1) / n);
      copy_rows<T, whole.value><<<at.grid, at.block, 0, stream_of(c)>>>(y, p.ids, table, p.rows, p.dim);
      return launched();
    });
  });
}

Status run(Cuda c, const EmbeddingBackward& p) noexcept {
  if (!p.dtable.p) return {};
  if (p.dtable.t != DType::f32) return unsupported_dtype();
  if (p.rows > std::numeric_limits<std::int32_t>::max()) return {1, "more than 2^31 - 1 rows"};
  const cudaStream_t stream = stream_of(c);
  const Tally tally(p.tally, p.rows, p.vocab);
  if (auto status = status_of(cudaMemsetAsync(p.tally, 0, Tally::zeroed_bytes(p.vocab), stream));
      !status.ok())
    return status;
  tally_ids<<<blocks_for(p.rows, kFlatThreads), kFlatThreads, 0, stream>>>(tally, p.ids, p.rows);
  if (auto status = launched(); !status.ok()) return status;
  return by_cuda_dtype(p.dy.t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    float* dtable = data<float>(p.dtable);
    const T* dy = data<T>(p.dy);
    return by_flag(aligned(dtable, dy) && p.dim % n == 0, [&](auto whole) {
      const std::int64_t tiles = (p.dim + 32 * n - 1) / (32 * n), most = p.rows / (kRare + 1) * tiles;
      const auto frequent = unsigned(std::min(most, kFrequentBlocks));
      const auto rare = unsigned((p.vocab + kWarps - 1) / kWarps);
      sum_rows<T, whole.value><<<frequent + rare, kThreads, 0, stream>>>(
          dtable, dy, p.ids, tally, p.rows, p.vocab, p.dim, frequent, p.dtable.add);
      return launched();
    });
  });
}

}  // namespace k
