// The model as a whole: causality, recomputation, training, accumulation, generation.
#include "model/gpt.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "model/generator.h"
#include "model/trainer.h"
#include "tests/op_case.h"

namespace {

using engine::DType;
using engine::Init;
using engine::Tape;
using engine::Tensor;
using model::Attention;
using model::GptConfig;
using model::Recompute;
using tests::same_bits;
using Ids = std::vector<std::int32_t>;

GptConfig small(Attention attention, std::int64_t block = 4) {
  GptConfig c;
  c.vocab = 37, c.layers = 2, c.width = 16, c.ffn = 24, c.context = 64;
  c.heads = {.query = 2, .kv = 2, .dim = 8};
  c.attention = attention;
  c.nsa = {.block = block, .select = 2, .window = block, .memory = 2};
  return c;
}

struct Named {
  const char* name;
  GptConfig config;
};

std::vector<Named> configs() {
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

Ids random_ids(std::int64_t count, std::int64_t vocab, unsigned seed) {
  std::mt19937 bits(seed);
  Ids ids;
  for (std::int64_t i = 0; i < count; i++) ids.push_back(std::int32_t(bits() % unsigned(vocab)));
  return ids;
}

class Model {
 public:
  explicit Model(const GptConfig& config, Recompute recompute = Recompute::none)
      : store_(engine::Device{}, DType::f32), gpt_(config, store_, recompute) {
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
    perform(ids, [&](engine::Context& context, const Tensor& given, bool real) {
      Tape tape(context, Tape::Mode::infer);
      const Tensor y = gpt_.logits(tape, gpt_.hidden(tape, given, batch));
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
    const Tensor expected = on_device(targets);
    stream.fill(store_.grads().data(), 0xff, store_.grads().bytes());
    g.planned = perform(ids, [&](engine::Context& context, const Tensor& given, bool real) {
      Tape tape(context);
      const Tensor losses = gpt_.losses(tape, given, expected, batch, 0.1f);
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

  engine::Stream stream{engine::Device{}};

 private:
  static Tensor on_device(const Ids& ids) {
    const Tensor t = Tensor::persistent({}, {std::int64_t(ids.size())}, DType::i32);
    std::copy(ids.begin(), ids.end(), t.i32());
    return t;
  }
  std::size_t perform(const Ids& ids,
                      const std::function<void(engine::Context&, const Tensor&, bool)>& pass) {
    engine::Arena arena{engine::Device{}};
    engine::Context context{stream, arena};
    const Tensor given = on_device(ids);
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

// Trains from the start on four sequences of `length`, given as micro-batches of `batch`; returns the losses
// and the parameters at the end.
struct Run {
  std::vector<double> losses;
  std::vector<float> parameters;
};
Run train(const GptConfig& config, std::int64_t length, std::int64_t batch, int steps, double rate) {
  Model m(config);
  engine::AdamW optimizer(m.store(), {.decay = 0});
  model::Trainer trainer(m.gpt(), m.store(), optimizer, m.stream,
                         {.batch = batch, .length = length, .micro_batches = 4 / batch});
  const Ids tokens = random_ids(4 * (length + 1), config.vocab, 3);
  Ids ids, targets;
  for (std::int64_t s = 0; s < 4; s++) {
    const auto at = tokens.begin() + std::ptrdiff_t(s * (length + 1));
    ids.insert(ids.end(), at, at + std::ptrdiff_t(length));
    targets.insert(targets.end(), at + 1, at + std::ptrdiff_t(length) + 1);
  }
  std::fill_n(targets.begin(), 3, -1);  // parts of unequal weight
  std::vector<model::MicroBatch> parts;
  const std::size_t rows = std::size_t(batch * length);
  for (std::size_t at = 0; at < ids.size(); at += rows)
    parts.push_back({std::span(ids).subspan(at, rows), std::span(targets).subspan(at, rows)});
  Run run;
  for (int step = 1; step <= steps; step++) {
    const auto sum = trainer.step(parts, step, rate).loss;
    CHECK(sum.targets == 4 * length - 3);
    run.losses.push_back(sum.mean());
  }
  run.parameters = m.store().values().to_host(m.stream);
  return run;
}

}  // namespace

TEST_CASE("gpt: a token changes no logits before it, nor those of another sequence, in any bit") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    Model m(config);
    for (std::int64_t length = 1; length <= 70; length += length < 20 ? 1 : 5) {
      const Ids ids = random_ids(2 * length, config.vocab, unsigned(length));
      const auto before = m.logits(ids, 2);
      for (std::int64_t j : {std::int64_t(0), length / 3, length - 1}) {
        Ids changed = ids;
        auto& token = changed[std::size_t(j)];
        token = (token + 1) % std::int32_t(config.vocab);
        const auto after = m.logits(changed, 2);
        bool unchanged = true;
        for (std::int64_t r = 0; r < 2 * length; r++)
          if (r < j || r >= length) unchanged &= same_bits(before[std::size_t(r)], after[std::size_t(r)]);
        CAPTURE(length);
        CAPTURE(j);
        CHECK(unchanged);
        CHECK(!same_bits(before[std::size_t(j)], after[std::size_t(j)]));
      }
    }
  }
}

TEST_CASE("gpt: early tokens reach late ones") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    Model m(config);
    const Ids ids = random_ids(60, config.vocab, 1);
    Ids changed = ids;
    changed[3] = (changed[3] + 1) % std::int32_t(config.vocab);
    CHECK(!same_bits(m.logits(ids).back(), m.logits(changed).back()));
  }
}

TEST_CASE("gpt: recomputed layers give the same bits in less memory") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    GptConfig deep = config;
    deep.layers = 4;
    const Ids ids = random_ids(2 * 45, config.vocab, 1), targets = random_ids(2 * 45, config.vocab, 2);
    Model kept(deep), again(deep, Recompute::block);
    const auto a = kept.gradients(ids, targets, 2), b = again.gradients(ids, targets, 2);
    CHECK(a.untouched.empty());
    CHECK(same_bits(a.losses, b.losses));
    CHECK(same_bits(a.all, b.all));
    CHECK(b.planned < a.planned);
  }
}

TEST_CASE("gpt: any length trains") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    Model m(config);
    for (std::int64_t length = 1; length <= 2 * config.nsa.block + 1; length++) {
      CAPTURE(length);
      const auto g = m.gradients(random_ids(length, config.vocab, 1), random_ids(length, config.vocab, 2));
      CHECK(std::all_of(g.losses.begin(), g.losses.end(), [](float v) { return std::isfinite(v) && v > 0; }));
      CHECK(std::all_of(g.all.begin(), g.all.end(), [](float v) { return std::isfinite(v); }));
      if (length >= config.nsa.block) CHECK(g.untouched == std::vector<std::string>{});
    }
  }
}

TEST_CASE("gpt: learns one batch by heart") {
  for (Attention attention : {Attention::nsa, Attention::dense}) {
    GptConfig config = small(attention);
    config.width = 32, config.ffn = 64, config.heads.dim = 16;
    const Run run = train(config, 20, 4, 150, 1e-2);
    CAPTURE(int(attention));
    CHECK(run.losses.front() > 3);
    CHECK(run.losses.back() < 0.05);
  }
}

TEST_CASE("gpt: two runs agree in every bit, rows of the vocabulary's padding stay zero") {
  for (Attention attention : {Attention::nsa, Attention::dense}) {
    const GptConfig config = small(attention);
    const Run one = train(config, 23, 2, 5, 1e-2), two = train(config, 23, 2, 5, 1e-2);
    CHECK(one.losses == two.losses);
    CHECK(same_bits(one.parameters, two.parameters));
    const auto padding =
        one.parameters.begin() + config.vocab * config.width;  // the embedding is the first matrix
    CHECK(std::all_of(padding, padding + (64 - config.vocab) * config.width, [](float v) { return v == 0; }));
    CHECK(std::any_of(padding - config.width, padding, [](float v) { return v != 0; }));
  }
}

TEST_CASE("gpt: a step does not depend on how it is divided into micro-batches") {
  for (Attention attention : {Attention::nsa, Attention::dense}) {
    const Run whole = train(small(attention), 20, 4, 6, 1e-3);
    CHECK(whole.losses.back() < whole.losses.front());
    for (std::int64_t batch : {2, 1}) {
      CAPTURE(batch);
      const Run parts = train(small(attention), 20, batch, 6, 1e-3);
      for (std::size_t i = 0; i < whole.losses.size(); i++)
        CHECK(std::fabs(parts.losses[i] / whole.losses[i] - 1) < 1e-6);
    }
  }
}

TEST_CASE("trainer: an evaluation gives the loss of the next step and changes nothing") {
  Model m(small(Attention::nsa));
  engine::AdamW optimizer(m.store(), {});
  model::Trainer trainer(m.gpt(), m.store(), optimizer, m.stream, {.batch = 2, .length = 10});
  const Ids ids = random_ids(20, 37, 1);
  Ids targets = random_ids(20, 37, 2);
  targets[4] = targets[19] = -1;
  const model::MicroBatch batch{ids, targets};
  const auto before = m.store().values().to_host(m.stream);
  const auto evaluated = trainer.evaluate(batch);
  CHECK(same_bits(m.store().values().to_host(m.stream), before));
  const auto stepped = trainer.step({&batch, 1}, 1, 1e-3).loss;
  CHECK(evaluated.targets == 18);
  CHECK(stepped.targets == 18);
  CHECK(evaluated.sum == doctest::Approx(stepped.sum).epsilon(1e-6));
  CHECK(!same_bits(m.store().values().to_host(m.stream), before));
  const auto rows = m.gradients(ids, targets, 2).losses;
  CHECK(rows[4] == 0);
  CHECK(trainer.evaluate({ids, Ids(20, -1)}).mean() == 0);
}

TEST_CASE("generator: the logits of the training forward's last row, in whatever order lengths come") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    Model m(config);
    model::Generator generator(m.gpt(), m.stream);
    const Ids ids = random_ids(130, config.vocab, 1);
    const auto rows = m.logits(ids);
    for (std::size_t length : {1, 2, 63, 64, 65, 130, 5, 70}) {
      CAPTURE(length);
      const auto& logits = generator.logits_after({ids.begin(), ids.begin() + std::ptrdiff_t(length)});
      CHECK(tests::relative_error(logits, {rows[length - 1].begin(), rows[length - 1].end()}) < 1e-5);
    }
  }
}
