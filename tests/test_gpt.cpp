// The model as a whole: causality, recomputation, training, accumulation.
#include "model/gpt.h"

#include <algorithm>
#include <cmath>

#include "model/trainer.h"
#include "tests/small_gpt.h"

namespace {

using engine::DType;
using engine::Tape;
using engine::Tensor;
using model::Attention;
using model::GptConfig;
using model::Recompute;
using tests::configs;
using tests::Ids;
using tests::Model;
using tests::random_ids;
using tests::same_bits;
using tests::small;

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
