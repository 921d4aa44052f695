// Compression on tensor cores: heads of 64 features, blocks of 16 tokens, bf16. A head's weights are a matrix
// [64 outputs, 1024]; a complete block of tokens, 1024 neighbours in memory, is a row of the other operand.
// Columns are counted place by place, as the tokens lie, while the weights lie feature by feature: they are
// turned on their way to shared memory.
#include <algorithm>
#include <limits>

#include "kernels/attention_mma.cuh"
#include "kernels/lanes.cuh"
#include "kernels/mma.cuh"

namespace k {
namespace {

using bf = __nv_bfloat16;

constexpr int kDim = 64, kBlock = 16, kWidth = kDim * kBlock;
constexpr int kHalf = kBlock / 2;         // places that shared memory holds at once
constexpr int kHalfWidth = kHalf * kDim;  // columns of those
constexpr int kStride = kHalfWidth + 8;   // of a row in shared memory: 8 rows fall into different banks
constexpr int kThreads = 256;
constexpr int kRows = 32;  // blocks of tokens that a block of threads takes

struct Sizes {
  int batch, heads, blocks;
  std::int64_t length;
  template <class P> explicit Sizes(const P& p)
      : batch(int(p.batch)), heads(int(p.kv_heads)), blocks(int(p.length / kBlock)), length(p.length) {}
  __host__ __device__ int rows() const { return batch * blocks; }
  // The first token of row i of head h, and the row itself among all compressed blocks.
  __device__ std::int64_t token(int h, int i) const {
    return (std::int64_t(i / blocks) * heads + h) * length + std::int64_t(i % blocks) * kBlock;
  }
  __device__ std::int64_t row(int h, int i) const {
    return (std::int64_t(i / blocks) * heads + h) * blocks + i % blocks;
  }
};

// What a launch works on: keys, then values; the grid's last dimension counts them.
struct Forward {
  bf* y;
  const bf *x, *weight, *bias, *place;
  explicit Forward(const CompressForward& p)
      : y(data<bf>(p.y)),
        x(data<bf>(p.x)),
        weight(data<bf>(p.weight)),
        bias(data<bf>(p.bias)),
        place(data<bf>(p.place)) {}
};
struct Backward {
  Grad dx, dweight, dbias, dplace;
  const bf *dy, *x, *weight, *place;
  explicit Backward(const CompressBackward& p)
      : dx(p.dx),
        dweight(p.dweight),
        dbias(p.dbias),
        dplace(p.dplace),
        dy(data<bf>(p.dy)),
        x(data<bf>(p.x)),
        weight(data<bf>(p.weight)),
        place(data<bf>(p.place)) {}
};

__device__ inline void load8(const bf* from, bf (&x)[8]) {
  *reinterpret_cast<uint4*>(x) = *reinterpret_cast<const uint4*>(from);
}

// weights[o][j][d] of a head for the places [first, first + kHalf), from weight[o][d][j].
__device__ inline void load_weights(bf* weights, const bf* weight, int first) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int from = 0; from < kDim; from += kThreads / 32) {
    const int o = from + int(threadIdx.x) / 32;
    bf even[8], odd[8];
    load8(weight + std::int64_t(o) * kWidth + 2 * lane * kBlock + first, even);
    load8(weight + std::int64_t(o) * kWidth + (2 * lane + 1) * kBlock + first, odd);
#pragma unroll
    for (int j = 0; j < kHalf; j++) {
      __nv_bfloat162 both;
      both.x = even[j], both.y = odd[j];
      *reinterpret_cast<__nv_bfloat162*>(weights + o * kStride + j * kDim + 2 * lane) = both;
    }
  }
}

// Eight features of a token and of its place, added and rounded: what the weights multiply.
__device__ inline uint4 placed(const bf* x, const bf* place) {
  bf a[8], b[8], sum[8];
  load8(x, a);
  load8(place, b);
#pragma unroll
  for (int e = 0; e < 8; e++) sum[e] = __float2bfloat16_rn(__bfloat162float(a[e]) + __bfloat162float(b[e]));
  return *reinterpret_cast<const uint4*>(sum);
}

constexpr int kForwardShared = (kDim + kRows) * kStride * int(sizeof(bf));

// y = bias + rows x weights^T. Warps: 2 tiles of 16 rows x 4 tiles of 16 outputs.
__global__ void __launch_bounds__(kThreads) forward(Forward keys, Forward values, Sizes s) {
  const auto [y, x, weight, bias, place] = blockIdx.z == 0 ? keys : values;
  extern __shared__ __align__(16) bf shared[];
  bf *weights = shared, *tokens = shared + kDim * kStride;
  const int h = int(blockIdx.y), first = int(blockIdx.x) * kRows, warp = int(threadIdx.x) / 32;
  const int tile_row = warp / 4 * 16, tile_out = warp % 4 * 16;
  mma::D sum[2];
  for (int place_first = 0; place_first < kBlock; place_first += kHalf) {
    __syncthreads();
    load_weights(weights, weight + std::int64_t(h) * kDim * kWidth, place_first);
#pragma unroll 4
    for (int at = int(threadIdx.x) * 8; at < kRows * kHalfWidth; at += kThreads * 8) {
      const int row = at / kHalfWidth, column = at % kHalfWidth;
      uint4 run{};
      if (first + row < s.rows())
        run = placed(x + (s.token(h, first + row) + place_first) * kDim + column,
                     place + (h * kBlock + place_first) * kDim + column);
      *reinterpret_cast<uint4*>(tokens + row * kStride + column) = run;
    }
    __syncthreads();
#pragma unroll 8
    for (int step = 0; step < kHalfWidth; step += 16) {
      const mma::A a = mma::left(tokens + tile_row * kStride + step, kStride);
      mma::B b[2];
      mma::right(b, weights + tile_out * kStride + step, kStride);
#pragma unroll
      for (int n = 0; n < 2; n++) mma::multiply_add(sum[n], a, b[n]);
    }
  }
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int n = 0; n < 2; n++)
#pragma unroll
    for (int lower = 0; lower < 2; lower++) {
      const int i = first + tile_row + lane / 4 + 8 * lower, o = tile_out + 8 * n + lane % 4 * 2;
      if (i >= s.rows()) continue;
      const __nv_bfloat162 b = *reinterpret_cast<const __nv_bfloat162*>(bias + h * kDim + o);
      *reinterpret_cast<std::uint32_t*>(y + s.row(h, i) * kDim + o) =
          mma::pack(sum[n].x[2 * lower] + __low2float(b), sum[n].x[2 * lower + 1] + __high2float(b));
    }
}

constexpr int kRowStride = kDim + 8;  // of a row of dy in shared memory

// dx (=|+=) dy x weights, half the places; the tokens behind the last block get 0. Warps: 2 tiles of 16 rows
// x 4 of 128 columns.
__global__ void __launch_bounds__(kThreads) backward_tokens(Backward keys, Backward values, Sizes s) {
  const Backward of = blockIdx.z % 2 == 0 ? keys : values;
  if (!of.dx.p) return;
  bf* dx = data<bf>(of.dx);
  const bf *dy = of.dy, *weight = of.weight;
  const bool add = of.dx.add;
  extern __shared__ __align__(16) bf shared[];
  bf *weights = shared, *rows = shared + kDim * kStride;
  const int h = int(blockIdx.y), first = int(blockIdx.x) * kRows, place_first = int(blockIdx.z / 2) * kHalf;
  if (blockIdx.x == 0 && place_first == 0 && !add) {
    const int behind = int(s.length - std::int64_t(s.blocks) * kBlock) * kDim;
    for (int b = 0; b < s.batch; b++)
      for (int at = int(threadIdx.x); at < behind; at += kThreads)
        dx[((std::int64_t(b) * s.heads + h + 1) * s.length) * kDim - behind + at] = __float2bfloat16_rn(0);
  }
  if (s.blocks == 0) return;
  load_weights(weights, weight + std::int64_t(h) * kDim * kWidth, place_first);
  for (int at = int(threadIdx.x) * 8; at < kRows * kDim; at += kThreads * 8) {
    const int row = at / kDim, column = at % kDim;
    uint4 run{};
    if (first + row < s.rows())
      run = *reinterpret_cast<const uint4*>(dy + s.row(h, first + row) * kDim + column);
    *reinterpret_cast<uint4*>(rows + row * kRowStride + column) = run;
  }
  __syncthreads();
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  constexpr int kColumns = kHalfWidth / 4;
  const int tile_row = warp / 4 * 16, tile_column = warp % 4 * kColumns;
  mma::D sum[kColumns / 8];
#pragma unroll
  for (int step = 0; step < kDim; step += 16) {
    const mma::A a = mma::left(rows + tile_row * kRowStride + step, kRowStride);
#pragma unroll
    for (int n = 0; n < kColumns / 8; n += 2) {
      mma::B b[2];
      mma::right_transposed(b, weights + step * kStride + tile_column + 8 * n, kStride);
      mma::multiply_add(sum[n], a, b[0]);
      mma::multiply_add(sum[n + 1], a, b[1]);
    }
  }
#pragma unroll
  for (int lower = 0; lower < 2; lower++) {
    const int i = first + tile_row + lane / 4 + 8 * lower;
    if (i >= s.rows()) continue;
    bf* to = dx + (s.token(h, i) + place_first) * kDim + tile_column + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kColumns / 8; n++) {
      float low = sum[n].x[2 * lower], high = sum[n].x[2 * lower + 1];
      auto* pair = reinterpret_cast<__nv_bfloat162*>(to + 8 * n);
      if (add) low += __low2float(*pair), high += __high2float(*pair);
      *reinterpret_cast<std::uint32_t*>(pair) = mma::pack(low, high);
    }
  }
}

constexpr int kChunk = 128;                   // rows that shared memory holds at once
constexpr int kGroup = 8;                     // features that a block of threads takes, with all their places
constexpr int kGroupWidth = kGroup * kBlock;  // columns of those, place by place
constexpr int kGroupStride = kGroupWidth + 8;
constexpr int kParametersShared = kChunk * (kRowStride + kGroupStride) * int(sizeof(bf));

// dweight (=|+=) dy^T x rows, dbias (=|+=) the sums of dy over the rows, dplace (=|+=) weights^T x those
// sums. Warps: 4 tiles of 16 outputs x all 128 columns x every second of the 16-row steps; the two sums of
// each element are added at the end.
__global__ void __launch_bounds__(kThreads) backward_parameters(Backward keys, Backward values, Sizes s) {
  const auto [dx, dweight, dbias, dplace, dy, x, weight, place] = blockIdx.z == 0 ? keys : values;
  extern __shared__ __align__(16) bf shared[];
  __shared__ float sums[kThreads / kDim][kDim];
  bf *rows = shared, *tokens = shared + kChunk * kRowStride;
  const int h = int(blockIdx.y), feature = int(blockIdx.x) * kGroup, thread = int(threadIdx.x);
  const int warp = thread / 32, lane = thread % 32, tile_out = warp % 4 * 16, part = warp / 4;
  mma::D sum[kBlock];  // a tile a place
  float column_sum = 0;
  for (int first = 0; first < s.rows(); first += kChunk) {
    __syncthreads();
    for (int at = thread * 8; at < kChunk * kDim; at += kThreads * 8) {
      const int row = at / kDim, column = at % kDim;
      uint4 run{};
      if (first + row < s.rows())
        run = *reinterpret_cast<const uint4*>(dy + s.row(h, first + row) * kDim + column);
      *reinterpret_cast<uint4*>(rows + row * kRowStride + column) = run;
    }
#pragma unroll 4
    for (int at = thread; at < kChunk * kBlock; at += kThreads) {
      const int row = at / kBlock, j = at % kBlock;
      uint4 run{};
      if (first + row < s.rows())
        run = placed(x + (s.token(h, first + row) + j) * kDim + feature,
                     place + (h * kBlock + j) * kDim + feature);
      *reinterpret_cast<uint4*>(tokens + row * kGroupStride + j * kGroup) = run;
    }
    __syncthreads();
    for (int row = 0; row < kChunk / (kThreads / kDim); row++)
      column_sum += __bfloat162float(
          rows[(thread / kDim * (kChunk / (kThreads / kDim)) + row) * kRowStride + thread % kDim]);
#pragma unroll
    for (int step = 16 * part; step < kChunk; step += 32) {
      const mma::A a = mma::left_transposed(rows + step * kRowStride + tile_out, kRowStride);
#pragma unroll
      for (int j = 0; j < kBlock; j += 2) {
        mma::B b[2];
        mma::right_transposed(b, tokens + step * kGroupStride + j * kGroup, kGroupStride);
        mma::multiply_add(sum[j], a, b[0]);
        mma::multiply_add(sum[j + 1], a, b[1]);
      }
    }
  }
  __syncthreads();
  sums[thread / kDim][thread % kDim] = column_sum;
  auto* others = reinterpret_cast<float*>(shared) + warp % 4 * kBlock * 4 * 32 + lane;
  if (part == 1)
#pragma unroll
    for (int j = 0; j < kBlock; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) others[(4 * j + e) * 32] = sum[j].x[e];
  __syncthreads();
  if (thread < kDim) {
    float total = 0;
#pragma unroll
    for (int slice = 0; slice < kThreads / kDim; slice++) total += sums[slice][thread];
    sums[0][thread] = total;
    if (blockIdx.x == 0 && dbias.p) put(data<float>(dbias), h * kDim + thread, total, dbias.add);
  }
  if (part == 0 && dweight.p)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int o = tile_out + lane / 4 + e / 2 * 8, d = feature + lane % 4 * 2 + e % 2;
      float* to = data<float>(dweight) + (std::int64_t(h) * kDim + o) * kWidth + d * kBlock;
#pragma unroll
      for (int j = 0; j < kBlock; j += 4) {
        float4 run{sum[j].x[e] + others[(4 * j + e) * 32], sum[j + 1].x[e] + others[(4 * j + 4 + e) * 32],
                   sum[j + 2].x[e] + others[(4 * j + 8 + e) * 32],
                   sum[j + 3].x[e] + others[(4 * j + 12 + e) * 32]};
        auto* four = reinterpret_cast<float4*>(to + j);
        if (dweight.add) {
          const float4 before = *four;
          run.x += before.x, run.y += before.y, run.z += before.z, run.w += before.w;
        }
        *four = run;
      }
    }
  __syncthreads();
  if (dplace.p && thread < kGroupWidth) {
    float total = 0;
    for (int o = 0; o < kDim; o++)
      total =
          fmaf(__bfloat162float(weight[(std::int64_t(h) * kDim + o) * kWidth + feature * kBlock + thread]),
               sums[0][o], total);
    put(data<float>(dplace), (h * kBlock + thread % kBlock) * kDim + feature + thread / kBlock, total,
        dplace.add);
  }
}

template <class P> bool usual(const P& p) noexcept {
  return p.dim == kDim && p.block == kBlock && p.kv_heads <= 65535 &&
         p.length <= std::numeric_limits<std::int32_t>::max() / 2 / p.batch;
}
template <class... T> bool all_bf16(const T&... x) noexcept { return ((x.t == DType::bf16) && ...); }

bool takes(const CompressForward& p) noexcept {
  return usual(p) && all_bf16(p.y, p.x, p.weight, p.bias, p.place) &&
         aligned(p.y.p, p.x.p, p.weight.p, p.bias.p, p.place.p);
}
bool takes(const CompressBackward& p) noexcept {
  return usual(p) && all_bf16(p.dy, p.x, p.weight, p.place) && holds(p.dx, DType::bf16) &&
         holds(p.dweight, DType::f32) && holds(p.dbias, DType::f32) && holds(p.dplace, DType::f32) &&
         aligned(p.dy.p, p.x.p, p.weight.p, p.place.p, p.dx.p, p.dweight.p, p.dbias.p, p.dplace.p);
}

template <class Kernel> Status allow_shared(Kernel kernel, int bytes) noexcept {
  return status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

unsigned tiles(const Sizes& s) noexcept { return unsigned(std::max(1, (s.rows() + kRows - 1) / kRows)); }

}  // namespace

bool takes_mma(const CompressPairForward& p) noexcept { return takes(p.keys) && takes(p.values); }
bool takes_mma(const CompressPairBackward& p) noexcept { return takes(p.keys) && takes(p.values); }

Status run_mma(Cuda cuda, const CompressPairForward& p) noexcept {
  const Sizes s(p.keys);
  if (s.blocks == 0) return {};
  if (auto status = allow_shared(forward, kForwardShared); !status.ok()) return status;
  forward<<<dim3(tiles(s), unsigned(s.heads), 2), kThreads, kForwardShared, stream_of(cuda)>>>(
      Forward(p.keys), Forward(p.values), s);
  return launched();
}

Status run_mma(Cuda cuda, const CompressPairBackward& p) noexcept {
  const Sizes s(p.keys);
  const Backward keys(p.keys), values(p.values);
  constexpr int kTokensShared = (kDim * kStride + kRows * kRowStride) * int(sizeof(bf));
  if (auto status = allow_shared(backward_tokens, kTokensShared); !status.ok()) return status;
  backward_tokens<<<dim3(tiles(s), unsigned(s.heads), 4), kThreads, kTokensShared, stream_of(cuda)>>>(
      keys, values, s);
  if (auto status = launched(); !status.ok()) return status;
  if (auto status = allow_shared(backward_parameters, kParametersShared); !status.ok()) return status;
  backward_parameters<<<dim3(kDim / kGroup, unsigned(s.heads), 2), kThreads, kParametersShared,
                        stream_of(cuda)>>>(keys, values, s);
  return launched();
}

}  // namespace k
