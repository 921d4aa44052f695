#include "kernels/matmul.h"

#include <cublasLt.h>

#include <array>
#include <bit>
#include <map>
#include <utility>

#include "kernels/cuda.cuh"

namespace k {
namespace {

constexpr int kProposals = 8;  // of the library, a product

Status status_of(cublasStatus_t status) noexcept {
  return status == CUBLAS_STATUS_SUCCESS ? Status{} : Status{int(status), cublasLtGetStatusString(status)};
}

cudaDataType_t cublas_type(DType t) noexcept { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// The largest power of two up to 256 that divides an address: what cuBLASLt may assume of it.
std::uint32_t alignment_of(const void* at) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  return std::uint32_t(address == 0 ? 256 : std::min<std::uintptr_t>(256, address & (~address + 1)));
}

}  // namespace

// A number that tells two arrays of words apart unless they are equal bit for bit (in all likelihood). The
// sums are of integers, so that their order does not matter.
__global__ void fingerprint(const std::uint32_t* words, std::int64_t count, unsigned long long* sum) {
  unsigned long long own = 0;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x)
    own += (words[i] + 1ull) * (2 * std::uint64_t(i) + 0x9e3779b97f4a7c15ull);
  atomicAdd(sum, own);
}

// cuBLASLt is column-major: row-major d = op(a) op(b) is d^T = op(b)^T op(a)^T there, so b comes first and n
// is its number of rows, along which it adds the bias.
class Gemm {
 public:
  Gemm() = default;
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;
  ~Gemm() {
    for (auto& [key, plan] : plans_) plan.destroy();
    for (cudaEvent_t event : {start_, end_})
      if (event) cudaEventDestroy(event);
    if (sum_) cudaFree(sum_);
    if (handle_) cublasLtDestroy(handle_);
  }

  Status start() noexcept {
    if (auto status = status_of(cublasLtCreate(&handle_)); !status.ok()) return status;
    for (cudaError_t error :
         {cudaMalloc(&sum_, sizeof *sum_), cudaEventCreate(&start_), cudaEventCreate(&end_)})
      if (auto status = k::status_of(error); !status.ok()) return status;
    return {};
  }

  Status run(const MatMul& p, const CudaQueue& queue) {
    Plan* plan = nullptr;
    if (auto status = find(p, &plan); !status.ok()) return status;
    if (p.bias.p) {
      const void* bias = p.bias.p;
      if (auto status = status_of(cublasLtMatmulDescSetAttribute(
              plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
          !status.ok())
        return status;
    }
    if (auto status = tune(p, *plan, queue); !status.ok()) return status;
    return launch(p, *plan, plan->algorithm, queue);
  }

 private:
  struct Plan {
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    std::array<cublasLtMatmulAlgo_t, kProposals - 1> others{};
    int untried = 0;  // of the others
    void destroy() noexcept {
      if (product) cublasLtMatmulDescDestroy(product);
      for (auto layout : {a, b, d})
        if (layout) cublasLtMatrixLayoutDestroy(layout);
    }
  };
  using Key = std::array<std::int64_t, 5>;

  Status launch(const MatMul& p, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                const CudaQueue& queue) noexcept {
    const void* added = p.residual.p ? p.residual.p : p.d.p;
    const float one = 1, beta = p.d.add || p.residual.p ? 1.f : 0.f;
    return status_of(cublasLtMatmul(handle_, plan.product, &one, p.b.p, plan.b, p.a.p, plan.a, &beta, added,
                                    plan.d, p.d.p, plan.d, &algorithm, queue.workspace, kWorkspaceBytes,
                                    queue.stream));
  }

  // The first algorithm is the library's guess. Another of its proposals takes its place if it was faster on
  // this very product and gave the same bits: most differ in their tiles only, and add up an element's
  // products in the same order. So what a run computes does not depend on what was measured. A product that
  // adds to its destination is measured with another destination, for there is no repeating it. Without
  // memory for that, or while a graph is recorded, the guess stays.
  Status tune(const MatMul& p, Plan& plan, const CudaQueue& queue) {
    if (plan.untried == 0) return {};
    cudaStreamCaptureStatus capture{};
    if (cudaStreamIsCapturing(queue.stream, &capture) != cudaSuccess ||
        capture != cudaStreamCaptureStatusNone)
      return {};
    const int others = std::exchange(plan.untried, 0);
    // Nothing else runs while this is measured: what other queues have been given so far is over.
    if (auto status = k::status_of(cudaDeviceSynchronize()); !status.ok()) return status;
    MatMul probe = p;
    void* elsewhere = nullptr;
    if (p.d.add) {
      if (cudaMalloc(&elsewhere, std::size_t(p.m * p.n) * size_of(p.d.t)) != cudaSuccess)
        return cudaGetLastError(), Status{};
      // initcheck does not see what products store by TMA.
      cudaMemset(elsewhere, 0, std::size_t(p.m * p.n) * size_of(p.d.t));
      probe.residual = {p.d.p, p.d.t};
      probe.d = {elsewhere, p.d.t, false};
    }
    const Status status = choose(probe, plan, others, queue);
    if (elsewhere) cudaFree(elsewhere);
    return status;
  }

  Status choose(const MatMul& p, Plan& plan, int others, const CudaQueue& queue) noexcept {
    Measured best;
    if (auto status = measure(p, plan, plan.algorithm, queue, best); !status.ok()) return status;
    const unsigned long long bits = best.bits;
    for (int i = 0; i < others; i++) {
      Measured found;
      if (!measure(p, plan, plan.others[std::size_t(i)], queue, found).ok()) continue;
      if (found.bits != bits || found.milliseconds >= best.milliseconds) continue;
      best = found;
      plan.algorithm = plan.others[std::size_t(i)];
    }
    return {};
  }

  struct Measured {
    float milliseconds = 0;
    unsigned long long bits = 0;
  };
  Status measure(const MatMul& p, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                 const CudaQueue& queue, Measured& found) noexcept {
    constexpr int kRepeats = 5;
    const cudaStream_t stream = queue.stream;
    if (auto status = launch(p, plan, algorithm, queue); !status.ok()) return status;  // warms up
    cudaEventRecord(start_, stream);
    for (int i = 0; i < kRepeats; i++) launch(p, plan, algorithm, queue);
    cudaEventRecord(end_, stream);
    cudaMemsetAsync(sum_, 0, sizeof *sum_, stream);
    const std::int64_t words = p.m * p.n * std::int64_t(size_of(p.d.t)) / 4;
    fingerprint<<<blocks_for(words, 256, 1024), 256, 0, stream>>>(static_cast<const std::uint32_t*>(p.d.p),
                                                                  words, sum_);
    cudaMemcpyAsync(&found.bits, sum_, sizeof *sum_, cudaMemcpyDeviceToHost, stream);
    if (auto status = k::status_of(cudaStreamSynchronize(stream)); !status.ok()) return status;
    return k::status_of(cudaEventElapsedTime(&found.milliseconds, start_, end_));
  }

  static Key key_of(const MatMul& p) noexcept {
    const void* added = p.residual.p ? p.residual.p : p.d.p;
    std::int64_t kind = 0;
    const auto append = [&kind](std::int64_t value, int bits) { kind = kind << bits | value; };
    for (DType t : {p.a.t, p.b.t, p.d.t}) append(std::int64_t(t), 2);
    for (bool flag : {p.transpose_a, p.transpose_b, p.d.add || p.residual.p != nullptr, p.bias.p != nullptr})
      append(flag, 1);
    std::int64_t aligned = 0;
    for (const void* at : {p.a.p, p.b.p, added, static_cast<const void*>(p.d.p)})
      aligned = aligned << 4 | std::countr_zero(alignment_of(at));
    return {p.m, p.n, p.k, kind, aligned};
  }

  Status find(const MatMul& p, Plan** found) {
    const Key key = key_of(p);
    if (const auto known = plans_.find(key); known != plans_.end()) return *found = &known->second, Status{};
    Plan plan;
    const Status status = make(p, plan);
    if (!status.ok()) return plan.destroy(), status;
    *found = &plans_.emplace(key, plan).first->second;
    return {};
  }

  Status make(const MatMul& p, Plan& plan) noexcept {
    cublasStatus_t status = cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const auto next = [&status](auto&& call) {
      if (status == CUBLAS_STATUS_SUCCESS) status = call();
    };
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
      next([&] { return cublasLtMatmulDescSetAttribute(plan.product, attribute, &value, sizeof value); });
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias.p) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cublas_type(p.bias.t));
    }
    const auto layout = [&](cublasLtMatrixLayout_t& made, DType t, std::int64_t rows, std::int64_t columns) {
      next([&] {
        return cublasLtMatrixLayoutCreate(&made, cublas_type(t), std::uint64_t(rows), std::uint64_t(columns),
                                          rows);
      });
    };
    layout(plan.a, p.a.t, p.transpose_a ? p.m : p.k, p.transpose_a ? p.k : p.m);
    layout(plan.b, p.b.t, p.transpose_b ? p.k : p.n, p.transpose_b ? p.n : p.k);
    layout(plan.d, p.d.t, p.n, p.m);

    cublasLtMatmulPreference_t preference = nullptr;
    next([&] { return cublasLtMatmulPreferenceCreate(&preference); });
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      next([&] { return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value); });
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // Parts of a sum are added in the workspace, in order; never by whoever comes first.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           std::uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b.p));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a.p));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.residual.p ? p.residual.p : p.d.p));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.d.p));
    cublasLtMatmulHeuristicResult_t proposals[kProposals] = {};
    int count = 0;
    next([&] {
      return cublasLtMatmulAlgoGetHeuristic(handle_, plan.product, plan.b, plan.a, plan.d, plan.d, preference,
                                            kProposals, proposals, &count);
    });
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS && count == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    plan.algorithm = proposals[0].algo;
    for (int i = 1; i < count; i++) plan.others[std::size_t(plan.untried++)] = proposals[i].algo;
    return status_of(status);
  }

  cublasLtHandle_t handle_ = nullptr;
  unsigned long long* sum_ = nullptr;  // of fingerprint(), on the card
  cudaEvent_t start_ = nullptr, end_ = nullptr;
  std::map<Key, Plan> plans_;
};

Status make_gemm(std::shared_ptr<Gemm>& gemm) noexcept try {
  gemm = std::make_shared<Gemm>();
  return gemm->start();
} catch (const std::exception&) {
  return {1, "no host memory"};
}

Status run(Cuda c, const MatMul& p) noexcept try {
  if (!p.d.p || p.m == 0 || p.n == 0) return {};
  if (p.k == 0) return {1, "a product over no elements"};
  if (p.d.add && p.residual.p) return {1, "a product that adds to itself and to a residual"};
  if (p.residual.p && p.residual.t != p.d.t) return unsupported_dtype();
  return queue_of(c).gemm->run(p, queue_of(c));
} catch (const std::exception&) {
  return {1, "no host memory"};
}

}  // namespace k
