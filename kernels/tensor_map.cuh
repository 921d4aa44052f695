// Descriptions of matrices for Hopper's copy engine ("tensor maps"). Host code, included by *_sm90.cu files
// only. The encoder lives in the driver; asking the runtime for its address spares us linking libcuda.
#pragma once
#include <cudaTypedefs.h>

#include "kernels/attention.h"
#include "kernels/cuda.cuh"

namespace k {

// Of bf16 rows x[batch, head, position] of `s.dim` elements, a multiple of 64: boxes of 64 elements of `rows`
// consecutive positions, swizzled ("Tile layout", sm90.cuh), at coordinates (element, position, head, batch).
// Strides are multiples of 8, p is at a multiple of 16 bytes.
inline Status encode(CUtensorMap& map, const void* p, const AttentionShape& s, std::int64_t heads,
                     const Strides& at, int rows) noexcept {
  static const auto encoder = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) entry = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  if (!encoder) return {1, "the driver cannot encode tensor maps"};
  constexpr std::uint64_t kBytes = sizeof(__nv_bfloat16);
  const std::uint64_t size[] = {std::uint64_t(s.dim), std::uint64_t(s.length), std::uint64_t(heads),
                                std::uint64_t(s.batch)};
  const std::uint64_t stride[] = {kBytes * std::uint64_t(at.token), kBytes * std::uint64_t(at.head),
                                  kBytes * std::uint64_t(at.batch)};
  const std::uint32_t box[] = {64, std::uint32_t(rows), 1, 1}, step[] = {1, 1, 1, 1};
  const CUresult result =
      encoder(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(p), size, stride, box, step,
              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return {1, "the driver rejected a tensor map"};
  return {};
}

}  // namespace k
