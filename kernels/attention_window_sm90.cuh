// Window and dense attention on Hopper (sm_90a), for attention_window.cu.
#pragma once
#include "kernels/attention_cuda.cuh"

namespace k {

// Shorter windows are not worth tiles of 64 keys.
inline constexpr std::int64_t kLeastReach = 64;

// Whether these kernels take heads of this size on this card.
inline bool sm90_serves(Cuda cuda, std::int64_t dim) noexcept {
  int major = 0, minor = 0;
  const int device = queue_of(cuda).device;
  return (dim == 64 || dim == 128) &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
         major == 9 && minor == 0;
}
// Whether they take the arrays of an op: bf16 at multiples of 16 bytes.
template <class... Arrays>
bool sm90_serves(Cuda cuda, const AttentionShape& s, std::int64_t reach, const Arrays&... a) noexcept {
  return reach >= kLeastReach && all_of_type(DType::bf16, a...) && aligned(a.p...) &&
         sm90_serves(cuda, s.dim);
}

Status forward_sm90(Cuda, const WindowForward&) noexcept;
Status backward_sm90(Cuda, const WindowBackward&) noexcept;

// Its two parts, dQ and dK with dV. Both read two numbers of each query, lse * log2(e) and delta = dout .
// out, from p.delta, where blocks of 64 queries have 64 of the ones and then 64 of the others.
Status backward_queries_sm90(Cuda, const WindowBackward&) noexcept;
Status backward_keys_sm90(Cuda, const WindowBackward&) noexcept;
template <class T> __device__ inline T* query_numbers(T* numbers, std::int64_t unit, int block, int blocks) {
  return numbers + (unit * blocks + block) * 128;
}

}  // namespace k
