#include "kernels/runtime.h"

#include <new>

#include "kernels/cuda.cuh"

namespace k {
namespace {

CudaQueue& queue_at(void* queue) noexcept { return *static_cast<CudaQueue*>(queue); }

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

Status cuda_queue_create(int device, void** queue) noexcept {
  if (auto status = status_of(cudaSetDevice(device)); !status.ok()) return status;
  auto* made = new (std::nothrow) CudaQueue{};
  if (!made) return {1, "no host memory"};
  made->device = device;
  auto status = status_of(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
  if (status.ok()) status = make_gemm(made->gemm);
  if (!status.ok()) {
    cuda_queue_destroy(made);
    return status;
  }
  *queue = made;
  return {};
}

void cuda_queue_destroy(void* queue) noexcept {
  CudaQueue* q = &queue_at(queue);
  q->gemm.reset();
  if (q->stream) cudaStreamDestroy(q->stream);
  delete q;
}

Status cuda_copy(void* queue, void* to, const void* from, std::size_t bytes) noexcept {
  return status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue_at(queue).stream));
}

Status cuda_fill(void* queue, void* at, int byte, std::size_t bytes) noexcept {
  return status_of(cudaMemsetAsync(at, byte, bytes, queue_at(queue).stream));
}

Status cuda_queue_wait(void* queue) noexcept {
  return status_of(cudaStreamSynchronize(queue_at(queue).stream));
}

}  // namespace k
