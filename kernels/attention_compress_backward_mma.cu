// Gradients of compression on tensor cores.
#include "kernels/attention_compress_mma.cuh"

namespace k {
namespace {

using namespace compress;

// What a launch works on: keys, then values; the grid's last dimension counts them.
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

constexpr int kChunk = 64;                                            // rows of a stage
constexpr int kStages = 3;                                            // chunks that are there or on their way
constexpr int kRowStride = kDim + 8, kSliceStride = kSliceWidth + 8;  // 8 rows in different banks
constexpr int kStageElements = kChunk * (kRowStride + kSliceStride);
constexpr int kBackwardShared = (kDim * kSliceStride + kStages * kStageElements) * int(sizeof(bf));

// dx (=|+=) dy x weights, dweight (=|+=) dy^T x rows, dbias (=|+=) the sums of dy over the rows, dplace
// (=|+=) weights^T x those sums, for a slice. The rows of dweight are tokens alone: the places, the same in
// every block, come in with the sums of dy. Warps: 4 tiles of 16 rows (of outputs, for dweight) x 2 of 8
// features.
__global__ void __launch_bounds__(kThreads, 2) backward(Backward keys, Backward values, Sizes s) {
  const auto [dx, dweight, dbias, dplace, dy, x, weight, place] = blockIdx.z == 0 ? keys : values;
  extern __shared__ __align__(16) bf shared[];
  __shared__ float sums[kDim];
  bf* const weights = shared;  // [output][feature][place]
  const int h = int(blockIdx.y), thread = int(threadIdx.x), lane = thread % 32;
  const int tile = thread / 64 * 16, half_slice = thread / 32 % 2;
  constexpr int features = kFeatures / 2;
  const Slice slice{int(blockIdx.x)};
  struct Run {  // eight features of a token: [row][half of the slice][place][feature] in shared memory
    int row, in_tile, in_block;
  };
  const auto run_of = [&](int at) {
    const int row = at / (kSliceWidth / 8), j = at / 2 % kPlaces, half = at % 2;
    return Run{row, row * kSliceStride + (half * kPlaces + j) * features,
               (slice.place + j) * kDim + slice.feature + half * features};
  };
  const auto stage = [&](int chunk) {
    return shared + kDim * kSliceStride + chunk % kStages * kStageElements;
  };
  const auto fetch = [&](int chunk) {
    bf *rows = stage(chunk), *tokens = rows + kChunk * kRowStride;
    const int first = chunk * kChunk;
#pragma unroll
    for (int at = thread; at < kChunk * kDim / 8; at += kThreads) {
      const int row = at / (kDim / 8), column = at % (kDim / 8) * 8;
      const bool there = first + row < s.rows();
      mma::copy_async(rows + row * kRowStride + column,
                      dy + s.row(h, there ? first + row : 0) * kDim + column, there);
    }
#pragma unroll
    for (int at = thread; at < kChunk * kSliceWidth / 8; at += kThreads) {
      const Run run = run_of(at);
      const bool there = first + run.row < s.rows();
      mma::copy_async(tokens + run.in_tile, x + s.token(h, there ? first + run.row : 0) * kDim + run.in_block,
                      there);
    }
  };
  const int chunks = (s.rows() + kChunk - 1) / kChunk;
#pragma unroll
  for (int at = thread; at < kDim * kFeatures; at += kThreads) {
    const int o = at / kFeatures, d = at % kFeatures;
    mma::copy_async(weights + o * kSliceStride + d * kPlaces, weight + std::int64_t(h * kDim + o) * kWidth +
                                                                  (slice.feature + d) * kBlock + slice.place);
  }
#pragma unroll
  for (int chunk = 0; chunk < kStages - 1; chunk++) {
    if (chunk < chunks) fetch(chunk);
    mma::copy_commit();
  }
  if (blockIdx.x == 0 && dx.p && !dx.add) {  // tokens behind the last block
    const int behind = int(s.length - std::int64_t(s.blocks) * kBlock) * kDim;
    for (int b = 0; b < s.batch; b++)
      for (int at = thread; at < behind; at += kThreads)
        data<bf>(dx)[((std::int64_t(b) * s.heads + h + 1) * s.length) * kDim - behind + at] =
            __float2bfloat16_rn(0);
  }

  mma::D of_weights[kPlaces], of_bias;  // a place each
  const mma::B ones{{0x3f803f80, 0x3f803f80}};
  for (int chunk = 0; chunk < chunks; chunk++) {
    mma::copy_wait<kStages - 2>();
    __syncthreads();
    if (chunk + kStages - 1 < chunks) fetch(chunk + kStages - 1);
    mma::copy_commit();
    bf *rows = stage(chunk), *all_tokens = rows + kChunk * kRowStride,
       *tokens = all_tokens + half_slice * kSliceWidth / 2;
#pragma unroll
    for (int step = 0; step < kChunk; step += 16) {
      const mma::A a = mma::left_transposed(rows + step * kRowStride + tile, kRowStride);
      mma::multiply_add(of_bias, a, ones);
#pragma unroll
      for (int j = 0; j < kPlaces; j += 2) {
        mma::B b[2];
        mma::right_transposed(b, tokens + step * kSliceStride + j * features, kSliceStride);
        mma::multiply_add(of_weights[j], a, b[0]);
        mma::multiply_add(of_weights[j + 1], a, b[1]);
      }
    }
    if (!dx.p) continue;
    mma::D of_tokens[kFeatures / 2];  // a feature each: columns are places
#pragma unroll
    for (int step = 0; step < kDim; step += 16) {
      const mma::A a = mma::left(rows + tile * kRowStride + step, kRowStride);
#pragma unroll
      for (int d = 0; d < kFeatures / 2; d += 2) {
        mma::B b[2];
        mma::right_transposed(b, weights + step * kSliceStride + (half_slice * features + d) * kPlaces,
                              kSliceStride);
        mma::multiply_add(of_tokens[d], a, b[0]);
        mma::multiply_add(of_tokens[d + 1], a, b[1]);
      }
    }
    __syncthreads();  // the tokens have been read: dx takes their place, so that neighbours are written
                      // together
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        std::uint32_t run[features / 2];
#pragma unroll
        for (int d = 0; d < features; d += 2)
          run[d / 2] = mma::pack(of_tokens[d].x[2 * half + odd], of_tokens[d + 1].x[2 * half + odd]);
        const int row = tile + lane / 4 + 8 * half, j = lane % 4 * 2 + odd;
        *reinterpret_cast<uint4*>(tokens + row * kSliceStride + j * features) = {run[0], run[1], run[2],
                                                                                 run[3]};
      }
    __syncthreads();
#pragma unroll
    for (int at = thread; at < kChunk * kSliceWidth / 8; at += kThreads) {
      const Run run = run_of(at);
      if (chunk * kChunk + run.row >= s.rows()) continue;
      const auto narrow = *reinterpret_cast<const Lanes<8, bf>*>(all_tokens + run.in_tile);
      float value[8];
#pragma unroll
      for (int e = 0; e < 8; e++) value[e] = narrow[e];
      put_lanes(data<bf>(dx) + s.token(h, chunk * kChunk + run.row) * kDim + run.in_block, value, 8, true,
                dx.add);
    }
  }
  mma::copy_wait<0>();

  const int first_d = slice.feature + half_slice * features + lane % 4 * 2;
  if (lane % 4 == 0 && half_slice == 0)
#pragma unroll
    for (int half = 0; half < 2; half++) sums[tile + lane / 4 + 8 * half] = of_bias.x[2 * half];
  if (dweight.p) {
    __nv_bfloat162 at_place[kPlaces];
#pragma unroll
    for (int j = 0; j < kPlaces; j++)
      at_place[j] =
          *reinterpret_cast<const __nv_bfloat162*>(place + (h * kBlock + slice.place + j) * kDim + first_d);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int o = tile + lane / 4 + e / 2 * 8;
      float value[kPlaces];
#pragma unroll
      for (int j = 0; j < kPlaces; j++)
        value[j] = fmaf(of_bias.x[e], e % 2 == 0 ? __low2float(at_place[j]) : __high2float(at_place[j]),
                        of_weights[j].x[e]);
      // Two lanes write the eight places of one of them, then of the other: whole sectors.
      const bool second = lane % 2 == 1;
#pragma unroll
      for (int j = 0; j < kPlaces / 2; j++) {
        const float other = __shfl_xor_sync(~0u, second ? value[j] : value[kPlaces / 2 + j], 1);
        (second ? value[j] : value[kPlaces / 2 + j]) = other;
      }
      float* to = data<float>(dweight) + std::int64_t(h * kDim + o) * kWidth +
                  (slice.feature + half_slice * features + lane % 4 / 2 * 4 + e % 2) * kBlock + slice.place;
#pragma unroll
      for (int turn = 0; turn < 2; turn++) {
        float four[kPlaces / 2];
#pragma unroll
        for (int j = 0; j < kPlaces / 2; j++) four[j] = value[turn * kPlaces / 2 + j];
        put_lanes(to + 2 * turn * kBlock + (second ? kPlaces / 2 : 0), four, kPlaces / 2, true, dweight.add);
      }
    }
  }
  __syncthreads();
  if (blockIdx.x == 0 && dbias.p && thread < kDim)
    put(data<float>(dbias), h * kDim + thread, sums[thread], dbias.add);
  if (dplace.p && thread < kSliceWidth) {
    float total = 0;
#pragma unroll 8
    for (int o = 0; o < kDim; o++)
      total = fmaf(__bfloat162float(weights[o * kSliceStride + thread]), sums[o], total);
    put(data<float>(dplace),
        (h * kBlock + slice.place + thread % kPlaces) * kDim + slice.feature + thread / kPlaces, total,
        dplace.add);
  }
}

bool takes(const CompressBackward& p) noexcept {
  return usual(p) && all_bf16(p.dy, p.x, p.weight, p.place) && holds(p.dx, DType::bf16) &&
         holds(p.dweight, DType::f32) && holds(p.dbias, DType::f32) && holds(p.dplace, DType::f32) &&
         aligned(p.dy.p, p.x.p, p.weight.p, p.place.p, p.dx.p, p.dweight.p, p.dbias.p, p.dplace.p);
}

}  // namespace

bool takes_mma(const CompressPairBackward& p) noexcept { return takes(p.keys) && takes(p.values); }

Status run_mma(Cuda cuda, const CompressPairBackward& p) noexcept {
  const Sizes s(p.keys);
  if (auto status = allow_shared(backward, kBackwardShared); !status.ok()) return status;
  backward<<<dim3(kSlices, unsigned(s.heads), 2), kThreads, kBackwardShared, stream_of(cuda)>>>(
      Backward(p.keys), Backward(p.values), s);
  return launched();
}

}  // namespace k
