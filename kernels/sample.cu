#include "kernels/sample.h"

#include <climits>

#include "kernels/lanes.cuh"
#include "kernels/sample_math.h"

namespace k {
namespace {

// A block per row. What passes a filter is the beginning of an order, larger keys first, lower tokens first
// of equal ones, so a filter is a selection: where does that beginning end? Keys are cut into digits of 11,
// 11 and 10 bits; a pass adds up the weights of each value of a digit and finds the one in which the goal is
// reached. Sums are integers, so nothing depends on the order in which threads add to them.
constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kBins = 2 * kThreads;  // values of a digit

struct Found {
  std::uint32_t bin;
  std::uint64_t left, weight;  // what of the goal is to come from the bin, out of this
};

struct Best {
  double score;
  std::uint32_t token;
};
__device__ Best better(Best a, Best b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token) ? a : b;
}

struct Shared {
  std::uint32_t low[kBins], high[kBins];                     // sums of weights, 0 between selections
  std::uint32_t list_keys[kThreads], list_tokens[kThreads];  // few candidates are moved here
  std::uint64_t sums[kWarps];
  Best best[kWarps];
  std::uint32_t most[kWarps];
  Found found;
  std::uint32_t last, bad;

  // Atomic additions of 64 bits are loops in shared memory, those of 32 bits are not.
  __device__ void add(std::uint32_t bin, std::uint64_t weight) {
    const auto part = std::uint32_t(weight);
    auto carry = std::uint32_t(weight >> 32);
    const std::uint32_t before = atomicAdd(&low[bin], part);
    if (before + part < before) carry++;
    if (carry) atomicAdd(&high[bin], carry);
  }
  __device__ std::uint64_t take(std::uint32_t bin) {
    const std::uint64_t sum = std::uint64_t(high[bin]) << 32 | low[bin];
    low[bin] = high[bin] = 0;
    return sum;
  }
};

struct Sums {
  std::uint64_t before, all;  // of the threads before this one, of all
};
__device__ std::uint64_t warp_sum_up_to(std::uint64_t x) {
#pragma unroll
  for (int away = 1; away < 32; away *= 2) {
    const std::uint64_t other = __shfl_up_sync(0xffffffffu, x, away);
    if (int(threadIdx.x) % 32 >= away) x += other;
  }
  return x;
}
__device__ Sums block_sums(std::uint64_t x, Shared& s) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const std::uint64_t up_to = warp_sum_up_to(x);
  if (lane == 31) s.sums[warp] = up_to;
  __syncthreads();
  const std::uint64_t of_warps = warp_sum_up_to(s.sums[lane]);
  const std::uint64_t before_warp = __shfl_sync(0xffffffffu, of_warps, (warp + 31) % 32);
  const Sums result{(warp > 0 ? before_warp : 0) + up_to - x, __shfl_sync(0xffffffffu, of_warps, 31)};
  __syncthreads();
  return result;
}

__device__ std::uint32_t block_most(std::uint32_t x, Shared& s) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const auto warp_most = [](std::uint32_t y) {
#pragma unroll
    for (int away = 16; away > 0; away /= 2) y = max(y, __shfl_xor_sync(0xffffffffu, y, away));
    return y;
  };
  x = warp_most(x);
  if (lane == 0) s.most[warp] = x;
  __syncthreads();
  x = warp_most(s.most[lane]);
  __syncthreads();
  return x;
}

__device__ Best block_best(Best x, Shared& s) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const auto warp_best = [](Best y) {
#pragma unroll
    for (int away = 16; away > 0; away /= 2)
      y = better(y,
                 {__shfl_xor_sync(0xffffffffu, y.score, away), __shfl_xor_sync(0xffffffffu, y.token, away)});
    return y;
  };
  x = warp_best(x);
  if (lane == 0) s.best[warp] = x;
  __syncthreads();
  x = warp_best(s.best[lane]);
  __syncthreads();
  return x;
}

constexpr std::uint32_t kNoKey = 0;  // of what is banned, below all others

// Those of `count` keys, in the order of their tokens, that are larger than `least`, or equal to it with a
// token up to `last`.
struct Candidates {
  const std::uint32_t *keys, *tokens;  // no tokens: 0, 1, 2, ...
  std::uint32_t count;
  std::uint32_t least = kNoKey + 1, last = UINT_MAX;

  __device__ std::uint32_t token(std::uint32_t i) const { return tokens ? tokens[i] : i; }
  __device__ bool hold(std::uint32_t i) const {
    return keys[i] > least || (keys[i] == least && token(i) <= last);
  }
  template <class F> __device__ void for_each(F&& f) const {  // f(key, token), shared out among the threads
    for (std::uint32_t i = threadIdx.x; i < count; i += kThreads)
      if (hold(i)) f(keys[i], token(i));
  }
  // f(key, token) for one thread's in order; what earlier threads have comes before them.
  template <class F> __device__ void for_each_in_order(F&& f) const {
    // an odd number of keys a thread: neighbours' lie in different banks of shared memory
    const std::uint32_t share = ((count + kThreads - 1) / kThreads) | 1;
    const std::uint32_t first = min(threadIdx.x * share, count), end = min(first + share, count);
    for (std::uint32_t i = first; i < end; i++)
      if (hold(i)) f(keys[i], token(i));
  }
};

// Keeps the fewest first candidates whose weights reach goal(sum of all weights), which is in [1, that sum].
template <class Weight, class Goal>
__device__ void keep_first(Candidates& c, Shared& s, const Weight& weight, const Goal& goal) {
  std::uint32_t known = 0;  // the digits found so far
  Found found{};
#pragma unroll
  for (int pass = 0; pass < 3; pass++) {
    constexpr int kShift[] = {21, 10, 0}, kWidth[] = {11, 11, 10};
    const int shift = kShift[pass], width = kWidth[pass];
    c.for_each([&](std::uint32_t key, std::uint32_t) {
      if (pass > 0 && key >> (shift + width) != known) return;
      s.add(key >> shift & ((1u << width) - 1), weight(key));
    });
    __syncthreads();
    const std::uint32_t bin = kBins - 1 - 2 * threadIdx.x;  // and the one below it
    const std::uint64_t upper = s.take(bin), lower = s.take(bin - 1);
    const Sums sums = block_sums(upper + lower, s);
    const std::uint64_t wanted = pass == 0 ? goal(sums.all) : found.left;
    if (sums.before < wanted && wanted <= sums.before + upper) s.found = {bin, wanted - sums.before, upper};
    else if (const std::uint64_t before = sums.before + upper; before < wanted && wanted <= before + lower)
      s.found = {bin - 1, wanted - before, lower};
    __syncthreads();
    found = s.found;
    known = known << width | found.bin;
  }
  if (known != c.least) c.least = known, c.last = UINT_MAX;
  // Equal keys weigh the same, so of the last ones as many are kept as it takes.
  const std::uint64_t each = weight(known), kept = (found.left + each - 1) / each;
  if (kept * each == found.weight) return;
  std::uint64_t mine = 0;
  const auto for_each_equal = [&](auto&& f) {
    c.for_each_in_order([&](std::uint32_t key, std::uint32_t token) {
      if (key == known) f(token);
    });
  };
  for_each_equal([&](std::uint32_t) { mine++; });
  std::uint64_t before = block_sums(mine, s).before;
  if (before < kept && kept <= before + mine)
    for_each_equal([&](std::uint32_t token) {
      if (++before == kept) s.last = token;
    });
  __syncthreads();
  c.last = s.last;
}

// Leaves out what cannot be among the `keep` largest: that many threads have a key that is larger, or equal.
__device__ void leave_out_small(Candidates& c, int keep) {
  std::uint32_t mine = kNoKey, low = c.least, high = UINT_MAX;
  c.for_each([&](std::uint32_t key, std::uint32_t) { mine = max(mine, key); });
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2 + 1;
    if (__syncthreads_count(mine >= middle) >= keep) low = middle;
    else high = middle - 1;
  }
  if (low != c.least) c.least = low, c.last = UINT_MAX;
}

// Moves the candidates to the list if they fit there, at most kThreads.
__device__ void gather(Candidates& c, Shared& s) {
  std::uint64_t mine = 0;
  c.for_each_in_order([&](std::uint32_t, std::uint32_t) { mine++; });
  const Sums sums = block_sums(mine, s);
  if (sums.all > kThreads) return;
  auto at = std::uint32_t(sums.before);
  c.for_each_in_order([&](std::uint32_t key, std::uint32_t token) {
    s.list_keys[at] = key;
    s.list_tokens[at++] = token;
  });
  __syncthreads();
  c.keys = s.list_keys;
  c.tokens = s.list_tokens;
  c.count = std::uint32_t(sums.all);
}

// Sets the row's keys; those in shared memory are `padded` to whole runs. Returns the first index of a logit
// that is not finite, or UINT_MAX.
template <bool padded, class T>
__device__ std::uint32_t load(std::uint32_t* keys, const T* logits, const Sample& p, bool whole, Shared& s) {
  constexpr int n = kLanes<T>, kAtOnce = 24 / n;  // runs that a thread has under way
  constexpr std::uint32_t kStep = kThreads * n;
  const auto vocab = std::uint32_t(p.vocab), banned = std::uint32_t(p.rule.banned);
  std::uint32_t bad = UINT_MAX;
  for (std::uint32_t c = threadIdx.x * n; c < vocab; c += kAtOnce * kStep) {
    Lanes<n, T> run[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; k++)
      if (const std::uint32_t at = c + k * kStep; at < vocab)
        run[k] = load_lanes<n>(logits + at, p.stride - at, whole);
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      const std::uint32_t at = c + k * kStep;
      if (at >= vocab) break;
      std::uint32_t key[n];
#pragma unroll
      for (int i = 0; i < n; i++) {
        if (at + i < vocab && !(run[k][i] < INFINITY)) bad = min(bad, at + i);
        key[i] = at + i == banned || at + i >= vocab ? kNoKey : key_of(run[k][i]);
      }
      if constexpr (padded) {
#pragma unroll
        for (int i = 0; i < n; i += 4)
          *reinterpret_cast<uint4*>(keys + at + i) = make_uint4(key[i], key[i + 1], key[i + 2], key[i + 3]);
      } else {
#pragma unroll
        for (int i = 0; i < n; i++)
          if (at + i < vocab) keys[at + i] = key[i];
      }
    }
  }
  if (!__syncthreads_or(bad != UINT_MAX)) return UINT_MAX;
  atomicMin(&s.bad, bad);
  __syncthreads();
  return s.bad;
}

// Every thread gets the token.
template <class T> __device__ std::uint32_t draw(std::uint32_t* keys, const T* logits,
                                                 const std::int32_t* tokens, std::int32_t position,
                                                 std::uint64_t seed, double least_below_top, const Sample& p,
                                                 Shared& s) {
  const SampleRule& rule = p.rule;
  if (rule.repeat_penalty != 1) {  // the logits stay, so a token that occurs twice gets the same key twice
    const std::int64_t window = min(std::int64_t(position), rule.repeat_last);
    for (std::int64_t i = threadIdx.x; i < window; i += kThreads)
      if (const std::int32_t token = tokens[position - 1 - i];
          token >= 0 && token < p.vocab && token != rule.banned)
        keys[token] = key_of(penalized(to_float(logits[token]), rule.repeat_penalty));
    __syncthreads();
  }

  Candidates c{.keys = keys, .tokens = nullptr, .count = std::uint32_t(p.vocab)};
  Best best{-INFINITY, UINT_MAX};
  if (rule.temperature <= 0) {
    c.for_each([&](std::uint32_t key, std::uint32_t token) {
      best = better(best, {double(logit_of(key)), token});
    });
    return block_best(best, s).token;
  }
  const bool bans = rule.banned >= 0 && rule.banned < p.vocab;
  if (rule.keep > 0 && rule.keep < p.vocab - bans) {
    if (rule.keep <= kThreads) {  // most of a large vocabulary need not be looked at digit by digit
      leave_out_small(c, int(rule.keep));
      gather(c, s);
    }
    keep_first(
        c, s, [](std::uint32_t) { return std::uint64_t(1); },
        [&](std::uint64_t) { return std::uint64_t(rule.keep); });
    if (rule.keep <= kThreads && !c.tokens) gather(c, s);
  }
  double least = -INFINITY;
  if (rule.top_p < 1 || rule.min_p > 0) {
    std::uint32_t most = kNoKey;
    c.for_each([&](std::uint32_t key, std::uint32_t) { most = max(most, key); });
    const float top = logit_of(block_most(most, s));
    if (rule.top_p < 1)
      keep_first(
          c, s, [&](std::uint32_t key) { return weight_of(logit_of(key), top); },
          [&](std::uint64_t total) { return share_of(total, rule.top_p); });
    least = double(top) + least_below_top;
  }
  c.for_each([&](std::uint32_t key, std::uint32_t token) {
    const double logit = double(logit_of(key));
    if (logit < least) return;
    best = better(best, {logit / rule.temperature + noise_of(seed, std::uint64_t(position), token), token});
  });
  return block_best(best, s).token;
}

// least_below_top: the logarithm of min_p.
template <class T, bool kept> __global__ void __launch_bounds__(kThreads)
    sample(Sample p, double least_below_top, bool whole) {
  extern __shared__ uint4 row[];
  __shared__ Shared s;
  const std::int64_t r = blockIdx.x;
  const T* logits = data<T>(p.logits) + r * p.stride;
  std::int32_t* tokens = p.tokens + r * p.capacity;
  std::uint32_t* keys = kept ? reinterpret_cast<std::uint32_t*>(row)
                             : reinterpret_cast<std::uint32_t*>(p.scratch + r * p.vocab);
  const std::int32_t position = p.positions[r] + 1;  // of the token to draw
  for (int i = int(threadIdx.x); i < kBins; i += kThreads) s.low[i] = s.high[i] = 0;
  if (threadIdx.x == 0) s.bad = UINT_MAX;

  const std::uint32_t bad = load<kept>(keys, logits, p, whole, s);
  const std::uint32_t token = bad == UINT_MAX ? draw(keys, logits, tokens, position,
                                                     p.rule.seed + std::uint64_t(r), least_below_top, p, s)
                                              : 0;
  if (threadIdx.x > 0) return;
  tokens[position] = std::int32_t(token);
  p.positions[r] = position;
  p.drawn[r] = std::int32_t(token);
  p.drawn[p.rows + r] = std::int32_t(bad);  // UINT_MAX is -1
}

// The most shared memory that a block of this device may have.
std::int64_t shared_memory(int device) noexcept {
  int bytes = 0;
  return cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess
             ? bytes
             : 0;
}

}  // namespace

Status run(Cuda c, const Sample& p) noexcept {
  return by_cuda_dtype(p.logits.t, [&](auto t) {
    using T = typename decltype(t)::is;
    const bool whole = aligned(data<T>(p.logits)) && p.stride % kLanes<T> == 0;
    const double least_below_top = std::log(p.rule.min_p);
    const std::int64_t row_bytes =
        (p.vocab + kLanes<T> - 1) / kLanes<T> * kLanes<T> * std::int64_t(sizeof(std::uint32_t));
    return by_flag(
        row_bytes + std::int64_t(sizeof(Shared)) <= shared_memory(queue_of(c).device), [&](auto kept) {
          const auto kernel = sample<T, decltype(kept)::value>;
          const std::int64_t bytes = decltype(kept)::value ? row_bytes : 0;
          if (auto status = status_of(
                  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
              !status.ok())
            return status;
          kernel<<<unsigned(p.rows), kThreads, std::size_t(bytes), stream_of(c)>>>(p, least_below_top, whole);
          return launched();
        });
  });
}

}  // namespace k
