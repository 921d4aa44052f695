#include "kernels/rope.h"

#include <limits>

#include "kernels/lanes.cuh"

namespace k {
namespace {

__global__ void __launch_bounds__(kFlatThreads) fill_table(const RopeTable p) {
  const std::int64_t half = p.dim / 2;
  for (std::int64_t i = thread_index(); i < p.length * half; i += thread_count()) {
    const std::int64_t t = i / half, c = i % half;
    const float frequency = float(pow(double(p.base), -2. * double(c) / double(p.dim)));
    const float angle = float(p.first_position + t) * frequency;
    double sine, cosine;
    sincos(double(angle), &sine, &cosine);
    p.table[2 * i] = float(cosine);
    p.table[2 * i + 1] = float(sine);
  }
}

template <class P> __host__ __device__ std::int64_t columns_of(const P& p) {
  return p.heads + 2 * p.kv_heads;
}

// A head of the packed row of token t of sequence b: part 0, 1, 2 is q, k, v; where it begins in the packed
// rows and in its head-major tensors.
struct Head {
  int part;
  std::int64_t packed, major;
  template <class P> __device__ Head(const P& p, std::int64_t b, std::int64_t t, int column) {
    const int heads = int(p.heads), kv_heads = int(p.kv_heads);
    part = column < heads ? 0 : column < heads + kv_heads ? 1 : 2;
    const int h = column - (part == 0 ? 0 : part == 1 ? heads : heads + kv_heads);
    packed = ((b * p.length + t) * columns_of(p) + column) * p.dim;
    major = ((b * (part == 0 ? heads : kv_heads) + h) * p.length + t) * p.dim;
  }
};

// The head-major tensor of Rotation r that a part is written to, or read from; null if there is none.
__device__ inline void* tensor(const SplitHeads& p, int part, int r) {
  return part == 0 ? p.q[r].p : part == 1 ? p.k[r].p : r == 0 ? p.v.p : nullptr;
}
__device__ inline const void* tensor(const MergeHeads& p, int part, int r) {
  return part == 0 ? p.q[r].p : part == 1 ? p.k[r].p : p.v[r].p;
}

// A thread's features of a head: n from `first` on, and as many from dim / 2 + first on. Both kinds of pairs
// are among them: pair k of them is (2 k, 2 k + 1) or (k, n + k).
template <class T> struct Features {
  static constexpr int n = kLanes<T>;
  Lanes<n, T> low, high;
  __device__ void load(const T* head, int first, int half) {
    low = load_lanes<n>(head + first, n, true);
    high = load_lanes<n>(head + half + first, n, true);
  }
  __device__ float operator[](int i) const { return i < n ? low[i] : high[i - n]; }
};

template <class T, int n> __device__ void store(T* head, int first, int half, const float (&x)[n]) {
  float low[n / 2], high[n / 2];
#pragma unroll
  for (int i = 0; i < n / 2; i++) low[i] = x[i], high[i] = x[n / 2 + i];
  put_lanes(head + first, low, n / 2, true, false);
  put_lanes(head + half + first, high, n / 2, true, false);
}

// The angles of these pairs at one position.
template <class T> struct Angles {
  static constexpr int n = kLanes<T>;
  float adjacent[2 * n] = {}, halves[2 * n] = {};  // cos, sin

  template <class P> __device__ Angles(const P& p, std::int64_t t, int first, int half) {
    const float* at = p.table + t * p.dim;
    if (p.q[1].p || p.k[1].p) {
      const auto low = load_lanes<n>(at + first, n, true), high = load_lanes<n>(at + half + first, n, true);
#pragma unroll
      for (int i = 0; i < n; i++) adjacent[i] = low[i], adjacent[n + i] = high[i];
    }
    if (p.q[2].p || p.k[2].p) {
      const auto all = load_lanes<2 * n>(at + 2 * first, 2 * n, true);
#pragma unroll
      for (int i = 0; i < 2 * n; i++) halves[i] = all[i];
    }
  }

  // y = x turned; `turn` -1 turns back.
  __device__ void apply(Rotation rotation, const Features<T>& x, float turn, float (&y)[2 * n]) const {
#pragma unroll
    for (int k = 0; k < n; k++) {
      const bool by_halves = rotation == Rotation::halves;
      const int i = by_halves ? k : 2 * k, j = by_halves ? n + k : 2 * k + 1;
      const float cosine = by_halves ? halves[2 * k] : adjacent[2 * k],
                  sine = turn * (by_halves ? halves[2 * k + 1] : adjacent[2 * k + 1]);
      const bool turned = rotation != Rotation::none;
      y[i] = turned ? x[i] * cosine - x[j] * sine : x[i];
      y[j] = turned ? x[j] * cosine + x[i] * sine : x[j];
    }
  }
};

// Calls f(b, t) for the tokens t of sequences b that the thread works on. A block is (runs of features,
// heads, tokens), the grid (tokens, sequences): a thread keeps the angles of its features for all heads that
// it takes.
constexpr int kThreads = 256;
template <class P, class F> __device__ inline void for_each_token(const P& p, F f) {
  for (std::int64_t b = blockIdx.y; b < p.batch; b += gridDim.y)
    for (std::int64_t t = std::int64_t(blockIdx.x) * blockDim.z + threadIdx.z; t < p.length;
         t += std::int64_t(gridDim.x) * blockDim.z)
      f(b, t);
}

template <class T> __global__ void __launch_bounds__(kThreads, 2) split(const SplitHeads p) {
  const int first = int(threadIdx.x) * kLanes<T>, half = int(p.dim / 2);
  for_each_token(p, [&](std::int64_t b, std::int64_t t) {
    const Angles<T> angles(p, t, first, half);
    for (int column = int(threadIdx.y); column < int(columns_of(p)); column += int(blockDim.y)) {
      const Head head(p, b, t, column);
      Features<T> x;
      x.load(data<T>(p.x) + head.packed, first, half);
#pragma unroll
      for (int r = 0; r < kRotations; r++) {
        void* to = tensor(p, head.part, r);
        if (!to) continue;
        float y[2 * kLanes<T>];
        angles.apply(Rotation(r), x, 1, y);
        store(static_cast<T*>(to) + head.major, first, half, y);
      }
    }
  });
}

template <class T> __global__ void __launch_bounds__(kThreads, 2) merge(const MergeHeads p) {
  const int first = int(threadIdx.x) * kLanes<T>, half = int(p.dim / 2);
  for_each_token(p, [&](std::int64_t b, std::int64_t t) {
    const Angles<T> angles(p, t, first, half);
    for (int column = int(threadIdx.y); column < int(columns_of(p)); column += int(blockDim.y)) {
      const Head head(p, b, t, column);
      T* to = data<T>(p.x) + head.packed;
      float sum[2 * kLanes<T>] = {}, y[2 * kLanes<T>];
      Features<T> x[kRotations];
      if (p.x.add) {
        x[0].load(to, first, half);
#pragma unroll
        for (int i = 0; i < 2 * kLanes<T>; i++) sum[i] = x[0][i];
      }
      bool given[kRotations];
#pragma unroll
      for (int r = 0; r < kRotations; r++) {
        const void* from = tensor(p, head.part, r);
        if ((given[r] = from)) x[r].load(static_cast<const T*>(from) + head.major, first, half);
      }
#pragma unroll
      for (int r = 0; r < kRotations; r++) {
        if (!given[r]) continue;
        if (head.part == 2) angles.apply(Rotation::none, x[r], -1, y);
        else angles.apply(Rotation(r), x[r], -1, y);
#pragma unroll
        for (int i = 0; i < 2 * kLanes<T>; i++) sum[i] += y[i];
      }
      store(to, first, half, sum);
    }
  });
}

// Heads that are no runs of 16 bytes, a feature at a time: feature i of head x turned; `turn` -1 turns back.
template <class T>
__device__ float turned(Rotation rotation, const T* x, int i, int half, const float* angles, float turn) {
  if (rotation == Rotation::none) return to_float(x[i]);
  const bool by_halves = rotation == Rotation::halves, second = by_halves ? i >= half : i % 2 == 1;
  const int pair = by_halves ? i % half : i / 2, other = by_halves ? (second ? i - half : i + half) : i ^ 1;
  const float sine = turn * angles[2 * pair + 1];
  return to_float(x[i]) * angles[2 * pair] + to_float(x[other]) * (second ? sine : -sine);
}

// Calls f(head, i, angles) for the features i that the thread works on.
template <class P, class F> __device__ inline void for_each_feature(const P& p, F f) {
  const int dim = int(p.dim);
  for_each_run_of_rows<1>(p.batch * p.length, columns_of(p) * p.dim, [&](std::int64_t row, std::int64_t at) {
    const std::int64_t b = row / p.length, t = row % p.length;
    f(Head(p, b, t, int(at / dim)), int(at % dim), p.table + t * dim);
  });
}

template <class T> __global__ void __launch_bounds__(kThreads) split_features(const SplitHeads p) {
  for_each_feature(p, [&](const Head& head, int i, const float* angles) {
    for (int r = 0; r < kRotations; r++)
      if (void* to = tensor(p, head.part, r))
        put(static_cast<T*>(to) + head.major, i,
            turned(Rotation(r), data<T>(p.x) + head.packed, i, int(p.dim / 2), angles, 1), false);
  });
}

template <class T> __global__ void __launch_bounds__(kThreads) merge_features(const MergeHeads p) {
  for_each_feature(p, [&](const Head& head, int i, const float* angles) {
    T* to = data<T>(p.x) + head.packed;
    float sum = p.x.add ? to_float(to[i]) : 0.f;
    for (int r = 0; r < kRotations; r++)
      if (const void* from = tensor(p, head.part, r))
        sum += turned(head.part == 2 ? Rotation::none : Rotation(r), static_cast<const T*>(from) + head.major,
                      i, int(p.dim / 2), angles, -1);
    to[i] = from_float<T>(sum);
  });
}

// Launches `by_runs` where heads are runs of 16 bytes, `by_features` elsewhere.
template <class T, class P, class... Pointers> Status launch(Cuda c, const P& p, void (*by_runs)(const P),
                                                             void (*by_features)(const P),
                                                             const Pointers*... used) noexcept {
  constexpr int n = kLanes<T>;
  const std::int64_t runs = p.dim / 2 / n;
  if (columns_of(p) * p.dim > std::numeric_limits<std::int32_t>::max()) return {1, "rows are too long"};
  if (p.dim % (2 * n) == 0 && runs <= 32 && aligned(used...)) {
    const auto heads = unsigned(std::min<std::int64_t>(columns_of(p), 32 / runs));
    const dim3 block(unsigned(runs), heads, kThreads / 32);
    const dim3 grid(blocks_for(p.length, block.z), blocks_for(p.batch, 1, 65535));
    by_runs<<<grid, block, 0, stream_of(c)>>>(p);
  } else {
    const RowGrid at(p.batch * p.length, columns_of(p) * p.dim);
    by_features<<<at.grid, at.block, 0, stream_of(c)>>>(p);
  }
  return launched();
}

}  // namespace

Status run(Cuda c, const RopeTable& p) noexcept {
  fill_table<<<blocks_for(p.length * (p.dim / 2), kFlatThreads), kFlatThreads, 0, stream_of(c)>>>(p);
  return launched();
}

Status run(Cuda c, const SplitHeads& p) noexcept {
  for (Out y : {p.q[0], p.q[1], p.q[2], p.k[0], p.k[1], p.k[2], p.v})
    if (y.p && y.t != p.x.t) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto t) {
    using T = typename decltype(t)::is;
    return launch<T>(c, p, split<T>, split_features<T>, p.q[0].p, p.q[1].p, p.q[2].p, p.k[0].p, p.k[1].p,
                     p.k[2].p, p.v.p, p.x.p, p.table);
  });
}

Status run(Cuda c, const MergeHeads& p) noexcept {
  if (!p.x.p) return {};
  for (In y : {p.q[0], p.q[1], p.q[2], p.k[0], p.k[1], p.k[2], p.v[0], p.v[1], p.v[2]})
    if (y.p && y.t != p.x.t) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto t) {
    using T = typename decltype(t)::is;
    return launch<T>(c, p, merge<T>, merge_features<T>, p.q[0].p, p.q[1].p, p.q[2].p, p.k[0].p, p.k[1].p,
                     p.k[2].p, p.v[0].p, p.v[1].p, p.v[2].p, p.x.p, p.table);
  });
}

}  // namespace k
