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
  std::uint32_t low[kBins], high[kBins];  // sums of weights, 0 between selections
  std::uint64_t list[kThreads];           // few candidates are moved here, as order_of() has them
  std::uint64_t sums[kWarps];
  Best best[kWarps];
  std::uint32_t most[kWarps];
  Found found;
  std::uint32_t last, bad, listed;

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

// Those of a row's `count` keys that are larger than `least`, or equal to it with a token up to `last`. The
// keys are aligned and padded to whole fours.
struct Candidates {
  const std::uint32_t* keys;
  std::uint32_t count;
  std::uint32_t least = kNoKey + 1, last = UINT_MAX;

  __device__ bool hold(std::uint32_t key, std::uint32_t token) const {
    return key > least || (key == least && token <= last);
  }
  template <class F> __device__ void for_each_four(F&& f) const {  // f(keys, token of the first)
#pragma unroll 1
    for (std::uint32_t i = 4 * threadIdx.x; i < count; i += 4 * kThreads)
      f(*reinterpret_cast<const uint4*>(keys + i), i);
  }
  template <class F> __device__ void for_each(F&& f) const {  // f(key, token), shared out among the threads
    for_each_four([&](uint4 four, std::uint32_t token) {
      if (max(max(four.x, four.y), max(four.z, four.w)) < least) return;
      const std::uint32_t key[] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (hold(key[i], token + i)) f(key[i], token + i);
    });
  }
  // f(key, token) for one thread's in order; what earlier threads have comes before them.
  template <class F> __device__ void for_each_in_order(F&& f) const {
    // an odd number of keys a thread: neighbours' lie in different banks of shared memory
    const std::uint32_t share = ((count + kThreads - 1) / kThreads) | 1;
    const std::uint32_t first = min(threadIdx.x * share, count), end = min(first + share, count);
    for (std::uint32_t i = first; i < end; i++)
      if (hold(keys[i], i)) f(keys[i], i);
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

// Leaves out most of what cannot be among the `keep` largest: that many threads have a key that is larger, or
// equal, by its upper 16 bits.
__device__ void leave_out_small(Candidates& c, int keep) {
  std::uint32_t mine = kNoKey, low = 0, high = 0xffff;
  c.for_each_four(
      [&](uint4 four, std::uint32_t) { mine = max(max(max(four.x, four.y), max(four.z, four.w)), mine); });
  while (low < high) {
    const std::uint32_t middle = (low + high + 1) / 2;
    if (__syncthreads_count(mine >> 16 >= middle) >= keep) low = middle;
    else high = middle - 1;
  }
  c.least = max(c.least, low << 16);
}

// The larger comes first.
__device__ std::uint64_t order_of(std::uint32_t key, std::uint32_t token) {
  return std::uint64_t(key) << 32 | ~token;
}

// Moves the candidates to the list, in no order, and says how many they are; the first kThreads find room.
__device__ std::uint32_t gather(const Candidates& c, Shared& s) {
  __syncthreads();
  if (threadIdx.x == 0) s.listed = 0;
  __syncthreads();
  c.for_each([&](std::uint32_t key, std::uint32_t token) {
    if (const std::uint32_t at = atomicAdd(&s.listed, 1); at < kThreads) s.list[at] = order_of(key, token);
  });
  __syncthreads();
  return s.listed;
}

// Puts the list in order.
__device__ void sort(Shared& s, std::uint32_t count) {
  const std::uint64_t mine = threadIdx.x < count ? s.list[threadIdx.x] : 0;
  std::uint32_t rank = 0;
  if (mine > 0) {
#pragma unroll 4
    for (std::uint32_t i = 0; i < count; i++) rank += s.list[i] > mine;
  }
  __syncthreads();
  if (mine > 0) s.list[rank] = mine;
  __syncthreads();
}

// Sets the row's keys. Returns the first index of a logit that is not finite, or UINT_MAX.
template <class T>
__device__ std::uint32_t load(std::uint32_t* keys, const T* logits, const Sample& p, bool whole, Shared& s) {
  constexpr int n = kLanes<T>, kAtOnce = 24 / n;  // runs that a thread has under way
  constexpr std::uint32_t kStep = kThreads * n;
  const auto vocab = std::uint32_t(p.vocab), banned = std::uint32_t(p.rule.banned);
  bool bad = false;
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
      float x[n];
      std::uint32_t key[n];
#pragma unroll
      for (int i = 0; i < n; i++) x[i] = run[k][i];
      if (at + n > vocab)
#pragma unroll
        for (int i = 0; i < n; i++) x[i] = at + i < vocab ? x[i] : 0;
#pragma unroll
      for (int i = 0; i < n; i++) bad = bad || !(x[i] < INFINITY), key[i] = key_of(x[i]);
      if (at + n > vocab || banned - at < n)
#pragma unroll
        for (int i = 0; i < n; i++) key[i] = at + i == banned || at + i >= vocab ? kNoKey : key[i];
#pragma unroll
      for (int i = 0; i < n; i += 4)
        *reinterpret_cast<uint4*>(keys + at + i) = make_uint4(key[i], key[i + 1], key[i + 2], key[i + 3]);
    }
  }
  if (!__syncthreads_or(bad)) return UINT_MAX;
  for (std::uint32_t i = threadIdx.x; i < vocab; i += kThreads)
    if (!(to_float(logits[i]) < INFINITY)) atomicMin(&s.bad, i);
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

  Candidates c{.keys = keys, .count = std::uint32_t(p.vocab)};
  Best best{-INFINITY, UINT_MAX};
  if (rule.temperature <= 0) {
    c.for_each([&](std::uint32_t key, std::uint32_t token) {
      best = better(best, {double(logit_of(key)), token});
    });
    return block_best(best, s).token;
  }
  const auto score = [&](float logit, std::uint32_t token) {
    return double(logit) / rule.temperature + noise_of(seed, std::uint64_t(position), token);
  };
  const bool bans = rule.banned >= 0 && rule.banned < p.vocab;
  if (rule.keep > 0 && rule.keep < p.vocab - bans) {
    const bool few = rule.keep <= kThreads;
    if (few) leave_out_small(c, int(rule.keep));  // no digits for most of a large vocabulary
    std::uint32_t listed = 0;
    while (!few || (listed = gather(c, s)) > kThreads) {
      keep_first(
          c, s, [](std::uint32_t) { return std::uint64_t(1); },
          [&](std::uint64_t) { return std::uint64_t(rule.keep); });
      if (!few) break;
    }
    if (few) {  // a thread to a candidate
      sort(s, listed);
      const std::uint64_t mine = s.list[threadIdx.x];
      const float logit = logit_of(std::uint32_t(mine >> 32)), top = logit_of(std::uint32_t(s.list[0] >> 32));
      bool kept = threadIdx.x < rule.keep && double(logit) >= double(top) + least_below_top;
      if (rule.top_p < 1) {
        const Sums sums = block_sums(threadIdx.x < rule.keep ? weight_of(logit, top) : 0, s);
        kept = kept && sums.before < share_of(sums.all, rule.top_p);
      }
      if (kept) best = {score(logit, ~std::uint32_t(mine)), ~std::uint32_t(mine)};
      return block_best(best, s).token;
    }
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
    if (const float logit = logit_of(key); double(logit) >= least)
      best = better(best, {score(logit, token), token});
  });
  return block_best(best, s).token;
}

// Of a row's keys: whole runs of logits. The scratch has them but for 3 tokens or fewer, which do not need
// it.
__host__ __device__ std::int64_t fours_of(const Sample& p) { return (p.vocab + 7) / 8 * 2; }

// least_below_top: the logarithm of min_p.
template <class T, bool kept> __global__ void __launch_bounds__(kThreads)
    sample(Sample p, double least_below_top, bool whole) {
  extern __shared__ uint4 row[];
  __shared__ Shared s;
  const std::int64_t r = blockIdx.x;
  const T* logits = data<T>(p.logits) + r * p.stride;
  std::int32_t* tokens = p.tokens + r * p.capacity;
  std::uint32_t* keys =
      reinterpret_cast<std::uint32_t*>(kept ? row : reinterpret_cast<uint4*>(p.scratch) + r * fours_of(p));
  for (int i = int(threadIdx.x); i < kBins; i += kThreads) s.low[i] = s.high[i] = 0;
  if (threadIdx.x == 0) s.bad = UINT_MAX;
  earlier_are_over();
  let_next_begin();
  const std::int32_t position = p.positions[r] + 1;  // of the token to draw

  const std::uint32_t bad = load(keys, logits, p, whole, s);
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
    const std::int64_t row_bytes = fours_of(p) * std::int64_t(sizeof(uint4));
    return by_flag(
        row_bytes + std::int64_t(sizeof(Shared)) <= shared_memory(queue_of(c).device), [&](auto kept) {
          const auto kernel = sample<T, decltype(kept)::value>;
          const std::int64_t bytes = decltype(kept)::value ? row_bytes : 0;
          if (auto status = status_of(
                  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
              !status.ok())
            return status;
          return launch_early(kernel, dim3(unsigned(p.rows)), kThreads, std::size_t(bytes), c, p,
                              least_below_top, whole);
        });
  });
}

}  // namespace k
