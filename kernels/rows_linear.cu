#include "kernels/rows_linear.h"

#include "kernels/lanes.cuh"
#include "kernels/mma.cuh"
#include "kernels/normal.cuh"

// A block takes 16 outputs of up to 64 rows. Its warps share the depth: warp w takes the runs w, w + 8, ...
// of 32, and their sums are added in the order of the warps. How many rows there are changes neither. The
// weights are fetched while what is in front in the queue still runs.
namespace k {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kOutputs = 16, kRun = 32;

template <class T> struct Product {
  void* y;
  bool wide;  // y is fp32
  const T *x, *weight, *norm, *bias, *residual;
  std::int64_t rows, out, in;
  float eps;
  bool gelu;
};

// y[row][output] from the sum of its products.
template <class T>
__device__ void finish(const Product<T>& p, std::int64_t row, std::int64_t output, float sum) {
  if (p.bias) sum += to_float(p.bias[output]);
  const std::int64_t at = row * p.out + output;
  if (p.residual) sum += to_float(p.residual[at]);
  if (p.gelu) {
    sum = to_float(from_float<T>(sum));
    sum *= normal(sum).below;
  }
  if (p.wide) static_cast<float*>(p.y)[at] = sum;
  else static_cast<T*>(p.y)[at] = from_float<T>(sum);
}

// The 8 values of a lane's share of a run, normed: rounded as RmsNormForward rounds them.
__device__ uint4 normed(uint4 x, uint4 weight, float scale) {
  const auto& values = reinterpret_cast<const __nv_bfloat162(&)[4]>(x);
  const auto& weights = reinterpret_cast<const __nv_bfloat162(&)[4]>(weight);
  uint4 y;
  auto& to = reinterpret_cast<std::uint32_t(&)[4]>(y);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 v = __bfloat1622float2(values[i]), w = __bfloat1622float2(weights[i]);
    to[i] = mma::pack(v.x * scale * w.x, v.y * scale * w.y);
  }
  return y;
}
__device__ float squares(uint4 x) {
  float sum = 0;
#pragma unroll
  for (const auto& pair : reinterpret_cast<const __nv_bfloat162(&)[4]>(x)) {
    const float2 v = __bfloat1622float2(pair);
    sum = fmaf(v.x, v.x, sum);
    sum = fmaf(v.y, v.y, sum);
  }
  return sum;
}

struct Lane {  // of a warp whose lanes hold 8 neighbouring elements of a run, of row lane / 4
  int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, row = lane / 4, place = lane % 4 * 8;
};
__device__ uint4 load(const __nv_bfloat16* from) { return *reinterpret_cast<const uint4*>(from); }

// 1 / sqrt(mean(x^2) + eps) of each tile's row of this lane.
template <int kTiles> __device__ void norm_scales(float (&scale)[kTiles],
                                                  const __nv_bfloat16* const (&x)[kTiles], std::int64_t in,
                                                  float eps, const Lane& at, float (*parts)[8 * kTiles]) {
#pragma unroll
  for (int j = 0; j < kTiles; j++) {
    float sum = 0;
    for (std::int64_t c = at.warp * kRun; c < in; c += kWarps * kRun) sum += squares(load(x[j] + c));
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (at.lane % 4 == 0) parts[at.warp][8 * j + at.row] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kTiles; j++) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) sum += parts[w][8 * j + at.row];
    scale[j] = 1.f / sqrtf(sum / float(in) + eps);
  }
  __syncthreads();
}

// Tensor cores: the weights are the left operand, rows of x the 8 columns of the right one. A lane holds its
// share of a run of outputs `row` and `row` + 8 and of row `row` of x; the depth's order inside a run is
// whatever that makes it, the same for both operands.
template <int kTiles, bool kNormed> __global__ void __launch_bounds__(kThreads)
    on_tensor_cores(Product<__nv_bfloat16> p) {
  constexpr int kHeld = kTiles <= 2 ? 8 : 4;  // runs of a warp whose weights are in registers at once
  __shared__ float sums[kWarps][8 * kTiles][kOutputs + 1];
  const Lane lane;
  const std::int64_t output = std::int64_t(blockIdx.x) * kOutputs,
                     first_row = std::int64_t(blockIdx.y) * 8 * kTiles;
  const auto at = [&](const __nv_bfloat16* rows, std::int64_t row, std::int64_t most) {
    return rows + min(row, most - 1) * p.in + lane.place;  // rows that are not there repeat the last
  };
  const __nv_bfloat16 *upper = at(p.weight, output + lane.row, p.out),
                      *lower = at(p.weight, output + lane.row + 8, p.out), *x[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; j++) x[j] = at(p.x, first_row + 8 * j + lane.row, p.rows);

  uint4 a[kHeld], b[kHeld];
  const auto fetch = [&](std::int64_t first) {
#pragma unroll
    for (int i = 0; i < kHeld; i++)
      if (const std::int64_t c = first + i * kWarps * kRun; c < p.in)
        a[i] = load(upper + c), b[i] = load(lower + c);
  };
  fetch(lane.warp * kRun);
  earlier_are_over();
  let_next_begin();
  float scale[kTiles];
  if constexpr (kNormed)
    norm_scales(scale, x, p.in, p.eps, lane, reinterpret_cast<float(*)[8 * kTiles]>(&sums[0][0][0]));

  mma::D d[kTiles];
#pragma unroll 1
  for (std::int64_t first = lane.warp * kRun; first < p.in; first += kHeld * kWarps * kRun) {
    if (first >= kHeld * kWarps * kRun) fetch(first);
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const std::int64_t c = first + i * kWarps * kRun;
      if (c >= p.in) break;
      uint4 norm{};
      if constexpr (kNormed) norm = load(p.norm + c + lane.place);
#pragma unroll
      for (int j = 0; j < kTiles; j++) {
        uint4 row = load(x[j] + c);
        if constexpr (kNormed) row = normed(row, norm, scale[j]);
        mma::multiply_add(d[j], {{a[i].x, b[i].x, a[i].y, b[i].y}}, {{row.x, row.y}});
        mma::multiply_add(d[j], {{a[i].z, b[i].z, a[i].w, b[i].w}}, {{row.z, row.w}});
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTiles; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      sums[lane.warp][8 * j + lane.lane % 4 * 2 + i % 2][lane.row + i / 2 * 8] = d[j].x[i];
  __syncthreads();
  for (int i = int(threadIdx.x); i < 8 * kTiles * kOutputs; i += kThreads) {
    const int r = i / kOutputs, o = i % kOutputs;
    if (first_row + r >= p.rows || output + o >= p.out) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) sum += sums[w][r][o];
    finish(p, first_row + r, output + o, sum);
  }
}

// The normed rows by themselves, 8 a block, with the bits that a product makes of them on its way.
__global__ void __launch_bounds__(kThreads) norm_rows(__nv_bfloat16* y, Product<__nv_bfloat16> p) {
  __shared__ float parts[kWarps][8];
  earlier_are_over();
  let_next_begin();
  const Lane lane;
  const std::int64_t row = std::int64_t(blockIdx.x) * 8 + lane.row;
  const __nv_bfloat16* const x[1] = {p.x + min(row, p.rows - 1) * p.in + lane.place};
  float scale[1];
  norm_scales(scale, x, p.in, p.eps, lane, parts);
  if (row >= p.rows) return;
  for (std::int64_t c = lane.warp * kRun; c < p.in; c += kWarps * kRun)
    *reinterpret_cast<uint4*>(y + row * p.in + c + lane.place) =
        normed(load(x[0] + c), load(p.norm + c + lane.place), scale[0]);
}

// fp32, and sizes that are no whole runs: a warp takes an output, for the rows in turn.
template <class T> __global__ void __launch_bounds__(kThreads) plain(Product<T> p) {
  const int lane = int(threadIdx.x) % 32;
  const std::int64_t output = thread_index() / 32;
  if (output >= p.out) return;
  for (std::int64_t r = blockIdx.y; r < p.rows; r += gridDim.y) {
    const T *x = p.x + r * p.in, *weight = p.weight + output * p.in;
    float scale = 1;
    if (p.norm) {
      float sum = 0;
      for (std::int64_t c = lane; c < p.in; c += 32) sum = fmaf(to_float(x[c]), to_float(x[c]), sum);
      scale = 1.f / sqrtf(warp_sum(sum) / float(p.in) + p.eps);
    }
    float sum = 0;
    for (std::int64_t c = lane; c < p.in; c += 32) {
      float value = to_float(x[c]);
      if (p.norm) value = to_float(from_float<T>(value * scale * to_float(p.norm[c])));
      sum = fmaf(value, to_float(weight[c]), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) finish(p, r, output, sum);
  }
}

template <int kTiles> Status launch(const Product<__nv_bfloat16>& p, Cuda cuda) noexcept {
  const dim3 grid(blocks_for(p.out, kOutputs, 1 << 30), unsigned((p.rows + 8 * kTiles - 1) / (8 * kTiles)));
  return launch_early(p.norm ? on_tensor_cores<kTiles, true> : on_tensor_cores<kTiles, false>, grid, kThreads,
                      0, cuda, p);
}

// With few outputs there are more blocks of fewer rows, to keep a card busy. Rows that many blocks read are
// normed once, ahead.
Status launch(Product<__nv_bfloat16> p, __nv_bfloat16* normed, Cuda cuda) noexcept {
  constexpr std::int64_t kBusy = 128;
  if (p.norm && p.rows > 8) {
    const dim3 grid(blocks_for(p.rows, 8, 1 << 30));
    if (const Status status = launch_early(norm_rows, grid, kThreads, 0, cuda, normed, p); !status.ok())
      return status;
    p.x = normed, p.norm = nullptr;
  }
  const std::int64_t across = (p.out + kOutputs - 1) / kOutputs;
  const auto blocks = [&](std::int64_t tiles) { return across * ((p.rows + 8 * tiles - 1) / (8 * tiles)); };
  if (p.rows > 32 && blocks(8) >= kBusy) return launch<8>(p, cuda);
  if (p.rows > 16 && blocks(4) >= kBusy) return launch<4>(p, cuda);
  if (p.rows > 8 && blocks(2) >= kBusy) return launch<2>(p, cuda);
  return launch<1>(p, cuda);
}

template <class T> bool takes_tensor_cores(const Product<T>& p) noexcept {
  return std::is_same_v<T, __nv_bfloat16> && p.in % kRun == 0 && p.rows <= 65535 * 8 &&
         aligned(p.x, p.weight, p.norm);
}

}  // namespace

Status run(Cuda cuda, const RowsLinear& p) noexcept {
  if (p.rows == 0 || p.out == 0) return {};
  const bool same = p.weight.t == p.x.t && (!p.norm.p || p.norm.t == p.x.t) &&
                    (!p.bias.p || p.bias.t == p.x.t) && (!p.residual.p || p.residual.t == p.x.t) &&
                    (p.y.t == p.x.t || p.y.t == DType::f32);
  if (!same) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto tag) -> Status {
    using T = typename decltype(tag)::is;
    const Product<T> product{p.y.p,
                             p.y.t == DType::f32,
                             data<T>(p.x),
                             data<T>(p.weight),
                             data<T>(p.norm),
                             data<T>(p.bias),
                             data<T>(p.residual),
                             p.rows,
                             p.out,
                             p.in,
                             p.eps,
                             p.gelu};
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      if (takes_tensor_cores(product))
        return launch(product, reinterpret_cast<__nv_bfloat16*>(p.normed), cuda);
    }
    const dim3 grid(blocks_for(p.out, kWarps, 1 << 30), unsigned(std::min<std::int64_t>(p.rows, 65535)));
    plain<T><<<grid, kThreads, 0, stream_of(cuda)>>>(product);
    return launched();
  });
}

}  // namespace k
