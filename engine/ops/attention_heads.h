// What dense and sparse attention share: packed rows and their heads. Private to engine/ops.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "engine/ops.h"
#include "kernels/attention_step.h"

namespace engine::ops {

// Head-major tensors by k::Rotation, or the gradients of these; empty where nobody reads that one. v is never
// turned: it stands at kPlain, its gradient from a branch where the branch's others do.
inline constexpr std::size_t kPlain = std::size_t(k::Rotation::none),
                             kAdjacent = std::size_t(k::Rotation::adjacent),
                             kHalves = std::size_t(k::Rotation::halves);
struct HeadMajor {
  std::array<Tensor, k::kRotations> q, k, v;
};

// Of the logits: 1 / sqrt(head size).
inline float logit_scale(const Heads& heads) { return static_cast<float>(1 / std::sqrt(double(heads.dim))); }

struct Sizes {
  std::int64_t batch, length;
  Heads heads;
  DType dtype;
  k::AttentionShape shape() const { return {batch, heads.query, heads.kv, length, heads.dim}; }
  Shape queries() const { return {batch, heads.query, length, heads.dim}; }
  Shape keys() const { return {batch, heads.kv, length, heads.dim}; }
  Shape query_rows() const { return {batch, heads.query, length}; }
  Shape rows() const { return {batch * length, heads.query * heads.dim}; }
  float scale() const { return logit_scale(heads); }
};

// The sizes of packed qkv rows; `op` names whose they are. Throws Error(failure) where shapes do not fit.
Sizes attention_sizes(const char* op, const Tensor& qkv, const Tensor& rope, const Heads& heads,
                      std::int64_t batch);

// One sequence's keys or values into a cache: head-major, or position t of head h from element h * from_head
// + t * from_token on.
void store(Tape&, const Tensor& cache, const Tensor& head_major);
void store(Tape&, const Tensor& cache, k::In from, std::int64_t from_head, std::int64_t from_token,
           std::int64_t length);
// Throws Error(failure) unless the cache can hold the one sequence.
void check_fill(const char* op, const Sizes&, const KvCache&);

// The heads of packed rows as the tensors of `to`, as far as they have memory. `On` is a Tape or a Back.
template <class On>
void split(On& on, const Sizes& sizes, const Tensor& rows, const Tensor& rope, const HeadMajor& to) {
  const auto out = [](const Tensor& t) { return t ? t.out() : k::Out{}; };
  on.launch("split heads", k::SplitHeads{.q = {out(to.q[0]), out(to.q[1]), out(to.q[2])},
                                         .k = {out(to.k[0]), out(to.k[1]), out(to.k[2])},
                                         .v = out(to.v[kPlain]),
                                         .x = rows,
                                         .table = rope.f32(),
                                         .batch = sizes.batch,
                                         .heads = sizes.heads.query,
                                         .kv_heads = to.v[kPlain] ? sizes.heads.kv : 0,
                                         .length = sizes.length,
                                         .dim = sizes.heads.dim});
}

// The way back: packed rows (=|+=) the sums over `from`, turned back.
template <class On>
void merge(On& on, const Sizes& sizes, const HeadMajor& from, const Tensor& rope, k::Grad rows) {
  const auto in = [](const Tensor& t) { return t ? k::In(t) : k::In{}; };
  on.launch("merge heads", k::MergeHeads{.x = rows,
                                         .q = {in(from.q[0]), in(from.q[1]), in(from.q[2])},
                                         .k = {in(from.k[0]), in(from.k[1]), in(from.k[2])},
                                         .v = {in(from.v[0]), in(from.v[1]), in(from.v[2])},
                                         .table = rope.f32(),
                                         .batch = sizes.batch,
                                         .heads = sizes.heads.query,
                                         .kv_heads = from.v[kPlain] ? sizes.heads.kv : 0,
                                         .length = sizes.length,
                                         .dim = sizes.heads.dim});
}

inline k::Grad grad(const Tensor& t) { return {t.data(), t.dtype(), false}; }

// Memory that the CUDA bodies alone want, in numbers of 4 bytes.
inline Tensor card_scratch(Context& context, std::int64_t count, DType dtype = DType::f32) {
  if (context.device().kind == DeviceKind::cpu || count == 0) return {};
  return Tensor::in_arena(context.arena, {count}, dtype);
}

}  // namespace engine::ops
