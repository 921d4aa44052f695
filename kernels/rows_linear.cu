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
  const T *weight, *bias, *residual;
  int out;
  bool gelu;
};
template <class T> struct Products {
  Product<T> first, second;
  int blocks_of_first;
  const T *x, *norm;
  int rows, in;
  float eps;
};

// y[row][output] from the sum of its products and what is added to it.
template <class T>
__device__ void finish(const Product<T>& p, std::int64_t row, int output, float sum, float bias) {
  sum += bias;
  const std::int64_t at = row * p.out + output;
  if (p.residual) sum += to_float(p.residual[at]);
  if (p.gelu) {
    sum = to_float(from_float<T>(sum));
    sum *= normal(sum).below;
  }
  if (p.wide) static_cast<float*>(p.y)[at] = sum;
  else static_cast<T*>(p.y)[at] = from_float<T>(sum);
}

__device__ uint4 load(const __nv_bfloat16* from) { return *reinterpret_cast<const uint4*>(from); }
using Pairs = __nv_bfloat162[4];

__device__ float squares(uint4 x, float sum) {
#pragma unroll
  for (const auto& pair : reinterpret_cast<const Pairs&>(x)) {
    const float2 v = __bfloat1622float2(pair);
    sum = fmaf(v.x, v.x, sum);
    sum = fmaf(v.y, v.y, sum);
  }
  return sum;
}
__device__ uint4 times(uint4 x, uint4 weight) {
  uint4 y;
#pragma unroll
  for (int i = 0; i < 4; i++)
    reinterpret_cast<Pairs&>(y)[i] =
        __hmul2(reinterpret_cast<const Pairs&>(x)[i], reinterpret_cast<const Pairs&>(weight)[i]);
  return y;
}

// Tensor cores: the weights are the left operand, rows of x the 8 columns of the right one. Lane l holds 8
// neighbouring elements of a run, 8 (l % 4) from its start, of outputs l / 4 and l / 4 + 8 and of row l / 4;
// the depth's order inside a run is whatever that makes it, the same for both operands.
template <int kTiles, bool kNormed> __global__ void __launch_bounds__(kThreads)
    on_tensor_cores(Products<__nv_bfloat16> p) {
  // Runs of a warp whose weights are in registers at once, and those of rows.
  constexpr int kHeld = (kTiles <= 2 ? 8 : 4) / (kNormed && kTiles < 8 ? 2 : 1);
  constexpr int kAhead = kHeld < 8 / kTiles ? kHeld : 8 / kTiles;
  __shared__ float sums[kWarps][8 * kTiles][kOutputs + 1], square_sums[kWarps][8 * kTiles];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, place = lane % 4 * 8;
  const bool of_first = int(blockIdx.x) < p.blocks_of_first;
  const Product<__nv_bfloat16>& product = of_first ? p.first : p.second;
  const int output = (int(blockIdx.x) - (of_first ? 0 : p.blocks_of_first)) * kOutputs,
            first_row = int(blockIdx.y) * 8 * kTiles;
  const auto at = [&](const __nv_bfloat16* rows, int row, int most) {
    return rows + std::int64_t(min(row, most - 1)) * p.in + place;  // rows that are not there repeat the last
  };
  const __nv_bfloat16 *upper = at(product.weight, output + lane / 4, product.out),
                      *lower = at(product.weight, output + lane / 4 + 8, product.out), *x[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; j++) x[j] = at(p.x, first_row + 8 * j + lane / 4, p.rows);

  uint4 a[kHeld], b[kHeld], norm[kHeld];
  const auto fetch = [&](int first) {
#pragma unroll
    for (int i = 0; i < kHeld; i++)
      if (const int c = first + i * kWarps * kRun; c < p.in) {
        a[i] = load(upper + c), b[i] = load(lower + c);
        if constexpr (kNormed) norm[i] = load(p.norm + c + place);
      }
  };
  fetch(warp * kRun);
  const int my_output = min(output + int(threadIdx.x) % kOutputs, product.out - 1);
  const float bias = product.bias ? to_float(product.bias[my_output]) : 0;
  earlier_are_over();
  let_next_begin();

  mma::D d[kTiles];
  float square[kTiles] = {};
#pragma unroll 1
  for (int first = warp * kRun; first < p.in; first += kHeld * kWarps * kRun) {
    if (first >= kHeld * kWarps * kRun) fetch(first);
#pragma unroll
    for (int part = 0; part < kHeld; part += kAhead) {
      uint4 row[kAhead][kTiles];
      const auto each = [&](auto&& f) {
#pragma unroll
        for (int i = 0; i < kAhead; i++)
          if (const int c = first + (part + i) * kWarps * kRun; c < p.in)
#pragma unroll
            for (int j = 0; j < kTiles; j++) f(part + i, j, row[i][j], c);
      };
      each([&](int, int j, uint4& from, int c) { from = load(x[j] + c); });
      each([&](int i, int j, uint4& from, int) {
        if constexpr (kNormed) {
          square[j] = squares(from, square[j]);
          from = times(from, norm[i]);
        }
        mma::multiply_add(d[j], {{a[i].x, b[i].x, a[i].y, b[i].y}}, {{from.x, from.y}});
        mma::multiply_add(d[j], {{a[i].z, b[i].z, a[i].w, b[i].w}}, {{from.z, from.w}});
      });
    }
  }
#pragma unroll
  for (int j = 0; j < kTiles; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) sums[warp][8 * j + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = d[j].x[i];
    if constexpr (kNormed) {
      square[j] += __shfl_xor_sync(0xffffffffu, square[j], 1);
      square[j] += __shfl_xor_sync(0xffffffffu, square[j], 2);
      if (lane % 4 == 0) square_sums[warp][8 * j + lane / 4] = square[j];
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < 8 * kTiles * kOutputs; i += kThreads) {
    const int r = i / kOutputs, o = i % kOutputs;
    if (first_row + r >= p.rows || output + o >= product.out) continue;
    float sum = 0, of_squares = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      sum += sums[w][r][o];
      if constexpr (kNormed) of_squares += square_sums[w][r];
    }
    if constexpr (kNormed) sum *= 1.f / sqrtf(of_squares / float(p.in) + p.eps);
    finish(product, first_row + r, output + o, sum, bias);
  }
}

// fp32, and sizes that are no whole runs: a warp takes an output, for the rows in turn.
template <class T> __global__ void __launch_bounds__(kThreads) plain(Products<T> p, Product<T> product) {
  const int lane = int(threadIdx.x) % 32;
  const std::int64_t output = thread_index() / 32;
  if (output >= product.out) return;
  const float bias = product.bias ? to_float(product.bias[output]) : 0;
  for (std::int64_t r = blockIdx.y; r < p.rows; r += gridDim.y) {
    const T *x = p.x + r * p.in, *weight = product.weight + output * p.in;
    float scale = 1;
    if (p.norm) {
      float sum = 0;
      for (int c = lane; c < p.in; c += 32) sum = fmaf(to_float(x[c]), to_float(x[c]), sum);
      scale = 1.f / sqrtf(warp_sum(sum) / float(p.in) + p.eps);
    }
    float sum = 0;
    for (int c = lane; c < p.in; c += 32) {
      float value = to_float(x[c]);
      if (p.norm) value = value * scale * to_float(p.norm[c]);
      sum = fmaf(value, to_float(weight[c]), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) finish(product, r, int(output), sum, bias);
  }
}

int blocks_of(int outputs) noexcept { return (outputs + kOutputs - 1) / kOutputs; }

template <int kTiles> Status launch(const Products<__nv_bfloat16>& p, Cuda cuda) noexcept {
  const dim3 grid(unsigned(p.blocks_of_first + blocks_of(p.second.out)),
                  unsigned((p.rows + 8 * kTiles - 1) / (8 * kTiles)));
  return launch_early(p.norm ? on_tensor_cores<kTiles, true> : on_tensor_cores<kTiles, false>, grid, kThreads,
                      0, cuda, p);
}

// With few outputs there are more blocks of fewer rows, to keep a card busy.
Status launch(const Products<__nv_bfloat16>& p, Cuda cuda) noexcept {
  constexpr int kBusy = 128;
  const auto busy = [&](int tiles) {
    return p.blocks_of_first * ((p.rows + 8 * tiles - 1) / (8 * tiles)) >= kBusy;
  };
  if (p.rows > 32 && busy(8)) return launch<8>(p, cuda);
  if (p.rows > 16 && busy(4)) return launch<4>(p, cuda);
  if (p.rows > 8 && busy(2)) return launch<2>(p, cuda);
  return launch<1>(p, cuda);
}

bool takes_tensor_cores(const Products<__nv_bfloat16>& p) noexcept {
  return p.in % kRun == 0 && p.rows <= 65535 * 8 && aligned(p.x, p.first.weight, p.second.weight, p.norm);
}

template <class T> Status launch_plain(const Products<T>& p, const Product<T>& product, Cuda cuda) noexcept {
  if (product.out == 0) return {};
  const dim3 grid(blocks_for(product.out, kWarps, 1 << 30), unsigned(std::min(p.rows, 65535)));
  plain<T><<<grid, kThreads, 0, stream_of(cuda)>>>(p, product);
  return launched();
}

constexpr std::int64_t kMost = std::int64_t(1) << 30;

}  // namespace

Status run(Cuda cuda, const RowsLinear& p) noexcept {
  if (p.rows == 0 || p.first.out == 0) return {};
  if (std::max({p.rows, p.in, p.first.out, p.second.out}) > kMost)
    return {1, "a product of over 2^30 rows or columns"};
  const auto same = [&](In x) { return !x.p || x.t == p.x.t; };
  const auto fits = [&](const RowsProduct& product) {
    return same(product.weight) && same(product.bias) &&
           (product.out == 0 || product.y.t == p.x.t || product.y.t == DType::f32);
  };
  if (!same(p.norm) || !same(p.residual) || !fits(p.first) || !fits(p.second)) return unsupported_dtype();
  return by_cuda_dtype(p.x.t, [&](auto tag) -> Status {
    using T = typename decltype(tag)::is;
    const auto product = [](const RowsProduct& of, In residual, bool gelu) {
      return Product<T>{
          of.y.p, of.y.t == DType::f32, data<T>(of.weight), data<T>(of.bias), data<T>(residual), int(of.out),
          gelu};
    };
    const Products<T> products{product(p.first, p.residual, p.gelu),
                               product(p.second, {}, false),
                               blocks_of(int(p.first.out)),
                               data<T>(p.x),
                               data<T>(p.norm),
                               int(p.rows),
                               int(p.in),
                               p.eps};
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
      if (takes_tensor_cores(products)) return launch(products, cuda);
    if (const Status status = launch_plain(products, products.first, cuda); !status.ok()) return status;
    return launch_plain(products, products.second, cuda);
  });
}

}  // namespace k
