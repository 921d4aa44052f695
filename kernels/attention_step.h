// Attention of one new token of each sample over what a cache keeps of the earlier ones (docs/model.md 1.2,
// 1.3): the same keys, in the same storage, as the ops of kernels/attention.h read.
//
// Legend: samples and heads as there; packed rows as in kernels/rope.h; a sample's new token stands at its
// position, below `capacity`. A sample's bits depend on nothing of another.
#pragma once
#include "kernels/attention.h"

namespace k {

struct StepShape {
  std::int64_t samples, heads, kv_heads, capacity, dim;
};

struct SparseStep {               // takes the token's key and value into the cache, then attends
  Out y;                          // [samples, heads * dim], the branches weighed by their gates
  In qkv, gates;                  // [samples, packed], [samples, 3 * heads] before the sigmoid
  const std::int32_t* positions;  // [samples]
  const float* table;             // [capacity, dim / 2, 2] (kernels/rope.h)
  Out k, v;                       // [samples, kv_heads, capacity, dim], k turned by adjacent pairs
  Out window_k;   // [samples, kv_heads, window + 1, dim]: k turned by halves; position p at p % (window + 1)
  Out pending_k;  // [samples, kv_heads, block, dim]: k as it is; position p at p % block
  Out ck, cv;     // [samples, kv_heads, capacity / block, dim]: the complete blocks
  In memory, place_k, place_v, compress_k, compress_v, bias_k, bias_v;  // parameters, as in training
  float* scratch = nullptr;          // of the CPU body: [samples * kv_heads, sparse_step_scratch()]
  std::int32_t* selected = nullptr;  // [samples, heads, top]: valid picks ascending, then -1; may be null
  StepShape shape;
  std::int64_t block, top, window, slots;
  float scale;
};
constexpr std::int64_t sparse_step_scratch(const StepShape& s, std::int64_t block,
                                           std::int64_t top) noexcept {
  return s.capacity / block + block * s.dim + 5 * s.dim + top;
}

struct DenseStep {
  Out y;                          // [samples, heads * dim]
  In qkv;                         // [samples, packed]
  const std::int32_t* positions;  // [samples]
  const float* table;
  Out k, v;                // [samples, kv_heads, capacity, dim], k turned by adjacent pairs
  float* parts = nullptr;  // scratch: dense_step_parts() floats
  StepShape shape;
  float scale;
};
// The CUDA body divides the keys into parts of so many, whatever the capacity.
inline constexpr std::int64_t kStepKeys = 256;
constexpr std::int64_t dense_step_parts(const StepShape& s) noexcept {
  return s.samples * s.heads * ((s.capacity + kStepKeys - 1) / kStepKeys) * (s.dim + 2);
}

// A cache's tensor from the keys or values of one sequence, which every sample gets.
struct CacheStore {
  Out to;   // [samples, kv_heads, places, dim]: position p at p % places
  In from;  // position t of head h begins at element h * from_head + t * from_token
  std::int64_t from_head, from_token;
  std::int64_t samples, kv_heads, length, places, dim;
};

Cost cost(const SparseStep&);
Cost cost(const DenseStep&);
Cost cost(const CacheStore&);
Status run(Cpu, const SparseStep&) noexcept;
Status run(Cpu, const DenseStep&) noexcept;
Status run(Cpu, const CacheStore&) noexcept;
Status run(Cuda, const SparseStep&) noexcept;
Status run(Cuda, const DenseStep&) noexcept;
Status run(Cuda, const CacheStore&) noexcept;

}  // namespace k
