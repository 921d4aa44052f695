#include "kernels/rope.h"

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

// Packed rows and head-major tensors; which is read and which is written is what SplitHeads and MergeHeads
// differ in.
template <class T> struct Heads {
  const T* from;
  T* to;
  bool split, add;
  const float* table;
  Rotation rotation;
  std::int64_t batch, heads, length, dim, row_width, first_column;
};

template <class T, class P>
Heads<T> heads_of(const P& p, const T* from, T* to, bool split, bool add) noexcept {
  return {.from = from,
          .to = to,
          .split = split,
          .add = add,
          .table = p.table,
          .rotation = p.rotation,
          .batch = p.batch,
          .heads = p.heads,
          .length = p.length,
          .dim = p.dim,
          .row_width = p.row_width,
          .first_column = p.first_column};
}

// A thread takes `n` pairs of features of one head at one position: 2 n neighbours if adjacent ones are a
// pair, n of either half otherwise. Features that are not turned are moved by halves, too; an odd one is left
// over then.
template <class T, int n> __global__ void __launch_bounds__(kFlatThreads) move_heads(const Heads<T> p) {
  const bool adjacent = p.rotation == Rotation::adjacent, turned = p.rotation != Rotation::none;
  const std::int64_t half = (p.dim + 1) / 2, items = (half + n - 1) / n;
  for (std::int64_t row = grid_row(); row < p.batch * p.length; row += grid_rows()) {
    const std::int64_t b = row / p.length, t = row % p.length;
    for (std::int64_t item = grid_item(); item < p.heads * items; item += grid_items()) {
      const std::int64_t h = unsigned(item) / unsigned(items), pair = (item - h * items) * n;
      const std::int64_t packed = row * p.row_width + p.first_column + h * p.dim,
                         major = ((b * p.heads + h) * p.length + t) * p.dim;
      const std::int64_t low = adjacent ? 2 * pair : pair, high = adjacent ? low + n : low + half;
      const T* from = p.from + (p.split ? packed : major);
      T* to = p.to + (p.split ? major : packed);
      const auto x_low = load_lanes<n>(from + low, p.dim - low, n > 1),
                 x_high = load_lanes<n>(from + high, p.dim - high, n > 1);
      float x[2 * n], y[2 * n];
#pragma unroll
      for (int i = 0; i < n; i++) x[i] = x_low[i], x[n + i] = x_high[i];
      if (turned) {
        const float* angles = p.table + t * p.dim + 2 * pair;
        const auto angle = load_lanes<2 * n>(angles, 2 * n, n > 1);
        const auto turn = [&](int i, int j, int k) {
          const float cosine = angle[2 * k], sine = p.split ? angle[2 * k + 1] : -angle[2 * k + 1];
          y[i] = x[i] * cosine - x[j] * sine;
          y[j] = x[j] * cosine + x[i] * sine;
        };
        if (adjacent) {
#pragma unroll
          for (int k = 0; k < n; k++) turn(2 * k, 2 * k + 1, k);
        } else {
#pragma unroll
          for (int k = 0; k < n; k++) turn(k, n + k, k);
        }
      } else {
#pragma unroll
        for (int i = 0; i < 2 * n; i++) y[i] = x[i];
      }
      float y_low[n], y_high[n];
#pragma unroll
      for (int i = 0; i < n; i++) y_low[i] = y[i], y_high[i] = y[n + i];
      put_lanes(to + low, y_low, p.dim - low, n > 1, p.add);
      put_lanes(to + high, y_high, p.dim - high, n > 1, p.add);
    }
  }
}

template <class T> Status move(Cuda c, const Heads<T>& p) noexcept {
  constexpr int n = kLanes<T>;
  const std::int64_t rows = p.batch * p.length, half = (p.dim + 1) / 2;
  const bool whole = aligned(p.from, p.to, p.table) && p.dim % (2 * n) == 0 && p.row_width % n == 0 &&
                     p.first_column % n == 0;
  const RowGrid at(rows, p.heads * (whole ? half / n : half));
  if (whole) move_heads<T, n><<<at.grid, at.block, 0, stream_of(c)>>>(p);
  else move_heads<T, 1><<<at.grid, at.block, 0, stream_of(c)>>>(p);
  return launched();
}

}  // namespace

Status run(Cuda c, const RopeTable& p) noexcept {
  fill_table<<<blocks_for(p.length * (p.dim / 2), kFlatThreads), kFlatThreads, 0, stream_of(c)>>>(p);
  return launched();
}

Status run(Cuda c, const SplitHeads& p) noexcept {
  if (!holds(p.x, p.y.t)) return unsupported_dtype();
  return by_cuda_dtype(p.y.t, [&](auto t) {
    using T = typename decltype(t)::is;
    return move(c, heads_of(p, data<T>(p.x), data<T>(p.y), true, false));
  });
}

Status run(Cuda c, const MergeHeads& p) noexcept {
  if (!p.x.p) return {};
  if (!holds(p.x, p.y.t)) return unsupported_dtype();
  return by_cuda_dtype(p.y.t, [&](auto t) {
    using T = typename decltype(t)::is;
    return move(c, heads_of(p, data<T>(p.y), data<T>(p.x), false, p.x.add));
  });
}

}  // namespace k
