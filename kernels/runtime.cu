#include "kernels/runtime.h"

#include <cuda_runtime.h>

namespace k {
namespace {

Status status_of(cudaError_t error) noexcept {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // an error that was reported must not be reported again by the next launch
  return {int(error), cudaGetErrorString(error)};
}

cudaStream_t queue(void* stream) noexcept { return static_cast<cudaStream_t>(stream); }

}  // namespace

int cuda_device_count() noexcept {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string cuda_device_name(int device) {
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) return "unknown card";
  return properties.name;
}

Status cuda_allocate_zeroed(int device, std::size_t bytes, void** at) noexcept {
  if (auto status = status_of(cudaSetDevice(device)); !status.ok()) return status;
  if (auto status = status_of(cudaMalloc(at, bytes)); !status.ok()) return status;
  if (auto status = status_of(cudaMemset(*at, 0, bytes)); !status.ok()) return status;
  return status_of(cudaDeviceSynchronize());  // the streams do not wait for the default one
}

void cuda_free(void* at) noexcept { cudaFree(at); }

Status cuda_stream_create(int device, void** stream) noexcept {
  if (auto status = status_of(cudaSetDevice(device)); !status.ok()) return status;
  return status_of(cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking));
}

void cuda_stream_destroy(void* stream) noexcept { cudaStreamDestroy(queue(stream)); }

Status cuda_copy(void* stream, void* to, const void* from, std::size_t bytes) noexcept {
  return status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue(stream)));
}

Status cuda_fill(void* stream, void* at, int byte, std::size_t bytes) noexcept {
  return status_of(cudaMemsetAsync(at, byte, bytes, queue(stream)));
}

Status cuda_stream_wait(void* stream) noexcept { return status_of(cudaStreamSynchronize(queue(stream))); }

}  // namespace k
