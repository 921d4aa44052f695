#include "kernels/runtime.h"

#include <new>
#include <string>

#include "kernels/cuda.cuh"
#include "kernels/graph_fills.cuh"

namespace k {
namespace {

CudaQueue& queue_at(void* queue) noexcept { return *static_cast<CudaQueue*>(queue); }

__global__ void probe() {}

// Takes the plans of `shared`, or makes its own.
Status create_queue(int device, const std::shared_ptr<Gemm>& shared, void** queue) noexcept {
  if (auto status = status_of(cudaSetDevice(device)); !status.ok()) return status;
  int least = 0, greatest = 0;  // the more urgent, the lower
  if (auto status = status_of(cudaDeviceGetStreamPriorityRange(&least, &greatest)); !status.ok())
    return status;
  auto* made = new (std::nothrow) CudaQueue{};
  if (!made) return {1, "no host memory"};
  made->device = device;
  made->gemm = shared;
  auto status = status_of(
      cudaStreamCreateWithPriority(&made->stream, cudaStreamNonBlocking, shared ? least : greatest));
  if (status.ok()) status = status_of(cudaMalloc(&made->workspace, kWorkspaceBytes));
  if (status.ok() && !shared) status = make_gemm(made->gemm);
  if (!status.ok()) {
    cuda_queue_destroy(made);
    return status;
  }
  *queue = made;
  return {};
}

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

bool cuda_has_code_for(int device) noexcept {
  cudaFuncAttributes attributes{};
  const bool found = cudaSetDevice(device) == cudaSuccess &&
                     cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&probe)) == cudaSuccess;
  cudaGetLastError();
  return found;
}

int cuda_architecture(int device) noexcept {
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) return 0;
  return 10 * properties.major + properties.minor;
}

std::size_t cuda_memory_in_use(int device) noexcept {
  std::size_t available = 0, all = 0;
  if (cudaSetDevice(device) != cudaSuccess || cudaMemGetInfo(&available, &all) != cudaSuccess) return 0;
  return all - available;
}

Status cuda_allocate_zeroed(int device, std::size_t bytes, void** at) noexcept {
  if (auto status = status_of(cudaSetDevice(device)); !status.ok()) return status;
  if (auto status = status_of(cudaMalloc(at, bytes)); !status.ok()) return status;
  if (auto status = status_of(cudaMemset(*at, 0, bytes)); !status.ok()) return status;
  return status_of(cudaDeviceSynchronize());  // the streams do not wait for the default one
}

void cuda_free(void* at) noexcept { cudaFree(at); }

Status cuda_allocate_pinned(int device, std::size_t bytes, void** at) noexcept {
  if (auto status = status_of(cudaSetDevice(device)); !status.ok()) return status;
  return status_of(cudaMallocHost(at, bytes));
}

void cuda_free_pinned(void* at) noexcept { cudaFreeHost(at); }

Status cuda_queue_create(int device, void** queue) noexcept { return create_queue(device, nullptr, queue); }

Status cuda_queue_create_beside(void* queue, void** beside) noexcept {
  return create_queue(queue_at(queue).device, queue_at(queue).gemm, beside);
}

void cuda_queue_destroy(void* queue) noexcept {
  CudaQueue* q = &queue_at(queue);
  q->gemm.reset();
  if (q->workspace) cudaFree(q->workspace);
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

Status cuda_event_create(int device, void** event) noexcept {
  if (auto status = status_of(cudaSetDevice(device)); !status.ok()) return status;
  return status_of(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(event)));
}

void cuda_event_destroy(void* event) noexcept { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

Status cuda_event_record(void* event, void* queue) noexcept {
  return status_of(cudaEventRecord(static_cast<cudaEvent_t>(event), queue_at(queue).stream));
}

Status cuda_event_wait(void* event) noexcept {
  return status_of(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}

Status cuda_queue_follow(void* queue, void* event) noexcept {
  return status_of(cudaStreamWaitEvent(queue_at(queue).stream, static_cast<cudaEvent_t>(event), 0));
}

Status cuda_event_seconds(void* from, void* to, double* seconds) noexcept {
  float milliseconds = 0;
  const auto status = status_of(
      cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from), static_cast<cudaEvent_t>(to)));
  *seconds = 1e-3 * double(milliseconds);
  return status;
}

Status cuda_record_begin(void* queue) noexcept {
  return status_of(cudaStreamBeginCapture(queue_at(queue).stream, cudaStreamCaptureModeThreadLocal));
}

Status cuda_record_end(void* queue, void** graph) noexcept {
  *graph = nullptr;
  cudaGraph_t recorded = nullptr;
  auto status = status_of(cudaStreamEndCapture(queue_at(queue).stream, &recorded));
  cudaGraphExec_t ready = nullptr;
  if (status.ok()) status = fills_to_kernels(recorded);
  if (status.ok())
    status = status_of(cudaGraphInstantiate(&ready, recorded, cudaGraphInstantiateFlagUseNodePriority));
  if (recorded) cudaGraphDestroy(recorded);
  *graph = ready;
  return status;
}

Status cuda_replay(void* queue, void* graph) noexcept {
  return status_of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), queue_at(queue).stream));
}

void cuda_graph_destroy(void* graph) noexcept { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

}  // namespace k
