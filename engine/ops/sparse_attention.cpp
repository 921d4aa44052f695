// Sparse causal attention over packed q, k, v rows (docs/model.md 1.2).
//
// Saved for the backward pass: q, k, v head-major (q and k once for every rotation that a branch reads), each
// branch's output and log-sum-exp, the compressed blocks and the picks.
#include <utility>

#include "engine/ops/attention_heads.h"

namespace engine::ops {
namespace {

void check(const Param* param, const char* role, Shape expected) {
  require(param != nullptr, Exit::failure, "sparse_attention: the parameter {} is missing", role);
  require(param->value.shape() == expected, Exit::failure, "sparse_attention: {} ({}) is {}, expected {}",
          param->name, role, to_string(param->value.shape()), to_string(expected));
}

struct Branch {  // one branch's result, as its backward pass reads it
  Tensor out, lse;
};

// Sparse attention's configuration and what its backward pass needs, and the launches of each branch.
struct Sparse {
  Sizes sizes;
  NsaConfig config;
  NsaParams params;
  Tensor rope, gates;
  HeadMajor x;  // plain for the compressed branch, adjacent for the fine one, halves for the window
  Tensor ck, cv, selected, lists;  // compressed blocks; picks; who picked a block, as a card keeps it
  Branch compressed, fine, window;

  std::int64_t blocks() const { return sizes.length / config.block; }
  std::int64_t picks() const { return std::min(config.select, blocks()); }
  Shape compressed_blocks() const { return {sizes.batch, sizes.heads.kv, blocks(), sizes.heads.dim}; }
  Shape pick_rows() const { return {sizes.batch, sizes.heads.query, sizes.length, picks()}; }
  // Sizes of what the fine branch's tensor-core body, for bf16, keeps and needs.
  std::int64_t fine_lists() const {
    return sizes.dtype == DType::bf16 ? k::selected_lists(sizes.shape(), config.block, picks()) : 0;
  }
  std::int64_t fine_parts() const {
    return sizes.dtype == DType::bf16 ? k::selected_parts(sizes.shape(), config.block, picks()) : 0;
  }
  Shape gathered() const { return {sizes.batch * sizes.heads.kv * blocks(), sizes.heads.dim * config.block}; }

  void check_parameters() const;
  void forward(Tape&, const Tensor& qkv, const Tensor& y);
  void fill(Tape&, const KvCache&) const;
  void backward(Back&, const Slot& qkv, const Slot& gates) const;

 private:
  Branch make_branch(Tape&) const;
  void window_forward(Tape&) const;
  void compress(Tape&);
  void fine_backward(Back&, Tensor dout, const Tensor& d_importance, HeadMajor&) const;
  void window_backward(Back&, Tensor dout, HeadMajor&) const;
  void compressed_backward(Back&, Tensor dout, const Tensor& d_importance, HeadMajor&) const;
  void compress_backward(Back&, const Tensor& dck, const Tensor& dcv, HeadMajor&) const;
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
  return {tape.make(sizes.queries(), sizes.dtype), tape.make(sizes.query_rows())};
}

void Sparse::compress(Tape& tape) {
  ck = tape.make(compressed_blocks(), sizes.dtype);
  cv = tape.make(compressed_blocks(), sizes.dtype);
  Tensor rows = tape.make(gathered());
  const auto side = [&](const Tensor& y, const Tensor& from, const Param& weight, const Param& bias,
                        const Param& place) {
    return k::CompressForward{.y = y.out(),
                              .gathered = rows.f32(),
                              .x = from,
                              .weight = weight.value,
                              .bias = bias.value,
                              .place = place.value,
                              .batch = sizes.batch,
                              .kv_heads = sizes.heads.kv,
                              .length = sizes.length,
                              .dim = sizes.heads.dim,
                              .block = config.block};
  };
  tape.launch("compress",
              k::CompressPairForward{
                  .keys = side(ck, x.k[kPlain], *params.compress_k, *params.bias_k, *params.place_k),
                  .values = side(cv, x.v[kPlain], *params.compress_v, *params.bias_v, *params.place_v)});
}

void Sparse::forward(Tape& tape, const Tensor& qkv, const Tensor& y) {
  const Heads& heads = sizes.heads;
  for (Tensor& q : x.q) q = tape.make(sizes.queries(), sizes.dtype);
  for (Tensor& k : x.k) k = tape.make(sizes.keys(), sizes.dtype);
  x.v[kPlain] = tape.make(sizes.keys(), sizes.dtype);
  split(tape, sizes, qkv, rope, x);

  Lanes& lanes = tape.context().lanes;
  fine = make_branch(tape);
  window = make_branch(tape);
  const Lanes::Job beside = lanes.run(Lane::first_branch, [&] { window_forward(tape); });
  compress(tape);
  compressed = make_branch(tape);
  selected = tape.make(pick_rows(), DType::i32);
  {
    Tensor logits = tape.make({sizes.batch, heads.query, blocks()});
    tape.launch("compressed attention", k::CompressedForward{.out = compressed.out.out(),
                                                             .lse = compressed.lse.f32(),
                                                             .selected = selected.i32(),
                                                             .logits = logits.f32(),
                                                             .q = x.q[kPlain],
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
  lists = card_scratch(tape.context(), fine_lists(), DType::i32);
  {
    Tensor parts = card_scratch(tape.context(), fine_parts());
    tape.launch("selected attention", k::SelectedForward{.out = fine.out.out(),
                                                         .lse = fine.lse.f32(),
                                                         .lists = lists.i32(),
                                                         .parts = parts.f32(),
                                                         .q = x.q[kAdjacent],
                                                         .k = x.k[kAdjacent],
                                                         .v = x.v[kPlain],
                                                         .selected = selected.i32(),
                                                         .shape = sizes.shape(),
                                                         .block = config.block,
                                                         .top = picks(),
                                                         .scale = sizes.scale()});
  }
  lanes.join(beside);
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

void Sparse::window_forward(Tape& tape) const {
  tape.launch("window attention", k::WindowForward{.out = window.out.out(),
                                                   .lse = window.lse.f32(),
                                                   .q = x.q[kHalves],
                                                   .k = x.k[kHalves],
                                                   .v = x.v[kPlain],
                                                   .shape = sizes.shape(),
                                                   .reach = config.window,
                                                   .scale = sizes.scale()});
}

void Sparse::fill(Tape& tape, const KvCache& cache) const {
  store(tape, cache.k, x.k[kAdjacent]);
  store(tape, cache.window_k, x.k[kHalves]);
  store(tape, cache.pending_k, x.k[kPlain]);
  store(tape, cache.v, x.v[kPlain]);
  store(tape, cache.ck, ck);
  store(tape, cache.cv, cv);
}

// The branches run beside one another, with the compressed one, whose chain is the longest, in the stream;
// unless the fine one sends it gradients of the picks' importance: then it comes after that.
void Sparse::backward(Back& back, const Slot& qkv_slot, const Slot& gates_slot) const {
  Tensor dcompressed = back.scratch(sizes.queries(), sizes.dtype),
         dfine = back.scratch(sizes.queries(), sizes.dtype),
         dwindow = back.scratch(sizes.queries(), sizes.dtype);
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
  HeadMajor d;
  for (Tensor& dq : d.q) dq = back.scratch(sizes.queries(), sizes.dtype);
  for (Tensor& dk : d.k) dk = back.scratch(sizes.keys(), sizes.dtype);
  for (Tensor& dv : d.v) dv = back.scratch(sizes.keys(), sizes.dtype);
  Lanes& lanes = back.context().lanes;
  const auto fine_branch = [&] { fine_backward(back, std::move(dfine), d_importance, d); };
  const Lanes::Job beside[] = {
      config.diff_topk ? Lanes::Job() : lanes.run(Lane::second_branch, fine_branch),
      lanes.run(Lane::first_branch, [&] { window_backward(back, std::move(dwindow), d); })};
  if (config.diff_topk) fine_branch();
  compressed_backward(back, std::move(dcompressed), d_importance, d);
  for (Lanes::Job job : beside) lanes.join(job);
  merge(back, sizes, d, rope, back.into(qkv_slot));
}

void Sparse::fine_backward(Back& back, Tensor dout, const Tensor& d_importance, HeadMajor& d) const {
  Tensor delta = back.scratch(sizes.query_rows());
  Tensor parts = card_scratch(back.context(), fine_parts());
  back.launch("selected attention backward", k::SelectedBackward{.dq = grad(d.q[kAdjacent]),
                                                                 .dk = grad(d.k[kAdjacent]),
                                                                 .dv = grad(d.v[kAdjacent]),
                                                                 .d_importance = d_importance.f32(),
                                                                 .delta = delta.f32(),
                                                                 .lists = lists.i32(),
                                                                 .parts = parts.f32(),
                                                                 .dout = dout,
                                                                 .out = fine.out,
                                                                 .q = x.q[kAdjacent],
                                                                 .k = x.k[kAdjacent],
                                                                 .v = x.v[kPlain],
                                                                 .lse = fine.lse.f32(),
                                                                 .selected = selected.i32(),
                                                                 .shape = sizes.shape(),
                                                                 .block = config.block,
                                                                 .top = picks(),
                                                                 .scale = sizes.scale()});
}

void Sparse::window_backward(Back& back, Tensor dout, HeadMajor& d) const {
  Tensor delta = back.scratch({k::window_scratch(sizes.shape())});
  back.launch("window attention backward", k::WindowBackward{.dq = grad(d.q[kHalves]),
                                                             .dk = grad(d.k[kHalves]),
                                                             .dv = grad(d.v[kHalves]),
                                                             .delta = delta.f32(),
                                                             .dout = dout,
                                                             .out = window.out,
                                                             .q = x.q[kHalves],
                                                             .k = x.k[kHalves],
                                                             .v = x.v[kPlain],
                                                             .lse = window.lse.f32(),
                                                             .shape = sizes.shape(),
                                                             .reach = config.window,
                                                             .scale = sizes.scale()});
}

void Sparse::compressed_backward(Back& back, Tensor dout, const Tensor& d_importance, HeadMajor& d) const {
  const Heads& heads = sizes.heads;
  Tensor dck = back.scratch(compressed_blocks(), sizes.dtype),
         dcv = back.scratch(compressed_blocks(), sizes.dtype);
  {
    Tensor parts = back.scratch({sizes.batch * 2, heads.kv, config.memory, heads.dim}),
           delta = back.scratch(sizes.query_rows()),
           tile_parts =
               card_scratch(back.context(), k::compressed_parts(sizes.shape(), blocks(), config.memory));
    back.launch("compressed attention backward", k::CompressedBackward{.dq = grad(d.q[kPlain]),
                                                                       .dck = grad(dck),
                                                                       .dcv = grad(dcv),
                                                                       .dmemory = back.into(*params.memory),
                                                                       .memory_parts = parts.f32(),
                                                                       .delta = delta.f32(),
                                                                       .tile_parts = tile_parts.f32(),
                                                                       .dout = dout,
                                                                       .out = compressed.out,
                                                                       .q = x.q[kPlain],
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
  dout = Tensor();
  compress_backward(back, dck, dcv, d);
}

void Sparse::compress_backward(Back& back, const Tensor& dck, const Tensor& dcv, HeadMajor& d) const {
  Tensor rows = back.scratch(gathered()), drows = back.scratch(gathered());
  const auto side = [&](const Tensor& dy, const Tensor& from, const Tensor& dx, Param& weight, Param& bias,
                        Param& place) {
    return k::CompressBackward{.dx = grad(dx),
                               .dweight = back.into(weight),
                               .dbias = back.into(bias),
                               .dplace = back.into(place),
                               .gathered = rows.f32(),
                               .dgathered = drows.f32(),
                               .dy = dy,
                               .x = from,
                               .weight = weight.value,
                               .place = place.value,
                               .batch = sizes.batch,
                               .kv_heads = sizes.heads.kv,
                               .length = sizes.length,
                               .dim = sizes.heads.dim,
                               .block = config.block};
  };
  back.launch("compress backward",
              k::CompressPairBackward{.keys = side(dck, x.k[kPlain], d.k[kPlain], *params.compress_k,
                                                   *params.bias_k, *params.place_k),
                                      .values = side(dcv, x.v[kPlain], d.v[kPlain], *params.compress_v,
                                                     *params.bias_v, *params.place_v)});
}

}  // namespace

Tensor sparse_attention(Tape& tape, const Tensor& qkv, const Tensor& gates, const Tensor& rope,
                        const NsaParams& params, const Heads& heads, const NsaConfig& config,
                        std::int64_t batch, Tensor* selected_out, const KvCache* fill) {
  Sparse sparse;
  sparse.sizes = attention_sizes("sparse_attention", qkv, rope, heads, batch);
  sparse.config = config;
  sparse.params = params;
  sparse.rope = rope;
  sparse.gates = gates;
  sparse.check_parameters();

  Tensor y = tape.make({qkv.shape()[0], heads.query * heads.dim}, qkv.dtype());
  if (fill) check_fill("sparse_attention", sparse.sizes, *fill);
  sparse.forward(tape, qkv, y);
  if (fill) sparse.fill(tape, *fill);
  if (selected_out) *selected_out = sparse.selected;
  tape.record("sparse attention", {&y},
              [sparse = std::move(sparse), x = Slot(qkv), g = Slot(gates)](Back& back) {
                sparse.backward(back, x, g);
              });
  return y;
}

}  // namespace engine::ops
