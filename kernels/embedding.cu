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

// How often an id occurs and where first; the latter counted from the end, so that zeros say "nowhere".
struct Tally {
  std::int32_t count, first_from_end;
};
static_assert(sizeof(Tally) == 2 * sizeof(std::int32_t));

__global__ void __launch_bounds__(kFlatThreads)
    tally_ids(Tally* tally, const std::int32_t* ids, std::int64_t rows) {
  for (std::int64_t r = thread_index(); r < rows; r += thread_count()) {
    Tally& at = tally[ids[r]];  // integers: the order of the updates does not show
    atomicAdd(&at.count, 1);
    atomicMax(&at.first_from_end, std::int32_t(rows - r));
  }
}

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kWindow = 1024, kRounds = kWindow / kThreads;  // ids looked at between two barriers

// Block (v, y) sums the rows of dy whose id is v, in one tile of columns. It looks for them from the id's
// first occurrence on, a window of ids at a time, until it has them all: half of the ids of a text occur once
// and cost one window, frequent ones end near the last row. That is rows / 1024 windows at most, and needs no
// sorted rows. `width` threads take a run of columns each; threads / width teams of them take the found rows
// in turn and are added up in order.
template <class T, bool whole> __global__ void __launch_bounds__(kThreads)
    sum_rows(float* dtable, const T* dy, const std::int32_t* ids, const Tally* tally, std::int64_t rows,
             std::int64_t dim, int width, bool add) {
  constexpr int n = kLanes<T>;
  __shared__ unsigned matches[kWindow / 32];  // bit i: row `window + i` has the id
  __shared__ std::int32_t found[kWindow];     // these rows, in order
  __shared__ float sums[kThreads * n];
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int teams = kThreads / width, team = thread / width, place = thread % width;
  const std::int32_t id = std::int32_t(blockIdx.x);
  const std::int64_t c = (std::int64_t(blockIdx.y) * width + place) * n, left = dim - c;
  const bool works = team < teams && left > 0;
  const auto [count, first_from_end] = tally[id];
  if (count == 0 && add) return;

  float sum[n] = {};
  int seen = 0;
  for (std::int64_t window = rows - first_from_end; seen < count && window < rows; window += kWindow) {
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
    int before = __popc(matches[lane]);  // matches up to word `lane`
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, d);
      if (lane >= d) before += other;
    }
    const int total = __shfl_sync(0xffffffffu, before, 31);
#pragma unroll
    for (int k = 0; k < kRounds; k++) {
      const int word = k * kWarps + warp;
      const int end = __shfl_sync(0xffffffffu, before, word);
      if (mine >> k & 1)  // its place: the last of this word's, less those at its lane and beyond
        found[end - __popc(matches[word] >> lane)] = std::int32_t(window + k * kThreads + thread);
    }
    __syncthreads();
    if (works) {
#pragma unroll 8
      for (int i = team; i < total; i += teams) {
        const auto run = load_lanes<n>(dy + std::int64_t(found[i]) * dim + c, left, whole);
#pragma unroll
        for (int e = 0; e < n; e++) sum[e] += run[e];
      }
    }
    seen += total;
  }
  if (teams > 1) {
#pragma unroll
    for (int e = 0; e < n; e++) sums[thread * n + e] = sum[e];
    __syncthreads();
    if (works && team == 0)
      for (int other = 1; other < teams; other++)
#pragma unroll
        for (int e = 0; e < n; e++) sum[e] += sums[(other * width + place) * n + e];
  }
  if (works && team == 0) put_lanes(dtable + id * dim + c, sum, left, whole, add);
}

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
  auto* tally = reinterpret_cast<Tally*>(p.tally);
  const auto bytes = std::size_t(embedding_tally(p.vocab)) * sizeof(std::int32_t);
  if (auto status = status_of(cudaMemsetAsync(tally, 0, bytes, stream)); !status.ok()) return status;
  tally_ids<<<blocks_for(p.rows, kFlatThreads), kFlatThreads, 0, stream>>>(tally, p.ids, p.rows);
  if (auto status = launched(); !status.ok()) return status;
  return by_cuda_dtype(p.dy.t, [&](auto t) {
    using T = typename decltype(t)::is;
    constexpr int n = kLanes<T>;
    float* dtable = data<float>(p.dtable);
    const T* dy = data<T>(p.dy);
    return by_flag(aligned(dtable, dy) && p.dim % n == 0, [&](auto whole) {
      const std::int64_t runs = (p.dim + n - 1) / n, width = std::min<std::int64_t>(runs, kThreads);
      const dim3 grid(unsigned(p.vocab), unsigned((runs + width - 1) / width));
      sum_rows<T, whole.value>
          <<<grid, kThreads, 0, stream>>>(dtable, dy, p.ids, tally, p.rows, p.dim, int(width), p.dtable.add);
      return launched();
    });
  });
}

}  // namespace k
