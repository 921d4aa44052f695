#include "kernels/graph_fills.cuh"

#include <vector>

#include "kernels/cuda.cuh"

namespace k {
namespace {

constexpr std::size_t kMostBytes = std::size_t(64) << 10;  // a block fills them
constexpr int kThreads = 256;

template <class T> __global__ void fill(T* at, T value, std::int64_t count) {
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) at[i] = value;
}

// CUDA 13 took the place of these functions' older forms.
cudaError_t neighbours(cudaGraphNode_t node, bool before, cudaGraphNode_t* nodes, std::size_t* count) {
#if CUDART_VERSION >= 13000
  return before ? cudaGraphNodeGetDependencies(node, nodes, nullptr, count)
                : cudaGraphNodeGetDependentNodes(node, nodes, nullptr, count);
#else
  return before ? cudaGraphNodeGetDependencies(node, nodes, count)
                : cudaGraphNodeGetDependentNodes(node, nodes, count);
#endif
}
cudaError_t connect(cudaGraph_t graph, const cudaGraphNode_t* from, const cudaGraphNode_t* to,
                    std::size_t count) {
#if CUDART_VERSION >= 13000
  return cudaGraphAddDependencies(graph, from, to, nullptr, count);
#else
  return cudaGraphAddDependencies(graph, from, to, count);
#endif
}

// Those right before a node, or right after it. Throws std::bad_alloc.
Status neighbours_of(cudaGraphNode_t node, bool before, std::vector<cudaGraphNode_t>& nodes) {
  std::size_t count = 0;
  if (auto status = status_of(neighbours(node, before, nullptr, &count)); !status.ok() || count == 0)
    return status;
  nodes.resize(count);
  return status_of(neighbours(node, before, nodes.data(), &count));
}

template <class T> Status replace(cudaGraph_t graph, cudaGraphNode_t node, const cudaMemsetParams& filled) {
  std::vector<cudaGraphNode_t> before, after;
  for (const Status& status : {neighbours_of(node, true, before), neighbours_of(node, false, after)})
    if (!status.ok()) return status;
  T* at = static_cast<T*>(filled.dst);
  auto value = static_cast<T>(filled.value);
  auto count = std::int64_t(filled.width);
  void* arguments[] = {&at, &value, &count};
  cudaKernelNodeParams launch{};
  launch.func = reinterpret_cast<void*>(&fill<T>);
  launch.gridDim = dim3(1), launch.blockDim = dim3(kThreads);
  launch.kernelParams = arguments;
  cudaGraphNode_t kernel = nullptr;
  if (auto status = status_of(cudaGraphAddKernelNode(&kernel, graph, before.data(), before.size(), &launch));
      !status.ok())
    return status;
  int least = 0;
  cudaKernelNodeAttrValue priority{};  // the chain of products waits for it
  cudaDeviceGetStreamPriorityRange(&least, &priority.priority);
  cudaGraphKernelNodeSetAttribute(kernel, cudaKernelNodeAttributePriority, &priority);
  const std::vector<cudaGraphNode_t> from(after.size(), kernel);
  if (auto status = status_of(connect(graph, from.data(), after.data(), after.size())); !status.ok())
    return status;
  return status_of(cudaGraphDestroyNode(node));
}

}  // namespace

Status fills_to_kernels(CUgraph_st* graph) noexcept try {
  std::size_t count = 0;
  if (auto status = status_of(cudaGraphGetNodes(graph, nullptr, &count)); !status.ok()) return status;
  std::vector<cudaGraphNode_t> nodes(count);
  if (auto status = status_of(cudaGraphGetNodes(graph, nodes.data(), &count)); !status.ok()) return status;
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    cudaMemsetParams filled{};
    if (auto status = status_of(cudaGraphNodeGetType(node, &type)); !status.ok()) return status;
    if (type != cudaGraphNodeTypeMemset) continue;
    if (auto status = status_of(cudaGraphMemsetNodeGetParams(node, &filled)); !status.ok()) return status;
    if (filled.height != 1 || filled.width > kMostBytes / filled.elementSize) continue;
    const Status status = filled.elementSize == 4   ? replace<std::uint32_t>(graph, node, filled)
                          : filled.elementSize == 2 ? replace<std::uint16_t>(graph, node, filled)
                                                    : replace<std::uint8_t>(graph, node, filled);
    if (!status.ok()) return status;
  }
  return {};
} catch (const std::exception&) {
  return {1, "no host memory"};
}

}  // namespace k
