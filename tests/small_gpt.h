// Small models of every kind, on any device, for tests of the whole model.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "model/gpt.h"
#include "tests/op_case.h"

namespace tests {

using Ids = std::vector<std::int32_t>;

inline model::GptConfig small(model::Attention attention, std::int64_t block = 4) {
  model::GptConfig c;
  c.vocab = 37, c.layers = 2, c.width = 16, c.ffn = 24, c.context = 64;
  c.heads = {.query = 2, .kv = 2, .dim = 8};
  c.attention = attention;
  c.nsa = {.block = block, .select = 2, .window = block, .memory = 2};
  return c;
}

struct Named {
  const char* name;
  model::GptConfig config;
};

inline std::vector<Named> configs() {
  using model::Attention;
  using model::GptConfig;
  GptConfig swiglu = small(Attention::nsa), tied = swiglu, grouped = small(Attention::dense), both = swiglu;
  swiglu.ffn_kind = model::FfnKind::swiglu, swiglu.bias = false;
  tied.tied = true;
  grouped.heads = {.query = 4, .kv = 2, .dim = 6}, grouped.tied = true, grouped.bias = false;
  both.heads = grouped.heads, both.nsa.diff_topk = true, both.nsa.window = 1;
  return {{"sparse, block 4", small(Attention::nsa)},
          {"sparse, block 16", small(Attention::nsa, 16)},
          {"dense", small(Attention::dense)},
          {"sparse, swiglu, no bias", swiglu},
          {"sparse, tied", tied},
          {"dense, grouped, tied, no bias", grouped},
          {"sparse, grouped, differentiable top-k", both}};
}

inline Ids random_ids(std::int64_t count, std::int64_t vocab, unsigned seed) {
  std::mt19937 bits(seed);
  Ids ids;
  for (std::int64_t i = 0; i < count; i++) ids.push_back(std::int32_t(bits() % unsigned(vocab)));
  return ids;
}

class Model {
 public:
  explicit Model(const model::GptConfig& config, model::Recompute recompute = model::Recompute::none,
                 engine::Device device = {}, engine::DType dtype = engine::DType::f32)
      : stream(device), store_(device, dtype), gpt_(config, store_, recompute) {
    using engine::Init;
    for (auto& p : store_.all())  // what starts at zero would hide mistakes
      if (p.init.kind == Init::Kind::constant && p.init.value == 0) p.init = Init::normal(0.3f);
    store_.seal(true);
    store_.initialize(7, stream);
  }
  const model::Gpt& gpt() const { return gpt_; }
  engine::ParamStore& store() { return store_; }

  // Logits [rows][vocab] of `batch` sequences.
  std::vector<std::vector<float>> logits(const Ids& ids, std::int64_t batch = 1) {
    std::vector<float> padded;
    perform(ids, [&](engine::Context& context, const engine::Tensor& given, bool real) {
      engine::Tape tape(context, engine::Tape::Mode::infer);
      const engine::Tensor y = gpt_.logits(tape, gpt_.hidden(tape, given, batch));
      if (real) padded = y.to_host(stream);
    });
    std::vector<std::vector<float>> rows;
    const auto row = std::ptrdiff_t(gpt_.config().padded_vocab());
    for (std::size_t r = 0; r < ids.size(); r++)
      rows.emplace_back(padded.begin() + std::ptrdiff_t(r) * row,
                        padded.begin() + std::ptrdiff_t(r) * row + std::ptrdiff_t(gpt_.config().vocab));
    return rows;
  }

  struct Gradients {
    std::vector<float> losses, all;
    std::vector<std::string> untouched;
    std::size_t planned = 0;
  };
  Gradients gradients(const Ids& ids, const Ids& targets, std::int64_t batch = 1) {
    Gradients g;
    const engine::Tensor expected = on_device(targets);
    stream.fill(store_.grads().data(), 0xff, store_.grads().bytes());
    g.planned = perform(ids, [&](engine::Context& context, const engine::Tensor& given, bool real) {
      engine::Tape tape(context);
      const engine::Tensor losses = gpt_.losses(tape, given, expected, batch, 0.1f);
      if (real) g.losses = losses.to_host(stream);
      tape.backward(losses);
    });
    for (const auto& p : store_.all()) {
      if (!p.touched) g.untouched.push_back(p.name);
      if (!p.touched) continue;
      const auto part = p.grad.to_host(stream);
      g.all.insert(g.all.end(), part.begin(), part.end());
    }
    return g;
  }

  engine::Stream stream;

 private:
  engine::Tensor on_device(const Ids& ids) {
    const auto t =
        engine::Tensor::persistent(stream.device(), {std::int64_t(ids.size())}, engine::DType::i32);
    stream.copy(t.data(), ids.data(), ids.size() * sizeof(std::int32_t));
    stream.wait();
    return t;
  }
  std::size_t perform(const Ids& ids,
                      const std::function<void(engine::Context&, const engine::Tensor&, bool)>& pass) {
    engine::Arena arena{stream.device()};
    engine::Context context{stream, arena};
    const engine::Tensor given = on_device(ids);
    pass(context, given, false);
    arena.commit();
    stream.fill(arena.base(), 0xff, arena.peak());
    store_.begin_step();
    pass(context, given, true);
    return arena.peak();
  }

  engine::ParamStore store_;
  model::Gpt gpt_;
};

}  // namespace tests
