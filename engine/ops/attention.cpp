// Dense and sparse causal attention over packed q, k, v rows (docs/model.md 1.2, 1.3).
//
// Saved for the backward pass: q, k, v head-major, each branch's output and log-sum-exp, the compressed
// blocks and the picks. Sparse attention keeps q and k unrotated, since all branches share them, and turns
// them again when a branch needs it; dense attention has one reader and keeps them rotated.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/ops.h"

namespace engine::ops {
namespace {

using k::Rotation;

struct Sizes {
  std::int64_t batch, length;
  Heads heads;
  k::AttentionShape shape() const { return {batch, heads.query, heads.kv, length, heads.dim}; }
  Shape queries() const { return {batch, heads.query, length, heads.dim}; }
  Shape keys() const { return {batch, heads.kv, length, heads.dim}; }
  Shape query_rows() const { return {batch, heads.query, length}; }
  float scale() const { return static_cast<float>(1 / std::sqrt(double(heads.dim))); }
};

Sizes check(const char* op, const Tensor& qkv, const Tensor& rope, const Heads& heads, std::int64_t batch) {
  require(heads.query > 0 && heads.kv > 0 && heads.query % heads.kv == 0, Exit::failure,
          "{}: {} query heads over {} key/value heads; give a multiple of the key/value heads", op,
          heads.query, heads.kv);
  require(heads.dim > 0 && heads.dim % 2 == 0, Exit::failure, "{}: head size {}; rotation needs an even one",
          op, heads.dim);
  require(qkv.shape().rank == 2 && qkv.shape()[1] == heads.packed(), Exit::failure,
          "{}: qkv is {}, expected [rows, {}] for {} + 2 x {} heads of {}", op, to_string(qkv.shape()),
          heads.packed(), heads.query, heads.kv, heads.dim);
  std::int64_t rows = qkv.shape()[0];
  require(batch > 0 && rows > 0 && rows % batch == 0, Exit::failure,
          "{}: qkv has {} rows, not a multiple of batch {}", op, rows, batch);
  Sizes sizes{batch, rows / batch, heads};
  Shape table{sizes.length, heads.dim / 2, 2};
  require(rope.shape() == table, Exit::failure, "{}: the rotation table is {}, expected {}", op,
          to_string(rope.shape()), to_string(table));
  return sizes;
}

void check(const Param* param, const char* role, Shape expected) {
  require(param != nullptr, Exit::failure, "sparse_attention: the parameter {} is missing", role);
  require(param->value.shape() == expected, Exit::failure, "sparse_attention: {} ({}) is {}, expected {}",
          param->name, role, to_string(param->value.shape()), to_string(expected));
}

// The heads [first, first + count) of packed rows, head-major and turned. `To` is a Tape or a Back.
template <class To> void split(To& on, const Sizes& sizes, const Tensor& qkv, const Tensor& rope,
                               Rotation rotation, std::int64_t first, const Tensor& y) {
  on.launch("split heads", k::SplitHeads{.y = y.out(),
                                         .x = qkv,
                                         .table = rope.f32(),
                                         .rotation = rotation,
                                         .batch = sizes.batch,
                                         .heads = y.shape()[1],
                                         .length = sizes.length,
                                         .dim = sizes.heads.dim,
                                         .row_width = qkv.shape()[1],
                                         .first_column = first * sizes.heads.dim});
}

// Head-major x, turned. A head-major tensor is packed rows of one head each, batch x heads times.
template <class To>
void turn(To& on, const Tensor& x, const Tensor& rope, Rotation rotation, const Tensor& y) {
  const Shape& s = x.shape();
  on.launch("rotate", k::SplitHeads{.y = y.out(),
                                    .x = x,
                                    .table = rope.f32(),
                                    .rotation = rotation,
                                    .batch = s[0] * s[1],
                                    .heads = 1,
                                    .length = s[2],
                                    .dim = s[3],
                                    .row_width = s[3],
                                    .first_column = 0});
}

// Packed rows' heads [first, ...) (=|+=) head-major y, turned back.
template <class To> void merge(To& on, const Tensor& y, const Tensor& rope, Rotation rotation, k::Grad rows,
                               std::int64_t row_width, std::int64_t first) {
  const Shape& s = y.shape();
  on.launch("merge heads", k::MergeHeads{.x = rows,
                                         .y = y,
                                         .table = rope.f32(),
                                         .rotation = rotation,
                                         .batch = s[0],
                                         .heads = s[1],
                                         .length = s[2],
                                         .dim = s[3],
                                         .row_width = row_width,
                                         .first_column = first * s[3]});
}

k::Grad grad(const Tensor& t, bool add = false) { return {t.data(), t.dtype(), add}; }

}  // namespace

Tensor rope_table(Tape& tape, std::int64_t length, std::int64_t dim, float base) {
  require(length > 0 && dim > 0 && dim % 2 == 0 && base > 0, Exit::failure,
          "rope_table: length {}, head size {}, base {}; expected positive ones and an even size", length,
          dim, base);
  Tensor table = tape.make({length, dim / 2, 2});
  tape.launch(
      "rope table",
      k::RopeTable{.table = table.f32(), .length = length, .dim = dim, .first_position = 0, .base = base});
  return table;
}

Tensor dense_attention(Tape& tape, const Tensor& qkv, const Tensor& rope, const Heads& heads,
                       std::int64_t batch) {
  Sizes sizes = check("dense_attention", qkv, rope, heads, batch);
  constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
  Tensor q = tape.make(sizes.queries(), qkv.dtype()), k = tape.make(sizes.keys(), qkv.dtype()),
         v = tape.make(sizes.keys(), qkv.dtype());
  split(tape, sizes, qkv, rope, Rotation::adjacent, 0, q);
  split(tape, sizes, qkv, rope, Rotation::adjacent, heads.query, k);
  split(tape, sizes, qkv, rope, Rotation::none, heads.query + heads.kv, v);

  Tensor out = tape.make(sizes.queries(), qkv.dtype()), lse = tape.make(sizes.query_rows());
  tape.launch("dense attention", k::WindowForward{.out = out.out(),
                                                  .lse = lse.f32(),
                                                  .q = q,
                                                  .k = k,
                                                  .v = v,
                                                  .shape = sizes.shape(),
                                                  .reach = kAll,
                                                  .scale = sizes.scale()});
  std::int64_t width = heads.query * heads.dim;
  Tensor y = tape.make({qkv.shape()[0], width}, qkv.dtype());
  merge(tape, out, rope, Rotation::none, grad(y), width, 0);

  tape.record("dense attention", {&y}, [=, x = Slot(qkv)](Back& back) {
    Tensor dout = back.scratch(sizes.queries(), x.dtype), dq = back.scratch(sizes.queries(), x.dtype),
           dk = back.scratch(sizes.keys(), x.dtype), dv = back.scratch(sizes.keys(), x.dtype),
           delta = back.scratch(sizes.query_rows());
    split(back, sizes, back.take(), rope, Rotation::none, 0, dout);
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
    k::Grad dqkv = back.into(x);
    merge(back, dq, rope, Rotation::adjacent, dqkv, heads.packed(), 0);
    merge(back, dk, rope, Rotation::adjacent, dqkv, heads.packed(), heads.query);
    merge(back, dv, rope, Rotation::none, dqkv, heads.packed(), heads.query + heads.kv);
  });
  return y;
}

namespace {

struct Branch {  // one branch's result, as its backward pass reads it
  Tensor out, lse;
};

// Sparse attention's configuration and what its backward pass needs, and the launches of each branch.
struct Sparse {
  Sizes sizes;
  NsaConfig config;
  NsaParams params;
  Tensor rope, gates;
  Tensor q, k, v;           // head-major, unrotated
  Tensor ck, cv, selected;  // compressed blocks; picks
  Branch compressed, fine, window;

  std::int64_t blocks() const { return sizes.length / config.block; }
  std::int64_t picks() const { return std::min(config.select, blocks()); }
  Shape compressed_blocks() const { return {sizes.batch, sizes.heads.kv, blocks(), sizes.heads.dim}; }
  Shape pick_rows() const { return {sizes.batch, sizes.heads.query, sizes.length, picks()}; }
  Shape gathered() const { return {sizes.batch * sizes.heads.kv * blocks(), sizes.heads.dim * config.block}; }

  void check_parameters() const;
  void forward(Tape&, const Tensor& qkv, const Tensor& y);
  void backward(Back&, const Slot& qkv, const Slot& gates) const;

 private:
  Branch make_branch(Tape&) const;
  Tensor compress(Tape&, const Tensor& x, const Param& weight, const Param& bias, const Param& place) const;
  template <class Attend> void turned_backward(Back&, Rotation, k::Grad dqkv, Attend attend) const;
  void fine_backward(Back&, const Tensor& dout, const Tensor& d_importance, k::Grad dqkv,
                     const Tensor& dv) const;
  void window_backward(Back&, const Tensor& dout, k::Grad dqkv, const Tensor& dv) const;
  void compressed_backward(Back&, const Tensor& dout, const Tensor& d_importance, k::Grad dqkv,
                           const Tensor& dv) const;
  void compress_backward(Back&, const Tensor& dy, const Tensor& x, k::Grad dx, Param& weight, Param& bias,
                         Param& place) const;
};

void Sparse::check_parameters() const {
  const Heads& h = sizes.heads;
  require(config.block > 0 && config.select >= 0 && config.window >= 0 && config.memory > 0, Exit::failure,
          "sparse_attention: block {}, select {}, window {}, memory {}; expected block and memory of at "
          "least 1, the "
          "others of at least 0",
          config.block, config.select, config.window, config.memory);
  check(params.memory, "memory", {2, h.kv, config.memory, h.dim});
  check(params.place_k, "key places", {h.kv, config.block, h.dim});
  check(params.place_v, "value places", {h.kv, config.block, h.dim});
  check(params.compress_k, "key compression", {h.kv * h.dim, h.dim, config.block});
  check(params.compress_v, "value compression", {h.kv * h.dim, h.dim, config.block});
  check(params.bias_k, "key compression bias", {h.kv * h.dim});
  check(params.bias_v, "value compression bias", {h.kv * h.dim});
  Shape expected{sizes.batch * sizes.length, 3 * h.query};
  require(gates.shape() == expected, Exit::failure, "sparse_attention: the gates are {}, expected {}",
          to_string(gates.shape()), to_string(expected));
}

Branch Sparse::make_branch(Tape& tape) const {
  return {tape.make(sizes.queries(), q.dtype()), tape.make(sizes.query_rows())};
}

Tensor Sparse::compress(Tape& tape, const Tensor& x, const Param& weight, const Param& bias,
                        const Param& place) const {
  Tensor y = tape.make(compressed_blocks(), x.dtype()), rows = tape.make(gathered());
  tape.launch("compress", k::CompressForward{.y = y.out(),
                                             .gathered = rows.f32(),
                                             .x = x,
                                             .weight = weight.value,
                                             .bias = bias.value,
                                             .place = place.value,
                                             .batch = sizes.batch,
                                             .kv_heads = sizes.heads.kv,
                                             .length = sizes.length,
                                             .dim = sizes.heads.dim,
                                             .block = config.block});
  return y;
}

void Sparse::forward(Tape& tape, const Tensor& qkv, const Tensor& y) {
  const Heads& heads = sizes.heads;
  q = tape.make(sizes.queries(), qkv.dtype());
  k = tape.make(sizes.keys(), qkv.dtype());
  v = tape.make(sizes.keys(), qkv.dtype());
  split(tape, sizes, qkv, rope, Rotation::none, 0, q);
  split(tape, sizes, qkv, rope, Rotation::none, heads.query, k);
  split(tape, sizes, qkv, rope, Rotation::none, heads.query + heads.kv, v);

  ck = compress(tape, k, *params.compress_k, *params.bias_k, *params.place_k);
  cv = compress(tape, v, *params.compress_v, *params.bias_v, *params.place_v);
  compressed = make_branch(tape);
  selected = tape.make(pick_rows(), DType::i32);
  {
    Tensor logits = tape.make({sizes.batch, heads.query, blocks()});
    tape.launch("compressed attention", k::CompressedForward{.out = compressed.out.out(),
                                                             .lse = compressed.lse.f32(),
                                                             .selected = selected.i32(),
                                                             .logits = logits.f32(),
                                                             .q = q,
                                                             .ck = ck,
                                                             .cv = cv,
                                                             .memory = params.memory->value,
                                                             .shape = sizes.shape(),
                                                             .blocks = blocks(),
                                                             .block = config.block,
                                                             .slots = config.memory,
                                                             .top = picks(),
                                                             .scale = sizes.scale()});
  }
  fine = make_branch(tape);
  window = make_branch(tape);
  Tensor turned_q = tape.make(sizes.queries(), qkv.dtype()), turned_k = tape.make(sizes.keys(), qkv.dtype());
  turn(tape, q, rope, Rotation::adjacent, turned_q);
  turn(tape, k, rope, Rotation::adjacent, turned_k);
  tape.launch("selected attention", k::SelectedForward{.out = fine.out.out(),
                                                       .lse = fine.lse.f32(),
                                                       .q = turned_q,
                                                       .k = turned_k,
                                                       .v = v,
                                                       .selected = selected.i32(),
                                                       .shape = sizes.shape(),
                                                       .block = config.block,
                                                       .top = picks(),
                                                       .scale = sizes.scale()});
  turn(tape, q, rope, Rotation::halves, turned_q);
  turn(tape, k, rope, Rotation::halves, turned_k);
  tape.launch("window attention", k::WindowForward{.out = window.out.out(),
                                                   .lse = window.lse.f32(),
                                                   .q = turned_q,
                                                   .k = turned_k,
                                                   .v = v,
                                                   .shape = sizes.shape(),
                                                   .reach = config.window,
                                                   .scale = sizes.scale()});
  tape.launch("gates", k::GatesForward{.y = y.out(),
                                       .compressed = compressed.out,
                                       .selected = fine.out,
                                       .window = window.out,
                                       .gates = gates,
                                       .batch = sizes.batch,
                                       .heads = heads.query,
                                       .length = sizes.length,
                                       .dim = heads.dim});
}

// The branches' gradients meet in dqkv (q and k, turned back) and in dv; the compressed branch comes last,
// because the fine branch may send it gradients of the picks' importance.
void Sparse::backward(Back& back, const Slot& qkv_slot, const Slot& gates_slot) const {
  Tensor dcompressed = back.scratch(sizes.queries(), q.dtype()),
         dfine = back.scratch(sizes.queries(), q.dtype()), dwindow = back.scratch(sizes.queries(), q.dtype());
  back.launch("gates backward", k::GatesBackward{.dcompressed = grad(dcompressed),
                                                 .dselected = grad(dfine),
                                                 .dwindow = grad(dwindow),
                                                 .dgates = back.into(gates_slot),
                                                 .dy = back.take(),
                                                 .compressed = compressed.out,
                                                 .selected = fine.out,
                                                 .window = window.out,
                                                 .gates = gates,
                                                 .batch = sizes.batch,
                                                 .heads = sizes.heads.query,
                                                 .length = sizes.length,
                                                 .dim = sizes.heads.dim});
  Tensor d_importance = config.diff_topk ? back.scratch(pick_rows()) : Tensor();
  Tensor dv = back.scratch(sizes.keys(), q.dtype());
  k::Grad dqkv = back.into(qkv_slot), more = dqkv;
  more.add = true;
  fine_backward(back, dfine, d_importance, dqkv, dv);
  dfine = Tensor();
  window_backward(back, dwindow, more, dv);
  dwindow = Tensor();
  compressed_backward(back, dcompressed, d_importance, more, dv);
  merge(back, dv, rope, Rotation::none, dqkv, sizes.heads.packed(), sizes.heads.query + sizes.heads.kv);
}

// The backward pass of a branch that turns q and k: `attend` fills dq and dk of the turned ones, which are
// turned back into dqkv.
template <class Attend>
void Sparse::turned_backward(Back& back, Rotation rotation, k::Grad dqkv, Attend attend) const {
  Tensor turned_q = back.scratch(sizes.queries(), q.dtype()),
         turned_k = back.scratch(sizes.keys(), q.dtype()), dq = back.scratch(sizes.queries(), q.dtype()),
         dk = back.scratch(sizes.keys(), q.dtype()), delta = back.scratch(sizes.query_rows());
  turn(back, q, rope, rotation, turned_q);
  turn(back, k, rope, rotation, turned_k);
  attend(turned_q, turned_k, grad(dq), grad(dk), delta.f32());
  merge(back, dq, rope, rotation, dqkv, sizes.heads.packed(), 0);
  merge(back, dk, rope, rotation, dqkv, sizes.heads.packed(), sizes.heads.query);
}

void Sparse::fine_backward(Back& back, const Tensor& dout, const Tensor& d_importance, k::Grad dqkv,
                           const Tensor& dv) const {
  turned_backward(back, Rotation::adjacent, dqkv,
                  [&](const Tensor& turned_q, const Tensor& turned_k, k::Grad dq, k::Grad dk, float* delta) {
                    back.launch("selected attention backward",
                                k::SelectedBackward{.dq = dq,
                                                    .dk = dk,
                                                    .dv = grad(dv),
                                                    .d_importance = d_importance.f32(),
                                                    .delta = delta,
                                                    .dout = dout,
                                                    .out = fine.out,
                                                    .q = turned_q,
                                                    .k = turned_k,
                                                    .v = v,
                                                    .lse = fine.lse.f32(),
                                                    .selected = selected.i32(),
                                                    .shape = sizes.shape(),
                                                    .block = config.block,
                                                    .top = picks(),
                                                    .scale = sizes.scale()});
                  });
}

void Sparse::window_backward(Back& back, const Tensor& dout, k::Grad dqkv, const Tensor& dv) const {
  turned_backward(back, Rotation::halves, dqkv,
                  [&](const Tensor& turned_q, const Tensor& turned_k, k::Grad dq, k::Grad dk, float* delta) {
                    back.launch("window attention backward", k::WindowBackward{.dq = dq,
                                                                               .dk = dk,
                                                                               .dv = grad(dv, true),
                                                                               .delta = delta,
                                                                               .dout = dout,
                                                                               .out = window.out,
                                                                               .q = turned_q,
                                                                               .k = turned_k,
                                                                               .v = v,
                                                                               .lse = window.lse.f32(),
                                                                               .shape = sizes.shape(),
                                                                               .reach = config.window,
                                                                               .scale = sizes.scale()});
                  });
}

void Sparse::compressed_backward(Back& back, const Tensor& dout, const Tensor& d_importance, k::Grad dqkv,
                                 const Tensor& dv) const {
  const Heads& heads = sizes.heads;
  Tensor dq = back.scratch(sizes.queries(), q.dtype()), dck = back.scratch(compressed_blocks(), q.dtype()),
         dcv = back.scratch(compressed_blocks(), q.dtype());
  {
    Tensor parts = back.scratch({sizes.batch * 2, heads.kv, config.memory, heads.dim}),
           delta = back.scratch(sizes.query_rows());
    back.launch("compressed attention backward", k::CompressedBackward{.dq = grad(dq),
                                                                       .dck = grad(dck),
                                                                       .dcv = grad(dcv),
                                                                       .dmemory = back.into(*params.memory),
                                                                       .memory_parts = parts.f32(),
                                                                       .delta = delta.f32(),
                                                                       .dout = dout,
                                                                       .out = compressed.out,
                                                                       .q = q,
                                                                       .ck = ck,
                                                                       .cv = cv,
                                                                       .memory = params.memory->value,
                                                                       .lse = compressed.lse.f32(),
                                                                       .selected = selected.i32(),
                                                                       .d_importance = d_importance.f32(),
                                                                       .shape = sizes.shape(),
                                                                       .blocks = blocks(),
                                                                       .block = config.block,
                                                                       .slots = config.memory,
                                                                       .top = picks(),
                                                                       .scale = sizes.scale()});
  }
  merge(back, dq, rope, Rotation::none, dqkv, heads.packed(), 0);
  dq = Tensor();
  Tensor dk = back.scratch(sizes.keys(), q.dtype());
  compress_backward(back, dck, k, grad(dk), *params.compress_k, *params.bias_k, *params.place_k);
  compress_backward(back, dcv, v, grad(dv, true), *params.compress_v, *params.bias_v, *params.place_v);
  merge(back, dk, rope, Rotation::none, dqkv, heads.packed(), heads.query);
}

void Sparse::compress_backward(Back& back, const Tensor& dy, const Tensor& x, k::Grad dx, Param& weight,
                               Param& bias, Param& place) const {
  Tensor rows = back.scratch(gathered()), drows = back.scratch(gathered());
  back.launch("compress backward", k::CompressBackward{.dx = dx,
                                                       .dweight = back.into(weight),
                                                       .dbias = back.into(bias),
                                                       .dplace = back.into(place),
                                                       .gathered = rows.f32(),
                                                       .dgathered = drows.f32(),
                                                       .dy = dy,
                                                       .x = x,
                                                       .weight = weight.value,
                                                       .place = place.value,
                                                       .batch = sizes.batch,
                                                       .kv_heads = sizes.heads.kv,
                                                       .length = sizes.length,
                                                       .dim = sizes.heads.dim,
                                                       .block = config.block});
}

}  // namespace

Tensor sparse_attention(Tape& tape, const Tensor& qkv, const Tensor& gates, const Tensor& rope,
                        const NsaParams& params, const Heads& heads, const NsaConfig& config,
                        std::int64_t batch, Tensor* selected_out) {
  Sparse sparse;
  sparse.sizes = check("sparse_attention", qkv, rope, heads, batch);
  sparse.config = config;
  sparse.params = params;
  sparse.rope = rope;
  sparse.gates = gates;
  sparse.check_parameters();

  Tensor y = tape.make({qkv.shape()[0], heads.query * heads.dim}, qkv.dtype());
  sparse.forward(tape, qkv, y);
  if (selected_out) *selected_out = sparse.selected;
  tape.record("sparse attention", {&y},
              [sparse = std::move(sparse), x = Slot(qkv), g = Slot(gates)](Back& back) {
                sparse.backward(back, x, g);
              });
  return y;
}

}  // namespace engine::ops
