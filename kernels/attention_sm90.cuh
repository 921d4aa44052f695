// The pieces of attention kernels for Hopper that do not depend on which keys a query sees. A warpgroup (128
// threads) has 64 rows and goes through blocks of columns; the other side of each product comes from shared
// memory, where a producer warp keeps a ring of blocks filled. Included by *_sm90.cu files only.
#pragma once
#include <cmath>

#include "kernels/cuda.cuh"
#include "kernels/sm90.cuh"

namespace k::sm90 {

// ---- which tiles a block of threads takes

// Every unit (a head, say) has `steps` tiles, which are numbered with the longest first, so that the last
// ones are short, and with the unit running fastest, so that tiles under way at the same time read the same
// memory. Sections of units are done one after the other: the fewer units at a time, the more of what they
// read stays in the L2 cache. One block of threads runs on each multiprocessor, and takes tiles by a rule
// that depends on nothing but the grid.
struct Schedule {
  int steps, units, section, tiles, grid;

  struct Place {
    int unit, step;
  };
  __device__ Place at(int number) const {
    const int first = number / (steps * section) * section, in_section = number - first * steps;
    const int units_here = min(section, units - first), step = in_section / units_here;
    return {first + in_section - step * units_here, step};
  }
  // The row-th tile of this block; `tiles` or more: none. Every other row of the grid is dealt out backwards,
  // which evens out that the first tile of a row is the longest.
  __device__ int own(int row) const {
    return row * grid + int(row % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  }
  __device__ bool ends_before(int row) const { return row * grid >= tiles; }
};

// `together` units read the same memory; a section has about `rows` tiles for every multiprocessor.
inline Status make_schedule(Schedule& schedule, Cuda cuda, std::int64_t steps, std::int64_t units,
                            std::int64_t together, int rows) noexcept {
  int multiprocessors = 0;
  if (auto status = status_of(
          cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, queue_of(cuda).device));
      !status.ok())
    return status;
  if (steps * units > 1 << 30) return {1, "too many tiles"};
  const std::int64_t groups =
      (std::int64_t(rows) * multiprocessors + steps * together - 1) / (steps * together);
  schedule = {.steps = int(steps),
              .units = int(units),
              .section = int(std::min(units, groups * together)),
              .tiles = int(steps * units),
              .grid = int(std::min<std::int64_t>(steps * units, multiprocessors))};
  return {};
}

// Starts `kernel` for all tiles of a schedule, with this much shared memory.
template <class Arguments> Status launch_tiles(Cuda cuda, void (*kernel)(Arguments), const Schedule& schedule,
                                               int threads, int shared, const Arguments& arguments) noexcept {
  if (auto status =
          status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
      !status.ok())
    return status;
  kernel<<<unsigned(schedule.grid), unsigned(threads), std::size_t(shared), stream_of(cuda)>>>(arguments);
  return launched();
}

// ---- shared memory

inline constexpr int kMaxShared = 227 * 1024;  // of a block of threads
// Dynamic shared memory starts at a multiple of 16 bytes, tiles at one of 1024.
template <class S> constexpr int shared_bytes() {
  static_assert(sizeof(S) + 1024 <= kMaxShared);
  return int(sizeof(S)) + 1024;
}
template <class S> __device__ __forceinline__ S& aligned_shared(unsigned char* raw) {
  return *reinterpret_cast<S*>((reinterpret_cast<std::uintptr_t>(raw) + 1023) & ~std::uintptr_t(1023));
}

// Position in a ring of buffers, with the parity to wait for: `parity` for "full", `parity ^ 1` for "empty".
template <int Size> struct Ring {
  int index = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++index == Size) {
      index = 0;
      parity ^= 1;
    }
  }
};

// Hands a buffer from the copies that fill it to the warps that read it and back.
struct Handover {
  std::uint64_t full, empty;
  __device__ __forceinline__ void init(int arrivals_full, int arrivals_empty) {
    mbarrier_init(smem_address(&full), arrivals_full);
    mbarrier_init(smem_address(&empty), arrivals_empty);
  }
  // Before filling: waits until it is empty, and announces the bytes to come and what `note` writes.
  template <class Note>
  __device__ __forceinline__ std::uint32_t begin(std::uint32_t parity, int bytes, Note note) {
    mbarrier_wait(smem_address(&empty), parity ^ 1);
    note();
    mbarrier_arrive_expect(smem_address(&full), bytes);
    return smem_address(&full);
  }
  __device__ __forceinline__ std::uint32_t begin(std::uint32_t parity, int bytes) {
    return begin(parity, bytes, [] {});
  }
  __device__ __forceinline__ void wait(std::uint32_t parity) { mbarrier_wait(smem_address(&full), parity); }
  __device__ __forceinline__ void release() { mbarrier_arrive(smem_address(&empty)); }
};

// The token that lets one warpgroup at a time issue products, in turn. While one waits for its products the
// others do their exponentials, instead of all doing the same thing at the same time. Every warpgroup must
// take it equally often.
template <int Warpgroups> struct Token {
  static constexpr int kFirst = 1;  // named barriers 1 .. Warpgroups
  int own, next;
  __device__ __forceinline__ explicit Token(int warpgroup)
      : own(kFirst + warpgroup), next(kFirst + (warpgroup + 1 == Warpgroups ? 0 : warpgroup + 1)) {
    if (warpgroup == Warpgroups - 1) pass();  // the first warpgroup starts
  }
  __device__ __forceinline__ void take() const { named_barrier_sync(own, 256); }
  __device__ __forceinline__ void pass() const { named_barrier_arrive(next, 256); }
  // At the end: the pass given at the start is one too many.
  __device__ __forceinline__ void retire(int warpgroup) const {
    if (warpgroup == 0) take();
  }
};

// ---- tiles of 64 rows

inline constexpr int kBlock = 64;                            // rows of a warpgroup
inline constexpr int kBlockPanel = kBlock * kPanelRowBytes;  // bytes
template <int D> inline constexpr int kPanels = D / kPanelColumns;
template <int D> inline constexpr int kBlockBytes = kPanels<D>* kBlockPanel;

// One panel after the other; `rows` is what the map's boxes have.
template <int D> __device__ __forceinline__ void load_tile(std::uint32_t to, const CUtensorMap* map,
                                                           std::uint32_t bar, int rows, int position,
                                                           int head, int batch) {
#pragma unroll
  for (int panel = 0; panel < kPanels<D>; panel++)
    tma_load(to + panel * rows * kPanelRowBytes, map, bar, panel * kPanelColumns, position, head, batch);
}

// What a thread of a warpgroup has of 64 rows: see wgmma in sm90.cuh.
struct Fragment {
  int thread = int(threadIdx.x) % 128, lane = int(threadIdx.x) % 32;
  int row = thread / 32 * 16 + lane / 4;  // and row + 8
  int column = 2 * (lane % 4);            // and the next, in every group of 8
  // The row and 16-byte half whose address the lane gives to ldmatrix and stmatrix.
  int matrix_row = thread / 32 * 16 + lane % 16, matrix_half = lane / 16;
};

// 64 rows of D elements as left operand.
template <int D> __device__ __forceinline__ void load_operand(std::uint32_t (&a)[D / 4], std::uint32_t block,
                                                              const Fragment& f) {
#pragma unroll
  for (int i = 0; i < D / 16; i++)
    ldmatrix_x4(block + (i / 4) * kBlockPanel + swizzled_offset(f.matrix_row, (i % 4) * 2 + f.matrix_half),
                a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]);
}

// An accumulator tile rounded to bf16 is a left operand as it stands.
template <int N>
__device__ __forceinline__ void round_to_operand(std::uint32_t (&p)[N / 2], const float (&s)[N]) {
#pragma unroll
  for (int i = 0; i < N / 2; i++) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

// Sums turned back (kernels/rope.h, adjacent pairs) by the angles of their rows' positions, which end at
// `last`.
template <int D> __device__ __forceinline__ void turn_back(float (&o)[D / 2], const float* table,
                                                           int position, int last, const Fragment& f) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float* angles = table + std::int64_t(min(position + 8 * h, last)) * D + f.column;
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      const float2 angle = __ldg(reinterpret_cast<const float2*>(angles + 8 * i));  // cos, sin
      float* x = o + 4 * i + 2 * h;
      const float first = x[0], second = x[1];
      x[0] = first * angle.x + second * angle.y;
      x[1] = second * angle.x - first * angle.y;
    }
  }
}

// 64 rows of sums, times a factor per row, rounded to bf16 into a tile.
template <int D> __device__ __forceinline__ void stage_rows(std::uint32_t block, const float (&o)[D / 2],
                                                            const float (&factor)[2], const Fragment& f) {
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    const float* x = o + 8 * i;
    stmatrix_x4(block + (i / 4) * kBlockPanel + swizzled_offset(f.matrix_row, (i % 4) * 2 + f.matrix_half),
                pack_bf16(x[0] * factor[0], x[1] * factor[0]), pack_bf16(x[2] * factor[1], x[3] * factor[1]),
                pack_bf16(x[4] * factor[0], x[5] * factor[0]), pack_bf16(x[6] * factor[1], x[7] * factor[1]));
  }
}

// A staged tile to global memory, by one thread.
template <int D> __device__ __forceinline__ void store_tile(const CUtensorMap* map, std::uint32_t block,
                                                            int position, int head, int batch, bool add) {
#pragma unroll
  for (int panel = 0; panel < kPanels<D>; panel++) {
    const std::uint32_t from = block + panel * kBlockPanel;
    if (add) tma_add(map, from, panel * kPanelColumns, position, head, batch);
    else tma_store(map, from, panel * kPanelColumns, position, head, batch);
  }
}

// ---- products, committed as a group each

// Descriptors count addresses in units of 16 bytes. Along the columns of a panel a step of 16 is 32 bytes.
__device__ __forceinline__ std::uint64_t column_step(std::uint64_t descriptor, int i, int panel_bytes) {
  return descriptor + (i / 4) * (panel_bytes >> 4) + (i % 4) * 2;
}

// s = A B^T with rows of D elements, A from registers or 64 rows in shared memory; BPanel: bytes.
template <int D, int BPanel, int N>
__device__ __forceinline__ void issue_dots(float (&s)[N], const std::uint32_t (&a)[D / 4], std::uint64_t b) {
#pragma unroll
  for (int i = 0; i < D / 16; i++) wgmma_rs<0>(s, a + 4 * i, column_step(b, i, BPanel), i > 0);
  wgmma_commit();
}
template <int D, int BPanel, int N>
__device__ __forceinline__ void issue_dots(float (&s)[N], std::uint64_t a, std::uint64_t b) {
#pragma unroll
  for (int i = 0; i < D / 16; i++)
    wgmma_ss<0>(s, column_step(a, i, kBlockPanel), column_step(b, i, BPanel), i > 0);
  wgmma_commit();
}

// o += P B over 4 M rows of B. A step of 16 is 16 rows of B's panels.
template <int N, int M>
__device__ __forceinline__ void issue_sums(float (&o)[N], const std::uint32_t (&p)[M], std::uint64_t b) {
#pragma unroll
  for (int i = 0; i < M / 4; i++) wgmma_rs<1>(o, p + 4 * i, b + i * (16 * kPanelRowBytes >> 4), 1);
  wgmma_commit();
}

// ---- softmax, in powers of two. A thread has parts of two rows ("halves" h = 0, 1): elements 4i + 2h and
// 4i + 2h + 1 are columns 8i + 2(lane % 4) and the next. The four lanes of a quad share a row.

inline constexpr float kLog2E = 1.44269504089f, kLn2 = 0.69314718056f;

// Keeps what has 0 <= age < window, where age falls by `Step` = 1 or grows by -`Step` along the columns.
// age[h]: of the thread's element 0 of half h.
template <int Step, int N>
__device__ __forceinline__ void mask_scores(float (&s)[N], const int (&age)[2], int window) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    const int a = age[(i >> 1) & 1] - Step * ((i >> 2) * 8 + (i & 1));
    if (unsigned(a) >= unsigned(window)) s[i] = -INFINITY;
  }
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

struct RowState {
  float reference[2] = {-INFINITY, -INFINITY};  // what scaled log2 scores are measured against: see below
  float sum[2] = {0.0f, 0.0f};  // over this thread's columns only; combined at the end of the tile
};

// Any reference gives the same result as long as the powers of two neither overflow nor vanish, and up to 2^8
// they are as precise in bf16 and fp32 as below 1. So the reference follows the maximum only when that has
// run ahead by 8, which makes rescaling the sums rare. The decision depends on the data alone.
inline constexpr float kReferenceSlack = 8.0f;

// s becomes P (not yet rounded); rescale receives the factors by which earlier sums have to be multiplied.
template <int N> __device__ __forceinline__ void online_softmax(float (&s)[N], RowState& r,
                                                                float (&rescale)[2], float scale_log2) {
  float top[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float even = s[2 * h], odd = s[2 * h + 1];  // two chains each, for latency
#pragma unroll
    for (int i = 4 + 2 * h; i < N; i += 4) {
      even = fmaxf(even, s[i]);
      odd = fmaxf(odd, s[i + 1]);
    }
    top[h] = quad_max(fmaxf(even, odd)) * scale_log2;
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float before = r.reference[h];
    const float now = top[h] > before + kReferenceSlack ? top[h] : before;
    const float base = now == -INFINITY ? 0.0f : now;  // no key seen yet: every power is 0, not NaN
    rescale[h] = exp2_approx(before - base);
    r.reference[h] = now;
    float even = 0.0f, odd = 0.0f;
#pragma unroll
    for (int i = 2 * h; i < N; i += 4) {
      s[i] = exp2_approx(fmaf(s[i], scale_log2, -base));
      s[i + 1] = exp2_approx(fmaf(s[i + 1], scale_log2, -base));
      even += s[i];
      odd += s[i + 1];
    }
    r.sum[h] = r.sum[h] * rescale[h] + (even + odd);
  }
}

template <int N> __device__ __forceinline__ void rescale_rows(float (&o)[N], const float (&factor)[2]) {
  if (__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
    for (int i = 0; i < N; i++) o[i] *= factor[(i >> 1) & 1];
  }
}

}  // namespace k::sm90
