// Equal runs are equal to the bit, and how a step is divided into micro-batches changes roundings only.
#include <algorithm>
#include <cmath>
#include <limits>

#include "model/trainer.h"
#include "tests/op_case.h"
#include "tests/training.h"

namespace {

using nlohmann::json;
using tests::hash_of;
using tests::same_bits;
using tests::small_run;
using tests::TempDir;
using tests::train;
using tests::trained;
using Ids = std::vector<std::int32_t>;

void run(const TempDir& folder, const std::string& arguments) {
  CAPTURE(arguments);
  REQUIRE(train(arguments + " -o '" + (folder / "m.bin").string() + "'").code == 0);
}

// Two sequences of 24 tokens a micro-batch, on a model small enough to write down.
struct SmallModel {
  static constexpr std::int64_t kVocab = 29, kBatch = 2, kLength = 24, kRows = kBatch * kLength;

  SmallModel() {
    store.seal(true);
    store.initialize(3, stream);
  }
  static model::GptConfig config() {
    model::GptConfig c;
    c.vocab = kVocab, c.layers = 2, c.width = 16, c.ffn = 24, c.context = kLength;
    c.heads = {.query = 2, .kv = 2, .dim = 8};
    c.nsa = {.block = 4, .select = 2, .window = 4, .memory = 2};
    return c;
  }
  std::vector<float> gradients() { return store.grads().to_host(stream); }
  std::vector<float> values() { return store.values().to_host(stream); }

  engine::Stream stream{engine::Device{}};
  engine::ParamStore store{engine::Device{}, engine::DType::f32};
  model::Gpt gpt{config(), store, model::Recompute::none};
};

struct Rows {
  Ids ids, targets;
  explicit Rows(int first) {
    for (int i = 0; i < SmallModel::kRows; i++) {
      ids.push_back(2 + (first + 7 * i + i * i) % 27);
      targets.push_back((first + 5 * i + 3) % int(SmallModel::kVocab));
    }
  }
  model::MicroBatch view() const { return {ids, targets}; }
};

}  // namespace

TEST_CASE("determinism: equal runs are equal to the bit, with one thread and with two") {
  for (const char* threads : {"1", "2"}) {
    CAPTURE(threads);
    TempDir a, b, other;
    const std::string flags = small_run() + "-x 30 -v 7 -n 10 -s 0 --threads " + threads;
    run(a, flags);
    run(b, flags);
    for (const char* file : {"m.bin", "m.best.bin"})
      CHECK(tests::read_file(a / file) == tests::read_file(b / file));
    CHECK(tests::logged(a / "m.log.jsonl") == tests::logged(b / "m.log.jsonl"));
    run(other, flags + " --seed 2");
    CHECK(hash_of(a / "m.bin") != hash_of(other / "m.bin"));
    CHECK(trained(a / "m.log.jsonl")[0]["loss"] != trained(other / "m.log.jsonl")[0]["loss"]);
  }
}

TEST_CASE("determinism: 8 x 1, 4 x 2, 2 x 4 and 1 x 8 sequences are the same step") {
  for (const char* attention : {"nsa", "dense"}) {
    CAPTURE(attention);
    std::vector<json> first;
    for (const char* division : {"-b 8 --accum 1", "-b 4 --accum 2", "-b 2 --accum 4", "-b 1 --accum 8"}) {
      CAPTURE(division);
      TempDir folder;
      run(folder, small_run() + "-x 20 -v 0 -n 0 -s 0 --attn " + attention + " " + division);
      const auto log = trained(folder / "m.log.jsonl");
      REQUIRE(log.size() == 20);
      if (first.empty()) first = log;
      for (std::size_t i = 0; i < 20; i++) {
        CAPTURE(i);
        CHECK(log[i]["tokens"] == first[i]["tokens"]);
        for (const char* value : {"loss", "grad_norm"})
          CHECK(std::abs(log[i][value].get<double>() / first[i][value].get<double>() - 1) <
                (value[0] == 'l' ? 1e-6 : 1e-5));
      }
    }
  }
}

TEST_CASE("determinism: micro-batches count by their targets, not equally") {
  Rows many(1), few(2);
  for (std::size_t i = 0; i < few.targets.size(); i++)
    if (i != 5 && i != 30 && i != 31) few.targets[i] = -1;
  SmallModel m;
  engine::AdamW optimizer(m.store, {});
  model::Trainer trainer(m.gpt, m.store, optimizer, m.stream,
                         {.batch = SmallModel::kBatch, .length = SmallModel::kLength, .micro_batches = 2});
  const auto a = trainer.evaluate(many.view()), b = trainer.evaluate(few.view());
  REQUIRE(a.targets == 48);
  REQUIRE(b.targets == 3);
  // A step of rate 0 leaves the parameters as they are, so that the next starts from the same place.
  const auto gradients = [&](std::vector<model::MicroBatch> parts, const model::LossSum& expected) {
    const auto loss = trainer.step(parts, 1, 0).loss;
    CHECK(loss.targets == expected.targets);
    CHECK(loss.mean() == doctest::Approx(expected.sum / double(expected.targets)).epsilon(1e-6));
    return m.gradients();
  };
  const auto of_a = gradients({many.view()}, a), of_b = gradients({few.view()}, b);
  const model::LossSum both{a.sum + b.sum, 51};
  CHECK(std::abs(both.mean() - (a.mean() + b.mean()) / 2) > 1e-3);  // the mistake would show
  const auto found = gradients({many.view(), few.view()}, both);
  double worst = 0, largest = 0, mistaken = 0;
  for (std::size_t i = 0; i < found.size(); i++) {
    const double expected = (48. * of_a[i] + 3. * of_b[i]) / 51;
    worst = std::max(worst, std::abs(found[i] - expected));
    mistaken = std::max(mistaken, std::abs((of_a[i] + of_b[i]) / 2. - expected));
    largest = std::max(largest, std::abs(expected));
  }
  CHECK(worst < 1e-6 * largest);
  CHECK(mistaken > 0.1 * largest);
}

TEST_CASE("determinism: a step that is not finite changes nothing, and the next one trains") {
  SmallModel m;
  engine::AdamW optimizer(m.store, {});
  model::Trainer trainer(m.gpt, m.store, optimizer, m.stream,
                         {.batch = SmallModel::kBatch, .length = SmallModel::kLength, .micro_batches = 2});
  const Rows good(1);
  Rows bad(2);
  bad.ids[9] = 0;  // a token that no other sequence has, and whose embedding is broken
  engine::Param* embedding = m.store.find("token_emb.weight");
  REQUIRE(embedding != nullptr);
  embedding->value.f32()[3] = std::numeric_limits<float>::infinity();
  const auto one = good.view(), other = bad.view();
  trainer.step({&one, 1}, 1, 1e-2);
  CHECK(std::isfinite(optimizer.grad_norm(m.stream)));
  const auto values = m.values(), first = optimizer.first_moment().to_host(m.stream),
             second = optimizer.second_moment().to_host(m.stream);
  CHECK(!std::isfinite(trainer.step({&other, 1}, 2, 1e-2).loss.sum));
  CHECK(!std::isfinite(optimizer.grad_norm(m.stream)));
  CHECK(same_bits(m.values(), values));
  CHECK(same_bits(optimizer.first_moment().to_host(m.stream), first));
  CHECK(same_bits(optimizer.second_moment().to_host(m.stream), second));
  const auto next = trainer.step({&one, 1}, 3, 1e-2);
  CHECK(std::isfinite(next.loss.sum));
  CHECK(std::isfinite(optimizer.grad_norm(m.stream)));
  CHECK(!same_bits(m.values(), values));
}
