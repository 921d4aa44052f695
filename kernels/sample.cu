#include "kernels/sample.h"

#include "kernels/cuda.cuh"
#include "kernels/philox.h"

// A block takes a row. Candidates are described by the smallest that is one: logits as integers of the same
// order, and among equals the token from which on they are left out. Filters raise that bound by bisection
// over sums of whole numbers; nothing is sorted.
namespace k {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;

__device__ std::uint32_t key_of(float logit) {  // in the order of the logits; -0 is 0
  const std::uint32_t bits = __float_as_uint(logit + 0.f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float logit_of(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Over the block; every thread gets it. `shared` holds kWarps numbers.
template <class T, class Join> __device__ T over_block(T x, T* shared, Join join) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = join(x, __shfl_xor_sync(0xffffffffu, x, lane));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[threadIdx.x % 32];
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = join(x, __shfl_xor_sync(0xffffffffu, x, lane));
  __syncthreads();
  return x;
}
__device__ std::uint64_t sum_of(std::uint64_t x, std::uint64_t* shared) {
  return over_block(x, shared, [](std::uint64_t a, std::uint64_t b) { return a + b; });
}
__device__ std::uint64_t max_of(std::uint64_t x, std::uint64_t* shared) {
  return over_block(x, shared, [](std::uint64_t a, std::uint64_t b) { return a > b ? a : b; });
}

struct Bound {  // candidates: key > `key`, or equal to it with a token below `token`
  std::uint32_t key;
  int token;
  __device__ bool holds(std::uint32_t k, int i) const { return k > key || (k == key && i < token); }
};

// The tightest bound whose candidates, the largest of those of `within`, still weigh `target` > 0 or more
// together; equal ones weigh the same. They weigh as much before.
template <class Weight> __device__ Bound tighten(const std::uint32_t* keys, int vocab, Bound within,
                                                 std::uint32_t largest, std::uint64_t target, Weight weight,
                                                 std::uint64_t* shared) {
  const auto from = [&](std::uint32_t least) {  // weight of the candidates with keys from `least` on
    std::uint64_t sum = 0;
    for (int i = int(threadIdx.x); i < vocab; i += kThreads)
      if (const std::uint32_t key = keys[i]; key >= least && within.holds(key, i)) sum += weight(key);
    return sum_of(sum, shared);
  };
  std::uint32_t low = within.key, high = largest;  // from(low) >= target
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2 + 1;
    if (from(middle) >= target) low = middle;
    else high = middle - 1;
  }
  const std::uint64_t above = low == 0xffffffffu ? 0 : from(low + 1);
  const std::uint64_t each = max(weight(low), std::uint64_t(1)), wanted = (target - above + each - 1) / each;
  const auto equals_below = [&](int token) {
    std::uint64_t count = 0;
    for (int i = int(threadIdx.x); i < token; i += kThreads) count += keys[i] == low && within.holds(low, i);
    return sum_of(count, shared);
  };
  int first = 0, last = vocab;  // the fewest tokens among which `wanted` have this key
  if (equals_below(vocab) <= wanted) return {low, low == within.key ? within.token : vocab};
  while (first < last) {
    const int middle = (first + last) / 2;
    if (equals_below(middle) >= wanted) last = middle;
    else first = middle + 1;
  }
  return {low, first};
}

// The recent tokens' logits, each once; `seen` holds a bit for each token.
__device__ void penalize(const Sample& p, const std::int32_t* history, int position, std::uint32_t* keys,
                         std::uint32_t* seen) {
  for (int i = int(threadIdx.x); i < (p.vocab + 31) / 32; i += kThreads) seen[i] = 0;
  __syncthreads();
  const std::int64_t first = max(std::int64_t(0), position - p.rule.repeat_last);
  for (std::int64_t i = first + threadIdx.x; i < position; i += kThreads) {
    const std::int32_t token = history[i];
    const std::uint32_t bit = 1u << (token % 32);
    if (atomicOr(&seen[token / 32], bit) & bit) continue;
    const float logit = logit_of(keys[token]);
    keys[token] = key_of(float(logit > 0 ? logit / p.rule.repeat_penalty : logit * p.rule.repeat_penalty));
  }
  __syncthreads();
}

__device__ int choose(const Sample& p, const std::uint32_t* keys, int row, int position,
                      std::uint64_t* shared) {
  const int vocab = int(p.vocab);
  const auto key_and_token = [](std::uint32_t key, int i) {
    return std::uint64_t(key) << 32 | std::uint32_t(~i);
  };
  std::uint64_t best = 0;
  for (int i = int(threadIdx.x); i < vocab; i += kThreads)
    if (keys[i] > 0) best = max(best, key_and_token(keys[i], i));
  best = max_of(best, shared);
  if (p.rule.temperature <= 0) return int(~std::uint32_t(best));

  const std::uint32_t largest = std::uint32_t(best >> 32);
  const float top = logit_of(largest);
  Bound bound{1, vocab};  // 0 is the key of the banned token
  const auto count = [&] {
    std::uint64_t n = 0;
    for (int i = int(threadIdx.x); i < vocab; i += kThreads) n += keys[i] > 0;
    return sum_of(n, shared);
  };
  if (p.rule.keep > 0 && p.rule.keep < p.vocab && std::uint64_t(p.rule.keep) < count())
    bound = tighten(
        keys, vocab, bound, largest, std::uint64_t(p.rule.keep),
        [](std::uint32_t) { return std::uint64_t(1); }, shared);
  if (p.rule.top_p < 1) {
    const auto weight = [top](std::uint32_t key) {
      return std::uint64_t(fast_exp(logit_of(key) - top) * 0x1p40f);
    };
    std::uint64_t total = 0;
    for (int i = int(threadIdx.x); i < vocab; i += kThreads)
      if (bound.holds(keys[i], i)) total += weight(keys[i]);
    total = sum_of(total, shared);
    const auto target = std::uint64_t(ceil(p.rule.top_p * double(total)));
    bound = tighten(keys, vocab, bound, largest, max(target, std::uint64_t(1)), weight, shared);
  }
  const double least = p.rule.min_p > 0 ? double(top) + log(p.rule.min_p) : -INFINITY;

  double best_score = -INFINITY;
  int chosen = int(~std::uint32_t(best));
  for (int i = int(threadIdx.x); i < vocab; i += kThreads) {
    const std::uint32_t key = keys[i];
    if (!bound.holds(key, i) || double(logit_of(key)) < least) continue;
    const double score = double(logit_of(key)) / p.rule.temperature +
                         gumbel(p.rule.seed + std::uint64_t(row), std::uint64_t(position), std::uint64_t(i));
    if (score > best_score || (score == best_score && i < chosen)) best_score = score, chosen = i;
  }
  // In the order of the scores as integers; the lower token among equals.
  const auto bits = std::uint64_t(__double_as_longlong(best_score + 0.));
  const std::uint64_t ordered = bits >> 63 ? ~bits : bits | std::uint64_t(1) << 63;
  const std::uint64_t winner = max_of(ordered, shared);
  return int(~std::uint32_t(max_of(ordered == winner ? std::uint64_t(std::uint32_t(~chosen)) : 0, shared)));
}

// Keys replace the logits: in shared memory where a row fits there, else in place.
__global__ void __launch_bounds__(kThreads) sample(Sample p, bool in_shared) {
  extern __shared__ std::uint32_t held[];
  __shared__ std::uint64_t shared[kWarps];
  const int row = int(blockIdx.x), vocab = int(p.vocab), position = p.positions[row] + 1;
  const float* logits = p.logits + row * p.stride;
  std::uint32_t* keys = in_shared ? held : reinterpret_cast<std::uint32_t*>(p.logits + row * p.stride);
  std::uint32_t* seen = in_shared ? held + vocab : held;
  std::int32_t* tokens = p.tokens + row * p.capacity;

  std::uint64_t good_from_bad = 0;
  for (int i = int(threadIdx.x); i < vocab; i += kThreads) {
    const float logit = logits[i];
    if (!(logit < INFINITY)) good_from_bad = max(good_from_bad, std::uint64_t(std::uint32_t(~i)));
    keys[i] = key_of(logit);
  }
  const std::uint64_t first_bad = max_of(good_from_bad, shared);  // also a barrier for the keys
  const int bad = first_bad > 0 ? int(~std::uint32_t(first_bad)) : -1;
  int token = 0;
  if (bad < 0) {
    if (p.rule.repeat_penalty != 1) penalize(p, tokens, position, keys, seen);
    if (threadIdx.x == 0 && p.rule.banned >= 0 && p.rule.banned < vocab) keys[p.rule.banned] = 0;
    __syncthreads();
    token = choose(p, keys, row, position, shared);
  }
  if (threadIdx.x != 0) return;
  p.drawn[row] = token, p.drawn[p.rows + row] = bad;
  tokens[position] = token;
  p.positions[row] = position;
}

}  // namespace

Status run(Cuda cuda, const Sample& p) noexcept {
  if (p.vocab > (std::int64_t(1) << 24)) return {1, "over 16 million entries in the vocabulary"};
  constexpr std::size_t kMostShared = std::size_t(220) << 10;
  const std::size_t seen = std::size_t((p.vocab + 31) / 32) * 4, keys = std::size_t(p.vocab) * 4;
  const bool in_shared = keys + seen <= kMostShared;
  const std::size_t bytes = in_shared ? keys + seen : p.rule.repeat_penalty != 1 ? seen : 0;
  if (bytes > kMostShared) return {1, "a repeat penalty over so large a vocabulary"};
  if (const Status status =
          status_of(cudaFuncSetAttribute(sample, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
      !status.ok())
    return status;
  sample<<<unsigned(p.rows), kThreads, bytes, stream_of(cuda)>>>(p, in_shared);
  return launched();
}

}  // namespace k
