#include "model/gpt.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "engine/error.h"

namespace model {

using engine::Init;
using engine::Param;
using engine::ParamStore;
using engine::Tape;
using engine::Tensor;
namespace ops = engine::ops;

namespace {

// Start values. Untied: the reference's, uniform in 1 / sqrt(fan in) (docs/model.md 1.4). Tied: GPT-2's,
// normal with deviation 0.02, smaller at the end of each residual branch, since an embedding of deviation 1
// is no head.
struct Starts {
  bool tied;
  std::int64_t layers;

  Init embedding() const { return Init::normal(tied ? 0.02f : 1.f); }
  Init matrix(std::int64_t fan_in) const { return tied ? Init::normal(0.02f) : bound(fan_in); }
  Init residual_matrix(std::int64_t fan_in) const {
    return tied ? Init::normal(0.02f / std::sqrt(2.f * float(layers))) : bound(fan_in);
  }
  Init bias(std::int64_t fan_in) const { return tied ? Init::constant(0) : bound(fan_in); }
  static Init bound(std::int64_t fan_in) { return Init::uniform(1.f / std::sqrt(float(fan_in))); }
};

}  // namespace

Caches Caches::of(std::int64_t sample) const {
  Caches one{places, {}};
  for (const engine::KvCache& layer : layers) one.layers.push_back(layer.of(sample));
  return one;
}

std::size_t Caches::bytes() const noexcept {
  std::size_t sum = places.positions.bytes() + places.table.bytes();
  for (const engine::KvCache& layer : layers) sum += layer.bytes();
  return sum;
}

Gpt::Gpt(const GptConfig& config, ParamStore& store, Recompute recompute)
    : config_(config), recompute_(recompute) {
  config_.validate();
  const Starts start{config_.tied, config_.layers};
  const engine::Shape table{config_.vocab, config_.width};
  embedding_ = &store.add("token_emb.weight", table, start.embedding(), config_.padded_vocab());
  for (std::int64_t i = 0; i < config_.layers; i++) layers_.push_back(make_layer(store, i));
  final_norm_ = &store.add("norm.weight", {config_.width}, Init::constant(1));
  head_ = config_.tied
              ? embedding_
              : &store.add("to_logits.weight", table, start.matrix(config_.width), config_.padded_vocab());
}

Gpt::Layer Gpt::make_layer(ParamStore& store, std::int64_t index) const {
  const auto& c = config_;
  const Starts start{c.tied, c.layers};
  auto add = [&](int part, const char* name, engine::Shape shape, Init init) {
    return &store.add(fmt::format("layers.{}.{}.{}", index, part, name), shape, init);
  };
  const std::int64_t inner = c.heads.query * c.heads.dim, kv = c.heads.kv, dim = c.heads.dim;
  Layer l{};
  l.attention_norm = add(0, "norm.weight", {c.width}, Init::constant(1));
  l.qkv = add(0, "to_qkv.weight", {c.heads.packed(), c.width}, start.matrix(c.width));
  if (c.attention == Attention::nsa) {
    const std::int64_t block = c.nsa.block;
    const Init conv = start.bound(dim * block);
    l.nsa.memory = add(0, "compress_mem_kv", {2, kv, c.nsa.memory, dim}, Init::constant(0));
    l.nsa.place_k = add(0, "k_intrablock_positions", {kv, block, dim}, Init::constant(0));
    l.nsa.place_v = add(0, "v_intrablock_positions", {kv, block, dim}, Init::constant(0));
    l.nsa.compress_k = add(0, "k_compress.1.weight", {kv * dim, dim, block}, conv);
    l.nsa.bias_k = add(0, "k_compress.1.bias", {kv * dim}, conv);
    l.nsa.compress_v = add(0, "v_compress.1.weight", {kv * dim, dim, block}, conv);
    l.nsa.bias_v = add(0, "v_compress.1.bias", {kv * dim}, conv);
    l.gate = add(0, "to_strategy_combine.0.weight", {3 * c.heads.query, c.width}, start.matrix(c.width));
    l.gate_bias = add(0, "to_strategy_combine.0.bias", {3 * c.heads.query}, start.bias(c.width));
  }
  l.out = add(0, "combine_heads.weight", {c.width, inner}, start.residual_matrix(inner));
  const std::int64_t up = c.ffn_kind == FfnKind::swiglu ? 2 * c.ffn : c.ffn;
  l.ffn_norm = add(1, "0.weight", {c.width}, Init::constant(1));
  l.up = add(1, "1.weight", {up, c.width}, start.matrix(c.width));
  if (c.bias) l.up_bias = add(1, "1.bias", {up}, start.bias(c.width));
  l.down = add(1, "3.weight", {c.width, c.ffn}, start.residual_matrix(c.ffn));
  if (c.bias) l.down_bias = add(1, "3.bias", {c.width}, start.bias(c.ffn));
  return l;
}

template <class Attend> Tensor Gpt::apply(Tape& t, const Layer& l, const Tensor& x, Attend&& attend) const {
  const auto& c = config_;
  Tensor mixed;
  {
    const ops::Rows normed = ops::normed(t, x, *l.attention_norm, c.kNormEps);
    auto [qkv, gates] = l.gate ? ops::linear_pair(t, normed, *l.qkv, *l.gate, l.gate_bias)
                               : std::pair(ops::linear(t, normed, *l.qkv), Tensor());
    mixed = ops::linear_add(t, attend(std::move(qkv), gates), *l.out, nullptr, x);
  }
  const ops::Rows normed = ops::normed(t, mixed, *l.ffn_norm, c.kNormEps);
  const Tensor active = c.ffn_kind == FfnKind::gelu
                            ? ops::linear_gelu(t, normed, *l.up, l.up_bias)
                            : ops::swiglu(t, ops::linear(t, normed, *l.up, l.up_bias));
  return ops::linear_add(t, active, *l.down, l.down_bias, mixed);
}

Tensor Gpt::attend(Tape& t, const Layer& l, Tensor qkv, const Tensor& gates, const Tensor& rope,
                   std::int64_t batch, const engine::KvCache* fill) const {
  const auto& c = config_;
  if (c.attention == Attention::dense)
    return ops::dense_attention(t, std::move(qkv), rope, c.heads, batch, fill);
  return ops::sparse_attention(t, qkv, gates, rope, l.nsa, c.heads, c.nsa, batch, nullptr, fill);
}

Tensor Gpt::hidden(Tape& t, const Tensor& ids, std::int64_t batch, const Caches* fill) const {
  const std::int64_t length = ids.numel() / batch;
  const Tensor rope = ops::rope_table(t, length, config_.heads.dim, config_.rope_base);
  Tensor x = ops::embedding(t, ids, *embedding_);
  for (std::size_t i = 0; i < layers_.size(); i++) {
    const Layer& layer = layers_[i];
    const engine::KvCache* cache = fill ? &fill->layers[i] : nullptr;
    auto f = [this, &layer, rope, batch, cache](Tape& tape, const Tensor& in) {
      return apply(tape, layer, in, [&](Tensor qkv, const Tensor& gates) {
        return attend(tape, layer, std::move(qkv), gates, rope, batch, cache);
      });
    };
    x = recompute_ == Recompute::block ? ops::recompute(t, x, f) : f(t, x);
  }
  return ops::rmsnorm(t, x, *final_norm_, config_.kNormEps);
}

Tensor Gpt::hidden_step(Tape& t, const Tensor& ids, const Caches& caches) const {
  const auto& c = config_;
  Tensor x = ops::embedding(t, ids, *embedding_);
  for (std::size_t i = 0; i < layers_.size(); i++) {
    const Layer& layer = layers_[i];
    const engine::KvCache& cache = caches.layers[i];
    x = apply(t, layer, x, [&](const Tensor& qkv, const Tensor& gates) {
      return c.attention == Attention::dense
                 ? ops::dense_attention_step(t, qkv, caches.places, c.heads, cache)
                 : ops::sparse_attention_step(t, qkv, gates, caches.places, layer.nsa, c.heads, c.nsa, cache);
    });
  }
  return ops::rmsnorm(t, x, *final_norm_, c.kNormEps);
}

Caches Gpt::make_caches(engine::Device device, std::int64_t samples, std::int64_t capacity) const {
  const auto& c = config_;
  Caches caches;
  caches.places = {Tensor::persistent(device, {samples}, engine::DType::i32),
                   Tensor::persistent(device, {capacity, c.heads.dim / 2, 2}, engine::DType::f32)};
  for (std::size_t i = 0; i < layers_.size(); i++)
    caches.layers.push_back(
        c.attention == Attention::dense
            ? engine::dense_cache(device, embedding_->value.dtype(), samples, capacity, c.heads)
            : engine::sparse_cache(device, embedding_->value.dtype(), samples, capacity, c.heads, c.nsa));
  return caches;
}

void Gpt::fill_table(Tape& t, const Caches& caches) const {
  ops::fill_rope_table(t, caches.places.table, config_.rope_base);
}

Tensor Gpt::losses(Tape& t, const Tensor& ids, const Tensor& targets, std::int64_t batch,
                   float grad_scale) const {
  return ops::linear_cross_entropy(t, hidden(t, ids, batch), *head_, targets, config_.vocab, grad_scale);
}

Tensor Gpt::logits(Tape& t, const Tensor& hidden, const Tensor& into) const {
  return ops::logits(t, hidden, *head_, into);
}

double Gpt::flops_per_token(std::int64_t length) const noexcept {
  const auto& c = config_;
  const double inner = double(c.heads.query * c.heads.dim), n = double(length);
  const double up = c.ffn_kind == FfnKind::swiglu ? 2. : 1.;
  double matrix = double(c.width) * double(c.heads.packed()) + inner * double(c.width) +
                  (up + 1) * double(c.ffn) * double(c.width);
  double keys = (n + 1) / 2;
  if (c.attention == Attention::nsa) {
    const double block = double(c.nsa.block);
    matrix +=
        3. * double(c.heads.query) * double(c.width) + 2. * double(c.heads.kv * c.heads.dim * c.heads.dim);
    keys = std::min(double(c.nsa.window) + 1, n) + double(c.nsa.memory) + n / block / 2 +
           std::min(double(c.nsa.select), n / block) * block + block / 2;
  }
  return double(c.layers) * (6 * matrix + 12 * inner * keys) + 6 * double(c.vocab) * double(c.width);
}

}  // namespace model
