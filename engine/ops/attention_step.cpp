// Attention of one new token of each sample over a cache (docs/model.md 1.2, 1.3).
#include "kernels/attention_step.h"

#include "engine/ops/attention_heads.h"

namespace engine {

KvCache KvCache::of(std::int64_t sample) const {
  const auto part = [sample](const Tensor& all) {
    const Shape one{1, all.shape()[1], all.shape()[2], all.shape()[3]};
    return all ? all.slice(sample * one.numel(), one) : Tensor();
  };
  return {part(k), part(v), part(window_k), part(pending_k), part(ck), part(cv)};
}

std::size_t KvCache::bytes() const noexcept {
  std::size_t sum = 0;
  for (const Tensor* t : {&k, &v, &window_k, &pending_k, &ck, &cv})
    if (*t) sum += t->bytes();
  return sum;
}

KvCache dense_cache(Device device, DType dtype, std::int64_t samples, std::int64_t capacity,
                    const Heads& heads) {
  const Shape shape{samples, heads.kv, capacity, heads.dim};
  KvCache cache;
  cache.k = Tensor::persistent(device, shape, dtype);
  cache.v = Tensor::persistent(device, shape, dtype);
  return cache;
}

KvCache sparse_cache(Device device, DType dtype, std::int64_t samples, std::int64_t capacity,
                     const Heads& heads, const NsaConfig& config) {
  const auto make = [&](std::int64_t places) {
    return Tensor::persistent(device, {samples, heads.kv, places, heads.dim}, dtype);
  };
  KvCache cache = dense_cache(device, dtype, samples, capacity, heads);
  cache.window_k = make(config.window + 1);
  cache.pending_k = make(config.block);
  cache.ck = make(capacity / config.block);
  cache.cv = make(capacity / config.block);
  return cache;
}

namespace ops {
namespace {

// Throws Error(failure) where shapes do not fit.
k::StepShape step_shape(const char* op, const Tensor& qkv, const StepPlaces& places, const Heads& heads,
                        const KvCache& cache) {
  const Shape shape = cache.k.shape();
  require(shape.rank == 4 && shape[1] == heads.kv && shape[3] == heads.dim && heads.query % heads.kv == 0,
          Exit::failure, "{}: a cache of {} for {} over {} heads of {}", op, to_string(shape), heads.query,
          heads.kv, heads.dim);
  const k::StepShape step{shape[0], heads.query, heads.kv, shape[2], heads.dim};
  require(qkv.shape() == Shape({step.samples, heads.packed()}) && cache.k.dtype() == qkv.dtype(),
          Exit::failure, "{}: qkv is {}, expected [{}, {}] of the cache's type", op, to_string(qkv.shape()),
          step.samples, heads.packed());
  require(places.positions.shape() == Shape({step.samples}) &&
              places.table.shape() == Shape({step.capacity, heads.dim / 2, 2}),
          Exit::failure, "{}: positions {} and a rotation table {} for a cache of {}", op,
          to_string(places.positions.shape()), to_string(places.table.shape()), to_string(shape));
  return step;
}

}  // namespace

Tensor dense_attention_step(Tape& tape, const Tensor& qkv, const StepPlaces& places, const Heads& heads,
                            const KvCache& cache) {
  const k::StepShape shape = step_shape("dense_attention_step", qkv, places, heads, cache);
  const Tensor y = tape.make({shape.samples, heads.query * heads.dim}, qkv.dtype());
  const Tensor parts = tape.make({k::dense_step_parts(shape)});
  tape.launch("dense attention step", k::DenseStep{.y = y.out(),
                                                   .qkv = qkv,
                                                   .positions = places.positions.i32(),
                                                   .table = places.table.f32(),
                                                   .k = cache.k.out(),
                                                   .v = cache.v.out(),
                                                   .parts = parts.f32(),
                                                   .shape = shape,
                                                   .scale = logit_scale(heads)});
  return y;
}

Tensor sparse_attention_step(Tape& tape, const Tensor& qkv, const Tensor& gates, const StepPlaces& places,
                             const NsaParams& params, const Heads& heads, const NsaConfig& config,
                             const KvCache& cache, Tensor* selected_out) {
  const k::StepShape shape = step_shape("sparse_attention_step", qkv, places, heads, cache);
  require(gates.shape() == Shape({shape.samples, 3 * heads.query}), Exit::failure,
          "sparse_attention_step: the gates are {}, expected [{}, {}]", to_string(gates.shape()),
          shape.samples, 3 * heads.query);
  require(cache.window_k.shape()[2] == config.window + 1 && cache.pending_k.shape()[2] == config.block,
          Exit::failure, "sparse_attention_step: the cache was made for another window or block");
  const Tensor y = tape.make({shape.samples, heads.query * heads.dim}, qkv.dtype());
  const bool on_cpu = tape.context().device().kind == DeviceKind::cpu;
  const Tensor scratch =
      on_cpu
          ? tape.make({shape.samples * heads.kv, k::sparse_step_scratch(shape, config.block, config.select)})
          : Tensor();
  const Tensor selected =
      selected_out ? tape.make({shape.samples, heads.query, config.select}, DType::i32) : Tensor();
  tape.launch("sparse attention step", k::SparseStep{.y = y.out(),
                                                     .qkv = qkv,
                                                     .gates = gates,
                                                     .positions = places.positions.i32(),
                                                     .table = places.table.f32(),
                                                     .k = cache.k.out(),
                                                     .v = cache.v.out(),
                                                     .window_k = cache.window_k.out(),
                                                     .pending_k = cache.pending_k.out(),
                                                     .ck = cache.ck.out(),
                                                     .cv = cache.cv.out(),
                                                     .memory = params.memory->value,
                                                     .place_k = params.place_k->value,
                                                     .place_v = params.place_v->value,
                                                     .compress_k = params.compress_k->value,
                                                     .compress_v = params.compress_v->value,
                                                     .bias_k = params.bias_k->value,
                                                     .bias_v = params.bias_v->value,
                                                     .scratch = scratch ? scratch.f32() : nullptr,
                                                     .selected = selected ? selected.i32() : nullptr,
                                                     .shape = shape,
                                                     .block = config.block,
                                                     .top = config.select,
                                                     .window = config.window,
                                                     .slots = config.memory,
                                                     .scale = logit_scale(heads)});
  if (selected_out) *selected_out = selected;
  return y;
}

}  // namespace ops
}  // namespace engine
