// The whole model on a card: against the CPU, against itself, with and without graphs, and what it leaves in
// files.
#include <cmath>

#include "engine/checkpoint.h"
#include "model/trainer.h"
#include "tests/small_gpt.h"
#include "tests/support.h"

namespace {

using engine::Device;
using engine::DeviceKind;
using engine::DType;
using model::Attention;
using model::GptConfig;
using model::Recompute;
using tests::Ids;
using tests::Model;
using tests::random_ids;
using tests::same_bits;

const Device kCard{DeviceKind::cuda, 0};
bool no_card(const char* test) {
  return tests::lacks(test, engine::cuda_device_count() == 0, "no CUDA card");
}

// The small ones, and two whose heads and blocks are those that the tensor-core kernels are made for.
std::vector<tests::Named> card_configs() {
  std::vector<tests::Named> all = tests::configs();
  for (Attention attention : {Attention::nsa, Attention::dense}) {
    GptConfig c = tests::small(attention, 16);
    c.vocab = 300, c.width = 128, c.ffn = 256;
    c.heads = {.query = 2, .kv = 2, .dim = 64};
    c.nsa.select = 4, c.nsa.memory = 4;
    all.push_back({attention == Attention::nsa ? "sparse, heads of 64" : "dense, heads of 64", c});
  }
  return all;
}

struct Run {
  std::vector<double> losses;
  std::vector<float> values;
};
struct Setup {
  Device device = kCard;
  DType dtype = DType::f32;
  bool graphs = true;
  bool checks = false;  // every launch in the one stream, waited for
  Recompute recompute = Recompute::none;
};

// 8 steps of two micro-batches, some targets not counted.
Run train(const GptConfig& config, const Setup& setup) {
  constexpr std::int64_t kBatch = 2, kLength = 70, kSteps = 8;
  Model m(config, setup.recompute, setup.device, setup.dtype);
  engine::AdamW optimizer(m.store(), {});
  model::Trainer trainer(m.gpt(), m.store(), optimizer, m.stream,
                         {.batch = kBatch, .length = kLength, .micro_batches = 2});
  trainer.use_graphs(setup.graphs);
  trainer.check(setup.checks);
  Run run;
  for (std::int64_t step = 1; step <= kSteps; step++) {
    std::vector<Ids> ids, targets;
    std::vector<model::MicroBatch> parts;
    for (unsigned part = 0; part < 2; part++) {
      ids.push_back(random_ids(kBatch * kLength, config.vocab, unsigned(step) * 10 + part));
      targets.push_back(random_ids(kBatch * kLength, config.vocab, unsigned(step) * 10 + part + 5));
      targets.back()[part] = -1;
    }
    for (std::size_t part = 0; part < 2; part++) parts.push_back({ids[part], targets[part]});
    trainer.submit(parts, step, 1e-3);
    if (trainer.under_way() > 1) run.losses.push_back(trainer.finish().loss.mean());
  }
  while (trainer.under_way() > 0) run.losses.push_back(trainer.finish().loss.mean());
  run.values = m.store().values().to_host(m.stream);
  return run;
}

double norm_of_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double off = 0, all = 0;
  for (std::size_t i = 0; i < a.size(); i++) {
    off += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
    all += double(b[i]) * double(b[i]);
  }
  return std::sqrt(off / all);
}

}  // namespace

TEST_CASE("cuda model: fp32 trains as on the CPU" *
          doctest::skip(no_card("cuda model: fp32 trains as on the CPU"))) {
  for (const auto& [name, config] : card_configs()) {
    CAPTURE(name);
    const Run card = train(config, {}), cpu = train(config, {.device = Device{}});
    REQUIRE(card.losses.size() == cpu.losses.size());
    for (std::size_t i = 0; i < card.losses.size(); i++)
      CHECK(std::fabs(card.losses[i] - cpu.losses[i]) < 1e-4);
    CHECK(norm_of_difference(card.values, cpu.values) < 1e-3);
  }
}

TEST_CASE("cuda model: bf16 stays near fp32" * doctest::skip(no_card("cuda model: bf16 stays near fp32"))) {
  for (const auto& [name, config] : card_configs()) {
    CAPTURE(name);
    const Run narrow = train(config, {.dtype = DType::bf16}), wide = train(config, {});
    for (std::size_t i = 0; i < narrow.losses.size(); i++)
      CHECK(std::fabs(narrow.losses[i] - wide.losses[i]) < 0.02);
  }
}

TEST_CASE(
    "cuda model: the same bits again, with and without graphs and lanes, and with recomputation" *
    doctest::skip(no_card(
        "cuda model: the same bits again, with and without graphs and lanes, and with recomputation"))) {
  for (const auto& [name, config] : card_configs())
    for (DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(name);
      CAPTURE(dtype == DType::bf16);
      const Run one = train(config, {.dtype = dtype}), two = train(config, {.dtype = dtype}),
                plain = train(config, {.dtype = dtype, .graphs = false}),
                in_line = train(config, {.dtype = dtype, .checks = true}),
                again = train(config, {.dtype = dtype, .recompute = Recompute::block});
      CHECK(same_bits(one.values, two.values));
      CHECK(same_bits(one.values, plain.values));
      CHECK(same_bits(one.values, in_line.values));
      CHECK(same_bits(one.values, again.values));
      CHECK(one.losses == two.losses);
      CHECK(one.losses == plain.losses);
    }
}

TEST_CASE("cuda model: a token changes no logits before it, in any bit" *
          doctest::skip(no_card("cuda model: a token changes no logits before it, in any bit"))) {
  for (const auto& [name, config] : card_configs())
    for (DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(name);
      Model m(config, Recompute::none, kCard, dtype);
      for (std::int64_t length : {1, 2, 16, 17, 33, 64, 65, 130}) {
        Ids ids = random_ids(2 * length, config.vocab, 3);
        const auto before = m.logits(ids, 2);
        for (std::int64_t at = 0; at < length; at += length < 40 ? 1 : 13) {
          Ids changed = ids;
          changed[std::size_t(at)] = std::int32_t((changed[std::size_t(at)] + 1) % config.vocab);
          const auto after = m.logits(changed, 2);
          for (std::int64_t row = 0; row < 2 * length; row++)
            if (row < at || row >= length)
              CHECK(same_bits(after[std::size_t(row)], before[std::size_t(row)]));
          CHECK(!same_bits(after[std::size_t(at)], before[std::size_t(at)]));
        }
      }
    }
}

TEST_CASE("cuda model: a bf16 checkpoint goes on bit by bit, and opens on the CPU" *
          doctest::skip(no_card("cuda model: a bf16 checkpoint goes on bit by bit, and opens on the CPU"))) {
  const GptConfig config = tests::small(Attention::nsa);
  Model m(config, Recompute::none, kCard, DType::bf16);
  engine::AdamW optimizer(m.store(), {});
  model::Trainer trainer(m.gpt(), m.store(), optimizer, m.stream, {.batch = 1, .length = 20});
  const Ids ids = random_ids(20, config.vocab, 1), targets = random_ids(20, config.vocab, 2);
  const model::MicroBatch batch{ids, targets};
  trainer.step({&batch, 1}, 1, 1e-3);
  const tests::TempDir dir;
  engine::save_checkpoint(dir / "full.bin",
                          {.params = m.store(), .optimizer = &optimizer, .weights = DType::bf16}, m.stream);
  engine::save_checkpoint(dir / "weights.bin", {.params = m.store(), .weights = DType::bf16}, m.stream);
  trainer.step({&batch, 1}, 2, 1e-3);

  Model other(config, Recompute::none, kCard, DType::bf16);
  engine::AdamW moments(other.store(), {});
  const engine::Checkpoint full(dir / "full.bin");
  full.load(other.store(), other.stream);
  full.load(moments, other.store(), other.stream);
  model::Trainer further(other.gpt(), other.store(), moments, other.stream, {.batch = 1, .length = 20});
  further.step({&batch, 1}, 2, 1e-3);
  CHECK(same_bits(other.store().masters().to_host(other.stream), m.store().masters().to_host(m.stream)));
  CHECK(same_bits(other.store().values().to_host(other.stream), m.store().values().to_host(m.stream)));

  Model cpu(config);
  engine::Checkpoint(dir / "weights.bin").load(cpu.store(), cpu.stream);
  const auto rounded = cpu.store().values().to_host(cpu.stream);
  engine::Checkpoint(dir / "full.bin").load(cpu.store(), cpu.stream);
  const auto masters = cpu.store().values().to_host(cpu.stream);
  REQUIRE(rounded.size() == masters.size());
  for (std::size_t i = 0; i < masters.size(); i++) CHECK(rounded[i] == float(k::bf16(masters[i])));
}

TEST_CASE("cuda model: tensors of more than 2^31 elements" *
          doctest::skip(no_card("cuda model: tensors of more than 2^31 elements"))) {
  constexpr std::int64_t kLength = 128, kMany = 33000;  // feed-forward: 2.16e9 elements
  GptConfig config = tests::small(Attention::nsa, 16);
  config.vocab = 64, config.layers = 1, config.width = 128, config.ffn = 512;
  config.heads = {.query = 2, .kv = 2, .dim = 64};
  config.nsa.select = 4, config.nsa.memory = 4;
  const Ids ids = random_ids(kLength, config.vocab, 1), targets = random_ids(kLength, config.vocab, 2);
  const auto run = [&](std::int64_t batch) {
    Model m(config, Recompute::none, kCard, DType::bf16);
    engine::AdamW optimizer(m.store(), {});
    model::Trainer trainer(m.gpt(), m.store(), optimizer, m.stream, {.batch = batch, .length = kLength});
    Ids all_ids, all_targets;
    for (std::int64_t b = 0; b < batch; b++) {
      all_ids.insert(all_ids.end(), ids.begin(), ids.end());
      all_targets.insert(all_targets.end(), targets.begin(), targets.end());
    }
    const model::MicroBatch all{all_ids, all_targets};
    const double evaluated = trainer.evaluate(all).mean();
    const model::StepResult stepped = trainer.step({&all, 1}, 1, 0);
    CHECK(stepped.loss.mean() == evaluated);
    return std::pair(evaluated, stepped.grad_norm);
  };
  try {
    const auto [loss, norm] = run(1);
    const auto [same_loss, same_norm] = run(kMany);  // every sequence is that one
    CHECK(same_loss == doctest::Approx(loss).epsilon(1e-9));
    CHECK(same_norm == doctest::Approx(norm).epsilon(0.01));
  } catch (const engine::DeviceError& error) {
    REQUIRE(error.code == engine::Exit::memory);
    MESSAGE("not enough memory on this card");
  }
}
