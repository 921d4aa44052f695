// Causal attention over head-major tensors, as branches that differ only in which keys a query sees.
//
// Legend: q-like tensors [batch, heads, length, dim], k/v-like [batch, kv_heads, length, dim]; query head h
// reads key/value head h / (heads / kv_heads). Logits are scale * q.k; every softmax keeps its log-sum-exp
// for the backward pass (flash attention's scheme: probabilities are recomputed, never stored). Sums have a
// fixed order for any thread count.
#pragma once
#include <algorithm>

#include "kernels/types.h"

namespace k {

struct AttentionShape {
  std::int64_t batch, heads, kv_heads, length, dim;
};

// How the tensors of window attention lie.
enum class Order : std::uint8_t {
  heads,   // head-major, as above
  tokens,  // q, k, v and their gradients are parts of packed rows (kernels/rope.h), each given by its first
           // element; out and dout are rows [batch * length, heads * dim]
};
struct Strides {  // row t of head h of sequence b begins at element b * batch + h * head + t * token
  std::int64_t batch, head, token;
};
struct WindowStrides {
  Strides queries, keys, outputs;  // of q and dq; of k, v and theirs; of out and dout
};
constexpr WindowStrides window_strides(Order order, const AttentionShape& s) noexcept {
  const auto of = [&](std::int64_t heads, std::int64_t columns) -> Strides {
    if (order == Order::heads) return {heads * s.length * s.dim, s.length * s.dim, s.dim};
    return {s.length * columns * s.dim, s.dim, columns * s.dim};
  };
  const std::int64_t packed = s.heads + 2 * s.kv_heads;
  return {of(s.heads, packed), of(s.kv_heads, packed), of(s.heads, s.heads)};
}
// Whether dense attention takes Order::tokens, and turns dq and dk back, on this card. Other bodies know
// head-major tensors alone.
bool takes_tokens(Cuda, const AttentionShape&, DType) noexcept;
inline constexpr Status kHeadsOnly{1, "head-major tensors only"};

// ---- window (and dense): query i sees keys max(0, i - reach) .. i. Dense: reach >= length - 1.
// The reference model's window of W has reach W (W + 1 keys, docs/model.md 1.2), the paper's has reach W - 1.
struct WindowForward {
  Out out;     // [batch, heads, length, dim]
  float* lse;  // [batch, heads, length]
  In q, k, v;
  AttentionShape shape;
  std::int64_t reach;
  float scale;
  Order order = Order::heads;
};
struct WindowBackward {
  Grad dq, dk, dv;
  float* delta = nullptr;  // scratch of the CUDA body: window_scratch(shape) floats
  In dout, out, q, k, v;
  const float* lse;
  AttentionShape shape;
  std::int64_t reach;
  float scale;
  Order order = Order::heads;
  const float* turned = nullptr;  // the table [length, dim / 2, 2] by which q and k were turned, by adjacent
                                  // pairs: dq and dk are turned back; null: neither
};

// Two numbers of each query, in whole blocks of 64 queries of a head.
constexpr std::int64_t window_scratch(const AttentionShape& s) noexcept {
  return s.batch * s.heads * ((s.length + 63) / 64) * 128;
}

// ---- compression by a strided convolution with one group a head: stride = kernel = block, complete blocks
// only. y[b,h,w,o] = bias[h*dim+o] + sum_{j,d} weight[h*dim+o, d, j] (x[b,h,w*block+j,d] + place[h,j,d])
// (docs/model.md 1.2)
struct CompressForward {
  Out y;                   // [batch, kv_heads, blocks, dim], blocks = length / block
  float* gathered;         // scratch [batch * kv_heads * blocks, dim * block]
  In x;                    // [batch, kv_heads, length, dim]
  In weight, bias, place;  // [kv_heads*dim, dim, block], [kv_heads*dim], [kv_heads, block, dim]
  std::int64_t batch, kv_heads, length, dim, block;
};
struct CompressBackward {
  Grad dx, dweight, dbias,
      dplace;        // dx [batch, kv_heads, length, dim]: the tail of incomplete blocks gets 0 (or += 0)
  float* gathered;   // scratch, as above
  float* dgathered;  // scratch, the same size
  In dy, x, weight, place;
  std::int64_t batch, kv_heads, length, dim, block;
};

// Keys and values, of the same sizes; the scratch may be the same.
struct CompressPairForward {
  CompressForward keys, values;
};
struct CompressPairBackward {
  CompressBackward keys, values;
};

// ---- compressed attention over learned memory rows and compressed blocks, with the choice of blocks.
// Every query sees the memory; block w is visible to query i iff (w + 1) * block - 1 <= i. p = softmax over
// both. A query's picks are the `top` <= blocks largest p over blocks (ties: the lower index), of which those
// > 1e-10 are valid. Equality is that of the logits, before the exponential rounds. `top` and `blocks` may be
// 0.
struct CompressedForward {
  Out out;                 // [batch, heads, length, dim]
  float* lse;              // [batch, heads, length]
  std::int32_t* selected;  // [batch, heads, length, top]: valid picks ascending, then -1
  float* logits;           // scratch [batch, heads, blocks]
  In q, ck, cv,
      memory;  // ck, cv [batch, kv_heads, blocks, dim]; memory [2 (key, value), kv_heads, slots, dim]
  AttentionShape shape;
  std::int64_t blocks, block, slots, top;
  float scale;
};
// The CUDA body divides the queries into chunks for their sums over keys. Of each chunk it keeps those sums,
// [2 (key, value), keys, dim] with the keys in whole tiles of 64 or less, and counts which are there.
constexpr std::int64_t compressed_chunks(std::int64_t length) noexcept {
  return std::min<std::int64_t>(16, (length + 255) / 256);
}
constexpr std::int64_t compressed_parts(const AttentionShape& s, std::int64_t blocks,
                                        std::int64_t slots) noexcept {
  const std::int64_t keys = slots + blocks, padded = keys + std::min<std::int64_t>(keys + 32, 64);
  return s.batch * s.kv_heads * (compressed_chunks(s.length) * 2 * padded * s.dim + padded) + s.kv_heads;
}
struct CompressedBackward {
  Grad dq, dck, dcv, dmemory;
  float* memory_parts;          // scratch [batch, 2, kv_heads, slots, dim], summed over batch in order
  float* delta = nullptr;       // scratch [batch, heads, length] of the CUDA body: sum_j P_j dL/dP_j
  float* tile_parts = nullptr;  // scratch of the CUDA body, [compressed_parts()] numbers
  In dout, out, q, ck, cv, memory;
  const float* lse;
  const std::int32_t* selected;  // with d_importance: the picks that it belongs to
  const float*
      d_importance;  // [batch, heads, length, top]: dL/dp of the picks; nullptr: none (docs/model.md 1.6)
  AttentionShape shape;
  std::int64_t blocks, block, slots, top;
  float scale;
};

// ---- fine attention: one softmax over all tokens of the selected blocks, then the query's own block up to
// itself. A block that is selected and the own block counts twice (docs/model.md 1.2).
struct SelectedForward {
  Out out;                        // [batch, heads, length, dim]
  float* lse;                     // [batch, heads, length]
  std::int32_t* lists = nullptr;  // of the CUDA body, which its backward pass reads: [selected_lists()]
  float* parts = nullptr;         // scratch of the CUDA body, [selected_parts()]
  In q, k, v;                     // q, k rotated
  const std::int32_t* selected;   // [batch, heads, length, top]
  AttentionShape shape;
  std::int64_t block, top;
  float scale;
};
struct SelectedBackward {
  Grad dq, dk, dv;
  float* d_importance;     // [batch, heads, length, top], written: sum over the pick's tokens of dS S + P dP;
                           // nullptr: unwanted
  float* delta = nullptr;  // scratch, as above
  const std::int32_t* lists = nullptr;  // what the forward pass has written
  float* parts = nullptr;               // scratch of the CUDA body, [selected_parts()]
  In dout, out, q, k, v;
  const float* lse;
  const std::int32_t* selected;
  AttentionShape shape;
  std::int64_t block, top;
  float scale;
};

// How the tensor-core body divides the work. A query visits its picks and, in the last slot, its own block.
// Blocks have lists of their visits; a warp takes a run of a list with a piece of 16 of the block's keys, and
// leaves a part of each query's result. So many key/value heads are under way at once that their parts stay
// in a card's cache.
struct SelectedPlan {
  // Visits of a run; queries whose picks are listed together.
  static constexpr std::int64_t kRun = 128, kShare = 512;
  static constexpr std::int64_t kMostSlots = 17, kMostParts = 128, kBytesAtOnce = 24 << 20;
  std::int64_t units, rows, blocks, pieces, slots;  // key/value heads, queries of each; blocks, the last too
  constexpr SelectedPlan(const AttentionShape& s, std::int64_t block, std::int64_t top) noexcept
      : units(s.batch * s.kv_heads),
        rows(s.heads / s.kv_heads * s.length),
        blocks((s.length + block - 1) / block),
        pieces((std::min(block, s.length) + 15) / 16),
        slots(top + 1) {}
  // Of a head: runs at most; numbers of 4 bytes in its lists: 4 of each run, the blocks' first visits and the
  // end, visits.
  constexpr std::int64_t runs() const noexcept { return blocks + rows * slots / kRun; }
  constexpr std::int64_t lists() const noexcept {
    return (4 * runs() + blocks + 1 + rows * slots + 3) / 4 * 4;
  }
  // Of a head: parts of its queries' rows; fp32 numbers in the parts of its keys' and values' gradients, and
  // in all parts, those of rows in 2 bytes an element.
  constexpr std::int64_t query_parts() const noexcept { return rows * slots * pieces; }
  constexpr std::int64_t key_parts(std::int64_t dim) const noexcept { return runs() * pieces * 32 * dim; }
  constexpr std::int64_t parts(std::int64_t dim) const noexcept {
    return (query_parts() * dim / 2 + std::max(query_parts(), key_parts(dim)) + 3) / 4 * 4;
  }
  // While lists are made: how often each share of the queries picked a block, in 2 bytes.
  constexpr std::int64_t shares() const noexcept { return (rows + kShare - 1) / kShare; }
  constexpr std::int64_t counts() const noexcept { return units * shares() * blocks; }
  constexpr std::int64_t units_at_once(std::int64_t dim) const noexcept {
    return std::clamp<std::int64_t>(kBytesAtOnce / (2 * dim * query_parts()), 1, units);
  }
};
// Is there a tensor-core body for these sizes? Where there is none, it wants no memory.
constexpr bool selected_on_tiles(const AttentionShape& s, std::int64_t block, std::int64_t top) noexcept {
  const SelectedPlan plan(s, block, top);
  return (s.dim == 32 || s.dim == 64 || s.dim == 128) && block % 16 == 0 && plan.rows < 1 << 26 &&
         plan.slots <= SelectedPlan::kMostSlots && plan.slots * plan.pieces <= SelectedPlan::kMostParts;
}
constexpr std::int64_t selected_lists(const AttentionShape& s, std::int64_t block,
                                      std::int64_t top) noexcept {
  const SelectedPlan plan(s, block, top);
  return selected_on_tiles(s, block, top) ? plan.units * plan.lists() : 0;
}
constexpr std::int64_t selected_parts(const AttentionShape& s, std::int64_t block,
                                      std::int64_t top) noexcept {
  const SelectedPlan plan(s, block, top);
  return selected_on_tiles(s, block, top)
             ? std::max(plan.units_at_once(s.dim) * plan.parts(s.dim), (plan.counts() + 1) / 2)
             : 0;
}

// ---- gates: y[b,t,h*dim+d] = sum over the branches of sigmoid(gates[b,t,3h+branch]) * branch[b,h,t,d].
struct GatesForward {
  Out y;                            // [batch, length, heads * dim]
  In compressed, selected, window;  // branches 0, 1, 2: [batch, heads, length, dim]
  In gates;                         // [batch, length, 3 * heads], before the sigmoid
  std::int64_t batch, heads, length, dim;
};
struct GatesBackward {
  Grad dcompressed, dselected, dwindow, dgates;
  In dy, compressed, selected, window, gates;
  std::int64_t batch, heads, length, dim;
};

Cost cost(const WindowForward&);
Cost cost(const WindowBackward&);
Cost cost(const CompressForward&);
Cost cost(const CompressBackward&);
Cost cost(const CompressPairForward&);
Cost cost(const CompressPairBackward&);
Cost cost(const CompressedForward&);
Cost cost(const CompressedBackward&);
Cost cost(const SelectedForward&);
Cost cost(const SelectedBackward&);
Cost cost(const GatesForward&);
Cost cost(const GatesBackward&);
Status run(Cpu, const WindowForward&) noexcept;
Status run(Cpu, const WindowBackward&) noexcept;
Status run(Cpu, const CompressForward&) noexcept;
Status run(Cpu, const CompressBackward&) noexcept;
Status run(Cpu, const CompressPairForward&) noexcept;
Status run(Cpu, const CompressPairBackward&) noexcept;
Status run(Cpu, const CompressedForward&) noexcept;
Status run(Cpu, const CompressedBackward&) noexcept;
Status run(Cpu, const SelectedForward&) noexcept;
Status run(Cpu, const SelectedBackward&) noexcept;
Status run(Cpu, const GatesForward&) noexcept;
Status run(Cpu, const GatesBackward&) noexcept;
Status run(Cuda, const WindowForward&) noexcept;
Status run(Cuda, const WindowBackward&) noexcept;
Status run(Cuda, const CompressForward&) noexcept;
Status run(Cuda, const CompressBackward&) noexcept;
Status run(Cuda, const CompressPairForward&) noexcept;
Status run(Cuda, const CompressPairBackward&) noexcept;
Status run(Cuda, const CompressedForward&) noexcept;
Status run(Cuda, const CompressedBackward&) noexcept;
Status run(Cuda, const SelectedForward&) noexcept;
Status run(Cuda, const SelectedBackward&) noexcept;
Status run(Cuda, const GatesForward&) noexcept;
Status run(Cuda, const GatesBackward&) noexcept;

}  // namespace k
