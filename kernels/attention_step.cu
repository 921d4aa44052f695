#include "kernels/attention_step.cuh"

namespace k {
namespace {

template <class T> struct Step {
  T* y;
  const T* qkv;
  const std::int32_t* positions;
  const float* table;
  T *k, *v;
  float* parts;
  StepShape shape;
  int group;  // query heads that share a key/value head
  float scale;
};

// A part of the keys: its softmax's maximum and sum, and the sum of values, [dim + 2] in this order. All
// blocks of a group of heads write the same new key and value, each for itself.
template <class L> __global__ void __launch_bounds__(kStepThreads) dense_part(Step<typename L::T> p) {
  using T = typename L::T;
  __shared__ float q[256], logits[kStepKeys], sums[kStepWarps * 256];
  const StepToken<T> token(p.qkv, p.positions, p.table, p.shape, p.group);
  const int first = int(blockIdx.z) * int(kStepKeys), count = min(int(kStepKeys), token.position + 1 - first);
  earlier_are_over();
  let_next_begin();
  if (count <= 0) return;
  const int dim = int(p.shape.dim), d = int(threadIdx.x);
  T* k = p.k + token.unit * p.shape.capacity * dim;
  T* v = p.v + token.unit * p.shape.capacity * dim;
  if (d < dim) {
    q[d] = to_float(from_float<T>(turned(token.q, token.angles, dim, d, Rotation::adjacent)));
    if (first + count == token.position + 1) {
      const std::int64_t at = std::int64_t(token.position) * dim + d;
      k[at] = from_float<T>(turned(token.k, token.angles, dim, d, Rotation::adjacent));
      v[at] = token.v[d];
    }
  }
  __syncthreads();
  const Share<L> share(dim);
  const auto row = [&](T* rows) { return [=](int i) { return rows + std::int64_t(first + i) * dim; }; };
  step_logits(
      share, 0, count, p.scale, logits, [](int) { return q; }, row(k));
  __syncthreads();
  const Softmax softmax(logits, count);
  step_sum(
      share, count, sums, [&](int i) { return softmax.weight(logits[i]); }, row(v));
  float* part = p.parts + (token.row * gridDim.z + blockIdx.z) * (dim + 2);
  if (d == 0) part[0] = softmax.max, part[1] = softmax.sum;
  __syncthreads();
  if (d < dim) part[2 + d] = sum_of_warps(sums, dim, d);
}

template <class T> __global__ void dense_combine(Step<T> p, int most_parts) {
  earlier_are_over();
  let_next_begin();
  const int dim = int(p.shape.dim), d = int(threadIdx.x);
  const int parts = p.positions[blockIdx.y] / int(kStepKeys) + 1;
  const std::int64_t row = blockIdx.y * p.shape.heads + blockIdx.x;
  const float* part = p.parts + row * most_parts * (dim + 2);
  float max = -INFINITY, sum = 0, value = 0;
  for (int i = 0; i < parts; i++) max = fmaxf(max, part[i * (dim + 2)]);
  for (int i = 0; i < parts; i++) {
    const float weight = fast_exp(part[i * (dim + 2)] - max);
    sum = fmaf(weight, part[i * (dim + 2) + 1], sum);
    value = fmaf(weight, part[i * (dim + 2) + 2 + d], value);
  }
  p.y[row * dim + d] = from_float<T>(value / sum);
}

template <class T> __global__ void store(T* to, const T* from, CacheStore p) {
  const std::int64_t first = max(std::int64_t(0), p.length - p.places), rows = p.length - first;
  const std::int64_t count = p.samples * p.kv_heads * rows * p.dim;
  for (std::int64_t i = thread_index(); i < count; i += thread_count()) {
    const std::int64_t d = i % p.dim, t = first + i / p.dim % rows, unit = i / p.dim / rows;
    to[(unit * p.places + t % p.places) * p.dim + d] =
        from[unit % p.kv_heads * p.from_head + t * p.from_token + d];
  }
}

}  // namespace

Status run(Cuda cuda, const DenseStep& p) noexcept {
  const auto& s = p.shape;
  const std::int64_t parts = (s.capacity + kStepKeys - 1) / kStepKeys;
  if (parts > 65535) return {1, "a cache of over 16 million tokens"};
  const unsigned heads = unsigned(s.heads), samples = unsigned(s.samples);
  if (s.samples > 65535) return {1, "over 65,535 samples"};
  return by_step_layout(
      s.dim,
      [&](auto layout) -> Status {
        using L = decltype(layout);
        using T = typename L::T;
        const Step<T> step{data<T>(p.y),
                           data<T>(p.qkv),
                           p.positions,
                           p.table,
                           data<T>(p.k),
                           data<T>(p.v),
                           p.parts,
                           s,
                           int(s.heads / s.kv_heads),
                           p.scale};
        if (const Status status = launch_early(dense_part<L>, dim3(heads, samples, unsigned(parts)),
                                               kStepThreads, 0, cuda, step);
            !status.ok())
          return status;
        return launch_early(dense_combine<T>, dim3(heads, samples), int(s.dim), 0, cuda, step, int(parts));
      },
      p.qkv.t, p.y, p.k, p.v);
}

Status run(Cuda cuda, const CacheStore& p) noexcept {
  if (p.to.t != p.from.t) return unsupported_dtype();
  return by_cuda_dtype(p.to.t, [&](auto tag) -> Status {
    using T = typename decltype(tag)::is;
    const std::int64_t count = p.samples * p.kv_heads * std::min(p.length, p.places) * p.dim;
    store<<<blocks_for(count, 256), 256, 0, stream_of(cuda)>>>(data<T>(p.to), data<T>(p.from), p);
    return launched();
  });
}

}  // namespace k
