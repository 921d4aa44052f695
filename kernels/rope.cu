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

// A head of a packed row: part 0, 1, 2 is q, k, v; where it begins in the packed rows and in its head-major
// tensors, and the angles of its position.
struct Head {
  int part;
  std::int64_t packed, major;
  const float* angles;
};

// How many heads of a packed row there are, and how many of them, from the first on, an op looks at.
template <class P> __host__ __device__ inline std::int64_t heads_of(const P& p) {
  return p.heads + 2 * p.kv_heads;
}
template <class P> __host__ __device__ inline std::int64_t wanted(const P& p) { return heads_of(p); }
__host__ __device__ inline std::int64_t wanted(const TurnHeads& p) {
  return heads_of(p) - (p.y.p == p.x.p ? p.kv_heads : 0);
}

// Calls f(head, item) for the items of all heads that the thread works on.
template <class P, class F> __device__ inline void for_each_item(const P& p, int items, F f) {
  const int heads = int(p.heads), kv_heads = int(p.kv_heads), columns = int(heads_of(p));
  for (std::int64_t row = grid_row(); row < p.batch * p.length; row += grid_rows()) {
    const unsigned b = unsigned(row) / unsigned(p.length), t = unsigned(row) - b * unsigned(p.length);
    for (std::int64_t at = grid_item(); at < wanted(p) * items; at += grid_items()) {
      const int column = int(unsigned(at) / unsigned(items)), item = int(at) - column * items;
      const int part = column < heads ? 0 : column < heads + kv_heads ? 1 : 2;
      const int h = column - (part == 0 ? 0 : part == 1 ? heads : heads + kv_heads);
      const std::int64_t first = std::int64_t(b) * (part == 0 ? heads : kv_heads) + h;
      f(Head{.part = part,
             .packed = (row * columns + column) * p.dim,
             .major = (first * p.length + t) * p.dim,
             .angles = p.table + std::int64_t(t) * p.dim},
        item);
    }
  }
}

// The head-major tensor of Rotation r that a part is written to, or read from; null if there is none.
__device__ inline void* tensor(const SplitHeads& p, int part, int r) {
  return part == 0 ? p.q[r].p : part == 1 ? p.k[r].p : r == 0 ? p.v.p : nullptr;
}
__device__ inline const void* tensor(const MergeHeads& p, int part, int r) {
  return part == 0 ? p.q[r].p : part == 1 ? p.k[r].p : p.v[r].p;
}

// Of a head whose halves are runs of 16 bytes, a thread takes a run of n features of either half: both kinds
// of pairs are among them, pair k is (2 k, 2 k + 1) or (k, n + k).
template <class T> struct Features {
  static constexpr int n = kLanes<T>;
  Lanes<n, T> low, high;
  Features() = default;
  __device__ Features(const T* head, int first, int half)
      : low(load_lanes<n>(head + first, n, true)), high(load_lanes<n>(head + half + first, n, true)) {}
  __device__ float operator[](int i) const { return i < n ? low[i] : high[i - n]; }
};

template <class T, int n> __device__ void store(T* head, int first, int half, const float (&x)[n]) {
  float low[n / 2], high[n / 2];
#pragma unroll
  for (int i = 0; i < n / 2; i++) low[i] = x[i], high[i] = x[n / 2 + i];
  put_lanes(head + first, low, n / 2, true, false);
  put_lanes(head + half + first, high, n / 2, true, false);
}

// y += x turned; `turn` -1 turns back.
template <class T, int n> __device__ void add_turned(Rotation rotation, const Features<T>& x,
                                                     const float* angles, int first, int half, float turn,
                                                     float (&y)[n]) {
  const auto add = [&](int i, int j, float cosine, float sine) {
    y[i] += x[i] * cosine - turn * sine * x[j];
    y[j] += x[j] * cosine + turn * sine * x[i];
  };
  constexpr int pairs = n / 2;
  if (rotation == Rotation::none) {
#pragma unroll
    for (int i = 0; i < n; i++) y[i] += x[i];
  } else if (rotation == Rotation::adjacent) {
    const auto low = load_lanes<pairs>(angles + first, pairs, true),
               high = load_lanes<pairs>(angles + half + first, pairs, true);
#pragma unroll
    for (int i = 0; i < pairs; i += 2) {
      add(i, i + 1, low[i], low[i + 1]);
      add(pairs + i, pairs + i + 1, high[i], high[i + 1]);
    }
  } else {
    const auto all = load_lanes<n>(angles + 2 * first, n, true);
#pragma unroll
    for (int k = 0; k < pairs; k++) add(k, pairs + k, all[2 * k], all[2 * k + 1]);
  }
}

constexpr int kThreads = 256;

template <class T> __global__ void __launch_bounds__(kThreads) split(const SplitHeads p) {
  constexpr int n = kLanes<T>;
  const int half = int(p.dim / 2);
  for_each_item(p, half / n, [&](const Head& head, int item) {
    const Features<T> x(data<T>(p.x) + head.packed, item * n, half);
#pragma unroll
    for (int r = 0; r < kRotations; r++) {
      void* to = tensor(p, head.part, r);
      if (!to) continue;
      float y[2 * n] = {};
      add_turned(Rotation(r), x, head.angles, item * n, half, 1, y);
      store(static_cast<T*>(to) + head.major, item * n, half, y);
    }
  });
}

// `most`: how many tensors a head is the sum of at most; all of them are under way at once.
template <class T, int most> __global__ void __launch_bounds__(kThreads, most == 1 ? 3 : 2)
    merge(const MergeHeads p) {
  constexpr int n = kLanes<T>;
  const int half = int(p.dim / 2);
  for_each_item(p, half / n, [&](const Head& head, int item) {
    T* to = data<T>(p.x) + head.packed;
    float sum[2 * n] = {};
    if (p.x.add) add_turned(Rotation::none, Features<T>(to, item * n, half), nullptr, 0, half, -1, sum);
    const void* from[most] = {};
    Rotation rotation[most];
    Features<T> x[most];
#pragma unroll
    for (int r = 0; r < kRotations; r++)
      if (const void* given = tensor(p, head.part, r); given || most == kRotations) {
        from[r % most] = given;
        rotation[r % most] = head.part == 2 ? Rotation::none : Rotation(r);
      }
#pragma unroll
    for (int i = 0; i < most; i++)
      if (from[i]) x[i] = Features<T>(static_cast<const T*>(from[i]) + head.major, item * n, half);
#pragma unroll
    for (int i = 0; i < most; i++)
      if (from[i]) add_turned(rotation[i], x[i], head.angles, item * n, half, -1, sum);
    store(to, item * n, half, sum);
  });
}

template <class T> __global__ void __launch_bounds__(kThreads) turn(const TurnHeads p) {
  constexpr int n = kLanes<T>;
  const int half = int(p.dim / 2);
  for_each_item(p, half / n, [&](const Head& head, int item) {
    const Features<T> x(data<T>(p.x) + head.packed, item * n, half);
    float y[2 * n] = {};
    add_turned(head.part == 2 ? Rotation::none : p.rotation, x, head.angles, item * n, half, 1, y);
    store(data<T>(p.y) + head.packed, item * n, half, y);
  });
}

// Other heads, a feature at a time: feature i of head x turned; `turn` -1 turns back.
template <class T>
__device__ float turned(Rotation rotation, const T* x, int i, int half, const float* angles, float turn) {
  if (rotation == Rotation::none) return to_float(x[i]);
  const bool by_halves = rotation == Rotation::halves, second = by_halves ? i >= half : i % 2 == 1;
  const int pair = by_halves ? i % half : i / 2, other = by_halves ? (second ? i - half : i + half) : i ^ 1;
  const float sine = turn * angles[2 * pair + 1];
  return to_float(x[i]) * angles[2 * pair] + to_float(x[other]) * (second ? sine : -sine);
}

template <class T> __global__ void __launch_bounds__(kThreads) split_features(const SplitHeads p) {
  for_each_item(p, int(p.dim), [&](const Head& head, int i) {
    for (int r = 0; r < kRotations; r++)
      if (void* to = tensor(p, head.part, r))
        put(static_cast<T*>(to) + head.major, i,
            turned(Rotation(r), data<T>(p.x) + head.packed, i, int(p.dim / 2), head.angles, 1), false);
  });
}

template <class T> __global__ void __launch_bounds__(kThreads) merge_features(const MergeHeads p) {
  for_each_item(p, int(p.dim), [&](const Head& head, int i) {
    T* to = data<T>(p.x) + head.packed;
    float sum = p.x.add ? to_float(to[i]) : 0.f;
    for (int r = 0; r < kRotations; r++)
      if (const void* from = tensor(p, head.part, r))
        sum += turned(head.part == 2 ? Rotation::none : Rotation(r), static_cast<const T*>(from) + head.major,
                      i, int(p.dim / 2), head.angles, -1);
    to[i] = from_float<T>(sum);
  });
}

// Launches `by_runs` where the halves of heads are runs of 16 bytes, `by_features` elsewhere.
template <class T, class P, class... Pointers> Status launch(Cuda c, const P& p, void (*by_runs)(const P),
                                                             void (*by_features)(const P),
                                                             const Pointers*... used) noexcept {
  constexpr int n = kLanes<T>;
  const std::int64_t rows = p.batch * p.length;
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (rows > most || heads_of(p) * p.dim > most) return {1, "more than 2^31 - 1 rows or columns"};
  const bool runs = p.dim % (2 * n) == 0 && aligned(used...);
  const RowGrid at(rows, wanted(p) * (runs ? p.dim / 2 / n : p.dim));
  const auto kernel = runs ? by_runs : by_features;
  kernel<<<at.grid, at.block, 0, stream_of(c)>>>(p);
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
    const auto given = [](const In(&tensors)[kRotations]) {
      return std::ranges::count_if(tensors, [](In x) { return x.p != nullptr; });
    };
    const bool one = std::max({given(p.q), given(p.k), given(p.v)}) <= 1;
    return launch<T>(c, p, one ? merge<T, 1> : merge<T, kRotations>, merge_features<T>, p.q[0].p, p.q[1].p,
                     p.q[2].p, p.k[0].p, p.k[1].p, p.k[2].p, p.v[0].p, p.v[1].p, p.v[2].p, p.x.p, p.table);
  });
}

Status run(Cuda c, const TurnHeads& p) noexcept {
  if (p.y.t != p.x.t) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto t) {
    using T = typename decltype(t)::is;
    if (p.dim % (2 * kLanes<T>) != 0 || !aligned(p.y.p, p.x.p, p.table))
      return Status{1, "heads that are not halves of whole 16 bytes"};
    return launch<T>(c, p, turn<T>, turn<T>, p.y.p, p.x.p, p.table);
  });
}

}  // namespace k
