// Every differentiable op: checks shapes, launches its kernel, records its backward pass. Shapes use rows =
// batch x length; all throw Error(failure) naming the parameter when shapes disagree.
#pragma once
#include <cstdint>
#include <functional>
#include <utility>

#include "engine/tape.h"
#include "kernels/rope.h"

namespace engine {

struct Heads {
  std::int64_t query = 8, kv = 8, dim = 64;
  std::int64_t packed() const noexcept { return (query + 2 * kv) * dim; }  // columns of a packed q, k, v row
  bool operator==(const Heads&) const = default;
};

// The reference model's sparse attention (docs/model.md 1.2).
struct NsaConfig {
  std::int64_t block = 16;   // compression block = selection block
  std::int64_t select = 4;   // blocks picked a query and head
  std::int64_t window = 16;  // the window sees this many earlier keys, and the query's own
  std::int64_t memory = 4;   // learned memory rows of the compressed branch
  bool diff_topk = false;
  bool operator==(const NsaConfig&) const = default;
};
struct NsaParams {
  Param* memory = nullptr;                             // [2, kv heads, slots, dim]
  Param *place_k = nullptr, *place_v = nullptr;        // [kv heads, block, dim]
  Param *compress_k = nullptr, *compress_v = nullptr;  // [kv heads * dim, dim, block]
  Param *bias_k = nullptr, *bias_v = nullptr;          // [kv heads * dim]
};

// What a layer's attention keeps of the tokens that were read, so that a new one needs nothing else
// (kernels/attention_step.h). Storage is that of the activations.
struct KvCache {
  Tensor k, v;                            // [samples, kv heads, capacity, dim], k turned by adjacent pairs
  Tensor window_k, pending_k;             // sparse attention: [samples, kv heads, window + 1 or block, dim]
  Tensor ck, cv;                          // its complete blocks: [samples, kv heads, capacity / block, dim]
  KvCache of(std::int64_t sample) const;  // that sample's part: the same memory, as a cache of one sample
  std::size_t bytes() const noexcept;
};
// Where new tokens stand, for all layers.
struct StepPlaces {
  Tensor positions;  // i32 [samples], each below the capacity
  Tensor table;      // rotation table [capacity, dim / 2, 2]
};
KvCache dense_cache(Device, DType, std::int64_t samples, std::int64_t capacity, const Heads&);
KvCache sparse_cache(Device, DType, std::int64_t samples, std::int64_t capacity, const Heads&,
                     const NsaConfig&);

namespace ops {

// Rows, and the norm that the products which read them have yet to apply, if any.
struct Rows {
  Tensor x;
  Param* norm = nullptr;
  float eps = 0;
  Rows(Tensor x) : x(std::move(x)) {}
  Rows(Tensor x, Param& norm, float eps) : x(std::move(x)), norm(&norm), eps(eps) {}
};

Tensor add(Tape&, const Tensor& a, const Tensor& b);
Tensor embedding(Tape&, const Tensor& ids, Param& table);          // ids i32 [rows] -> [rows, width]
Tensor rmsnorm(Tape&, const Tensor& x, Param& weight, float eps);  // [rows, width]
Rows normed(Tape&, const Tensor& x, Param& weight, float eps);     // the same for linear layers alone
Tensor linear(Tape&, const Rows& x, Param& weight,
              Param* bias = nullptr);  // x weight^T + bias: [rows, out]
// linear(x, first) and linear(x, second, bias).
std::pair<Tensor, Tensor> linear_pair(Tape&, const Rows& x, Param& first, Param& second, Param* bias);
Tensor linear_add(Tape&, const Tensor& x, Param& weight, Param* bias, const Tensor& residual);
Tensor linear_gelu(Tape&, const Rows& x, Param& weight, Param* bias);  // gelu of linear
// x head^T in fp32, [rows, entries of the head]; written to `into` where it is given. No gradient.
Tensor logits(Tape&, const Tensor& x, Param& head, const Tensor& into = {});
Tensor swiglu(Tape&, const Tensor& gate_up);  // [rows, 2 dim] -> [rows, dim]

// Rotation table for `length` positions, [length, dim / 2, 2]: made once a pass, shared by all layers.
Tensor rope_table(Tape&, std::int64_t length, std::int64_t dim, float base);
void fill_rope_table(Tape&, const Tensor& table, float base);

// qkv [batch * length, packed] -> [batch * length, query heads * dim]; adjacent-pair rotation, causal. May
// write into qkv if nobody else holds it. With a cache the batch is one sequence, which every sample of the
// cache gets.
Tensor dense_attention(Tape&, Tensor qkv, const Tensor& rope, const Heads&, std::int64_t batch,
                       const KvCache* fill = nullptr);
// The three branches and their gates; `gates` [batch * length, 3 * query heads] before the sigmoid. Any
// length >= 1. `selected_out`, when given, receives the picks, i32 [batch, heads, length, picks] (tests,
// inspection). The cache is filled as above.
Tensor sparse_attention(Tape&, const Tensor& qkv, const Tensor& gates, const Tensor& rope, const NsaParams&,
                        const Heads&, const NsaConfig&, std::int64_t batch, Tensor* selected_out = nullptr,
                        const KvCache* fill = nullptr);
// The same for one new token of each sample, which the cache takes in: qkv [samples, packed], gates [samples,
// 3 * query heads] -> [samples, query heads * dim]. No gradient. Picks: i32 [samples, heads, select].
Tensor dense_attention_step(Tape&, const Tensor& qkv, const StepPlaces&, const Heads&, const KvCache&);
Tensor sparse_attention_step(Tape&, const Tensor& qkv, const Tensor& gates, const StepPlaces&,
                             const NsaParams&, const Heads&, const NsaConfig&, const KvCache&,
                             Tensor* selected_out = nullptr);

// Head projection, softmax and loss, chunk by chunk: no more than a chunk of the logits exists at a time.
// Returns the loss of each row, f32 [rows]; targets i32 [rows], negative ones are not counted (loss 0).
// Columns of `head` from `vocab` on are padding. When training, the gradient of grad_scale * sum(losses) is
// finished here, the head's part written at once, so start the backward pass with Tape::backward(losses).
Tensor linear_cross_entropy(Tape&, const Tensor& h, Param& head, const Tensor& targets, std::int64_t vocab,
                            float grad_scale);

// y = f(x), keeping nothing that f saved; the backward pass runs f again. Same bits as f alone.
Tensor recompute(Tape&, const Tensor& x, std::function<Tensor(Tape&, const Tensor&)> f);

}  // namespace ops
}  // namespace engine
