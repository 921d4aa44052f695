// Private to the CUDA kernels of attention_step.h: a block takes one query head of one sample. Some
// neighbouring lanes share a key, as many as its elements fill accesses of 16 bytes; sums over keys are added
// lane by lane, then warp by warp, in an order that depends on the number of keys alone.
#pragma once
#include "kernels/attention_step.h"
#include "kernels/lanes.cuh"
#include "kernels/rope.h"

namespace k {

// kLanes lanes share a row, kRun elements of each access; kAccesses of them make a row of any size up to
// kLanes * kRun * kAccesses.
template <class Storage, int kRun_, int kLanes_, int kAccesses_> struct StepLayout {
  using T = Storage;
  static constexpr int kRun = kRun_, kSharers = kLanes_, kAccesses = kAccesses_;
  static constexpr bool kWhole = kAccesses == 1;
};
template <class F, class... Arrays>
Status by_step_layout(std::int64_t dim, F&& f, DType type, const Arrays&... arrays) noexcept {
  if (dim > 256) return {1, "a head size above 256"};
  if (!((arrays.t == type) && ...)) return unsupported_dtype();
  return by_cuda_dtype(type, [&](auto tag) {
    using T = typename decltype(tag)::is;
    constexpr int kRun = kLanes<T>;
    if (aligned(arrays.p...)) switch (dim) {
        case 32: return f(StepLayout<T, kRun, 32 / kRun, 1>{});
        case 64: return f(StepLayout<T, kRun, 64 / kRun, 1>{});
        case 128: return f(StepLayout<T, kRun, 128 / kRun, 1>{});
      }
    return f(StepLayout<T, 1, 32, 8>{});
  });
}

inline constexpr int kStepWarps = 16, kStepThreads = 32 * kStepWarps;

// This thread's share of rows, and which of the rows that a block takes at a time is its own.
template <class L> struct Share {
  static constexpr int kAtOnce = kStepThreads / L::kSharers;
  int dim, first;  // elements of a row; the first of its own
  int group;       // in [0, kAtOnce)
  __device__ explicit Share(int dim)
      : dim(dim), first(int(threadIdx.x) % L::kSharers * L::kRun), group(int(threadIdx.x) / L::kSharers) {}

  // Calls f(element, i-th access) for each access of its own.
  template <class F> __device__ void each(F&& f) const {
#pragma unroll
    for (int i = 0; i < L::kAccesses; i++)
      if (const int at = first + i * L::kSharers * L::kRun; L::kWhole || at < dim) f(at, i);
  }
  // Its elements of a row.
  using Part = Lanes<L::kRun, typename L::T>;
  __device__ void load(const typename L::T* row, Part (&part)[L::kAccesses]) const {
    each([&](int at, int i) { part[i] = load_lanes<L::kRun>(row + at, L::kRun, true); });
  }
  // q . row, in all lanes that share the row; q is fp32.
  __device__ float dot(const float* q, const Part (&row)[L::kAccesses]) const {
    float sum = 0;
    each([&](int at, int i) {
#pragma unroll
      for (int e = 0; e < L::kRun; e++) sum = fmaf(q[at + e], row[i][e], sum);
    });
#pragma unroll
    for (int lane = L::kSharers / 2; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
    return sum;
  }
};

// logits[i] = scale * query(i) . row(i) for i in [first, end). All threads of the block take part.
template <class L, class Query, class Row> __device__ void step_logits(const Share<L>& share, int first,
                                                                       int end, float scale, float* logits,
                                                                       Query&& query, Row&& row) {
  constexpr int kAtOnce = Share<L>::kAtOnce, kFetched = L::kWhole ? 2 : 1;
#pragma unroll 1
  for (int base = first; base < end; base += kFetched * kAtOnce) {  // all lanes take part in a row's sum
    const auto place = [&](int j) { return base + j * kAtOnce + share.group; };
    typename Share<L>::Part rows[kFetched][L::kAccesses];
#pragma unroll
    for (int j = 0; j < kFetched; j++) share.load(row(min(place(j), end - 1)), rows[j]);
#pragma unroll
    for (int j = 0; j < kFetched; j++) {
      const float sum = share.dot(query(min(place(j), end - 1)), rows[j]);
      if (place(j) < end && share.first == 0) logits[place(j)] = scale * sum;
    }
  }
}

// sum_i weight(i) row(i), i in [0, count), of the rows of this thread, then of its warp: lane l < kSharers
// writes its elements to sums[warp][dim].
template <class L, class Weight, class Row>
__device__ void step_sum(const Share<L>& share, int count, float* sums, Weight&& weight, Row&& row) {
  constexpr int kAtOnce = Share<L>::kAtOnce, kFetched = L::kWhole ? 2 : 1;
  float sum[L::kAccesses][L::kRun] = {};
#pragma unroll 1
  for (int base = share.group; base < count; base += kFetched * kAtOnce) {
    typename Share<L>::Part rows[kFetched][L::kAccesses];
#pragma unroll
    for (int j = 0; j < kFetched; j++) share.load(row(min(base + j * kAtOnce, count - 1)), rows[j]);
#pragma unroll
    for (int j = 0; j < kFetched; j++) {
      if (base + j * kAtOnce >= count) break;
      const float w = weight(base + j * kAtOnce);
      share.each([&](int, int access) {
#pragma unroll
        for (int e = 0; e < L::kRun; e++) sum[access][e] = fmaf(w, rows[j][access][e], sum[access][e]);
      });
    }
  }
#pragma unroll
  for (int lane = 16; lane >= L::kSharers; lane /= 2)
#pragma unroll
    for (int access = 0; access < L::kAccesses; access++)
#pragma unroll
      for (int e = 0; e < L::kRun; e++) sum[access][e] += __shfl_xor_sync(0xffffffffu, sum[access][e], lane);
  if (int(threadIdx.x) % 32 >= L::kSharers) return;
  share.each([&](int at, int access) {
#pragma unroll
    for (int e = 0; e < L::kRun; e++) sums[int(threadIdx.x) / 32 * share.dim + at + e] = sum[access][e];
  });
}
__device__ inline float sum_of_warps(const float* sums, int dim, int d) {
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kStepWarps; warp++) sum += sums[warp * dim + d];
  return sum;
}

// Of logits [count], by a warp; every lane gets it.
struct Softmax {
  float max, sum;
  __device__ Softmax(const float* logits, int count) {
    const int lane = int(threadIdx.x) % 32;
    max = -INFINITY, sum = 0;
#pragma unroll 2
    for (int i = lane; i < count; i += 32) max = fmaxf(max, logits[i]);
    max = warp_max(max);
#pragma unroll 2
    for (int i = lane; i < count; i += 32) sum += fast_exp(logits[i] - max);
    sum = warp_sum(sum);
  }
  __device__ float weight(float logit) const { return fast_exp(logit - max); }
};

// Element d of a head turned by adjacent pairs or by halves (kernels/rope.h); angles: (cos, sin) of each
// pair.
template <class T>
__device__ float turned(const T* x, const float* angles, int dim, int d, Rotation rotation) {
  const bool adjacent = rotation == Rotation::adjacent;
  const int pair = adjacent ? d / 2 : d % (dim / 2);
  const bool upper = adjacent ? d % 2 == 1 : d >= dim / 2;
  const float mine = to_float(x[d]), other = to_float(x[adjacent ? d ^ 1
                                                        : upper  ? d - dim / 2
                                                                 : d + dim / 2]);
  const float cosine = angles[2 * pair], sine = angles[2 * pair + 1];
  return upper ? mine * cosine + other * sine : mine * cosine - other * sine;
}

// The new token as its block sees it: grid x is the head, y the sample.
template <class T> struct StepToken {
  std::int64_t unit;  // key/value head of the sample, counted over all samples
  std::int64_t row;   // of [samples, heads]
  int kv, position;
  const T *q, *k, *v;
  const float* angles;
  __device__ StepToken(const T* qkv, const std::int32_t* positions, const float* table, const StepShape& s,
                       int group) {
    const int head = int(blockIdx.x), heads = int(s.heads), kv_heads = int(s.kv_heads), dim = int(s.dim);
    const std::int64_t sample = blockIdx.y;
    position = positions[sample];
    kv = head / group;
    unit = sample * kv_heads + kv;
    row = sample * heads + head;
    const T* packed = qkv + sample * (heads + 2 * kv_heads) * dim;
    q = packed + head * dim, k = packed + (heads + kv) * dim, v = packed + (heads + kv_heads + kv) * dim;
    angles = table + std::int64_t(position) * dim;
  }
};

}  // namespace k
