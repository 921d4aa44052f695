// Compression on tensor cores.
#include "kernels/attention_compress_mma.cuh"

namespace k {
namespace {

using namespace compress;

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

constexpr int kOutputs = 32;         // that a block of threads takes
constexpr int kRows = 16;            // blocks of tokens at once
constexpr int kStride = kWidth + 8;  // of an output's weights in shared memory: 8 rows in different banks
constexpr int kTiles = kOutputs / 8;
constexpr int kForwardShared = (kOutputs * kStride + kRows * kWidth) * int(sizeof(bf));
static_assert(kSlices * kTiles * 32 * sizeof(float4) <= kRows * kWidth * sizeof(bf));
static_assert(kTiles * 32 * 2 == kThreads && kSlices * 32 == kThreads);

// Where eight features of a token of 16 rows lie in shared memory: those that the lanes of a warp read
// together in different banks.
__device__ inline int token_at(int row, int j, int feature) {
  return (row * kBlock + j) * kDim + (feature ^ ((j & 6) | (row & 1)) * 8);
}

__device__ inline uint4 add_pairs(const uint4& a, const uint4& b) {
  uint4 sum;
#pragma unroll
  for (int i = 0; i < 4; i++)
    reinterpret_cast<__nv_bfloat162*>(&sum)[i] = __hadd2(reinterpret_cast<const __nv_bfloat162*>(&a)[i],
                                                         reinterpret_cast<const __nv_bfloat162*>(&b)[i]);
  return sum;
}

// y = bias + rows x weights^T, for 32 of the outputs and `groups` times 16 rows. A warp has a slice, and the
// warps' sums are added up in order.
__global__ void __launch_bounds__(kThreads, 2) forward(Forward keys, Forward values, Sizes s, int groups) {
  const auto [y, x, weight, bias, place] = blockIdx.z == 0 ? keys : values;
  extern __shared__ __align__(16) bf shared[];
  bf *const weights = shared, *const tokens = shared + kOutputs * kStride;
  auto* const sums =
      reinterpret_cast<float4*>(tokens);  // [slice][tile][lane], when the tokens have been read
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int h = int(blockIdx.y), first_output = int(blockIdx.x) % 2 * kOutputs;
  const int start = int(blockIdx.x) / 2 * groups * kRows, end = min(s.rows(), start + groups * kRows);
  const Slice slice(warp);
  const auto fetch = [&](int first) {
#pragma unroll
    for (int at = thread * 8; at < kRows * kWidth; at += kThreads * 8) {
      const int row = at / kWidth, j = at / kDim % kBlock, feature = at % kDim;
      const bool there = first + row < end;
      mma::copy_async(tokens + token_at(row, j, feature),
                      x + s.token(h, there ? first + row : start) * kDim + at % kWidth, there);
    }
  };
  fetch(start);
  const bf* of_head = weight + std::int64_t(h * kDim + first_output) * kWidth;
#pragma unroll
  for (int at = thread * 8; at < kOutputs * kWidth; at += kThreads * 8)
    mma::copy_async(weights + at / kWidth * kStride + at % kWidth, of_head + at);
  const int first_place = slice.place + lane % 4 * 2;  // of the two that a lane holds
  uint4 at_place[2][2];
#pragma unroll
  for (int i = 0; i < 4; i++)
    at_place[i / 2][i % 2] = *reinterpret_cast<const uint4*>(
        place + (h * kBlock + first_place + i / 2) * kDim + slice.feature + i % 2 * 8);

  for (int first = start; first < end; first += kRows) {
    mma::copy_commit();
    mma::copy_wait<0>();
    __syncthreads();
    std::uint32_t pairs[2][2][kFeatures / 2];  // of the rows lane / 4 and + 8, at two places
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int half = i / 4, odd = i / 2 % 2;
      reinterpret_cast<uint4*>(pairs[half][odd])[i % 2] =
          add_pairs(*reinterpret_cast<const uint4*>(
                        tokens + token_at(lane / 4 + 8 * half, first_place + odd, slice.feature + i % 2 * 8)),
                    at_place[odd][i % 2]);
    }
    mma::D sum[kTiles];
#pragma unroll
    for (int pair = 0; pair < kFeatures / 2; pair += 2)
#pragma unroll
      for (int n = 0; n < kTiles; n++) {
        std::uint32_t w[4];  // of a feature each, two places
        mma::load_matrices(w, weights + (8 * n + lane % 8) * kStride +
                                  (slice.feature + 2 * pair + lane / 8) * kBlock + slice.place);
#pragma unroll
        for (int t = 0; t < 2; t++) {  // the depth: 8 places x 2 features
          const mma::A a{
              {pairs[0][0][pair + t], pairs[1][0][pair + t], pairs[0][1][pair + t], pairs[1][1][pair + t]}};
          const mma::B b{
              {__byte_perm(w[2 * t], w[2 * t + 1], 0x5410), __byte_perm(w[2 * t], w[2 * t + 1], 0x7632)}};
          mma::multiply_add(sum[n], a, b);
        }
      }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kTiles; n++)
      sums[(warp * kTiles + n) * 32 + lane] = {sum[n].x[0], sum[n].x[1], sum[n].x[2], sum[n].x[3]};
    __syncthreads();
    float2 total{};  // of half of what a lane has of a tile
#pragma unroll
    for (int from = 0; from < kSlices; from++) {
      const float2 part = reinterpret_cast<const float2*>(sums)[from * kThreads + thread];
      total.x += part.x, total.y += part.y;
    }
    const int of_lane = thread / 2 % 32, row = first + of_lane / 4 + thread % 2 * 8,
              o = first_output + thread / 64 * 8 + of_lane % 4 * 2;
    const __nv_bfloat162 b = *reinterpret_cast<const __nv_bfloat162*>(bias + h * kDim + o);
    if (row < end)
      *reinterpret_cast<std::uint32_t*>(y + s.row(h, row) * kDim + o) =
          mma::pack(total.x + __low2float(b), total.y + __high2float(b));
    if (first + kRows >= end) break;
    __syncthreads();
    fetch(first + kRows);
  }
}

bool takes(const CompressForward& p) noexcept {
  return usual(p) && all_bf16(p.y, p.x, p.weight, p.bias, p.place) &&
         aligned(p.y.p, p.x.p, p.weight.p, p.bias.p, p.place.p);
}
}  // namespace

bool takes_mma(const CompressPairForward& p) noexcept { return takes(p.keys) && takes(p.values); }

Status run_mma(Cuda cuda, const CompressPairForward& p) noexcept {
  const Sizes s(p.keys);
  if (s.blocks == 0) return {};
  if (auto status = allow_shared(forward, kForwardShared); !status.ok()) return status;
  // The weights are read once for all rows of a block of threads: as many rows as leave enough of those.
  constexpr int kEnough = 256;
  const std::int64_t all = (s.rows() + kRows - 1) / kRows, parts = 4 * std::int64_t(s.heads);
  const std::int64_t groups = std::min(all, (all * parts + kEnough - 1) / kEnough);
  forward<<<dim3(unsigned(2 * ((all + groups - 1) / groups)), unsigned(s.heads), 2), kThreads, kForwardShared,
            stream_of(cuda)>>>(Forward(p.keys), Forward(p.values), s, int(groups));
  return launched();
}

}  // namespace k
