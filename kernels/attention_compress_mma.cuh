// Private to compression on tensor cores: heads of 64 features, blocks of 16 tokens, bf16. A head's weights
// are a matrix [64 outputs, 1024]; a complete block of tokens, 1024 neighbours in memory, is a row of the
// other operand. The weights lie feature by feature, the tokens place by place. Both are cut into eight
// slices, of 16 features and 8 places each, and stay as they lie: what counts is that both operands of a
// product take the same feature and place for the same step of its depth.
#pragma once
#include <algorithm>
#include <limits>

#include "kernels/attention_mma.cuh"
#include "kernels/lanes.cuh"
#include "kernels/mma.cuh"

namespace k::compress {

using bf = __nv_bfloat16;

inline constexpr int kDim = 64, kBlock = 16, kWidth = kDim * kBlock;
inline constexpr int kFeatures = 16, kPlaces = 8, kSlices = 8, kSliceWidth = kFeatures * kPlaces;
inline constexpr int kThreads = 256;

// Which part of the features and places a slice is.
struct Slice {
  int feature, place;  // its first ones
  __device__ explicit Slice(int index) : feature(index / 2 * kFeatures), place(index % 2 * kPlaces) {}
};

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

template <class P> bool usual(const P& p) noexcept {
  return p.dim == kDim && p.block == kBlock && p.kv_heads <= 65535 &&
         p.length <= std::numeric_limits<std::int32_t>::max() / 2 / p.batch;
}
template <class... T> bool all_bf16(const T&... x) noexcept { return ((x.t == DType::bf16) && ...); }

template <class Kernel> Status allow_shared(Kernel kernel, int bytes) noexcept {
  return status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

}  // namespace k::compress
