// Generation over caches: the same as the training forward, for every kind of model, split and length.
#include <algorithm>
#include <cmath>
#include <deque>

#include "model/generator.h"
#include "tests/card_case.h"
#include "tests/small_gpt.h"

namespace {

using engine::Device;
using engine::DType;
using engine::Tape;
using engine::Tensor;
using tests::configs;
using tests::Doubles;
using tests::Ids;
using tests::Model;
namespace ops = engine::ops;

double error(std::span<const float> got, const std::vector<float>& expected) {
  return tests::relative_error(std::vector<float>(got.begin(), got.end()),
                               Doubles(expected.begin(), expected.end()));
}

void check_model(const model::GptConfig& config, Device device, DType dtype, double bound) {
  Model m(config, model::Recompute::none, device, dtype);
  const std::int64_t block = config.nsa.block, longest = 4 * block + 2;
  const Ids ids = tests::random_ids(longest, config.vocab, 1);
  const auto rows = m.logits(ids);
  const auto vocab = std::size_t(config.vocab);
  model::Generator generator(m.gpt(), m.stream, 2, longest, {}, 1);
  for (std::size_t prompt = 1; prompt <= std::size_t(2 * block + 1); prompt++) {
    CAPTURE(prompt);
    generator.start(std::span(ids).first(prompt));
    for (std::size_t length = prompt; length <= std::size_t(longest); length++) {
      CAPTURE(length);
      if (length > prompt) generator.read(std::span(ids).subspan(length - 1, 1));
      const auto logits = generator.logits();
      CHECK(error(std::span(logits).first(vocab), rows[length - 1]) < bound);
      CHECK(tests::same_bits({logits.begin(), logits.begin() + std::ptrdiff_t(vocab)},
                             {logits.begin() + std::ptrdiff_t(vocab), logits.end()}));
    }
  }
}

// One layer's attention over packed rows of `length` tokens: all at once, and `prompt` at once and then one
// by one, in a cache of two samples.
class Layer {
 public:
  Layer(std::int64_t length, const engine::Heads& heads, const engine::NsaConfig& config, Device device)
      : length_(length), heads_(heads), config_(config), stream_(device) {
    const std::int64_t kv = heads.kv, dim = heads.dim, block = config.block;
    qkv_ = make({length, heads.packed()}, 1), gates_ = make({length, 3 * heads.query}, 1);
    const engine::Shape shapes[] = {
        {2, kv, config.memory, dim}, {kv, block, dim}, {kv, block, dim}, {kv * dim, dim, block},
        {kv * dim, dim, block},      {kv * dim},       {kv * dim}};
    for (std::size_t i = 0; i < 7; i++)
      params_[i].value = make(shapes[i], i == 3 || i == 4 ? 1 / std::sqrt(double(dim * block)) : 0.5);
  }
  struct Result {
    std::vector<float> y;             // [length, heads * dim]
    std::vector<std::int32_t> picks;  // [length, heads, select], -1 where there is none
  };
  Result at_once() { return perform(length_, length_, engine::KvCache()); }
  Result in_steps(std::int64_t prompt) {
    return perform(prompt, length_,
                   engine::sparse_cache(stream_.device(), DType::f32, 2, length_, heads_, config_));
  }

 private:
  Tensor make(engine::Shape shape, double deviation) {
    const Tensor t = Tensor::persistent(stream_.device(), shape, DType::f32);
    const Doubles values = tests::random_values(std::size_t(shape.numel()), seed_++, 0, deviation);
    t.from_host(std::vector<float>(values.begin(), values.end()).data(), stream_);
    return t;
  }
  engine::NsaParams params() {
    return {&params_[0], &params_[1], &params_[2], &params_[3], &params_[4], &params_[5], &params_[6]};
  }
  std::vector<std::int32_t> integers(const Tensor& t) {
    std::vector<std::int32_t> values(std::size_t(t.numel()));
    stream_.copy(values.data(), t.data(), t.bytes());
    stream_.wait();
    return values;
  }

  Result perform(std::int64_t prompt, std::int64_t length, const engine::KvCache& cache) {
    Result result;
    const std::int64_t width = heads_.query * heads_.dim;
    if (prompt > 0) {
      engine::Arena arena(stream_.device());
      engine::Context context{stream_, arena};
      for (int pass = 0; pass < 2; pass++) {  // a rehearsal first
        if (pass == 1) arena.commit();
        Tape tape(context, Tape::Mode::infer);
        Tensor selected;
        const Tensor rope = ops::rope_table(tape, prompt, heads_.dim, 10000);
        const Tensor y = ops::sparse_attention(tape, qkv_.slice(0, {prompt, heads_.packed()}),
                                               gates_.slice(0, {prompt, 3 * heads_.query}), rope, params(),
                                               heads_, config_, 1, &selected, cache.k ? &cache : nullptr);
        if (pass == 0) continue;
        result.y = y.to_host(stream_);
        spread(integers(selected), prompt, selected.shape()[3], result.picks);
      }
    }
    if (prompt == length) return result;
    engine::StepPlaces places{Tensor::persistent(stream_.device(), {2}, DType::i32),
                              Tensor::persistent(stream_.device(), {length, heads_.dim / 2, 2}, DType::f32)};
    const Tensor qkv = Tensor::persistent(stream_.device(), {2, heads_.packed()}, DType::f32),
                 gates = Tensor::persistent(stream_.device(), {2, 3 * heads_.query}, DType::f32);
    engine::Arena arena(stream_.device());
    engine::Context context{stream_, arena};
    for (std::int64_t t = prompt - 1; t < length; t++) {  // a rehearsal first
      if (t == prompt) {
        arena.commit();
        Tape tape(context, Tape::Mode::infer);
        ops::fill_rope_table(tape, places.table, 10000);
      }
      const std::int64_t from = std::max<std::int64_t>(t, 0);
      const std::int32_t positions[2] = {std::int32_t(from), std::int32_t(from)};
      stream_.copy(places.positions.data(), positions, sizeof positions);
      for (std::int64_t sample = 0; sample < 2; sample++) {
        copy_row(qkv_, from, qkv, sample);
        copy_row(gates_, from, gates, sample);
      }
      Tape tape(context, Tape::Mode::step);
      Tensor selected;
      const Tensor y =
          ops::sparse_attention_step(tape, qkv, gates, places, params(), heads_, config_, cache, &selected);
      if (!arena.committed()) continue;
      const auto rows = y.to_host(stream_);
      CHECK(tests::same_bits({rows.begin(), rows.begin() + width}, {rows.begin() + width, rows.end()}));
      result.y.insert(result.y.end(), rows.begin(), rows.begin() + width);
      const auto picks = integers(selected);
      result.picks.insert(result.picks.end(), picks.begin(), picks.begin() + picks.size() / 2);
    }
    return result;
  }
  void copy_row(const Tensor& from, std::int64_t row, const Tensor& to, std::int64_t to_row) {
    const std::int64_t columns = from.shape()[1];
    const Tensor target = to.slice(to_row * columns, {columns});
    stream_.copy(target.data(), from.slice(row * columns, {columns}).data(), target.bytes());
  }
  // [heads, length, top] -> [length, heads, select]
  void spread(const std::vector<std::int32_t>& picks, std::int64_t length, std::int64_t top,
              std::vector<std::int32_t>& to) const {
    to.assign(std::size_t(length * heads_.query * config_.select), -1);
    for (std::int64_t h = 0; h < heads_.query; h++)
      for (std::int64_t t = 0; t < length; t++)
        for (std::int64_t j = 0; j < top; j++)
          to[std::size_t((t * heads_.query + h) * config_.select + j)] =
              picks[std::size_t((h * length + t) * top + j)];
  }

  std::int64_t length_;
  engine::Heads heads_;
  engine::NsaConfig config_;
  engine::Stream stream_;
  unsigned seed_ = 1;
  Tensor qkv_, gates_;
  std::deque<engine::Param> params_ = std::deque<engine::Param>(7);
};

struct LayerSizes {
  std::int64_t length;
  engine::Heads heads;
  engine::NsaConfig config = {};
};
const std::vector<LayerSizes> kShort{{65, {2, 2, 64}},
                                     {64, {4, 2, 32}, {.block = 16, .select = 2, .window = 5, .memory = 1}},
                                     {63, {2, 1, 128}, {.block = 8, .select = 8, .window = 16, .memory = 2}},
                                     {40, {3, 3, 6}, {.block = 64, .select = 3, .window = 0, .memory = 3}}};
const std::vector<LayerSizes> kLong{{507, {2, 2, 64}}, {2048, {2, 1, 64}}};

void check_layers(const std::vector<LayerSizes>& layers, Device device) {
  for (const auto& [length, heads, config] : layers) {
    CAPTURE(length);
    Layer layer(length, heads, config, device);
    const auto expected = layer.at_once();
    for (std::int64_t prompt : {std::int64_t(0), std::int64_t(1), config.block, length / 2 + 1, length - 1}) {
      if (prompt >= length) continue;
      CAPTURE(prompt);
      const auto got = layer.in_steps(prompt);
      CHECK(error(got.y, expected.y) < tests::kForwardBound);
      CHECK(got.picks == expected.picks);
    }
  }
}

}  // namespace

TEST_CASE("generation: a prompt and then steps give the logits of the training forward, for every split") {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    check_model(config, {}, DType::f32, 1e-5);
  }
}

TEST_CASE("generation: sparse attention in steps gives the same values and picks the same blocks") {
  check_layers(kShort, {});
  check_layers(kLong, {});
}

TEST_CASE("generation on a card: the logits of the training forward there" *
          doctest::skip(tests::no_card("generation on a card: the logits of the training forward there"))) {
  for (const auto& [name, config] : configs()) {
    CAPTURE(name);
    check_model(config, tests::kCard, DType::f32, 1e-5);
    check_model(config, tests::kCard, DType::bf16, 2e-2);
  }
}

TEST_CASE("generation on a card: sparse attention in steps, short texts" *
          doctest::skip(tests::no_card("generation on a card: sparse attention in steps, short texts"))) {
  check_layers(kShort, tests::kCard);
}

TEST_CASE("generation on a card: sparse attention in steps, long texts" *
          doctest::skip(tests::no_card("generation on a card: sparse attention in steps, long texts"))) {
  check_layers(kLong, tests::kCard);
}
