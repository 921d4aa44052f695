// What the CUDA implementations share. Included by .cu files only.
//
// Kernels load in the storage type, compute and reduce in fp32, and store rounded to nearest. Sums have a
// fixed order: within a thread, then a warp, then a block, then blocks in order; no float atomics.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <memory>

#include "kernels/types.h"

namespace k {

class Gemm;  // matmul.cu: cuBLASLt's handle and plans

inline constexpr std::size_t kWorkspaceBytes = std::size_t(32) << 20;  // what cuBLAS asks for on Hopper

struct CudaQueue {  // what Cuda::queue points to
  int device = 0;
  cudaStream_t stream = nullptr;
  std::shared_ptr<Gemm> gemm;  // shared by the queues that run beside one another
  void* workspace = nullptr;   // of the queue's products, [kWorkspaceBytes]
};

Status make_gemm(std::shared_ptr<Gemm>&) noexcept;  // on the current device

inline CudaQueue& queue_of(Cuda c) noexcept { return *static_cast<CudaQueue*>(c.queue); }
inline cudaStream_t stream_of(Cuda c) noexcept { return queue_of(c).stream; }

inline Status status_of(cudaError_t error) noexcept {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // an error that was reported must not be reported again by the next launch
  return {int(error), cudaGetErrorString(error)};
}
inline Status launched() noexcept { return status_of(cudaGetLastError()); }  // of the launch just made

// A launch that begins, where the card can (sm_90), while the one in front of it in the queue still runs:
// what it does until earlier_are_over() may read nothing that the last two launches write. A kernel that is
// launched so must call it, and then may call let_next_begin().
template <class... Parameters, class... Arguments>
Status launch_early(void (*kernel)(Parameters...), dim3 grid, int threads, std::size_t shared_bytes,
                    Cuda cuda, Arguments... arguments) noexcept {
  int major = 0;
  const CudaQueue& queue = queue_of(cuda);
  if (const Status status =
          status_of(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, queue.device));
      !status.ok())
    return status;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared_bytes, config.stream = queue.stream;
  config.attrs = &early, config.numAttrs = major >= 9 ? 1 : 0;
  return status_of(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}
__device__ inline void earlier_are_over() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The type a kernel sees for a DType: calls f(type<float>{}) or f(type<__nv_bfloat16>{}).
template <class F> Status by_cuda_dtype(DType t, F&& f) noexcept {
  switch (t) {
    case DType::f32: return f(type<float>{});
    case DType::bf16: return f(type<__nv_bfloat16>{});
    default: return unsupported_dtype();
  }
}

template <class T> __host__ __device__ const T* data(In x) noexcept { return static_cast<const T*>(x.p); }
template <class T> __host__ __device__ T* data(Out y) noexcept { return static_cast<T*>(y.p); }
template <class T> __host__ __device__ T* data(Grad g) noexcept { return static_cast<T*>(g.p); }

// Blocks of `threads` for `count` items, at most `most` (the kernel strides over the rest).
inline unsigned blocks_for(std::int64_t count, std::int64_t threads, std::int64_t most = 1 << 20) noexcept {
  return unsigned(std::clamp<std::int64_t>((count + threads - 1) / threads, 1, most));
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// y[i] (=|+=) value
template <class T> __device__ inline void put(T* y, std::int64_t i, float value, bool add) {
  y[i] = from_float<T>(add ? to_float(y[i]) + value : value);
}

// e^x in two instructions, to |x| 2^-23 of itself; 0 where that is below 2^-126. NaN stays NaN.
__device__ inline float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
}
__device__ inline float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// The same value in every lane: the tree is fixed.
template <class T> __device__ inline T warp_sum(T x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

// Over a block of `threads` (a multiple of 32, at most 1024); every thread gets the result. `shared` holds 32
// floats and may be used again after the call.
template <int threads> __device__ inline float block_sum(float x, float* shared) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  x = warp_sum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_sum(lane < threads / 32 ? shared[lane] : 0.f);
  __syncthreads();
  return x;
}
template <int threads> __device__ inline float block_max(float x, float* shared) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  x = warp_max(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_max(lane < threads / 32 ? shared[lane] : -INFINITY);
  __syncthreads();
  return x;
}

}  // namespace k
