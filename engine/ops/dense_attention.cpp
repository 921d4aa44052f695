// Dense causal attention over packed q, k, v rows (docs/model.md 1.3).
//
// Saved for the backward pass: q, k, v head-major, the output and its log-sum-exp. Where a card reads packed
// rows (k::takes_tokens) those are kept instead, with q and k turned.
#include <limits>
#include <type_traits>
#include <utility>

#include "engine/ops/attention_heads.h"

namespace engine::ops {
namespace {

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();  // reach of dense attention

// Over head-major copies of q, k and v.
Tensor attend_by_heads(Tape& tape, const Sizes& sizes, const Tensor& qkv, const Tensor& rope,
                       const KvCache* fill) {
  Tensor q = tape.make(sizes.queries(), qkv.dtype()), k = tape.make(sizes.keys(), qkv.dtype()),
         v = tape.make(sizes.keys(), qkv.dtype());
  split(tape, sizes, qkv, rope, {.q = {Tensor(), q}, .k = {Tensor(), k}, .v = {v}});
  if (fill) store(tape, fill->k, k), store(tape, fill->v, v);

  Tensor out = tape.make(sizes.queries(), qkv.dtype()), lse = tape.make(sizes.query_rows());
  tape.launch("dense attention", k::WindowForward{.out = out.out(),
                                                  .lse = lse.f32(),
                                                  .q = q,
                                                  .k = k,
                                                  .v = v,
                                                  .shape = sizes.shape(),
                                                  .reach = kAll,
                                                  .scale = sizes.scale()});
  Tensor y = tape.make(sizes.rows(), qkv.dtype());
  merge(tape, sizes, {.q = {out}, .k = {}, .v = {}}, rope, grad(y));

  tape.record("dense attention", {&y}, [=, x = Slot(qkv)](Back& back) {
    Tensor dout = back.scratch(sizes.queries(), x.dtype), dq = back.scratch(sizes.queries(), x.dtype),
           dk = back.scratch(sizes.keys(), x.dtype), dv = back.scratch(sizes.keys(), x.dtype),
           delta = back.scratch({k::window_scratch(sizes.shape())});
    split(back, sizes, back.take(), rope, {.q = {dout}, .k = {}, .v = {}});
    back.launch("dense attention backward", k::WindowBackward{.dq = grad(dq),
                                                              .dk = grad(dk),
                                                              .dv = grad(dv),
                                                              .delta = delta.f32(),
                                                              .dout = dout,
                                                              .out = out,
                                                              .q = q,
                                                              .k = k,
                                                              .v = v,
                                                              .lse = lse.f32(),
                                                              .shape = sizes.shape(),
                                                              .reach = kAll,
                                                              .scale = sizes.scale()});
    merge(back, sizes, {.q = {Tensor(), dq}, .k = {Tensor(), dk}, .v = {dv}}, rope, back.into(x));
  });
  return y;
}

// A part of packed rows, from this head on.
template <class Rows> Rows part(Rows rows, const Sizes& sizes, std::int64_t head) {
  using Byte = std::conditional_t<std::is_same_v<Rows, k::In>, const std::byte, std::byte>;
  if (rows.p) rows.p = static_cast<Byte*>(rows.p) + head * sizes.heads.dim * std::int64_t(k::size_of(rows.t));
  return rows;
}

// Over the packed rows themselves, once q and k are turned there.
Tensor attend_by_tokens(Tape& tape, const Sizes& sizes, Tensor qkv, const Tensor& rope, const KvCache* fill) {
  const Slot x = qkv;
  const k::In given = qkv;
  const Tensor rows = qkv.unique() ? std::move(qkv) : tape.make(x.shape, x.dtype);
  tape.launch("turn heads", k::TurnHeads{.y = rows.out(),
                                         .x = given,
                                         .rotation = k::Rotation::adjacent,
                                         .table = rope.f32(),
                                         .batch = sizes.batch,
                                         .heads = sizes.heads.query,
                                         .kv_heads = sizes.heads.kv,
                                         .length = sizes.length,
                                         .dim = sizes.heads.dim});

  const std::int64_t first_k = sizes.heads.query, first_v = first_k + sizes.heads.kv;
  const auto keep = [&](const Tensor& cache, std::int64_t head) {
    store(tape, cache, part<k::In>(rows, sizes, head), sizes.heads.dim, sizes.heads.packed(), sizes.length);
  };
  if (fill) keep(fill->k, first_k), keep(fill->v, first_v);
  Tensor y = tape.make(sizes.rows(), x.dtype), lse = tape.make(sizes.query_rows());
  tape.launch("dense attention", k::WindowForward{.out = y.out(),
                                                  .lse = lse.f32(),
                                                  .q = rows,
                                                  .k = part<k::In>(rows, sizes, first_k),
                                                  .v = part<k::In>(rows, sizes, first_v),
                                                  .shape = sizes.shape(),
                                                  .reach = kAll,
                                                  .scale = sizes.scale(),
                                                  .order = k::Order::tokens});

  tape.record("dense attention", {&y}, [=](Back& back) {
    const k::Grad to = back.into(x);
    Tensor delta = back.scratch({k::window_scratch(sizes.shape())});
    back.launch("dense attention backward", k::WindowBackward{.dq = to,
                                                              .dk = part(to, sizes, first_k),
                                                              .dv = part(to, sizes, first_v),
                                                              .delta = delta.f32(),
                                                              .dout = back.take(),
                                                              .out = y,
                                                              .q = rows,
                                                              .k = part<k::In>(rows, sizes, first_k),
                                                              .v = part<k::In>(rows, sizes, first_v),
                                                              .lse = lse.f32(),
                                                              .shape = sizes.shape(),
                                                              .reach = kAll,
                                                              .scale = sizes.scale(),
                                                              .order = k::Order::tokens,
                                                              .turned = rope.f32()});
  });
  return y;
}

bool takes_tokens(Context& context, const Sizes& sizes) {
  if constexpr (has_cuda)
    return context.device().kind == DeviceKind::cuda &&
           k::takes_tokens(k::Cuda{.queue = context.stream.handle()}, sizes.shape(), sizes.dtype);
  else return false;
}

}  // namespace

Tensor dense_attention(Tape& tape, Tensor qkv, const Tensor& rope, const Heads& heads, std::int64_t batch,
                       const KvCache* fill) {
  const Sizes sizes = attention_sizes("dense_attention", qkv, rope, heads, batch);
  if (fill) check_fill("dense_attention", sizes, *fill);
  return takes_tokens(tape.context(), sizes) ? attend_by_tokens(tape, sizes, std::move(qkv), rope, fill)
                                             : attend_by_heads(tape, sizes, qkv, rope, fill);
}

}  // namespace engine::ops
