#include <limits>

#include "kernels/attention_mma.cuh"
#include "kernels/lanes.cuh"

// Three matrix products a head over all blocks of the batch, in fp32. A product's sum runs over its depth in
// order, on one thread, whatever the number of rows: equal blocks give equal bits.
namespace k {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;   // a block of threads makes kTile x kTile results, 4 x 4 a thread
constexpr int kDepth = 16;  // of the operands' tiles in shared memory

// Rows that belong to a head: row i is the (i % per)-th of head h in group i / per. That is a batch of blocks
// (per = blocks) or a parameter (per = dim, one group).
template <class T> struct Rows {
  T* first;
  int heads, per, width;
  __device__ T* operator()(int h, int i) const {
    return first + ((std::int64_t(i / per) * heads + h) * per + i % per) * width;
  }
};

// One operand's next tile on its way to shared memory: [kDepth][kTile]. kByDepth: its rows run along the
// depth; else a row is a step of the depth.
template <bool kByDepth, class T> struct Operand {
  Rows<const T> rows;
  int h, count, depth, first;  // count: of results along this side, `first` the tile's first
  float next[kTile * kDepth / kThreads];

  // The place of this thread's n-th element. By depth a warp takes 8 x 4: whole sectors of global memory, and
  // different banks in shared memory.
  __device__ static int step_of(int n) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    return kByDepth ? warp % 2 * 8 + lane % 8 : n * 4 + warp / 2;
  }
  __device__ static int side_of(int n) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    return kByDepth ? (n * 4 + warp / 2) * 4 + lane / 8 : warp % 2 * 32 + lane;
  }

  __device__ void load(int from) {
#pragma unroll
    for (int n = 0; n < kTile * kDepth / kThreads; n++) {
      const int step = from + step_of(n), side = first + side_of(n);
      next[n] =
          step < depth && side < count ? to_float(kByDepth ? rows(h, side)[step] : rows(h, step)[side]) : 0.f;
    }
  }
  __device__ void put_down(float (*tile)[kTile + 4]) const {
#pragma unroll
    for (int n = 0; n < kTile * kDepth / kThreads; n++) tile[step_of(n)][side_of(n)] = next[n];
  }
};

template <class TA, class TB, class TC> struct Product {
  Rows<const TA> a;
  Rows<const TB> b;
  Rows<TC> c;
  const TC* bias;  // [heads, columns] or null
  int rows, columns, depth;
  bool add;
};

// c[m, n] (=|+=) bias[n] + sum over the depth of a[m, .] b[n, .], for head blockIdx.z
template <bool kAByDepth, bool kBByDepth, class TA, class TB, class TC>
__global__ void __launch_bounds__(kThreads) multiply(Product<TA, TB, TC> p) {
  __shared__ alignas(16) float a_tile[kDepth][kTile + 4], b_tile[kDepth][kTile + 4];
  const int h = int(blockIdx.z), m = int(blockIdx.x) * kTile, n = int(blockIdx.y) * kTile;
  const int row = int(threadIdx.x) / 16 * 4, column = int(threadIdx.x) % 16 * 4;
  Operand<kAByDepth, TA> a{p.a, h, p.rows, p.depth, m};
  Operand<kBByDepth, TB> b{p.b, h, p.columns, p.depth, n};
  float sum[4][4] = {};
  a.load(0);
  b.load(0);
  for (int step = 0; step < p.depth; step += kDepth) {
    a.put_down(a_tile);
    b.put_down(b_tile);
    __syncthreads();
    if (step + kDepth < p.depth) {
      a.load(step + kDepth);
      b.load(step + kDepth);
    }
#pragma unroll
    for (int d = 0; d < kDepth; d++) {
      const auto x = load_lanes<4>(&a_tile[d][row], 4, true), y = load_lanes<4>(&b_tile[d][column], 4, true);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 4 && m + row + i < p.rows; i++) {
    TC* c = p.c(h, m + row + i);
    for (int j = 0; j < 4; j++) {
      const int at = n + column + j;
      if (at < p.columns)
        put(c, at, p.bias ? sum[i][j] + to_float(p.bias[h * p.columns + at]) : sum[i][j], p.add);
    }
  }
}

template <bool kAByDepth, bool kBByDepth, class TA, class TB, class TC>
void launch(cudaStream_t stream, const Product<TA, TB, TC>& p) noexcept {
  const dim3 grid(unsigned((p.rows + kTile - 1) / kTile), unsigned((p.columns + kTile - 1) / kTile),
                  unsigned(p.c.heads));
  multiply<kAByDepth, kBByDepth><<<grid, kThreads, 0, stream>>>(p);
}

struct Sizes {  // of the op, in 32 bits
  int batch, heads, blocks, dim, block, width;
  std::int64_t length;

  template <class P> explicit Sizes(const P& p)
      : batch(int(p.batch)),
        heads(int(p.kv_heads)),
        blocks(int(p.length / p.block)),
        dim(int(p.dim)),
        block(int(p.block)),
        width(dim * block),
        length(p.length) {}

  template <class P> static bool fit(const P& p) noexcept {
    constexpr std::int64_t kGrid = 65535, kLimit = std::numeric_limits<std::int32_t>::max() / 2;
    return p.block <= kGrid * kTile / p.dim && p.kv_heads <= kGrid && p.length <= kLimit / p.batch;
  }
  int rows() const { return batch * blocks; }
  template <class T> Rows<T> of_blocks(T* first, int row_width) const {
    return {first, heads, blocks, row_width};
  }
  template <class T> Rows<T> of_parameter(T* first) const { return {first, heads, dim, width}; }
};

constexpr Status kTooLarge{1, "a compressed block has too many elements"};

// gathered[w, d * block + j] = x[w * block + j, d] + place[j, d]: the order of the weight's columns. A block
// of threads takes one row.
template <class T> __global__ void __launch_bounds__(kThreads)
    gather(float* gathered, const T* x, const T* place, Sizes s) {
  const std::int64_t unit = blockIdx.x / s.blocks;
  const T* rows = x + (unit * s.length + std::int64_t(blockIdx.x % s.blocks) * s.block) * s.dim;
  const T* places = place + unit % s.heads * s.width;
  for (int at = int(threadIdx.x); at < s.width; at += kThreads) {
    const int from = at % s.block * s.dim + at / s.block;
    gathered[std::int64_t(blockIdx.x) * s.width + at] = to_float(rows[from]) + to_float(places[from]);
  }
}

// dx (=|+=) the blocks' gradients in the order of x; the tokens behind the last block get 0. A block of
// threads takes `block` tokens.
template <class T> __global__ void __launch_bounds__(kThreads)
    scatter(Grad dx, const float* dgathered, Sizes s, int pieces) {
  const std::int64_t unit = blockIdx.x / pieces, w = blockIdx.x % pieces;
  T* to = data<T>(dx) + (unit * s.length + w * s.block) * s.dim;
  const float* from = dgathered + (unit * s.blocks + w) * s.width;
  const int count = int(min(std::int64_t(s.block), s.length - w * s.block)) * s.dim;
  for (int at = int(threadIdx.x); at < count; at += kThreads)
    put(to, at, w < s.blocks ? from[at % s.dim * s.block + at / s.dim] : 0.f, dx.add);
}

// sums[h, c % inner * (width / inner) + c / inner] (=|+=) sum of column c over the rows of head h =
// blockIdx.y: thread row y takes every kSlices-th row, and the slices are added in order. inner = 1 keeps the
// order of the columns, inner = block puts the place before the feature.
constexpr int kSlices = 32;

template <class T> __global__ void __launch_bounds__(32 * kSlices)
    sum_columns(Grad sums, Rows<const T> rows, int count, int inner) {
  __shared__ float parts[kSlices][32];
  const int h = int(blockIdx.y), c = int(blockIdx.x) * 32 + int(threadIdx.x);
  float sum = 0;
  for (int i = int(threadIdx.y); c < rows.width && i < count; i += kSlices) sum += to_float(rows(h, i)[c]);
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || c >= rows.width) return;
  sum = 0;
#pragma unroll
  for (int slice = 0; slice < kSlices; slice++) sum += parts[slice][threadIdx.x];
  put(data<float>(sums), std::int64_t(h) * rows.width + c % inner * (rows.width / inner) + c / inner, sum,
      sums.add);
}

template <class T>
void launch_sums(cudaStream_t stream, Grad sums, Rows<const T> rows, int count, int inner) noexcept {
  const dim3 grid(unsigned((rows.width + 31) / 32), unsigned(rows.heads));
  sum_columns<<<grid, dim3(32, kSlices), 0, stream>>>(sums, rows, count, inner);
}

}  // namespace

Status run(Cuda cuda, const CompressForward& p) noexcept {
  if (p.length < p.block) return {};
  if (!Sizes::fit(p)) return kTooLarge;
  if (p.y.t != p.x.t || p.weight.t != p.x.t || p.bias.t != p.x.t || p.place.t != p.x.t)
    return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto tag) {
    using T = typename decltype(tag)::is;
    const Sizes s(p);
    const cudaStream_t stream = stream_of(cuda);
    gather<<<unsigned(s.rows() * s.heads), kThreads, 0, stream>>>(p.gathered, data<T>(p.x), data<T>(p.place),
                                                                  s);
    launch<true, true>(stream, Product<float, T, T>{.a = s.of_blocks<const float>(p.gathered, s.width),
                                                    .b = s.of_parameter(data<T>(p.weight)),
                                                    .c = s.of_blocks(data<T>(p.y), s.dim),
                                                    .bias = data<T>(p.bias),
                                                    .rows = s.rows(),
                                                    .columns = s.dim,
                                                    .depth = s.width,
                                                    .add = false});
    return launched();
  });
}

Status run(Cuda cuda, const CompressBackward& p) noexcept {
  if (!Sizes::fit(p)) return kTooLarge;
  if (p.dy.t != p.x.t || p.weight.t != p.x.t || p.place.t != p.x.t || (p.dx.p && p.dx.t != p.x.t))
    return unsupported_dtype();
  for (const Grad& g : {p.dweight, p.dbias, p.dplace})
    if (g.p && g.t != DType::f32) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto tag) {
    using T = typename decltype(tag)::is;
    const Sizes s(p);
    const cudaStream_t stream = stream_of(cuda);
    const auto dy = s.of_blocks(data<T>(p.dy), s.dim);
    const auto gathered = s.of_blocks<const float>(p.gathered, s.width);
    const auto dgathered = s.of_blocks(p.dgathered, s.width);
    if (s.blocks > 0 && (p.dx.p || p.dplace.p))
      launch<true, false>(stream, Product<T, T, float>{.a = dy,
                                                       .b = s.of_parameter(data<T>(p.weight)),
                                                       .c = dgathered,
                                                       .bias = nullptr,
                                                       .rows = s.rows(),
                                                       .columns = s.width,
                                                       .depth = s.dim,
                                                       .add = false});
    if (p.dx.p) {
      const int pieces = int((p.length + p.block - 1) / p.block);
      scatter<T>
          <<<unsigned(p.batch * p.kv_heads * pieces), kThreads, 0, stream>>>(p.dx, p.dgathered, s, pieces);
    }
    if (p.dplace.p)
      launch_sums<float>(stream, p.dplace, s.of_blocks<const float>(p.dgathered, s.width), s.rows(), s.block);
    if (p.dbias.p) launch_sums<T>(stream, p.dbias, dy, s.rows(), 1);
    if (p.dweight.p) {
      if (s.blocks > 0)
        gather<<<unsigned(s.rows() * s.heads), kThreads, 0, stream>>>(p.gathered, data<T>(p.x),
                                                                      data<T>(p.place), s);
      launch<false, false>(stream, Product<T, float, float>{.a = dy,
                                                            .b = gathered,
                                                            .c = s.of_parameter(data<float>(p.dweight)),
                                                            .bias = nullptr,
                                                            .rows = s.dim,
                                                            .columns = s.width,
                                                            .depth = s.rows(),
                                                            .add = p.dweight.add});
    }
    return launched();
  });
}

Status run(Cuda cuda, const CompressPairForward& p) noexcept {
  if (takes_mma(p)) return run_mma(cuda, p);
  const Status status = run(cuda, p.keys);
  return status.ok() ? run(cuda, p.values) : status;
}
Status run(Cuda cuda, const CompressPairBackward& p) noexcept {
  if (takes_mma(p)) return run_mma(cuda, p);
  const Status status = run(cuda, p.keys);
  return status.ok() ? run(cuda, p.values) : status;
}

}  // namespace k
