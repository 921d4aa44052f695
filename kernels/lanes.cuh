// Short runs of consecutive elements, the unit in which a thread loads, computes and stores. Included by .cu
// files only.
//
// A run is one aligned access of 16 bytes where pointers and sizes allow it, and element by element
// elsewhere. Which elements a thread takes does not depend on that, so neither do the sums.
#pragma once
#include <bit>
#include <cstdint>

#include "kernels/cuda.cuh"

namespace k {

// Elements of a run: 16 bytes of the widest type.
template <class... T> inline constexpr int kLanes = int(16 / std::max({sizeof(T)...}));

template <int n, class T> struct alignas(std::min<std::size_t>(16, n * sizeof(T))) Lanes {
  T at[n];
  __device__ float operator[](int i) const { return to_float(at[i]); }
};

// x[0, n), aligned, if `whole`; otherwise x[0, left) and zeros, any `left`.
template <int n, class T>
__device__ inline Lanes<n, T> load_lanes(const T* x, std::int64_t left, bool whole) {
  if (whole) return *reinterpret_cast<const Lanes<n, T>*>(x);
  Lanes<n, T> run;
#pragma unroll
  for (int i = 0; i < n; i++) run.at[i] = i < left ? x[i] : from_float<T>(0.f);
  return run;
}

// y[0, n) = run, aligned. 16 bytes are stored as one number, since the compiler is free to store the elements
// of a struct one by one, and does so in loops.
template <int n, class T> __device__ inline void store_lanes(T* y, const Lanes<n, T>& run) {
  if constexpr (sizeof(run) == 16) {
    const auto& part = reinterpret_cast<const std::uint64_t(&)[2]>(run);
    *reinterpret_cast<unsigned __int128*>(y) = static_cast<unsigned __int128>(part[1]) << 64 | part[0];
  } else if constexpr (sizeof(run) == 32) {
    const auto& part = reinterpret_cast<const Lanes<n / 2, T>(&)[2]>(run);
    store_lanes(y, part[0]);
    store_lanes(y + n / 2, part[1]);
  } else {
    *reinterpret_cast<Lanes<n, T>*>(y) = run;
  }
}

// y[0, min(n, left)) (=|+=) value; `whole` as above.
template <int n, class T>
__device__ inline void put_lanes(T* y, const float (&value)[n], std::int64_t left, bool whole, bool add) {
  if (!whole) {
#pragma unroll
    for (int i = 0; i < n; i++)
      if (i < left) put(y, i, value[i], add);
    return;
  }
  Lanes<n, T> run;
  if (add) run = load_lanes<n>(y, left, true);
  if constexpr (std::is_same_v<T, __nv_bfloat16> && n % 2 == 0) {  // an instruction rounds two
    auto& pairs = reinterpret_cast<__nv_bfloat162(&)[n / 2]>(run);
#pragma unroll
    for (int i = 0; i < n; i += 2)
      pairs[i / 2] = add ? __floats2bfloat162_rn(run[i] + value[i], run[i + 1] + value[i + 1])
                         : __floats2bfloat162_rn(value[i], value[i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < n; i++) run.at[i] = from_float<T>(add ? run[i] + value[i] : value[i]);
  }
  store_lanes(y, run);
}

__device__ inline std::int64_t thread_index() { return std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline std::int64_t thread_count() { return std::int64_t(gridDim.x) * blockDim.x; }

inline constexpr int kFlatThreads = 256;  // of a block that walks a flat range

// Calls f(first, left, whole) for the runs of n elements of this thread in a flat range of `count`: they
// start at `first`, `left` elements are left there, and `whole` runs are aligned ones of n if the arrays are
// `packed`.
template <int n, class F> __device__ inline void for_each_run(std::int64_t count, bool packed, F&& f) {
  for (std::int64_t first = thread_index() * n; first < count; first += thread_count() * n)
    f(first, count - first, packed && count - first >= n);
}

template <class... T> bool aligned(const T*... p) noexcept {
  return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...);
}

inline bool holds(In x, DType t) noexcept { return x.t == t; }
inline bool holds(Out y, DType t) noexcept { return y.t == t; }
inline bool holds(Grad g, DType t) noexcept { return !g.p || g.t == t; }  // one not wanted is of any type

// Calls f(std::true_type{}) or f(std::false_type{}): a choice made when a kernel is compiled.
template <class F> Status by_flag(bool flag, F&& f) noexcept {
  return flag ? f(std::true_type{}) : f(std::false_type{});
}

// A grid over rows of `items`: thread x takes an item, thread y a row; what exceeds the grid is walked.
struct RowGrid {
  dim3 grid, block;
  RowGrid(std::int64_t rows, std::int64_t items) noexcept {
    const unsigned across = std::bit_ceil(unsigned(std::clamp<std::int64_t>(items, 1, 32)));
    block = dim3(across, 256 / across);
    grid = dim3(blocks_for(rows, block.y), blocks_for(items, across, 65535));
  }
};
__device__ inline std::int64_t grid_row() { return std::int64_t(blockIdx.x) * blockDim.y + threadIdx.y; }
__device__ inline std::int64_t grid_rows() { return std::int64_t(gridDim.x) * blockDim.y; }
__device__ inline std::int64_t grid_item() { return std::int64_t(blockIdx.y) * blockDim.x + threadIdx.x; }
__device__ inline std::int64_t grid_items() { return std::int64_t(gridDim.y) * blockDim.x; }

// Calls f(row, column) for the runs of n columns of this thread in a RowGrid over [rows, dim].
template <int n, class F>
__device__ inline void for_each_run_of_rows(std::int64_t rows, std::int64_t dim, F&& f) {
  for (std::int64_t r = grid_row(); r < rows; r += grid_rows())
    for (std::int64_t c = grid_item() * n; c < dim; c += grid_items() * n) f(r, c);
}

}  // namespace k
